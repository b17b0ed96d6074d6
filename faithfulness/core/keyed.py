"""Randomness without state: a number depends on its key alone, never on batch, worker or device.

A key is a 64-bit integer made from (seed, epoch, sample index, ...). The generator is SplitMix64
(Steele, Lea, Flood, OOPSLA 2014) in counter form, in integer arithmetic, so that CPU and GPU give
the same bits and a whole batch is drawn in one call. It is made for experiments, not for secrets.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """The int64 with the same bits as an unsigned 64-bit constant."""
    return value - (1 << 64) if value >= 1 << 63 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical (zero-filling) right shift; torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def make_keys(*parts: int | Tensor, device: torch.device | str | None = None) -> Tensor:
    """Hash integers and integer tensors into int64 keys, broadcasting the tensors.

    >>> make_keys(0, 3, torch.tensor([7, 8])).shape  # seed, epoch, two sample indices
    torch.Size([2])
    """
    if device is None:
        device = next((p.device for p in parts if isinstance(p, Tensor)), torch.device("cpu"))
    key = torch.zeros((), dtype=torch.int64, device=device)
    for part in parts:
        # An integer is filled in: to copy it there, the CPU would wait until the GPU has done all that it was given.
        where = {"dtype": torch.int64, "device": device}
        bits = torch.full((), part, **where) if isinstance(part, int) else torch.as_tensor(part, **where)
        key = _mix((key ^ bits) + _GAMMA)
    return key


def keyed_uniform(keys: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
    """Uniform float32 in [0, 1), shape (*keys.shape, *shape); element j of a key is draw j."""
    counters = torch.arange(1, math.prod(shape) + 1, dtype=torch.int64, device=keys.device)
    bits = _mix(keys.unsqueeze(-1) + counters * _GAMMA)
    return (_shift_right(bits, 40).to(torch.float32) * 2.0**-24).reshape(*keys.shape, *shape)


def keyed_integers(keys: Tensor, high: int, shape: tuple[int, ...] = ()) -> Tensor:
    """Uniform int64 in [0, high), shape (*keys.shape, *shape)."""
    return (keyed_uniform(keys, shape).double() * high).long()


def keyed_normal(keys: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
    """Standard normal float32, shape (*keys.shape, *shape), by Box and Muller."""
    # In float64, where the last digit of a logarithm differs between processors; rounding hides it.
    uniform = keyed_uniform(keys, (2, *shape)).movedim(keys.dim(), 0).double()
    radius = torch.sqrt(-2 * torch.log1p(-uniform[0]))
    return (radius * torch.cos(2 * math.pi * uniform[1])).float()


def content_keys(images: Tensor) -> Tensor:
    """One int64 key per image from its pixels' bits, (B, ...) float -> (B,): same image, same key."""
    words = images.detach().to(torch.float32).flatten(1).contiguous().view(torch.int32).long()
    position = torch.arange(1, words.shape[1] + 1, dtype=torch.int64, device=words.device)
    return _mix((words * _mix(position * _GAMMA)).sum(dim=1))
