"""What a protocol says of its own: its passes over the data, and what their parts come to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from eval.frame.part import Part

if TYPE_CHECKING:
    import pandas as pd

    from faithfulness.core.results import Score


class Pass(NamedTuple):
    """A stretch of work: batches of this process, and what scoring one of them leaves behind."""

    name: str
    batches: Iterable[Any]
    score: Callable[[Any], Part]


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


class Evaluation(Protocol):
    """A protocol at work on a run. It is made from the `Run`: methods are built, and what must be known is measured."""

    def __init__(self, run: Any) -> None: ...

    def passes(self) -> Iterator[Pass]:
        """The work, stretch by stretch."""
        ...

    def summarize(self, part: Part) -> Outcome:
        """What the parts of all processes come to; called on the first process only."""
        ...
