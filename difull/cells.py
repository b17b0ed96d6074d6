"""Cells of a grid of images: composing them, cutting one out, and how activations hold them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from faithfulness.backbones.split import Transform
from faithfulness.core.errors import InputError


def _whole(value: Any) -> int | None:
    try:
        return index(value)
    except TypeError:
        return None


def check_scale(scale: int) -> int:
    """The scale itself; raises InputError unless it is a whole number of at least 1."""
    if _whole(scale) is None or scale < 1:
        raise InputError(f"scale must be a whole number of at least 1, got {scale!r}")
    return index(scale)


def check_cell(cell: int, scale: int) -> int:
    """The cell as an int; raises InputError unless it lies in 0 … scale² - 1."""
    if _whole(cell) is None or not 0 <= cell < scale * scale:
        raise InputError(f"the cell of a {scale}×{scale} grid must lie in 0 … {scale * scale - 1}, got {cell!r}")
    return index(cell)


def check_divides(shape: Sequence[int], scale: int, what: str) -> None:
    """Raise unless the last two sizes are multiples of `scale`."""
    height, width = shape[-2:]
    if height % scale or width % scale or not height or not width:
        raise InputError(f"{what} of {height}×{width} can't be cut into {scale}×{scale} equal cells")


def compose_grid(images: Float[Tensor, "*shape"], scale: int) -> Float[Tensor, "b c h w"]:
    """Compose scale × scale images into one, row by row from the upper left.

    Args:
        images: (B, scale², C, h, w), or (B·scale², C, h, w) with the cells of a grid in succession.
    Returns:
        (B, C, scale·h, scale·w).
    Raises:
        InputError: another shape.

    >>> import torch
    >>> from difull import compose_grid
    >>> compose_grid(torch.arange(4.0).view(4, 1, 1, 1), scale=2)
    tensor([[[[0., 1.],
              [2., 3.]]]])
    """
    cells = check_scale(scale) ** 2
    if images.dim() == 4 and len(images) % cells == 0:
        images = images.unflatten(0, (len(images) // cells, cells))
    if images.dim() != 5 or images.shape[1] != cells:
        raise InputError(f"expected images (B, {cells}, C, h, w) or (B·{cells}, C, h, w), got {tuple(images.shape)}")
    return rearrange(images, "b (i j) c h w -> b c (i h) (j w)", i=scale)


def cut_cells(images: Float[Tensor, "b c h w"], scale: int) -> Float[Tensor, "b k c x y"]:
    """The inverse of `compose_grid`: (B, C, H, W) -> (B, scale², C, H/scale, W/scale)."""
    check_divides(images.shape, scale, "a map")
    return rearrange(images, "b c (i h) (j w) -> b (i j) c h w", i=scale, j=scale)


def crop_cell(images: Float[Tensor, "b c h w"], cell: int, scale: int) -> Float[Tensor, "b c x y"]:
    """One cell of each image or map, (B, C, H, W) -> (B, C, H/scale, W/scale), in memory of its own."""
    check_divides(images.shape, scale, "a map")
    height, width = images.shape[-2] // scale, images.shape[-1] // scale
    row, col = divmod(check_cell(cell, scale), scale)
    part = images[..., row * height : (row + 1) * height, col * width : (col + 1) * width]
    return part.clone(memory_format=torch.contiguous_format)


class MapCells:
    """How the activations of a grid hold those of its cells: (B, C, scale·h, scale·w), side by side."""

    def __init__(self, scale: int):
        self.scale = scale

    def join(self, parts: list[Tensor]) -> Tensor:
        """Activations of every cell -> activations of the grid."""
        if parts[0].dim() != 4:
            raise InputError(f"expected activations (B, C, h, w) to lay out as a grid, got {tuple(parts[0].shape)}")
        return compose_grid(torch.stack(parts, dim=1), self.scale)

    def part(self, activations: Tensor, cell: int) -> Tensor:
        """Activations of the grid -> activations of one cell."""
        return crop_cell(activations, cell, self.scale)

    def to_map(self, activations: Tensor) -> Tensor:
        """Shaped like the activations -> (B, C, h, w) over the grid."""
        return activations

    def spread(self, weights: Tensor) -> Tensor:
        """Weights over that map (B, 1, h, w) -> weights that multiply the activations."""
        return weights


class BlockCells(MapCells):
    """The same for activations that aren't maps (tokens): (B, scale²·n, …), cell after cell."""

    def __init__(self, scale: int, to_map: Transform, spread: Transform):
        super().__init__(scale)
        self._to_map, self._spread = to_map, spread

    def join(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts, dim=1)

    def part(self, activations: Tensor, cell: int) -> Tensor:
        check_cell(cell, self.scale)
        return activations.unflatten(1, (self.scale**2, -1))[:, cell].clone(memory_format=torch.contiguous_format)

    def to_map(self, activations: Tensor) -> Tensor:
        return compose_grid(self._to_map(activations.unflatten(1, (self.scale**2, -1)).flatten(0, 1)), self.scale)

    def spread(self, weights: Tensor) -> Tensor:
        cells = self._spread(cut_cells(weights, self.scale).flatten(0, 1))
        return cells.unflatten(0, (len(weights), -1)).flatten(1, 2)
