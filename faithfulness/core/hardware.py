"""What a job may use of a machine, and what follows from it: processes, loader workers."""

from __future__ import annotations

import ctypes
import os
import random
import socket
from collections.abc import Sequence
from pathlib import Path

from faithfulness.core.errors import InputError

MOST_WORKERS = 16
"""Of one process: more don't read faster than a GPU computes, and each takes 300 MB."""
MOST_PROCESSES = 1024
"""Workers, or nodes, that somebody may mean."""
ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps", "tpu")
LAUNCHERS = ("SLURM_NTASKS", "TORCHELASTIC_RUN_ID", "NODE_RANK", "GROUP_RANK", "LSB_JOBID", "KUBERNETES_PORT")
"""What Lightning knows a cluster by."""
FEW_BATCHES = 4
"""A loader of no more batches gets no workers: to start one takes some seconds."""
_CGROUP = Path("/sys/fs/cgroup")
_LENT_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def processors() -> int:
    """How many processors this job has: by its affinity, its control group, and what SLURM gave a task."""
    found = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    quota, _, period = _read("cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        found.append(int(quota) // int(period))
    granted = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if granted.isdigit():
        found.append(int(granted))
    return max(1, min(found))


def memory() -> int:
    """How many bytes of memory this job has: the machine's, or its control group's."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    limit = _read("memory.max").strip()
    if limit.isdigit():
        found.append(int(limit))
    return min(found)


def give_memory_back() -> None:
    """Return what the C library holds of freed memory to the system, where it can be asked to (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _read(name: str) -> str:
    try:
        return (_CGROUP / name).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""


def share_workers(batches: Sequence[int], processes: int = 1) -> list[int]:
    """Loader workers for loaders of so many batches each, which are open at the same time.

    The processors that the processes of this machine leave over, shared by the loaders of one process by their
    batches; none for a loader of few.

    Args:
        batches: of each loader of a process.
        processes: how many of this job's processes run on this machine.
    """
    spare = min(processors() // max(processes, 1) - 1, MOST_WORKERS)
    wanted = [count if count > FEW_BATCHES else 0 for count in batches]
    total = sum(wanted)
    shares = [min(count, spare * count // total) if total and spare > 0 else 0 for count in wanted]
    left = spare - sum(shares)
    for place in sorted(range(len(shares)), key=lambda place: -wanted[place]):
        if left > 0 and shares[place] < wanted[place]:
            shares[place], left = shares[place] + 1, left - 1
    return shares


def check_devices(devices: int | str, accelerator: str, num_nodes: int = 1) -> None:
    """Refuse what isn't a number of processes, more of them than there are processors, and nodes that nobody starts.

    On a CPU nothing else would refuse those, before memory runs out; and other nodes would be waited for.
    """
    if accelerator not in ACCELERATORS:
        raise InputError(f"--accelerator must be one of {', '.join(ACCELERATORS)}, got {accelerator!r}")
    if num_nodes > 1 and not any(name in os.environ for name in LAUNCHERS):
        raise InputError(f"--num-nodes {num_nodes} needs srun or torchrun, which start the processes on every node")
    if devices == "auto":
        return
    if isinstance(devices, str | bool) or devices < 1:
        raise InputError(f"--devices must be auto or a whole number of at least 1, got {devices}")
    most = max(2, os.cpu_count() or 1)
    if accelerator == "cpu" and devices > most:
        raise InputError(f"--devices must be at most {most}, the processors of this machine, got {devices}")


def choose_port() -> None:
    """Where the processes that this one starts will meet: `MASTER_PORT`, unless a launcher or the user has set it.

    Lightning would take a port that the system lends out; seconds pass until it is bound, and another program may
    have been lent it by then. This one is outside of the lent range.
    """
    if "MASTER_PORT" in os.environ or any(name in os.environ for name in LAUNCHERS):
        return
    try:
        low, high = map(int, _LENT_PORTS.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        low, high = 32768, 60999
    ports = max(range(10_000, low), range(high + 1, 65_536), range(1_024, min(low, 10_000)), key=len)
    for port in random.SystemRandom().sample(ports, min(20, len(ports))):
        with socket.socket() as trial:
            try:
                trial.bind(("", port))
            except OSError:
                continue
        os.environ["MASTER_PORT"] = str(port)
        return
