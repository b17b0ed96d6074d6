"""Grids that share no image: how many there can be, exactly, and a draw of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from faithfulness.core.keyed import keyed_uniform, make_keys

TRIES = 20
"""Draws of one grid that may leave too few images for the rest, before one is planned."""


def count_one_use(sizes: NDArray[np.int64], cells: int, kind: str) -> int:
    """The most grids of a kind without a common image, from the number of images of each class."""
    if kind == "corners" and cells == 1:
        return 0
    low, high = 0, int(sizes.sum()) // cells
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if allows(sizes, cells, kind, middle) else (low, middle - 1)
    return low


def allows(sizes: NDArray[np.int64], cells: int, kind: str, count: int) -> bool:
    """Whether classes of these sizes allow `count` grids without a common image.

    A class is in a grid once, so it gives min(size, count) images at most, and that many can always be dealt
    out (a bipartite multigraph of degree `count` has an edge coloring of `count` colors: König 1916). As a
    corner it gives two images to one grid: that costs the class one of its other places while it has images
    to spare (size > count), two afterwards.
    """
    filled = int(np.minimum(sizes, count).sum())
    if kind == "distinct":
        return filled >= count * cells
    pairs = np.minimum(sizes // 2, count)
    cheap = np.minimum(np.maximum(sizes - count, 0), pairs)
    spared = min(count, int(cheap.sum()))
    return int(pairs.sum()) >= count and filled - spared - 2 * (count - spared) >= count * (cells - 2)


def draw_one_use(
    members: list[NDArray[np.int64]], cells: int, kind: str, count: int, seed: int
) -> list[tuple[int, ...]]:
    """`count` grids of sample indices, from the images of each class; `count_one_use` must allow them.

    Classes are drawn uniformly among those with images left, as published, but for draws that would leave too
    few for the grids to come.
    """
    left = [_shuffled(each, make_keys(seed, -1, number)) for number, each in enumerate(members)]
    grids = []
    for grid in range(count):
        sizes = np.array([len(each) for each in left])
        for draw in range(TRIES):
            chosen = _draw_classes(sizes, cells, kind, make_keys(seed, grid, draw))
            if chosen is not None and allows(_without(sizes, chosen), cells, kind, count - grid - 1):
                break
        else:
            chosen = _planned(sizes, cells, kind, count - grid)
        grids.append(tuple(left[number].pop() for number in chosen))
    return grids


def _shuffled(images: NDArray[np.int64], key: Tensor) -> list[int]:
    ranking = keyed_uniform(key, (len(images),)).numpy()
    return images[np.argsort(ranking, kind="stable")].tolist()


def _draw_classes(sizes: NDArray[np.int64], cells: int, kind: str, key: Tensor) -> list[int] | None:
    """The class of each cell, drawn from those with images left; None if they don't make a grid."""
    numbers = keyed_uniform(key, (len(sizes) + 1,)).double().numpy()
    ranked = [int(number) for number in np.argsort(numbers[:-1], kind="stable") if sizes[number]]
    if kind == "distinct":
        return ranked[:cells] if len(ranked) >= cells else None
    twice = [number for number in range(len(sizes)) if sizes[number] > 1]
    if not twice or len(ranked) < cells - 1:
        return None
    corner = twice[int(numbers[-1] * len(twice))]
    return [corner, *[number for number in ranked if number != corner][: cells - 2], corner]


def _planned(sizes: NDArray[np.int64], cells: int, kind: str, count: int) -> list[int]:
    """The class of each cell of a grid after which the others of `count` stay possible.

    For corners, from a plan of how often each class is a corner and how often it stands alone: by the coloring
    of `allows` there is a grid that has all the classes which the plan needs in every grid.
    """
    if kind == "distinct":
        return np.argsort(-sizes, kind="stable")[:cells].tolist()
    pairs = np.minimum(sizes // 2, count)
    corners = _take(np.minimum(np.maximum(sizes - count, 0), pairs), count)
    corners = corners + _take(pairs - corners, count - int(corners.sum()))
    alone = _take(np.minimum(sizes - 2 * corners, count - corners), count * (cells - 2))
    needed = corners + alone == count
    ranked = [int(number) for number in np.argsort(~needed, kind="stable") if alone[number]]
    for corner in np.flatnonzero(corners).tolist():
        others = [number for number in ranked if number != corner][: cells - 2]
        if len(others) == cells - 2 and needed.sum() == needed[[corner, *others]].sum():
            return [corner, *others, corner]
    raise ValueError(f"{count} grids of {cells} cells are not possible with classes of {sizes.tolist()} images")


def _take(limits: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """`total` units, from the first classes on, each within its limit."""
    return np.clip(total - (np.cumsum(limits) - limits), 0, limits)


def _without(sizes: NDArray[np.int64], chosen: list[int]) -> NDArray[np.int64]:
    return sizes - np.bincount(chosen, minlength=len(sizes))
