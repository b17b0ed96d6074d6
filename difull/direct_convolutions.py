"""Convolutions as direct sums, nothing random, and everything as before afterwards: for tests of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from faithfulness.backbones import device_of
from faithfulness.core.leakage import forked_generators


@contextmanager
def direct_convolutions(model: nn.Module, direct: bool = True) -> Iterator[None]:
    """Convolutions as direct sums; buffers and global generators as before when the block ends.

    Fast convolutions (Winograd, FFT) mix neighboring pixels in their rounding, and spread NaN to
    outputs that don't depend on it. Running statistics of normalization would keep the NaN.
    Without `direct`, convolutions stay fast: enough where what may not matter never enters one (on the
    CPU; elsewhere a fast convolution may not repeat itself bit by bit).
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    fast = {backend: backend.enabled for backend in (torch.backends.cudnn, torch.backends.mkldnn)}
    try:
        for backend in fast if direct or device_of(model).type != "cpu" else ():
            backend.enabled = False  # type: ignore[assignment]
        with torch.backends.nnpack.flags(enabled=not direct), forked_generators(device_of(model)):
            yield
    finally:
        for backend, enabled in fast.items():
            backend.enabled = enabled  # type: ignore[assignment]
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
