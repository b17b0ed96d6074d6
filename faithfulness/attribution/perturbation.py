"""Perturbation methods: hide parts of the input or of a layer, and watch the target's score."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from faithfulness.attribution.base import Attribution, Passes, register_attribution, select_logits, upcast
from faithfulness.attribution.gradients import make_baseline
from faithfulness.core.errors import InputError
from faithfulness.core.keyed import keyed_uniform, make_keys
from faithfulness.core.precision import ieee


class Masking(Attribution):
    """A method that hides the same parts of every image of a batch, mask after mask."""

    needs = "forward passes"

    def in_passes(self, masks: int, activations: Tensor) -> tuple[Tensor, ...]:
        """The masks' numbers, as many at once as fill a pass with all images; one, if the images fill it."""
        at_once = max(1, self.chunk // max(1, len(activations)))
        return torch.arange(masks, device=activations.device).split(at_once)

    def behind_masks(
        self,
        watch: Callable[[Tensor, Tensor], Tensor],
        shown: Tensor,
        masks: Tensor,
        targets: Tensor,
        base: Tensor | None = None,
    ) -> Tensor:
        """What `watch` says of all images behind each mask, (masks, B), up to `chunk` at a time.

        Args:
            watch: activations (n, …) and targets (n,) -> (n,).
            shown: activations (B, …).
            masks: shares (masks, 1, h, w) of what is kept of them.
            base: what is added once they are masked.
        """
        keep = self.split.spread(masks.to(shown.dtype)).unsqueeze(1)
        parts, found = max(1, -(-len(shown) // self.chunk)), []
        for part, those in zip(shown.tensor_split(parts), targets.tensor_split(parts), strict=True):
            hidden = (keep * part).flatten(0, 1)  # at a late layer a pass costs little more than a copy
            if base is not None:
                hidden += base
            found.append(watch(hidden, those.repeat(len(masks))).view(len(masks), len(those)))
        return torch.cat(found, dim=1)


@register_attribution("occlusion")
class Occlusion(Masking):
    """Occlusion (Zeiler and Fergus 2014): a pixel's value is the mean drop of the windows over it.

    Windows of `kernel` pixels slide by `stride` and fill with zeros; the last one of a row is cut at
    the border, and each pixel is divided by the number of windows that cover it.

    Args:
        kernel, stride: in pixels of the layer; as published, 16 and 8 at the input, 5 and 2 else. A
            default kernel is at most half the map's side, so that on a small map it still tells places apart.
    """

    paper = "Zeiler and Fergus 2014"
    passes_in_words = ("windows + 1", "0")

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        *,
        kernel: int | None = None,
        stride: int | None = None,
        **common: Any,
    ):
        super().__init__(model, layer, **common)
        at_input = self.layer == "input"
        self._fits = kernel is None
        self.kernel = kernel if kernel is not None else (16 if at_input else 5)
        self.stride = stride if stride is not None else (8 if at_input else 2)
        if not 1 <= self.stride <= self.kernel:
            raise InputError(f"occlusion needs 1 ≤ stride ≤ kernel, got stride {self.stride}, kernel {self.kernel}")
        self._windows: int | None = None

    def attribute(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        size = self.split.to_map(activations[:1]).shape[-2:]
        kernel = min(self.kernel, max(1, min(size) // 2)) if self._fits else self.kernel
        rows, cols = (window_masks(side, kernel, min(self.stride, kernel)).to(activations.device) for side in size)
        self._windows = len(rows) * len(cols)
        whole = self.scores(activations, targets)
        drops = whole.new_empty(len(activations), self._windows)
        for windows in self.in_passes(self._windows, activations):
            hidden = rows[windows // len(cols), :, None] & cols[windows % len(cols), None, :]
            behind = self.behind_masks(self.scores, activations, ~hidden[:, None], targets)
            drops[:, windows] = whole[:, None] - behind.T
        rows, cols = rows.to(drops.dtype), cols.to(drops.dtype)
        with torch.autocast(drops.device.type, enabled=False):
            total = rows.T @ drops.unflatten(1, (len(rows), len(cols))) @ cols
        return (total / (rows.sum(dim=0)[:, None] * cols.sum(dim=0))).unsqueeze(1)

    @property
    def passes(self) -> Passes:
        return Passes(math.nan if self._windows is None else self._windows + 1, 0)


def window_masks(side: int, kernel: int, stride: int) -> Tensor:
    """What sliding windows cover along a side, bool (n, side); together they cover all of it."""
    count = math.ceil(max(side - kernel, 0) / stride) + 1
    starts, places = torch.arange(count)[:, None] * stride, torch.arange(side)
    return (places >= starts) & (places < starts + kernel)


@register_attribution("rise", aliases=("RISE",))
class RISE(Masking):
    """RISE (Petsiuk et al. 2018): the mean score of masked inputs, weighted by each pixel's mask.

    Masks are made on the fly and shared by all images.

    Args:
        masks: how many; 1000 in both benchmarks.
        cells: a mask is a random grid of cells × cells; 8 in Hesse et al., 6 in Rao et al.
        probability: that a cell is kept.
        baseline: what masked pixels become: `zeros`, `uniform` (one fixed image), or a tensor.
        softmax: score by the target's probability, as published; otherwise by the `output`.
        divide: by the `coverage`, how much the drawn masks keep of a pixel, so that a model which is blind to
            the image has a flat map; or by its `expectation`, masks × probability, as in the paper's equation
            6 and in both benchmarks.
        far_end: whether masks shift by 0 … one whole cell, as the paper has it; without the far end in the
            paper's code, which both benchmarks use.
        mirror: whether the outer half of a mask's border cells mirrors the inner half, as skimage's `resize` has
            it in that code; otherwise it repeats the cell's own value.
    """

    paper = "Petsiuk et al. 2018"

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        *,
        masks: int = 1000,
        cells: int = 8,
        probability: float = 0.1,
        baseline: str | Tensor = "zeros",
        softmax: bool = True,
        divide: str = "coverage",
        far_end: bool = True,
        mirror: bool = False,
        seed: int = 0,
        **common: Any,
    ):
        super().__init__(model, layer, **common)
        if divide not in ("coverage", "expectation"):
            raise InputError(f"rise divides by coverage or expectation, got {divide!r}")
        if masks < 1 or cells < 1 or not 0 < probability <= 1:
            raise InputError(
                f"rise needs masks ≥ 1, cells ≥ 1 and 0 < probability ≤ 1, got {masks}, {cells} and {probability}"
            )
        self.masks, self.cells, self.probability = masks, cells, probability
        self.baseline, self.softmax, self.seed = baseline, softmax, seed
        self.divide, self.far_end, self.mirror = divide, far_end, mirror

    def attribute(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        height, width = self.split.to_map(activations[:1]).shape[-2:]
        base = None if self.baseline == "zeros" else make_baseline(self.baseline, activations, self.seed)
        shown = activations if base is None else activations - base
        total = upcast(activations.new_zeros(len(activations), height * width))
        covered = total.new_zeros(height * width)
        for numbers in self.in_passes(self.masks, activations):
            masks = self.draw_masks(numbers, height, width)
            watched = self.behind_masks(self.probabilities, shown, masks, targets, base)
            masks = masks.flatten(1).to(total.dtype)
            covered += masks.sum(dim=0)
            with torch.autocast(total.device.type, enabled=False), ieee():
                total += watched.T.to(total.dtype) @ masks
        if self.divide == "expectation":
            covered = torch.full_like(covered, self.masks * self.probability)
        return (total / covered.clamp(min=torch.finfo(covered.dtype).tiny)).unflatten(1, (1, height, width))

    def probabilities(self, activations: Tensor, targets: Tensor) -> Tensor:
        """What is watched, (n,): the target's probability or logit."""
        with torch.no_grad():
            logits = upcast(self.split.rest(activations))
        return select_logits(self.split.softmax(logits) if self.softmax else logits, targets)

    def draw_grids(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """The grids (n, cells, cells), 0 or 1, and shifts (n, 2) in [0, 1) of the masks of these numbers."""
        keys = make_keys(self.seed, numbers)
        kept = keyed_uniform(make_keys(keys, 0), (self.cells, self.cells)) < self.probability
        return kept.float(), keyed_uniform(make_keys(keys, 1), (2,))

    def draw_masks(self, numbers: Tensor, height: int, width: int) -> Tensor:
        """Masks (n, 1, height, width) in [0, 1]: each grid brought to one cell more than the map, then cut.

        The cut's upper left corner lies anywhere within the first cell, its far end included if `far_end`.
        """
        grids, shifts = self.draw_grids(numbers)
        for axis, side in ((1, height), (2, width)):
            cell = math.ceil(side / self.cells)
            start = (shifts[:, axis - 1] * (cell + self.far_end)).long()
            grids = interpolate_axis(grids, start, side, (self.cells + 1) * cell, axis, self.mirror)
        return grids.unsqueeze(1)

    @property
    def passes(self) -> Passes:
        return Passes(self.masks, 0)


def interpolate_axis(grids: Tensor, start: Tensor, side: int, full: int, axis: int, mirror: bool = False) -> Tensor:
    """`side` values from `start` (n,) on, of an axis that is brought to `full` values by linear interpolation.

    Positions are those of `interpolate(..., align_corners=False)`, of which only the cut is computed; with
    `mirror`, those beyond the outer cells' centers are mirrored there.
    """
    cells = grids.shape[axis]
    wanted = start[:, None] + torch.arange(side, device=grids.device)
    position = (wanted + 0.5) * (cells / full) - 0.5
    if mirror:
        position = (cells - 1) - ((cells - 1) - position.abs()).abs()
    position = position.clamp(0, cells - 1)
    low = position.floor().long()
    shape = [len(grids), 1, 1]
    shape[axis] = side
    spread = list(grids.shape)
    spread[axis] = side

    def values(index: Tensor) -> Tensor:
        return grids.gather(axis, index.view(shape).expand(spread))

    weight = (position - low).to(grids.dtype).view(shape)
    return torch.lerp(values(low), values((low + 1).clamp(max=cells - 1)), weight)


@register_attribution("rise-u", aliases=("RISE-U", "rise-uniform"))
class RISEUniform(RISE):
    """RISE whose masked pixels are those of one fixed uniform image in [-1, 1] (RISE-U in Hesse et al.)."""

    paper = "Petsiuk et al. 2018, Hesse et al. 2024"

    def __init__(
        self, model: nn.Module, layer: str | None = None, *, baseline: str | Tensor = "uniform", **common: Any
    ):
        super().__init__(model, layer, baseline=baseline, **common)
