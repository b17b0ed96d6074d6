"""Bringing a map from its layer's resolution to another."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from core.errors import InputError

MODES = ("bilinear", "nearest", "area")


def resize_maps(
    maps: Float[Tensor, "b c h w"], size: tuple[int, int], mode: str = "bilinear"
) -> Float[Tensor, "b c x y"]:
    """Resize (B, C, h, w) to (B, C, *size): `bilinear` as published for CAMs, `nearest` for tokens.

    A map that has the size already comes back as it is.
    """
    if mode not in MODES:
        raise InputError(f"unknown resize mode {mode!r}; known: {', '.join(MODES)}")
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return interpolate(maps, size=size, mode=mode, **({"align_corners": False} if mode == "bilinear" else {}))
