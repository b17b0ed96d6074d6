"""Dual-evidence attribution: what the gradients say and what an intervention says, where they agree.

After Sakib et al. 2026 (2603.22624); what goes beyond the idea of the paper, formula and defaults
included, is this suite's own and listed in `dea/README.md`. On a segmentation network the methods
explain a `SegmentationTarget`; on a classifier they explain its logit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from faithfulness.attribution.base import Attribution, Passes, gradient, register_attribution
from faithfulness.core.deletion import FILLS, fill_pixels
from faithfulness.core.errors import InputError, unknown_name
from faithfulness.core.grid import PatchGrid
from faithfulness.core.ranking import PRECISION
from faithfulness.core.resize import resize_exactly


def gradient_pooled(activations: Tensor, gradients: Tensor) -> Tensor:
    """ReLU of the channels weighted by their mean gradient: (B, C, h, w) twice -> (B, 1, h, w)."""
    return (gradients.mean(dim=(2, 3), keepdim=True) * activations).sum(dim=1, keepdim=True).relu()


def element_wise(activations: Tensor, gradients: Tensor) -> Tensor:
    """ReLU of the channel sum of gradient × activation: (B, C, h, w) twice -> (B, 1, h, w)."""
    return (gradients * activations).sum(dim=1, keepdim=True).relu()


GRADIENT_EVIDENCE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"gpa": gradient_pooled, "ega": element_wise}


class GradientEvidence(Attribution):
    """Base of `gpa` and `ega`: activations and their gradients, combined; not scaled."""

    default_layer = "final"
    needs = "gradients, a feature map"
    source: str

    def attribute(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        pieces = zip(activations.split(self.chunk), targets.split(self.chunk), strict=True)
        gradients = torch.cat([gradient(self.split.rest, *piece) for piece in pieces])
        return GRADIENT_EVIDENCE[self.source](self.split.to_map(activations), self.split.to_map(gradients))

    @property
    def passes(self) -> Passes:
        return Passes(1, 1)


@register_attribution("gpa", aliases=("gradient-pooled-activations",))
class GradientPooledActivations(GradientEvidence):
    """Gradient-pooled activations (GPA): channels weighted by their mean gradient, then ReLU."""

    paper = "Sakib et al. 2026"
    source = "gpa"


@register_attribution("ega", aliases=("element-wise-gradient-activation",))
class ElementWiseGradientActivation(GradientEvidence):
    """Element-wise gradient × activation (EGA), summed over channels, then ReLU."""

    paper = "Sakib et al. 2026"
    source = "ega"


class RegionIntervention(Attribution):
    """The positive drop of the target logit when a cell of a fixed grid is filled, scaled to [0, 1].

    A size that the grid doesn't divide gets cells that differ by one pixel; a layer smaller than the
    grid gets one cell per position. Behind the input, cells of the layer are set to zero.

    Args:
        grid: cells per side, or (rows, columns).
        fill: what a cell of the image becomes; `zeros` is the data set's mean color.
    """

    paper = "Sakib et al. 2026"
    needs = "forward passes only"

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        *,
        grid: int | tuple[int, ...] | PatchGrid = 8,
        fill: str = "zeros",
        **common: Any,
    ):
        super().__init__(model, layer, **common)
        self.grid = make_grid(grid)
        self.fill = FILLS.resolve(fill)
        if self.layer != "input" and self.fill != "zeros":
            raise InputError(f"fill {self.fill!r} is for images; at layer {self.layer!r} only 'zeros' is defined")
        self._cells = self.grid.cells

    @property
    def settings(self) -> dict[str, Any]:
        """The choices that define this map, as a result records them."""
        return {"layer": self.layer, "grid": [self.grid.rows, self.grid.cols], "fill": self.fill}

    def attribute(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        return self.intervene(activations, targets)

    def intervene(self, activations: Tensor, targets: Tensor) -> Tensor:
        """The scaled drops, constant over each cell: (B, 1, h, w) in [0, 1]."""
        height, width = self.split.to_map(activations[:1]).shape[-2:]
        cells = self.cell_index(height, width).to(activations.device)
        self._cells = int(cells.max()) + 1
        whole = self.scores(activations, targets)
        drops = whole.new_zeros(len(activations), self._cells)
        pairs = len(activations) * self._cells
        for start in range(0, pairs, self.chunk):
            flat = torch.arange(start, min(start + self.chunk, pairs), device=activations.device)
            image, cell = flat % len(activations), flat // len(activations)
            without = self.fill_cells(activations[image], cells == cell[:, None, None, None])
            logits = self.scores(without, targets[image])
            drop = whole[image] - logits
            # What lies within the logits' rounding is no drop: scaled to 1 it would be a map of noise.
            rounding = PRECISION * torch.maximum(whole[image].abs(), logits.abs())
            drops[image, cell] = drop.masked_fill(drop.abs() <= rounding, 0)
        return scale_to_one(drops.relu()[:, cells].unsqueeze(1))

    def cell_index(self, height: int, width: int) -> Tensor:
        """The cell of each position, int64 (height, width), row by row; at most one cell per position."""
        rows, cols = min(self.grid.rows, height), min(self.grid.cols, width)
        return (torch.arange(height) * rows // height)[:, None] * cols + torch.arange(width) * cols // width

    def fill_cells(self, activations: Tensor, mask: Tensor) -> Tensor:
        """Activations with the masked positions (B, 1, h, w) filled."""
        if self.layer == "input":
            return fill_pixels(activations, mask, self.fill)
        return activations * self.split.spread((~mask).to(activations.dtype))

    @property
    def passes(self) -> Passes:
        return Passes(self._cells + 1, 0)


class DualEvidence(RegionIntervention):
    """Dual-evidence attribution (after Sakib et al. 2026): I + λ·a·G with a = 1 − |G − I|, in [0, 1].

    I is the evidence of the region intervention at the layer (by default the image), G the gradient
    evidence, brought to the size of I and scaled to [0, 1]. Where both agree the emphasis grows;
    where they don't, the intervention remains.

    Args:
        grid, fill: of the intervention, see `RegionIntervention`.
        gradient: the gradient evidence, `ega` or `gpa`.
        lambda_: the weight λ ≥ 0 of the agreement; 0 is the region intervention alone.
        fusion: `sum` I + λ·a·G; `gated` I·(1 + λ·a·G), nothing where the intervention finds nothing;
            `product` I·G, which has no λ. See `FUSIONS` for what is monotone.
        source_layer: where the gradients are read if the map lies at the input; else they are read
            at the map's own layer.

    >>> import torch
    >>> from dea import DualEvidence
    >>> from faithfulness import create_backbone
    >>> explain = DualEvidence(create_backbone("test_resnet", num_classes=3), grid=4)
    >>> maps = explain(torch.rand(2, 3, 64, 64), torch.tensor([0, 2]))
    >>> maps.shape, bool(maps.min() >= 0), bool(maps.max() <= 1)
    (torch.Size([2, 1, 64, 64]), True, True)
    >>> explain.passes
    Passes(forward=18, backward=1)
    """

    paper = "Sakib et al. 2026"
    needs = "gradients, a feature map"

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        *,
        gradient: str = "ega",
        lambda_: float | int = 1.0,
        fusion: str = "sum",
        source_layer: str = "final",
        **common: Any,
    ):
        cell = common.get("cell")
        super().__init__(model, layer, **common)
        if gradient not in GRADIENT_EVIDENCE:
            raise unknown_name("gradient evidence", gradient, GRADIENT_EVIDENCE)
        if not 0 <= lambda_ < float("inf"):
            raise InputError(f"lambda_ must be at least 0, got {lambda_}")
        if fusion not in FUSIONS:
            raise unknown_name("fusion", fusion, FUSIONS)
        if fusion == "product" and lambda_ != 1:
            raise InputError(f"fusion product has no lambda_, got {lambda_}")
        kind = GradientPooledActivations if gradient == "gpa" else ElementWiseGradientActivation
        source_layer = source_layer if self.layer == "input" else self.layer
        self.evidence = kind(self.model, source_layer, cell=cell, chunk=self.chunk, output=self.output)
        self.lambda_, self.fusion = float(lambda_), fusion

    @property
    def settings(self) -> dict[str, Any]:
        """The choices that define this map, as a result records them."""
        mine = {"gradient": self.evidence.source, "lambda": self.lambda_, "fusion": self.fusion}
        return super().settings | mine | {"source_layer": self.evidence.layer}

    def attribute(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        intervention = self.intervene(activations, targets)
        if self.lambda_ == 0:
            return intervention
        same = self.evidence.layer == self.layer
        with torch.no_grad():
            source = activations if same else self.evidence.split.stem(images)
        maps = self.evidence.attribute(images, source, targets)
        maps = resize_exactly(maps, (intervention.shape[-2], intervention.shape[-1])).to(maps.dtype)
        return fuse_evidence(scale_to_one(maps), intervention, self.lambda_, self.fusion)

    @property
    def passes(self) -> Passes:
        return Passes(self._cells + 1, 0) if self.lambda_ == 0 else Passes(self._cells + 2, 1)


register_attribution("region", aliases=("region-intervention",))(RegionIntervention)
register_attribution("dea", aliases=("dual-evidence",))(DualEvidence)


def make_grid(grid: int | tuple[int, ...] | PatchGrid) -> PatchGrid:
    """8, (8, 8) and PatchGrid(8, 8) are one grid."""
    if isinstance(grid, PatchGrid):
        return grid
    sides = (grid, grid) if isinstance(grid, int) else tuple(grid)
    if len(sides) != 2:
        raise InputError(f"a grid is a number or (rows, columns), got {grid!r}")
    return PatchGrid(*sides)


def scale_to_one(maps: Tensor) -> Tensor:
    """Nonnegative maps (B, 1, h, w), each divided by its maximum; a map of zeros stays one."""
    largest = maps.amax(dim=(1, 2, 3), keepdim=True)
    return maps / torch.where(largest > 0, largest, torch.ones_like(largest))


def fuse_evidence(gradients: Tensor, intervention: Tensor, lambda_: float, fusion: str = "sum") -> Tensor:
    """One of `FUSIONS`, scaled to [0, 1]: maps in [0, 1], (B, 1, h, w) twice -> (B, 1, h, w)."""
    return scale_to_one(FUSIONS[fusion](gradients, intervention, lambda_))


def _agreement(gradients: Tensor, intervention: Tensor) -> Tensor:
    return 1 - (gradients - intervention).abs()


FUSIONS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "sum": lambda g, i, lambda_: i + lambda_ * _agreement(g, i) * g,
    "gated": lambda g, i, lambda_: i * (1 + lambda_ * _agreement(g, i) * g),
    "product": lambda g, i, lambda_: i * g,
}
"""fusion(G, I, λ): how the gradient evidence enters. All rise with I (`sum` for λ ≤ 1, `gated` for λ ≤ 4).

In G only `product` is monotone. `sum` falls with G beyond (1 + I) / 2, where nothing was lost at I = 0
too; `gated` beyond the same point, but by I times as much, and is 0 wherever I is.
"""
