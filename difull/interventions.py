"""What is put where nothing may matter: pictures, changed and made, from plain to extreme."""

from __future__ import annotations

import torch
from torch import Tensor

from faithfulness.core.keyed import keyed_integers, keyed_normal, keyed_uniform, make_keys
from faithfulness.core.leakage import EXTREME

CONSTANTS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
"""Flat pictures of both signs, in normalized input."""

LEVELS = 255


def quantize(pictures: Tensor) -> Tensor:
    """Rounded to the 256 values that 8 bits hold, from -3 to 3 in normalized input."""
    return ((pictures.clamp(-3, 3) + 3) * (LEVELS / 6)).round() * (6 / LEVELS) - 3


def chosen_contents(images: Tensor, seed: int = 0) -> Tensor:
    """The contents that are always tried, (N, C, H, W), from grids (B, C, H, W)."""
    first, other = images[0], images[-1].flip(-1)
    noise = keyed_normal(make_keys(seed, 1, device=images.device), tuple(first.shape)).to(images.dtype)
    pictures = [other, first.flip(-2), first.roll((first.shape[-2] // 2, first.shape[-1] // 2), (-2, -1))]
    changed = [first + b for b in (-1.0, -0.5, 0.5, 1.0)] + [first * c for c in (-1.0, 0.25, 0.5, 1.5, 2.0)]
    flat = [torch.full_like(first, sign * value) for value in CONSTANTS for sign in (1, -1)]
    extreme = [torch.full_like(first, EXTREME), torch.full_like(first, -EXTREME), EXTREME * noise.sign()]
    made = [noise, torch.zeros_like(first), quantize(first), quantize(other), quantize(noise)]
    return torch.stack([*pictures, *changed, *flat, *made, *extreme])


def random_contents(images: Tensor, numbers: Tensor, seed: int = 0) -> Tensor:
    """A content (N, C, H, W) for each number (N,): real or made, brighter or darker, more or less contrast.

    By turns one of the grids turned and shifted, noise, coarse noise, and a flat color; scaled by a
    contrast of 0 … 2 and shifted by a brightness of -2 … 2; every other one rounded to 8 bits.
    """
    keys = make_keys(seed, numbers)
    shape = tuple(images.shape[1:])
    # A generator for each number: hashing every pixel takes longer than the network does.
    drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(int(key) % 2**63)) for key in keys]
    noise, numbers, keys = torch.stack(drawn).to(images), numbers.to(images.device), keys.to(images.device)
    rows, cols = (torch.arange(side, device=images.device) // max(1, side // 8) for side in shape[1:])
    coarse = noise[..., rows, :][..., cols]
    flat = noise[..., :1, :1].expand_as(noise)
    source = keyed_integers(make_keys(keys, 2), len(images))
    shifts = keyed_integers(make_keys(keys, 3), max(shape[1:]), (2,)).tolist()
    real = [
        images[int(i)].flip(-1).roll((down, right), (-2, -1)) for i, (down, right) in zip(source, shifts, strict=True)
    ]
    kinds = torch.stack([torch.stack(real), noise, coarse, flat], dim=1)
    content = kinds[torch.arange(len(keys)), numbers % 4]
    contrast, brightness = keyed_uniform(make_keys(keys, 4), (2,)).to(images.dtype).unbind(1)
    content = content * (2 * contrast)[:, None, None, None] + (4 * brightness - 2)[:, None, None, None]
    rounded = (numbers // 4 % 2 == 1)[:, None, None, None]
    return torch.where(rounded, quantize(content), content)
