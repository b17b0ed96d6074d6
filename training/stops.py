"""How a training ends before its time: signals, and the end of the other processes."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from faithfulness.core.errors import InputError
from faithfulness.core.stopping import Stopped, ignore_signals, lost_process

_WAIT = 2.0
"""Seconds that another process has to end by itself."""
_LOST = re.compile(r"gloo|nccl|closed by peer|reset by peer|process group|TCPStore|c10d", re.IGNORECASE)
"""What torch says where a process that it talks to has gone."""


def environments() -> list[Any]:
    """Plugins for Lightning: SLURM without Lightning's requeue, which writes a checkpoint in the middle of an epoch.

    Random choices are keyed by the epoch, so a run goes on from the end of one.
    """
    slurm = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    return [SLURMEnvironment(auto_requeue=False)] if slurm else []


def started_by(trainer: L.Trainer) -> list[subprocess.Popen[Any]]:
    """The processes that Lightning started for this one."""
    return list(getattr(trainer.strategy.launcher, "procs", ()))


class Signals(L.Callback):
    """Ends at once on a signal, where Lightning would talk to the other processes first, which may be gone."""

    def __init__(self) -> None:
        self._before: dict[int, Callable[..., Any] | int | None] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Before Lightning puts its own handlers in place."""
        self._before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """After that."""
        if threading.current_thread() is not threading.main_thread():
            return
        if callable(self._before[signal.SIGTERM]):
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """The process ends; an error of the network between processes may have a better reason, which is waited for."""
        if not isinstance(exception, RuntimeError):
            ignore_signals()
            end_processes(started_by(trainer))


def end_processes(processes: list[subprocess.Popen[Any]]) -> None:
    """End what this process has started: politely, then not."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + _WAIT
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def explained(error: RuntimeError, trainer: L.Trainer) -> BaseException:
    """Why an error came: another process of this run has gone, or what the network can't do; else the error itself."""
    if "more than 1 value per channel" in str(error):
        return InputError(f"a batch is too small for this network ({error}); raise --batch-size or lower --accumulate")
    if any(kind.__module__.startswith("torch._dynamo") for kind in type(error).__mro__):
        return InputError(f"--compile: torch can't compile this network here ({' '.join(str(error).split()):.150})")
    if trainer.world_size == 1:
        return error
    deadline = time.monotonic() + 2 * _WAIT
    while time.monotonic() < deadline and started_by(trainer):
        if reason := lost_process(lambda: started_by(trainer)):
            return reason
        time.sleep(0.05)
    return Stopped(1, f"another process of this run has ended ({error!s:.80})") if _LOST.search(str(error)) else error
