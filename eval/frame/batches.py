"""Batches of images by number, read by loaders; and things that are looked at one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from eval.frame.protocol import Loaded
from faithfulness.data import make_loader, normalize


class ImageBatch(NamedTuple):
    """Normalized images on the device, their labels (B,) or (B, H, W), and their indices in the data set."""

    images: Tensor
    labels: Tensor
    indices: Tensor


class Placement(NamedTuple):
    """Where this process's images go: the device, the type of floating point, the model's normalization."""

    device: torch.device
    dtype: torch.dtype
    data_config: dict[str, Any]


@dataclass
class SampleBatches:
    """The batches of a data set of samples that are this process's.

    Attributes:
        samples: (0, index) -> sample, as a loader's worker process reads it.
        total: how many samples are looked at; `size` of them are a batch, the last one may have fewer.
        numbers: the batches of this process.
        make: an `ImageBatch` -> what is worked on.
    """

    samples: Dataset[Any]
    total: int
    size: int
    numbers: Sequence[int]
    placement: Placement
    workers: int = 0
    what: str = "images"
    unit: str = "images"
    make: Callable[[ImageBatch], Any] = field(default=lambda batch: batch)

    def identity(self, number: int) -> list[int]:
        """First index, and the one after the last."""
        return [number * self.size, min((number + 1) * self.size, self.total)]

    def count(self, number: int) -> int:
        """How many samples a batch has."""
        first, end = self.identity(number)
        return end - first

    def load(self, numbers: Sequence[int]) -> Iterator[Loaded]:
        """The batches with these numbers, in their order."""
        keys = [[(0, index) for index in range(*self.identity(number))] for number in numbers]
        device, dtype, data_config = self.placement
        for number, batch in zip(numbers, make_loader(self.samples, keys, self.workers), strict=True):
            corrupt, content, found = set(batch["corrupt"].tolist()), None, hashlib.sha256()
            if "image" in batch:
                for name in ("index", "label", "image"):
                    found.update(batch[name].contiguous().numpy().tobytes())
                batch = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
                images = normalize(batch["image"], data_config, dtype)
                content = self.make(ImageBatch(images, batch["label"], batch["index"]))
            yield Loaded(number, corrupt, content, found.hexdigest()[:16])


@dataclass
class Items:
    """Things that are looked at one by one, each told from the others by its content, which is JSON."""

    items: Sequence[Any]
    numbers: Sequence[int]
    what: str = "items"
    unit: str = "items"

    def identity(self, number: int) -> Any:
        """The thing itself."""
        return self.items[number]

    def count(self, number: int) -> int:
        """One."""
        return 1

    def load(self, numbers: Sequence[int]) -> Iterator[Loaded]:
        """One after another."""
        for number in numbers:
            yield Loaded(number, set(), self.items[number])
