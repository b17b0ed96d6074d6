"""AggAtt: every map of a data set, sorted by its score and averaged in bins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from faithfulness.core.checks import check_maps
from faithfulness.core.errors import InputError
from faithfulness.core.ranking import quantize_rows
from faithfulness.core.resize import resize_maps

EDGES = (0.0, 0.02, 0.05, 0.5, 0.95, 0.98, 1.0)
"""Shares of the data set at which it is cut, best first (Rao et al. 2022)."""


@dataclass(frozen=True)
class Aggregate:
    """Mean maps of the bins of a data set, best bin first.

    Attributes:
        means: (bins, 1, h, w) mean positive attribution of each bin; NaN in an empty one.
        counts: maps in each bin; together all of them.
        order: (N,) indices of the maps, best first.
        examples: for each bin, indices of maps from its middle.
        scores: (N,) as given.
        edges: the shares at which the data set is cut.
    """

    means: Float[Tensor, "k 1 h w"]
    counts: tuple[int, ...]
    order: NDArray[np.int64]
    examples: tuple[tuple[int, ...], ...]
    scores: NDArray[np.float64]
    edges: tuple[float, ...]

    @property
    def scores_of_bins(self) -> list[NDArray[np.float64]]:
        """The scores of each bin's maps, best first."""
        return np.split(self.scores[self.order], np.cumsum(self.counts)[:-1])


def sort_by_score(
    scores: NDArray[np.floating] | Tensor, inside: NDArray[np.floating] | Tensor | None = None
) -> NDArray[np.int64]:
    """Indices from the best score to the worst; ties: more attribution inside the cell first.

    Values that rounding alone tells apart tie (`faithfulness.core.ranking`); what still ties keeps its order.
    Raises InputError for NaN.
    """
    keys = [_vector(scores, "scores")]
    if inside is not None:
        keys.insert(0, _vector(inside, "inside"))
        if len(keys[0]) != len(keys[1]):
            raise InputError(f"expected as many inside sums as scores, got {len(keys[0])} and {len(keys[1])}")
    quantized = quantize_rows(torch.from_numpy(np.stack(keys))).numpy()
    return np.lexsort(-quantized).astype(np.int64)


def cut_bins(count: int, edges: Sequence[float] = EDGES) -> list[slice]:
    """Where the bins begin and end among `count` sorted maps; every map is in exactly one bin.

    Edges are rounded to the nearest map, so a bin of a small data set may be empty.
    """
    if len(edges) < 2 or edges[0] != 0 or edges[-1] != 1 or any(a >= b for a, b in pairwise(edges)):
        raise InputError(f"bin edges must rise from 0 to 1, got {tuple(edges)}")
    bounds = [int(edge * count + 0.5) for edge in edges]
    return [slice(a, b) for a, b in pairwise(bounds)]


def aggregate(
    maps: Float[Tensor, "n c h w"],
    scores: NDArray[np.floating] | Float[Tensor, " n"],
    inside: NDArray[np.floating] | Float[Tensor, " n"] | None = None,
    *,
    edges: Sequence[float] = EDGES,
    examples: int = 3,
    size: tuple[int, int] | None = None,
    upsample: str = "bilinear",
) -> Aggregate:
    """Sort maps by score, cut at `edges`, and average the positive part of the maps of each bin.

    Args:
        maps: (N, C, h, w) signed; channels are summed.
        scores: (N,) localization scores; undefined ones as 0.
        inside: (N,) positive attribution in the scored cell; breaks ties, more first.
        examples: how many indices from the middle of each bin are named.
        size, upsample: bring the maps to this size first (then drop negative values, as published).
    Raises:
        InputError: maps that aren't finite, NaN scores, counts that differ, edges that don't rise.
    Source: Rao et al. 2022, section 4; a bin's mean is over the maps that are in it.

    >>> import torch
    >>> from difull import aggregate
    >>> maps, scores = torch.arange(4.0).view(4, 1, 1, 1), torch.tensor([0.1, 0.9, 0.3, 0.8])
    >>> found = aggregate(maps, scores, edges=(0.0, 0.5, 1.0))
    >>> found.order
    array([1, 3, 2, 0])
    >>> found.means.flatten()
    tensor([2., 1.])
    """
    maps = check_maps(maps, maps, "the attribution").sum(dim=1, keepdim=True)
    order = sort_by_score(scores, inside)
    if len(order) != len(maps) or not len(maps):
        raise InputError(f"expected as many scores as maps, at least one, got {len(order)} and {len(maps)}")
    maps = (maps if size is None else resize_maps(maps, size, upsample)).clamp(min=0)
    bins = cut_bins(len(order), edges)
    means = [_mean(maps, order[part]) for part in bins]
    return Aggregate(
        torch.stack(means),
        tuple(part.stop - part.start for part in bins),
        order,
        tuple(_middle(order[part], examples) for part in bins),
        _vector(scores, "scores"),
        tuple(edges),
    )


def _mean(maps: Tensor, indices: NDArray[np.int64]) -> Tensor:
    """Mean of some maps, summed in float64."""
    return maps[torch.from_numpy(indices).to(maps.device)].double().mean(dim=0).to(maps.dtype)


def _middle(indices: NDArray[np.int64], count: int) -> tuple[int, ...]:
    """Up to `count` entries around the middle."""
    start = max(0, (len(indices) - count) // 2)
    return tuple(int(index) for index in indices[start : start + count])


def _vector(values: NDArray[np.floating] | Tensor, what: str) -> NDArray[np.float64]:
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    if array.ndim != 1 or np.isnan(array).any():
        raise InputError(f"expected {what} (N,) without NaN, got {array.shape} with {int(np.isnan(array).sum())} NaN")
    return array
