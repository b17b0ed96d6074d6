"""What a long command says while it runs: its phases, and a bar on a terminal, a line a minute where there is none.

All of it goes to stderr, so that what a command prints can be piped.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

SLOW, MINUTE = 2.0, 60.0
"""Seconds after which a phase is named, and between two lines where there is no terminal."""


@dataclass
class Bar:
    """How far a stretch of work is.

    Attributes:
        total, done: images (or whatever `unit` says), of which `found` were done by an earlier run.
        note: what is at work, a method for one.
    """

    what: str
    total: int
    found: int = 0
    unit: str = "images"
    note: str = ""
    done: int = 0
    start: float = field(default_factory=time.monotonic)
    shown: tqdm[Any] | None = None

    def advance(self, count: int) -> None:
        """So many more are done."""
        self.done += count
        if self.shown is not None:
            self.shown.update(count)

    def at(self, note: str) -> None:
        """What is at work from now on."""
        self.note = note
        if self.shown is not None:
            self.shown.set_postfix_str(note, refresh=True)

    def line(self) -> str:
        """As it stands: `images: 128 of 512 (25 %), 3.2 images/s, 2 min left; ixg`."""
        done, seconds = self.found + self.done, time.monotonic() - self.start
        share = f" ({100 * done // self.total} %)" if self.total else ""
        text = f"{self.what}: {done} of {self.total}{share}"
        if self.done:
            rate = self.done / max(seconds, 1e-9)
            text += f", {rate:.3g} {self.unit}/s, {duration((self.total - done) / rate)} left"
        return text + (f"; {self.note}" if self.note else "")


class Progress:
    """Says what is going on.

    Args:
        quiet: say nothing.
        stream: a text stream, where to; stderr by default.
    """

    def __init__(self, quiet: bool = False, stream: Any = None, slow: float = SLOW, every: float = MINUTE):
        self.quiet, self._stream, self.slow, self.every = quiet, stream, slow, every
        self._bar: Bar | None = None

    @property
    def stream(self) -> Any:
        """Where it says so."""
        return self._stream or sys.stderr

    def say(self, text: str) -> None:
        """One or several lines."""
        if not self.quiet:
            tqdm.write(text, file=self.stream)
            self.stream.flush()

    @property
    def last(self) -> str:
        """How far the last bar came, `images: 128 of 512, `; empty before the first."""
        bar = self._bar
        return "" if bar is None else f"{bar.what}: {bar.found + bar.done} of {bar.total}, "

    @contextmanager
    def phase(self, what: str) -> Iterator[None]:
        """A block of work that is named if it takes longer than two seconds, and then every minute."""
        start = time.monotonic()

        def tell() -> float:
            passed = time.monotonic() - start
            self.say(f"{what} …" if passed < self.every else f"{what} … ({duration(passed)} so far)")
            return self.every

        with self._repeated(tell, self.slow):
            yield

    @contextmanager
    def bar(self, what: str, total: int, found: int = 0, unit: str = "images") -> Iterator[Bar]:
        """A block of work that is counted; `found` of `total` were done before."""
        bar = self._bar = Bar(what, total, found, unit)
        if self.quiet:
            yield bar
        elif self.stream.isatty():
            with tqdm(
                total=total, initial=found, desc=what, unit=f" {unit}", file=self.stream, dynamic_ncols=True
            ) as bar.shown:
                yield bar
        else:

            def tell() -> float:
                self.say(bar.line())
                return self.every

            with self._repeated(tell, self.every):
                yield bar

    @contextmanager
    def _repeated(self, tell: Callable[[], float], first: float) -> Iterator[None]:
        """Call `tell` after `first` seconds and, each time, after as many as it returns, until the block ends."""
        if self.quiet:
            yield
            return
        ended = threading.Event()

        def watch() -> None:
            wait = first
            while not ended.wait(wait):
                wait = tell()

        thread = threading.Thread(target=watch, daemon=True, name="progress")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def duration(seconds: float) -> str:
    """Seconds as people say them: 40 s, 3 min, 2 h 10 min."""
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Bytes as people say them: 640 MB, 1.2 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"


def silence_lightning() -> None:
    """Keep Lightning's notes to itself (its banner of processes, hints on precision); its warnings stay.

    Fabric speaks by whichever of the two loggers was imported last.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
