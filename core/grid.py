"""The patch grid: the cells that are deleted, and over which attribution is summed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.errors import InputError
from core.resize import sum_cells


@dataclass(frozen=True)
class PatchGrid:
    """`rows` × `cols` equal cells of an image, numbered row by row from the upper left."""

    rows: int = 4
    cols: int = 4

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            raise InputError(f"a grid needs at least one row and one column, got {self.rows}×{self.cols}")

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.rows * self.cols

    def check(self, height: int, width: int) -> None:
        """Raise unless the cells divide an image of `height` × `width` pixels."""
        if height % self.rows or width % self.cols or not height or not width:
            raise InputError(
                f"a {self.rows}×{self.cols} grid does not divide {height}×{width} pixels; "
                f"choose a size whose height is a multiple of {self.rows} and width of {self.cols}"
            )

    def sum(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Sum over channels and over each cell: (B, C, H, W) -> (B, rows·cols), row-major, signed, float64.

        Raises InputError if the grid does not divide H × W.
        """
        if maps.dim() != 4:
            raise InputError(f"maps must be (B, C, H, W), got shape {tuple(maps.shape)}")
        self.check(*maps.shape[-2:])
        return sum_cells(maps, self.rows, self.cols)

    def mask(self, cells: Int[Tensor, " b"], height: int, width: int) -> Bool[Tensor, "b 1 h w"]:
        """True inside cell `cells[i]` of image i; a cell of -1 marks nothing."""
        self.check(height, width)
        rows = torch.arange(height, device=cells.device) // (height // self.rows)
        cols = torch.arange(width, device=cells.device) // (width // self.cols)
        index = rows[:, None] * self.cols + cols
        return (index == cells[:, None, None]).unsqueeze(1)
