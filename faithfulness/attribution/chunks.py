"""Pairs of image and point, a sub-batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Points(NamedTuple):
    """The points of a sub-batch: `index` says which of `numbers`, ascending, each pair has; both on the device."""

    index: Tensor
    numbers: Tensor

    @property
    def each(self) -> Tensor:
        """The point of each pair."""
        return self.numbers[self.index]


def point_chunks(images: int, points: int, chunk: int, device: torch.device) -> Iterator[tuple[Tensor, Points]]:
    """All pairs of image and point, up to `chunk` of them at a time; the images run fastest.

    The points of a chunk are consecutive and known beforehand, so what is made for a point is made once for a
    whole batch, and the device need not be asked which there are.
    """
    for start in range(0, images * points, chunk):
        end = min(start + chunk, images * points)
        flat = torch.arange(start, end, device=device)
        numbers = torch.arange(start // images, (end - 1) // images + 1, device=device)
        yield flat % images, Points(flat // images - start // images, numbers)


def pair_chunks(images: int, points: int, chunk: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices (image, point) of all pairs, as `point_chunks` gives them."""
    for image, chunked in point_chunks(images, points, chunk, device):
        yield image, chunked.each
