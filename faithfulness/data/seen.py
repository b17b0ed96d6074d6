"""What training saw of a sample: its augmentation by key, and the digest by which a record is held against the data."""

from __future__ import annotations

import torch
from jaxtyping import Int, Num
from torch import Tensor

from faithfulness.core.keyed import content_keys, make_keys
from faithfulness.data.base import IndexedData

_AUGMENT = 12
"""What the random numbers are for."""
_LOOKS = 16
"""Pixels per side of a sample that the digest is made of."""


def augment_batch(data: IndexedData, images: Num[Tensor, "b c h w"], keys: Int[Tensor, " b"]) -> Num[Tensor, "b c h w"]:
    """A training batch as it is seen: changed at random by the samples' keys, of (seed, epoch, index)."""
    return data.augment(images, make_keys(keys, _AUGMENT))


def digest_pixels(pixels: Num[Tensor, "b c h w"]) -> Int[Tensor, " b"]:
    """One int64 per image from a grid of its pixels: another crop, another digest."""
    rows, cols = (
        torch.linspace(0, side - 1, min(side, _LOOKS), device=pixels.device).long() for side in pixels.shape[2:]
    )
    return content_keys(pixels.index_select(2, rows).index_select(3, cols).float())
