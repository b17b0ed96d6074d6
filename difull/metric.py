"""`localization_score` as a torchmetrics metric."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from core.errors import InputError
from difull.cells import check_scale
from difull.localization import impossible_attribution, localization_score


class Localization(Metric):
    """Mean localisation score over maps, with the counts that it rests on.

    Args:
        scale: cells per side.
        upsample, size: as for `localization_score`; exact at the maps' own resolution by default.

    `compute` gives `localization` (undefined maps count 0), `localization_defined` (they are left
    out), `impossible_attribution` (share of absolute attribution outside the cell, over maps that
    aren't zero everywhere), `n` and `n_undefined`, as float64 scalars. A (grid, cell) that a sampler
    repeats counts once, if `update` is told the grids' indices.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    score: list[Tensor]
    impossible: list[Tensor]
    key: list[Tensor]

    def __init__(
        self, scale: int, upsample: str | None = None, size: tuple[int, int] | None = None, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.scale, self.upsample, self.size = check_scale(scale), upsample, size
        for state in ("score", "impossible", "key"):
            self.add_state(state, default=[], dist_reduce_fx="cat")
        self.set_dtype(torch.float64)

    def update(
        self,
        maps: Float[Tensor, "b c h w"],
        cell: int | Int[Tensor, " b"],
        indices: Int[Tensor, " b"] | None = None,
    ) -> None:
        """Add maps (B, C, h, w) of one cell's head, or of a head for each.

        Args:
            indices: (B,) index of each map's grid, the same on every process.
        """
        score = localization_score(maps, cell, self.scale, self.upsample, self.size, undefined=torch.nan)
        self.score.append(score)
        self.impossible.append(impossible_attribution(maps, cell, self.scale, undefined=torch.nan))
        if indices is not None:
            if indices.shape != maps.shape[:1]:
                raise InputError(f"expected indices ({len(maps)},), got {tuple(indices.shape)}")
            cells = torch.as_tensor(cell, device=indices.device).expand(len(maps))
            self.key.append(indices.to(torch.int64) * self.scale**2 + cells)

    def compute(self) -> dict[str, Tensor]:
        """The means and counts; NaN without any map."""
        score, impossible = (
            dim_zero_cat(values) if len(values) else torch.empty(0) for values in (self.score, self.impossible)
        )
        if len(self.key):
            key = dim_zero_cat(self.key)
            if len(key) != len(score):
                raise InputError(f"indices were given for {len(key)} of {len(score)} maps; give them always or never")
            order = torch.argsort(key, stable=True)
            first = torch.ones_like(order, dtype=torch.bool)
            first[1:] = key[order][1:] != key[order][:-1]
            score, impossible = score[order][first], impossible[order][first]
        undefined = torch.isnan(score)
        return {
            "localization": torch.nan_to_num(score).double().mean(),
            "localization_defined": score[~undefined].double().mean(),
            "impossible_attribution": impossible[~torch.isnan(impossible)].double().mean(),
            "n": torch.tensor(float(len(score)), dtype=torch.float64),
            "n_undefined": undefined.sum().double(),
        }
