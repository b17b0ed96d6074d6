"""Where a model is tried out: plain arithmetic, nothing random, and everything as before afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from backbones import device_of


@contextmanager
def laboratory(model: nn.Module) -> Iterator[None]:
    """Convolutions as plain sums; buffers and global generators as before when the block ends.

    Fast convolutions (Winograd, FFT) mix neighbouring pixels in their rounding, and spread NaN to
    outputs that don't depend on it. Running statistics of normalisation would keep the NaN.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    fast = {backend: backend.enabled for backend in (torch.backends.cudnn, torch.backends.mkldnn)}
    try:
        for backend in fast:
            backend.enabled = False  # type: ignore[assignment]
        with torch.backends.nnpack.flags(enabled=False), forked_generators(device_of(model)):
            yield
    finally:
        for backend, enabled in fast.items():
            backend.enabled = enabled  # type: ignore[assignment]
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


def seeded(run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """run(images), with the same dropout every time and the global generators untouched."""
    with forked_generators(images.device):
        torch.manual_seed(0)
        return run(images)


def forked_generators(device: torch.device) -> AbstractContextManager[None]:
    """Leave the global generators of the CPU and of `device` untouched."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
