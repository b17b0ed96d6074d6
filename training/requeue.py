"""SLURM's signal before a job's time is up: the job goes into the queue again. Imports nothing heavy."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from faithfulness.core.stopping import Stopped, ignore_signals, is_first


@contextmanager
def requeued() -> Iterator[None]:
    """Inside the block, SIGUSR1 (`#SBATCH --signal=SIGUSR1@120`) puts a SLURM job into the queue again and ends it.

    From the start on, since data may take longer to load than a job has left. Elsewhere, and in an interactive job,
    the signal keeps its meaning.
    """
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    main = threading.current_thread() is threading.main_thread()
    if "SLURM_JOB_ID" not in os.environ or interactive or not main:
        yield
        return
    process, asked = os.getpid(), []

    def ends(number: int, frame: Any) -> None:
        if os.getpid() != process or asked:  # a loader's worker ends with this process
            return
        asked.append(number)
        _requeue(number)

    before = signal.signal(signal.SIGUSR1, ends)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def _requeue(number: int) -> None:
    """Have SLURM run this job again, and end; the first process asks for all of them."""
    ignore_signals()
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ.get('SLURM_ARRAY_TASK_ID', '0')}"
    how = f"job {job} is in the queue again"
    if is_first():
        try:
            subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            how = f"scontrol could not requeue job {job} ({error})"
    raise Stopped(128 + number, f"SLURM's time is up; {how}")
