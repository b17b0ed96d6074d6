"""Flags of modules, switched for the length of a block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def switched(modules: Iterable[nn.Module], name: str, value: Any) -> Iterator[None]:
    """Inside the block, attribute `name` is `value` on every module that has it; as before after it."""
    before = [(module, getattr(module, name)) for module in modules if hasattr(module, name)]
    for module, _ in before:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, old in before:
            setattr(module, name, old)
