"""Maps and grids in the form in which AggAtt keeps and shows them."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from faithfulness.core.resize import sum_cells


def shrink(maps: Float[Tensor, "b 1 h w"], side: int) -> Float[Tensor, "b 1 y x"]:
    """Maps averaged down by a whole factor to `side` pixels at most."""
    height, width = maps.shape[-2:]
    common = math.gcd(height, width)
    factors = (f for f in range(1, common + 1) if common % f == 0 and max(height, width) <= f * side)
    factor = next(factors, common)
    return maps if factor == 1 else torch.nn.functional.avg_pool2d(maps, factor)


def mass_inside(maps: Float[Tensor, "b c h w"], cell: int, scale: int) -> Float[Tensor, " b"]:
    """The sum of each map inside a cell, float64."""
    return sum_cells(maps, scale, scale)[:, cell]


def side_by_side(cells: Float[Tensor, "k c h w"], scale: int) -> Float[Tensor, "c y x"]:
    """The cells of one grid, row by row, as one picture: (n², C, h, w) -> (C, n·h, n·w)."""
    return torch.cat([torch.cat(list(row), dim=2) for row in cells.unflatten(0, (scale, scale))], dim=1)
