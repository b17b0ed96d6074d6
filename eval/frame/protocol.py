"""What a protocol says of its own: its passes over the data, and what their parts come to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from eval.frame.part import Part

if TYPE_CHECKING:
    import pandas as pd

    from faithfulness.core.results import Score


class Loaded(NamedTuple):
    """A batch that was read.

    Its number, the indices that couldn't be read, the content (None if nothing could be), and a digest of what was.
    """

    number: int
    corrupt: set[int]
    content: Any
    digest: str = ""


@runtime_checkable
class Batches(Protocol):
    """This process's batches by their numbers, which are the same however many processes there are."""

    what: str
    """Under what name that which can't be read is counted."""
    unit: str
    """What is in them, for the progress bar."""
    numbers: Sequence[int]

    def identity(self, number: int) -> Any:
        """What tells a batch from every other one, as JSON."""
        ...

    def count(self, number: int) -> int:
        """How many samples a batch has."""
        ...

    def load(self, numbers: Sequence[int]) -> Iterator[Loaded]:
        """Some of the batches, in their order."""
        ...


@dataclass(frozen=True)
class Step:
    """A piece of the work on a batch. Its part is kept by itself, so that it is never done twice.

    Args:
        name: what is at work; one of its kind in a pass.
        work: (batch, the parts of the steps before it by name) -> its part.
        depends: what its part depends on besides the batch, the pass, and the options of the run, as JSON: how a
            method is set, say. None where that can't be told; then its part is not kept.
        cost: forward passes per sample, a backward pass as two; NaN where it isn't known.
    """

    name: str
    work: Callable[[Any, Mapping[str, Part]], Part]
    depends: Any = ""
    cost: float = 0.0


class Pass(NamedTuple):
    """A stretch of work: batches, and the steps that are done on each.

    `depends` is what all its parts depend on besides the options of the run, as JSON: the weights of another model,
    say.
    """

    name: str
    batches: Batches
    steps: Sequence[Step]
    depends: Any = ""


@dataclass(kw_only=True)
class Outcome:
    """What a protocol makes of all its parts: the content of `--out`.

    Args:
        scores: rows of the result table, best first.
        settings: its own, beside those that every run records.
        model, data: further entries of these sections of `summary.json`.
        sections: further sections.
        per_image: a row per image, attribution, layer and metric; None where there is no such thing.
        files: file name -> function that writes it.
        pictures: file name below `plots/`, without ending -> function that draws it.
    """

    scores: list[Score]
    settings: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    sections: dict[str, Any] = field(default_factory=dict)
    per_image: pd.DataFrame | None = None
    files: Mapping[str, Callable[[Path], object]] = field(default_factory=dict)
    pictures: dict[str, Callable[[], Any]] = field(default_factory=dict)


@runtime_checkable
class Evaluation(Protocol):
    """A protocol at work on a run. It is made from the `Run`: methods are built, and what must be known is measured."""

    def __init__(self, run: Any) -> None: ...

    def passes(self) -> Iterable[Pass]:
        """The work, stretch by stretch."""
        ...

    def summarize(self, part: Part) -> Outcome:
        """What the parts of all processes come to; called on the first process only."""
        ...
