"""Where a model is tried out: plain arithmetic, nothing random, and everything as before afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from backbones import device_of
from core.leakage import forked_generators


@contextmanager
def laboratory(model: nn.Module, plain: bool = True) -> Iterator[None]:
    """Convolutions as plain sums; buffers and global generators as before when the block ends.

    Fast convolutions (Winograd, FFT) mix neighbouring pixels in their rounding, and spread NaN to
    outputs that don't depend on it. Running statistics of normalisation would keep the NaN.
    Without `plain`, convolutions stay fast: enough where what may not matter never enters one (on the
    CPU; elsewhere a fast convolution may not repeat itself bit by bit).
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    fast = {backend: backend.enabled for backend in (torch.backends.cudnn, torch.backends.mkldnn)}
    try:
        for backend in fast if plain or device_of(model).type != "cpu" else ():
            backend.enabled = False  # type: ignore[assignment]
        with torch.backends.nnpack.flags(enabled=not plain), forked_generators(device_of(model)):
            yield
    finally:
        for backend, enabled in fast.items():
            backend.enabled = enabled  # type: ignore[assignment]
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
