"""What scoring leaves behind: a value that can be merged, over batches and over processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Columns = dict[str, NDArray[Any]]
"""Columns of a table by name, all of one length."""


@dataclass
class Cost:
    """What a method's maps took: seconds, how many maps, and the passes of one, where the method knows."""

    seconds: float = 0.0
    maps: int = 0
    forward: float | None = None
    backward: float | None = None

    def __add__(self, other: Cost) -> Cost:
        known = self if self.maps or not other.maps else other
        return Cost(self.seconds + other.seconds, self.maps + other.maps, known.forward, known.backward)


@dataclass
class Part:
    """Tables by name, counts, costs by method, records for `summary.json`, and what couldn't be read.

    Everything that a protocol keeps of a batch is rows of a table, so any two parts of a run can be
    merged, in any order, and written to disk, where records are JSON.
    """

    tables: dict[str, list[Columns]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    costs: dict[str, Cost] = field(default_factory=dict)
    records: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    corrupt: dict[str, set[int]] = field(default_factory=dict)
    made: dict[str, set[int]] = field(default_factory=dict)
    """With what it was computed: `chunk`, `batch_size`, `processes`."""
    seen: str = ""
    """Digest of the batch that it was computed from; of a part of several it says nothing."""

    def add(self, table: str, **columns: Any) -> None:
        """Append rows: tensors (on any device) and arrays, (n, …) each, and scalars that hold for all rows."""
        arrays = {name: _as_array(value) for name, value in columns.items()}
        count = next(len(value) for value in arrays.values() if value.ndim)
        self.tables.setdefault(table, []).append(
            {name: value if value.ndim else np.broadcast_to(value, (count,)) for name, value in arrays.items()}
        )

    def merge(self, other: Part) -> None:
        """Take in all of another part."""
        for name, pieces in other.tables.items():
            self.tables.setdefault(name, []).extend(pieces)
        for name, records in other.records.items():
            self.records.setdefault(name, []).extend(records)
        for name, cost in other.costs.items():
            self.costs[name] = self.costs.get(name, Cost()) + cost
        for name, indices in other.corrupt.items():
            self.corrupt.setdefault(name, set()).update(indices)
        for name, values in other.made.items():
            self.made.setdefault(name, set()).update(values)
        self.counts.update(other.counts)

    def table(self, name: str, *order: str) -> Columns:
        """All rows of a table, sorted by columns, the first counting most; no columns if there are none."""
        pieces = self.tables.get(name, [])
        if not pieces:
            return {}
        columns = {column: np.concatenate([piece[column] for piece in pieces]) for column in pieces[0]}
        if not order:
            return columns
        rows = np.lexsort([columns[column] for column in reversed(order)])
        return {column: values[rows] for column, values in columns.items()}

    def tensor(self, table: str, column: str, device: torch.device | None = None) -> torch.Tensor:
        """A column of a table whose rows are in the order in which they were added."""
        import torch

        return torch.from_numpy(np.ascontiguousarray(self.table(table)[column])).to(device)

    def n_corrupt(self, *what: str) -> int:
        """How many images (or grids, of any of these compositions) could not be read."""
        return sum(len(self.corrupt.get(name, ())) for name in what)


def merged(parts: Iterable[Part]) -> Part:
    """One part of many."""
    whole = Part()
    for part in parts:
        whole.merge(part)
    return whole


def _as_array(value: Any) -> NDArray[Any]:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
