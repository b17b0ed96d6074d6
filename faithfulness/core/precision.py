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
    with warnings.catch_warnings():
        # torch has an older and a newer setting and refuses to read the older one where they disagree.
        warnings.simplefilter("ignore")
        torch.backends.cudnn.allow_tf32 = fast
        torch.backends.cuda.matmul.allow_tf32 = fast
    backends: Any = torch.backends
    for backend in (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul):
        backend.fp32_precision = "tf32" if fast else "ieee"
    return "32-true" if fast else precision


@contextmanager
def ieee() -> Iterator[None]:
    """IEEE float32 inside the block, as before after it."""
    backends: Any = torch.backends
    before = backends.cudnn.conv.fp32_precision
    use_precision("32-true")
    try:
        yield
    finally:
        use_precision(before)
