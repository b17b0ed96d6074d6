"""How a command ends before its time: on Ctrl-C, on SIGTERM, or since one of its processes has ended.

Whoever knows what is on disk adds it to the exception that comes by (`add_note`), so the last line says how to go on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_WATCH, _PATIENCE, _GRACE = 1.0, 20.0, 4.0
"""Seconds between two looks at the other processes, until a process that should end is ended, and before one that
isn't the first speaks."""
_FIRST = "FAITHFULNESS_FIRST"
"""The environment's variable with the id of the process that started this one."""
Processes = Callable[[], Iterable[subprocess.Popen[Any]]]
_ending = threading.Event()
"""A reason to end has come, and signals don't give another one."""
_watched: list[Processes | None] = []


class Stopped(BaseException):
    """A signal asks this process to end, or another process of this run has ended.

    Attributes:
        status: the exit status, 128 and the signal's number.
    """

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


STOPS = (KeyboardInterrupt, Stopped)
"""What a block catches that wants to say what is on disk, and then raises again."""


def is_first() -> bool:
    """Whether this is the process that speaks for all of the run: rank 0, or the only one."""
    ranks = (os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))
    return all(rank in ("", "0") for rank in ranks)


def _launched() -> bool:
    """Whether a process of this suite has started this one: then neither torchrun nor SLURM looks after it."""
    elsewhere = any(name in os.environ for name in ("TORCHELASTIC_RUN_ID", "SLURM_PROCID"))
    return not elsewhere and os.environ.get("LOCAL_RANK", "0") not in ("", "0")


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside the block SIGTERM raises `Stopped`, and a process that was started by another ends with it.

    After the first signal, further ones are ignored: they would interrupt what the first one makes end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        if _ending.is_set():
            return
        _ending.set()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise _found_reason() or Stopped(128 + number, "terminated")

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    _ending.clear()
    ended = threading.Event()
    if _launched():
        parent = int(os.environ.get(_FIRST, os.getppid()))
        threading.Thread(target=_end_with, args=(parent, ended), daemon=True, name="parent").start()
    try:
        yield
    finally:
        ended.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_signals() -> None:
    """This process is ending, and has a reason already: signals don't give it another one."""
    _ending.set()


def _end_with(parent: int, ended: threading.Event) -> None:
    """End this process, which may wait for others for ever, once the one that started it is gone."""
    while True:
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        if ended.wait(_WATCH):
            return


def say_last(line: str) -> None:
    """Say why this process ends.

    One that another has started first waits whether that one ends as well: then it was the same reason, and is said
    already. If not, that one must end too, since it would wait for this one.
    """
    if not _launched():
        print(line, file=sys.stderr, flush=True)
        return
    time.sleep(_GRACE)
    print(f"process {os.environ['LOCAL_RANK']}: {line}", file=sys.stderr, flush=True)
    if str(os.getppid()) == os.environ.get(_FIRST, str(os.getppid())):
        os.kill(os.getppid(), signal.SIGTERM)


@contextmanager
def watching_others(processes: Processes | None = None, on_disk: Callable[[], str] = str) -> Iterator[None]:
    """Inside the block, a process that this one started and that has failed ends this one too, with the reason.

    A process that ends by an error says so itself. Where this one can't listen to signals, since it waits for the
    others in a library that doesn't, it ends all the same, after a while.

    Args:
        processes: those that were started; by default any child of this process that was killed counts.
        on_disk: what the last line says of results, where nobody else could.
    """
    ended = threading.Event()
    os.environ[_FIRST] = str(os.getpid())
    _watched.append(processes)

    def watch() -> None:
        while not ended.wait(_WATCH):
            _stand_in_for_observer()
            reason = lost_process(processes)
            if reason is None and not _ending.is_set():
                continue
            if reason is not None and not _ending.is_set():
                os.kill(os.getpid(), signal.SIGTERM)
            if not ended.wait(_PATIENCE):
                text = str(reason or "this process was asked to end, and waited for another one")
                print("; ".join(filter(None, [text, on_disk()])), file=sys.stderr, flush=True)
                os._exit(reason.status if reason else 1)
            return

    threading.Thread(target=watch, daemon=True, name="others").start()
    try:
        yield
    finally:
        ended.set()
        _watched.pop()
        os.environ.pop(_FIRST, None)


def lost_process(processes: Processes | None = None) -> Stopped | None:
    """A process of this run that has failed, as what ends this one; None while there is none."""
    if processes is None:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return None
        killed = found is not None and found.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
        return _lost(found.si_pid, -found.si_status) if found is not None and killed else None
    for process in processes():
        status = process.poll()
        if status and status not in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            return _lost(process.pid, status)
    return None


def _lost(pid: int, status: int) -> Stopped:
    if status >= 0:
        return Stopped(status, f"process {pid} of this run has failed (status {status})")
    hint = "; was there enough memory?" if -status == signal.SIGKILL else ""
    return Stopped(1, f"process {pid} of this run was ended by {signal.Signals(-status).name}{hint}")


def _found_reason() -> Stopped | None:
    """Why a signal came, if a process has failed: one that says so itself ends shortly after it has sent the signal."""
    deadline = time.monotonic() + _WATCH
    while _watched:
        reason = lost_process(_watched[-1])
        alone = _watched[-1] is not None and not list(_watched[-1]())
        if reason is not None or alone or time.monotonic() > deadline:
            return reason
        time.sleep(0.05)
    return None


def _stand_in_for_observer() -> None:
    """Lightning's own watch kills this process without a word; there is a better one."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            vars(thread)["_run"] = lambda: True
