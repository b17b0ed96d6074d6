"""Bringing a map from its layer's resolution to another, and summing it over cells."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from faithfulness.core.errors import InputError

MODES = ("bilinear", "nearest", "area")


def resize_maps(
    maps: Float[Tensor, "b c h w"], size: tuple[int, int], mode: str = "bilinear"
) -> Float[Tensor, "b c x y"]:
    """Resize (B, C, h, w) to (B, C, *size): `bilinear` as published for CAMs, `nearest` for tokens.

    A map that has the size already comes back as it is. Differentiable and in the map's own type,
    so its rounding tells equal pixels apart: for what is ranked or summed see `resize_exactly`.
    """
    _check_mode(mode)
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return interpolate(maps, size=size, mode=mode, **({"align_corners": False} if mode == "bilinear" else {}))


def resize_exactly(
    maps: Float[Tensor, "b c h w"], size: tuple[int, int], mode: str = "bilinear"
) -> Float[Tensor, "b c x y"]:
    """`resize_maps` in float64, where a flat stretch stays flat to the last bit, on any processor.

    Between two positions a value is a + w·(b − a), which is a where a = b; single operations of
    IEEE arithmetic, so that no compiler or device reorders them.
    """
    _check_mode(mode)
    maps = maps.double()
    for dim, (have, want) in zip((-2, -1), zip(maps.shape[-2:], size, strict=True), strict=True):
        if have == want:
            continue
        if mode == "area":
            maps = torch.movedim(torch.movedim(maps, dim, -1) @ resize_weights(have, want, mode).to(maps).T, -1, dim)
            continue
        low, high, weight = (part.to(maps.device) for part in _neighbors(have, want, mode))
        before, step = maps.index_select(dim, low), maps.index_select(dim, high)
        step = (step - before) * (weight[:, None] if dim == -2 else weight)
        maps = before + step
    return maps


def sum_cells(
    maps: Float[Tensor, "b c h w"],
    rows: int,
    cols: int,
    size: tuple[int, int] | None = None,
    mode: str = "bilinear",
) -> Float[Tensor, "b k"]:
    """Area-exact sums over channels and over each of rows × cols equal cells, (B, rows·cols), float64, signed.

    With a `size` the map is brought to it first. That is linear in the map and separable, as the sum
    is, so both are one product with two small matrices, and no map of that size is made. A pixel that
    lies in several cells counts in each by the share of its area.
    """
    maps = maps.double().sum(dim=1)
    factors = []
    for have, want, bins in zip(maps.shape[-2:], size or maps.shape[-2:], (rows, cols), strict=True):
        factors.append((area_weights(want, bins) @ resize_weights(have, want, mode)).to(maps.device))
    return (factors[0] @ maps @ factors[1].T).flatten(1)


def area_weights(pixels: int, bins: int) -> Float[Tensor, "bins pixels"]:
    """The share of each of `pixels` equal pixels that lies in each of `bins` equal bins, float64.

    Whole shares are exactly 0 and 1.
    """
    edges = torch.arange(bins + 1) * pixels  # in units of 1/bins of a pixel, so that all is whole
    starts = torch.arange(pixels) * bins
    low = torch.maximum(edges[:-1, None], starts)
    high = torch.minimum(edges[1:, None], starts + bins)
    return (high - low).clamp(min=0).double() / bins


def resize_weights(have: int, want: int, mode: str = "bilinear") -> Float[Tensor, "want have"]:
    """How much each of `have` positions counts in each of `want`, float64; rows sum to 1."""
    _check_mode(mode)
    if have == want:
        return torch.eye(have, dtype=torch.float64)
    position = torch.arange(want)
    if mode == "area":  # as adaptive average pooling: every position that is touched counts alike
        first, last = position * have // want, -(-(position + 1) * have // want)
        inside = (torch.arange(have) >= first[:, None]) & (torch.arange(have) < last[:, None])
        return inside.double() / (last - first)[:, None]
    low, high, weight = _neighbors(have, want, mode)
    weights = torch.zeros(want, have, dtype=torch.float64)
    weights[position, low] = 1 - weight
    weights[position, high] += weight
    return weights


def _neighbors(have: int, want: int, mode: str) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `want` positions the two it lies between and the weight of the second, (want,) each."""
    position = torch.arange(want)
    if mode == "nearest":
        low = position * have // want
        return low, low, torch.zeros(want, dtype=torch.float64)
    # Pixel centers: (position + 1/2)·have/want − 1/2, in units of 1/(2·want), so that all is whole.
    center = ((2 * position + 1) * have - want).clamp(min=0)
    low = center // (2 * want)
    return low, (low + 1).clamp(max=have - 1), (center % (2 * want)).double() / (2 * want)


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise InputError(f"unknown resize mode {mode!r}; known: {', '.join(MODES)}")
