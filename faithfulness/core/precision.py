"""How exactly float32 is computed: IEEE everywhere, unless TF32 is asked for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

TF32 = "tf32"


def use_precision(precision: str) -> str:
    """Make NVIDIA's convolutions and matrix products IEEE float32, or TF32 for `tf32`; returns Lightning's name.

    torch computes convolutions in TF32 (10 bits of mantissa) unless told otherwise, which moves logits
    by 1e-3 and swaps small drops. The setting is the process's, and holds for what remains in float32
    under mixed precision too.
    """
    fast = precision == TF32
    _set((fast, fast), ["tf32" if fast else "ieee"] * 3)
    return "32-true" if fast else precision


@contextmanager
def ieee() -> Iterator[None]:
    """IEEE float32 inside the block; after it each backend as it was before, a caller's own mixture too."""
    older, newer = _older(), [backend.fp32_precision for backend in _backends()]
    use_precision("32-true")
    try:
        yield
    finally:
        _set(older, newer)


def _backends() -> tuple[Any, ...]:
    """What has a setting of its own: torch's default is TF32 for two of them, and IEEE for matrix products."""
    backends: Any = torch.backends
    return backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul


def _older() -> tuple[bool, bool] | None:
    """Torch's older settings, of cuDNN and of matrix products; None where they contradict the newer ones."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bool(torch.backends.cudnn.allow_tf32), bool(torch.backends.cuda.matmul.allow_tf32)
    except RuntimeError:
        return None


def _set(older: tuple[bool, bool] | None, newer: list[str]) -> None:
    """Bring the older settings, if given, and then the newer ones of all backends to these values."""
    if older is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = older
    for backend, precision in zip(_backends(), newer, strict=True):
        backend.fp32_precision = precision
