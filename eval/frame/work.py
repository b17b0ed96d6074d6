"""A pass over batches: what is on disk is taken from there, the rest is computed, and kept as it is finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from eval.frame.part import Part
from eval.frame.protocol import Loaded, Pass, Step
from eval.frame.store import Store
from faithfulness.attribution import sharing
from faithfulness.core.errors import InputError
from faithfulness.core.files import jsonable
from faithfulness.core.hardware import give_memory_back
from faithfulness.core.progress import Bar, Progress

WithinMemory = Callable[[Callable[[], Part]], Part]
PATIENCE = 30.0
"""Seconds of finished work on a batch that may be lost, before its parts are written though the batch isn't done."""

TRIM_EVERY = 16
"""Batches after which freed memory goes back: small parts that stay hold on to what large ones leave between them."""


class _Batch:
    """The work on one batch: parts that are there, and steps that are missing."""

    def __init__(self, work: Pass, number: int, store: Store | None):
        self.work, self.number, self.store = work, number, store
        place = [work.name, work.depends, work.batches.identity(number)]
        self.keys = {
            step.name: store.key(*place, step.name, step.depends)
            for step in work.steps
            if store is not None and step.depends is not None
        }
        self.missing = [step for step in work.steps if store is None or self.keys.get(step.name) not in store.found]
        self.parts: dict[str, Part] = {}
        self.unwritten: dict[str, Part] = {}
        self.written = time.monotonic()

    def read(self) -> None:
        """Take the parts that are on disk; those that turn out to be damaged are missing."""
        if self.store is not None:
            found = {name: self.store.find(key) for name, key in self.keys.items()}
            self.parts = {name: part for name, part in found.items() if part is not None}
        self.missing = [step for step in self.work.steps if step.name not in self.parts]

    @property
    def is_open(self) -> bool:
        """Whether it must be loaded: steps are missing, or something couldn't be read, and perhaps can be now."""
        return bool(self.missing) or any(part.corrupt for part in self.parts.values())

    def compute(
        self, batch: Loaded, bar: Bar, made: Callable[[], Mapping[str, int]], within_memory: WithinMemory
    ) -> None:
        """Do the missing steps; what is finished is kept, also where a later step fails.

        All of them are missing where the batch isn't what the parts were computed from. Methods share what they
        compute of the same images.
        """
        what = self.work.batches.what
        seen = [(part.seen, part.corrupt.get(what, set())) for part in self.parts.values()]
        if any(each != (batch.digest, batch.corrupt) for each in seen):
            self.parts, self.missing = {}, list(self.work.steps)
        try:
            self.take_steps(batch, bar, made, within_memory)
        finally:
            self.write()

    def take_steps(
        self, batch: Loaded, bar: Bar, made: Callable[[], Mapping[str, int]], within_memory: WithinMemory
    ) -> None:
        """The missing steps, one after another."""
        with sharing():
            for step in self.missing:
                bar.at(step.name)
                work = partial(step.work, batch.content, self.parts)
                part = Part() if batch.content is None else within_memory(work)
                part.records = jsonable(part.records)
                part.made, part.seen = {name: {value} for name, value in made().items()}, batch.digest
                if batch.corrupt:
                    part.merge(Part(corrupt={self.work.batches.what: set(batch.corrupt)}))
                self.parts[step.name] = self.unwritten[step.name] = part
                if time.monotonic() - self.written > PATIENCE:
                    self.write()

    def write(self) -> None:
        """Put finished parts on disk."""
        kept = {self.keys[name]: part for name, part in self.unwritten.items() if name in self.keys}
        if self.store is not None:
            self.store.keep(f"{_slug(self.work.name)}-{self.number:06d}", kept)
        self.unwritten, self.written = {}, time.monotonic()

    def whole(self) -> Part:
        """All parts of the batch, in the order of the steps."""
        found = Part()
        for step in self.work.steps:
            found.merge(self.parts[step.name])
        return found


def carry_out(
    work: Pass,
    store: Store | None,
    progress: Progress,
    made: Callable[[], Mapping[str, int]],
    within_memory: WithinMemory,
    complete: bool = False,
) -> Part:
    """Do what isn't done yet of a pass.

    Args:
        store: what is done already, and where to keep what is done now; None keeps nothing.
        made: with what it is computed, as of now.
        within_memory: does a step's work, with smaller passes where memory doesn't suffice.
        complete: all of it must be done already.
    Returns:
        The parts of this process's batches, by their numbers and steps.
    Raises:
        InputError: `complete`, and something is missing.
    """
    numbers, batches = work.batches.numbers, work.batches
    started = [_Batch(work, number, store) for number in numbers]
    with progress.phase(f"reading finished parts of {work.name}"):
        for batch in started:
            batch.read()
    missing = [batch for batch in started if (batch.missing if complete else batch.is_open)]
    if complete and missing:
        raise InputError(_what_is_missing(work, missing))
    total = sum(map(batches.count, numbers))
    found = total - sum(batches.count(batch.number) for batch in missing)
    whole = Part()
    with progress.bar(work.name, total, found, batches.unit) as bar:
        if missing:
            loaded = batches.load([batch.number for batch in missing])
            for done, (batch, content) in enumerate(zip(missing, loaded, strict=True), 1):
                batch.compute(content, bar, made, within_memory)
                bar.advance(batches.count(batch.number))
                if done % TRIM_EVERY == 0:
                    give_memory_back()
    for batch in started:
        whole.merge(batch.whole())
    return whole


def done_before(work: Pass, store: Store | None) -> tuple[int, int, float]:
    """Samples of this process, how many of them are done, and the forward passes that the others still cost."""
    started = [_Batch(work, number, store) for number in work.batches.numbers]
    counts = [work.batches.count(batch.number) for batch in started]
    open_ = [(batch, count) for batch, count in zip(started, counts, strict=True) if batch.missing]
    cost = sum((count * _cost(batch.missing) for batch, count in open_), 0.0)
    return sum(counts), sum(counts) - sum(count for _, count in open_), cost


def _cost(steps: Sequence[Step]) -> float:
    return sum((step.cost for step in steps), 0.0)


def _what_is_missing(work: Pass, missing: Sequence[_Batch]) -> str:
    shown = ", ".join(str(batch.number) for batch in missing[:8]) + (", …" if len(missing) > 8 else "")
    steps = list(dict.fromkeys(step.name for batch in missing for step in batch.missing))
    what = "" if len(steps) == len(work.steps) else f", of {', '.join(steps[:4])}{' …' if len(steps) > 4 else ''}"
    return (
        f"{len(missing)} of {len(work.batches.numbers)} batches of {work.name} are missing (numbers {shown}, from 0"
        f"{what}; shard K/N has those that leave K-1 when divided by N); run their shards first"
    )


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)
