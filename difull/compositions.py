"""Which image goes into which cell: chosen once, saved, and reused for every model and method."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from torch import Tensor

from difull.cells import check_scale
from difull.one_use import count_one_use, draw_one_use
from faithfulness.core.errors import InputError, unknown_name
from faithfulness.core.files import atomic_file
from faithfulness.core.keyed import keyed_uniform, make_keys

KINDS = ("distinct", "corners")
"""`distinct`: another class in every cell (GridPG). `corners`: the last cell repeats the first one's
class with another image, the others are distinct (DiFull, DiPart)."""

DRAWS_PER_GRID = 100
MOST_CELLS = 10_000_000
"""Rows that a file of compositions may have; the published ones have some 20,000."""
_META = b"compositions"


@dataclass(frozen=True)
class Compositions:
    """Grids of images of one data set.

    Attributes:
        indices: (grids, scale²) sample index of each cell, row by row.
        labels: (grids, scale²) its class.
        kind: `distinct` or `corners`.
        about: anything that says where they come from (data set, threshold, models, seed).
    """

    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    scale: int
    kind: str
    about: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def heads(self) -> tuple[int, ...]:
        """The cells whose heads are scored: all of them, or the first and the last of `corners`."""
        cells = self.scale**2
        return tuple(range(cells)) if self.kind == "distinct" else (0, cells - 1)

    def table(self) -> pa.Table:
        """A row per grid and cell: grid, cell, index, label; all int64."""
        grids, cells = self.indices.shape
        return pa.table(
            {
                "grid": np.repeat(np.arange(grids), cells),
                "cell": np.tile(np.arange(cells), grids),
                "index": self.indices.ravel(),
                "label": self.labels.ravel(),
            }
        )

    def save(self, path: str | Path) -> None:
        """Write the table as parquet, whole or not at all, with scale, kind and `about` beside it."""
        meta = json.dumps({"scale": self.scale, "kind": self.kind, "about": self.about}, sort_keys=True)
        table = self.table().replace_schema_metadata({_META: meta.encode()})
        with atomic_file(Path(path)) as temporary:
            pq.write_table(table, temporary)

    @classmethod
    def load(cls, path: str | Path) -> Compositions:
        """Read what `save` wrote; raises InputError for any other file."""
        try:
            table = _read_table(Path(path))
            meta = json.loads((table.schema.metadata or {})[_META])
            scale, kind = check_scale(meta["scale"]), meta["kind"]
            columns = [_whole_numbers(table, name) for name in ("grid", "cell", "index", "label")]
            order = np.lexsort((columns[1], columns[0]))
            _, places, indices, labels = (column[order].reshape(-1, scale**2) for column in columns)
            if kind not in KINDS or not (places == np.arange(scale**2)).all():
                raise ValueError("cells are missing or repeated")
            if indices.min() < 0:
                raise ValueError(f"sample index {indices.min()}")
            return cls(indices, labels, scale, kind, meta["about"])
        except (OSError, KeyError, TypeError, ArithmeticError, RecursionError, ValueError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{path} holds no compositions: {reason}") from error

    @property
    def one_use(self) -> bool:
        """Whether no image is in two grids."""
        return len(np.unique(self.indices)) == self.indices.size

    def check(self, labels: Sequence[int] | NDArray[np.integer] | Tensor) -> None:
        """Raise InputError unless these are compositions of a data set with such labels (N,)."""
        known = _labels(labels)
        largest = int(self.indices.max(initial=-1))
        if largest >= len(known):
            raise InputError(f"the compositions use sample {largest}, but the data has only {len(known)}")
        differ = int((known[self.indices] != self.labels).sum())
        if differ:
            raise InputError(
                f"the compositions belong to other data: {differ} of {self.indices.size} cells have another label there"
            )


def _read_table(path: Path) -> pa.Table:
    """A parquet file; ValueError for what is no file, or claims more rows than any run composes."""
    if not path.is_file():
        raise ValueError("no such file" if not path.exists() else "not a regular file")
    rows = pq.read_metadata(path).num_rows
    if not 0 < rows <= MOST_CELLS:
        raise ValueError(f"expected 1 … {MOST_CELLS} rows, got {rows}")
    return pq.read_table(path)


def _whole_numbers(table: pa.Table, name: str) -> NDArray[np.int64]:
    """A column of a table; raises KeyError, ValueError or ArrowException unless it is one of whole numbers."""
    column = table[name].cast(pa.int64())
    if column.null_count:
        raise ValueError(f"{column.null_count} rows have no {name}")
    return column.to_numpy()


def choose_confident(
    confidences: Tensor | NDArray[np.floating],
    labels: Sequence[int] | NDArray[np.integer] | Tensor,
    threshold: float = 0.99,
    *,
    scale: int | None = None,
    kind: str = "distinct",
    count: int = 1,
    reuse: bool = True,
) -> NDArray[np.int64]:
    """Indices of the images that every model classifies rightly with confidence ≥ threshold.

    Args:
        confidences: softmax probabilities (N, classes), or (models, N, classes) for several models.
        labels: (N,) true classes.
        scale, kind, count, reuse: if scale is given, the images must do for that many grids of that kind.
    Raises:
        InputError: too few images; says how many there are, and at which threshold it would do.
    Source: Rao et al. 2022, section 4 (threshold 0.99).
    """
    known = _labels(labels)
    array = np.asarray(confidences.detach().cpu() if isinstance(confidences, Tensor) else confidences, dtype=np.float64)
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[1] != len(known) or not len(known) or known.max() >= array.shape[2]:
        raise InputError(
            f"expected probabilities (N, classes) or (models, N, classes) for {len(known)} labels, got {array.shape}"
        )
    if not 0 <= threshold <= 1:
        raise InputError(f"the confidence threshold must lie in [0, 1], got {threshold}")
    right = (array.argmax(axis=2) == known).all(axis=0)
    lowest = np.where(right, array[:, np.arange(len(known)), known].min(axis=0), -1.0)
    chosen = np.flatnonzero(lowest >= threshold)

    def suffices(indices: NDArray[np.int64]) -> bool:
        return len(indices) > 0 if scale is None else count_possible(known[indices], scale, kind, reuse) >= count

    if suffices(chosen):
        return chosen
    hint = _highest_threshold(lowest, suffices)
    advice = "no threshold would do" if hint is None else f"it would do at --confidence {hint:.6g}"
    classes, needed = len(np.unique(known[right])), 0 if scale is None else scale**2 - (kind == "corners")
    if classes < needed:
        advice += f": each takes {needed} classes, and images of {classes} are classified rightly at all"
    wanted = "" if scale is None else f" for {count} {kind} grid{'s' * (count != 1)} of {scale}×{scale}"
    wanted += "" if reuse else " without a common image"
    raise InputError(
        f"too few images{wanted}: {len(chosen)} of {len(known)}, in {len(np.unique(known[chosen]))} classes, are "
        f"classified rightly with confidence ≥ {threshold:g}; {advice}"
    )


def _highest_threshold(lowest: NDArray[np.float64], suffices: Any) -> float | None:
    """The highest confidence at which enough images are left, rounded down; None if there is none."""
    levels = np.unique(lowest[lowest >= 0])[::-1]
    low, high = 0, len(levels)
    while low < high:
        middle = (low + high) // 2
        if suffices(np.flatnonzero(lowest >= levels[middle])):
            high = middle
        else:
            low = middle + 1
    return math.floor(levels[low] * 1e6) / 1e6 if low < len(levels) else None


def count_possible(labels: NDArray[np.int64], scale: int, kind: str = "distinct", reuse: bool = True) -> int:
    """How many different grids of a kind images with such labels allow, exactly; without `reuse`, at once."""
    _check_kind(kind)
    cells = check_scale(scale) ** 2
    _, sizes = np.unique(labels, return_counts=True)
    if not reuse:
        return count_one_use(sizes, cells, kind)
    if kind == "distinct":
        return _choices(sizes, cells)[-1] * math.factorial(cells)
    if cells == 1:
        return 0
    ways = _choices(sizes, cells - 2)
    pairs = [(int(size), int(size) * (int(size) - 1)) for size in sizes if size > 1]
    return sum(pair * _choices_without(ways, size) for size, pair in pairs) * math.factorial(cells - 2)


def _choices(sizes: NDArray[np.int64], count: int) -> list[int]:
    """Ways to choose 0 … count classes and an image of each: the elementary symmetric polynomials."""
    ways = [1] + [0] * count
    for size in sizes.tolist():
        for k in range(count, 0, -1):
            ways[k] += ways[k - 1] * size
    return ways


def _choices_without(ways: list[int], size: int) -> int:
    """The last of `ways` once a class of `size` images is taken out."""
    left = 1
    for way in ways[1:]:
        left = way - size * left
    return left


def make_compositions(
    labels: Sequence[int] | NDArray[np.integer] | Tensor,
    eligible: Sequence[int] | NDArray[np.integer] | Tensor,
    scale: int,
    count: int,
    kind: str = "distinct",
    seed: int = 0,
    about: dict[str, Any] | None = None,
    *,
    reuse: bool = True,
) -> Compositions:
    """Compose `count` different grids from the eligible images, the same for the same seed.

    Classes are drawn uniformly, then an image of each. An image may be in several grids unless `reuse` is
    False, but only once in one of them.

    Args:
        labels: (N,) classes of the whole data set.
        eligible: indices of the images to use, e.g. from `choose_confident`.
        kind: `distinct` or `corners`.
        about: kept with the compositions.
        reuse: whether an image may be in several grids; False is as in Rao et al.'s code.
    Raises:
        InputError: more grids than the images allow; says how many images, classes and grids there are.
    Source: Rao et al. 2022, section 4.

    >>> from difull import make_compositions
    >>> grids = make_compositions(labels=[0, 0, 1, 2, 3, 3], eligible=range(6), scale=2, count=2)
    >>> grids.indices
    array([[1, 3, 5, 2],
           [0, 5, 3, 2]])
    >>> grids.labels
    array([[0, 2, 3, 1],
           [0, 3, 2, 1]])
    """
    known, cells = _labels(labels), check_scale(scale) ** 2
    _check_kind(kind)
    pool = np.unique(_labels(eligible))
    if len(pool) and (pool[0] < 0 or pool[-1] >= len(known)):
        raise InputError(f"eligible images must lie in 0 … {len(known) - 1}, got {pool[0]} … {pool[-1]}")
    classes = {int(label): pool[known[pool] == label] for label in np.unique(known[pool])}
    possible = count_possible(known[pool], scale, kind, reuse)
    if count < 1 or count > possible:
        twice = sum(len(members) > 1 for members in classes.values())
        raise InputError(
            f"asked for {count} {kind} grids of {scale}×{scale}{'' if reuse else ' without a common image'}, "
            f"but {len(pool)} eligible images in {len(classes)} "
            f"classes ({twice} of them with two or more) allow {possible}"
        )
    if not reuse:
        indices = np.array(draw_one_use(list(classes.values()), cells, kind, count, seed), dtype=np.int64)
        return Compositions(indices, known[indices], scale, kind, {"seed": seed, "reuse": False, **(about or {})})
    grids = _draw_different(classes, cells, kind, count, seed)
    if len(grids) < count:
        raise InputError(
            f"found only {len(grids)} of {count} {kind} grids in {DRAWS_PER_GRID * count} draws; {len(pool)} eligible "
            f"images allow {possible}: ask for fewer, or lower the confidence threshold"
        )
    indices = np.array(grids, dtype=np.int64)
    return Compositions(indices, known[indices], scale, kind, {"seed": seed, **(about or {})})


def _draw_different(
    classes: dict[int, NDArray[np.int64]], cells: int, kind: str, count: int, seed: int
) -> list[tuple[int, ...]]:
    """`count` different grids of sample indices in the order in which they are drawn; fewer if luck runs out."""
    found: dict[tuple[int, ...], None] = {}
    for draw in range(DRAWS_PER_GRID * count):
        found.setdefault(_draw_grid(classes, cells, kind, make_keys(seed, draw)))
        if len(found) == count:
            break
    return list(found)


def _draw_grid(classes: dict[int, NDArray[np.int64]], cells: int, kind: str, key: Tensor) -> tuple[int, ...]:
    """One grid's sample indices, from uniform numbers of its key."""
    numbers = keyed_uniform(key, (len(classes) + cells + 2,)).double().numpy()
    ranking, places, first = numbers[: len(classes)], numbers[len(classes) : -2], numbers[-2]
    names = list(classes)
    if kind == "distinct":
        chosen = [names[i] for i in np.argsort(ranking, kind="stable")[:cells]]
        return tuple(_pick(classes[name], place) for name, place in zip(chosen, places, strict=False))
    twice = [name for name in names if len(classes[name]) > 1]
    corner = twice[int(first * len(twice))]
    others = [names[i] for i in np.argsort(ranking, kind="stable") if names[i] != corner][: cells - 2]
    upper_left = _pick(classes[corner], places[0])
    rest = classes[corner][classes[corner] != upper_left]
    between = [_pick(classes[name], place) for name, place in zip(others, places[1:], strict=False)]
    return (upper_left, *between, _pick(rest, numbers[-1]))


def _pick(members: NDArray[np.int64], number: float) -> int:
    return int(members[int(number * len(members))])


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise unknown_name("kind of composition", kind, KINDS)


def _labels(values: Sequence[int] | NDArray[np.integer] | Tensor) -> NDArray[np.int64]:
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise InputError(f"expected whole numbers (N,), got {array.dtype} {array.shape}")
    return array.astype(np.int64)


__all__ = ["KINDS", "Compositions", "choose_confident", "count_possible", "make_compositions"]
