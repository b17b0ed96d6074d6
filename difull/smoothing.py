"""Localization after smoothing, as Rao et al. compare it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from difull.localization import localization_score
from faithfulness.attribution.smoothing import smooth

PUBLISHED_SIDE = 448
"""Pixels per side of the published grids, which their kernels are given in."""


def kernel_for(published: int, size: tuple[int, int]) -> int:
    """A kernel of 448 px scaled to a map: odd, at least 1, at most what the map can reflect."""
    side = min(size)
    return min(max(1, 2 * round((published / PUBLISHED_SIDE * side - 1) / 2) + 1), 2 * side - 1)


def smoothed_scores(
    maps: Float[Tensor, "b c h w"], cell: int, scale: int, kernels: Iterable[int], **how: Any
) -> dict[int, tuple[int, Float[Tensor, " b"]]]:
    """Localization of maps after smoothing: published kernel -> (kernel of the map, scores (B,)).

    Args:
        kernels: in pixels of a grid of 448 px; small maps share a kernel, and are smoothed once.
        how: `upsample` and `size`, as for `localization_score`.
    """
    scores: dict[int, Tensor] = {}
    found = {}
    for published in kernels:
        kernel = kernel_for(published, (maps.shape[-2], maps.shape[-1]))
        if kernel not in scores:
            shown = maps if kernel == 1 else smooth(maps, kernel)
            scores[kernel] = localization_score(shown, cell, scale, **how)
        found[published] = (kernel, scores[kernel])
    return found
