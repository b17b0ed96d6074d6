"""What several methods need of the same images: computed by the first, taken by the others.

Class activation maps of one layer need the same activations and the same gradient; on a grid, every head and every
method of a layer needs the activations of the whole grid. Nothing is shared outside of a `sharing` block.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor


class _Kept(NamedTuple):
    """A result, what it was made of (kept, so that no other tensor comes to lie there), and how long that took."""

    made_of: tuple[Tensor, ...]
    places: tuple[Hashable, ...]
    value: Tensor
    version: int
    seconds: float


class Shared:
    """Results of a batch, the last of each kind.

    Attributes:
        seconds: that were not spent because a result was there already; a method's time has to count them.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, _Kept] = {}
        self.seconds = 0.0

    def take(self, kind: Hashable, made_of: tuple[Tensor, ...], make: Callable[[], Tensor]) -> Tensor:
        """The result of this kind for these very tensors, as they are now; made if it isn't there."""
        places = tuple(map(_place, made_of))
        kept = self._kept.get(kind)
        if kept is not None and kept.places == places and kept.value._version == kept.version:
            self.seconds += kept.seconds
            return kept.value
        self._kept.pop(kind, None)
        start = _now(made_of[0])
        value = make()
        self._kept[kind] = _Kept(made_of, places, value, value._version, _now(value) - start)
        return value

    def clear(self) -> None:
        """Keep nothing; the seconds stay."""
        self._kept.clear()


_SHARED: ContextVar[Shared | None] = ContextVar("shared", default=None)


@contextmanager
def sharing() -> Iterator[Shared]:
    """Inside the block methods share what they compute of the same tensors; it holds those of one batch.

    The networks must stay as they are: what was computed with other weights would be taken for theirs.
    """
    shared = Shared()
    token = _SHARED.set(shared)
    try:
        yield shared
    finally:
        _SHARED.reset(token)


@contextmanager
def not_sharing() -> Iterator[None]:
    """Inside the block nothing is shared: it computes something else from the same tensors, or from copies."""
    token = _SHARED.set(None)
    try:
        yield
    finally:
        _SHARED.reset(token)


def forget() -> None:
    """Let go of all that is shared: its memory is needed."""
    shared = _SHARED.get()
    if shared is not None:
        shared.clear()


def seconds_shared() -> float:
    """How many seconds methods have saved in this `sharing` block."""
    shared = _SHARED.get()
    return 0.0 if shared is None else shared.seconds


def share(kind: Hashable, made_of: tuple[Tensor, ...], make: Callable[[], Tensor]) -> Tensor:
    """What `make` gives, or has given for the same `kind` and tensors; whoever gets it must not write into it."""
    shared = _SHARED.get()
    if shared is None or torch.is_inference_mode_enabled() or any(tensor.is_inference() for tensor in made_of):
        return make()  # tensors of inference mode don't tell whether they were written into
    device = made_of[0].device.type
    cast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return shared.take((kind, cast), made_of, make)


def _place(tensor: Tensor) -> Hashable:
    """Which numbers a tensor shows: where they lie, and how often they were written."""
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device, tensor._version


def _now(tensor: Tensor) -> float:
    """The time, once the device is through with what it was given."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter()
