"""Perturbation methods: hide parts of the input or of a layer, and watch the target logit."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from attribution.base import Attribution, Passes, register_attribution
from core.errors import InputError


@register_attribution("occlusion")
class Occlusion(Attribution):
    """Occlusion (Zeiler and Fergus 2014): a pixel's value is the mean drop of the windows over it.

    Windows of `kernel` pixels slide by `stride` and fill with zeros; the last one of a row is cut at
    the border, and each pixel is divided by the number of windows that cover it.

    Args:
        kernel, stride: in pixels of the layer; as published, 16 and 8 at the input, 5 and 2 else.
    """

    needs = "forward passes only"

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
        self.kernel = kernel if kernel is not None else (16 if at_input else 5)
        self.stride = stride if stride is not None else (8 if at_input else 2)
        if not 1 <= self.stride <= self.kernel:
            raise InputError(f"occlusion needs 1 ≤ stride ≤ kernel, got stride {self.stride}, kernel {self.kernel}")
        self._windows: int | None = None

    def attribute(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        height, width = self.split.to_map(activations[:1]).shape[-2:]
        windows = self.windows(height, width).to(activations.device)
        self._windows = len(windows)
        whole = self.scores(activations, targets)
        total = whole.new_zeros(len(activations), 1, height, width, dtype=torch.float32)
        pairs = len(activations) * len(windows)
        for start in range(0, pairs, self.chunk):
            flat = torch.arange(start, min(start + self.chunk, pairs), device=activations.device)
            image, window = flat % len(activations), flat // len(activations)
            keep = self.split.spread((~windows[window]).to(activations.dtype))
            drops = whole[image] - self.scores(activations[image] * keep, targets[image])
            total.index_add_(0, image, drops.float()[:, None, None, None] * windows[window])
        return total / windows.sum(dim=0)

    def windows(self, height: int, width: int) -> Tensor:
        """The windows as masks, bool (n, 1, height, width); together they cover every pixel."""
        rows, cols = (torch.arange(size) for size in (height, width))
        row_starts, col_starts = (
            torch.arange(0, max(size - self.kernel, 0) + self.stride, self.stride)[
                : math.ceil(max(size - self.kernel, 0) / self.stride) + 1
            ]
            for size in (height, width)
        )
        in_rows = (rows >= row_starts[:, None]) & (rows < row_starts[:, None] + self.kernel)
        in_cols = (cols >= col_starts[:, None]) & (cols < col_starts[:, None] + self.kernel)
        return (in_rows[:, None, :, None] & in_cols[None, :, None, :]).flatten(0, 1).unsqueeze(1)

    @property
    def passes(self) -> Passes:
        return Passes(math.nan if self._windows is None else self._windows + 1, 0)
