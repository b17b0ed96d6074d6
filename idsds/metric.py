"""IDSDS as a torchmetrics metric: fed batch by batch, synchronised over processes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from core.grid import PatchGrid
from core.ranking import is_constant
from idsds.functional import cell_sums, rank_correlation


class InDomainSingleDeletion(Metric):
    """Mean rank correlation of output drops with attribution per cell; in [-1, 1], higher is better.

    A flat map counts as 0. Images whose drops are constant are left out for every method.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    correlations: list[Tensor] | Tensor
    dropped: Tensor

    def __init__(self, grid: PatchGrid | None = None, upsample: str = "bilinear", **arguments):
        super().__init__(**arguments)
        self.grid = grid or PatchGrid()
        self.upsample = upsample
        self.add_state("correlations", default=[], dist_reduce_fx="cat")
        self.add_state("dropped", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self, drops: Tensor, maps: Tensor, size: tuple[int, int] | None = None, scale: Tensor | None = None
    ) -> None:
        """Add drops (B, cells) and maps (B, C, h, w).

        Args:
            size: the images', if the maps' differs.
            scale: (B,) magnitude that drops are rounded by, from `drop_scale`; by default their own largest.
        """
        sums = cell_sums(maps, self.grid, size or (maps.shape[-2], maps.shape[-1]), self.upsample)
        usable = ~is_constant(drops, scale)
        self.dropped += (~usable).sum()
        assert isinstance(self.correlations, list)
        self.correlations.append(
            rank_correlation(drops[usable], sums[usable], None if scale is None else scale[usable])
        )

    def compute(self) -> Tensor:
        """The mean over images, NaN if there are none."""
        return dim_zero_cat(self.correlations).nan_to_num(0).mean()
