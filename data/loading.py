"""From a data set to batches: transforms of the model's own data config, keyed randomness, loaders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from core.errors import InputError
from core.keyed import make_keys
from data.base import CorruptImage, ImageData, IndexedData
from data.transforms import crop_and_flip, evaluation_transform

Batch = dict[str, Tensor]
"""image uint8 (B, 3, H, W), label int64 (B,) or (B, H, W), index int64 (B,), corrupt int64 (): files skipped."""


def normalize(images: Tensor, data_config: dict[str, Any], dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixels uint8 (B, 3, H, W) -> what the model was trained on, on whatever device they are."""
    mean, std = (
        torch.tensor(data_config[key], dtype=dtype, device=images.device).view(1, -1, 1, 1) for key in ("mean", "std")
    )
    return (images.to(dtype) / 255 - mean) / std


@contextmanager
def _seeded(key: int) -> Iterator[None]:
    """Seed the CPU's generator for a while; `torch.manual_seed` would visit every device, 2 ms each time."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(key)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


class KeyedSamples(Dataset[Batch | None]):
    """Samples by (epoch, index): augmentation depends on nothing else. A subclass reads and transforms."""

    def __init__(self, source: IndexedData, *, training: bool, seed: int = 0, skip_corrupt: bool = False):
        self.source, self.training, self.seed, self.skip_corrupt = source, training, seed, skip_corrupt

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> dict[str, Any]:
        """`image` and `label` as the source has them; CorruptImage if it can't be decoded."""
        raise NotImplementedError

    def prepare(self, sample: dict[str, Any]) -> dict[str, Any]:
        """`image` uint8 (3, H, W) and `label`; for training, drawn from the global generator, seeded by the key."""
        raise NotImplementedError

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any] | None:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[dict[str, Any] | None]:
        """The samples of a batch, as torch's loaders ask for them."""
        epochs, indices = torch.tensor(keys).T
        return [
            self._sample(index, key)
            for index, key in zip(indices.tolist(), make_keys(self.seed, epochs, indices).tolist(), strict=True)
        ]

    def _sample(self, index: int, key: int) -> dict[str, Any] | None:
        try:
            sample = self.read(index)
        except CorruptImage:
            if not self.skip_corrupt:
                raise
            return None
        with _seeded(key) if self.training else nullcontext():
            return {**self.prepare(sample), "index": index}


class Samples(KeyedSamples):
    """Pictures as uint8 tensors, with their labels."""

    source: ImageData

    def __init__(self, source: ImageData, data_config: dict[str, Any], *, training: bool, **keyed: Any):
        super().__init__(source, training=training, **keyed)
        self.transform = (crop_and_flip if training else evaluation_transform)(data_config)

    def read(self, index: int) -> dict[str, Any]:
        return {"image": self.source.image(index), "label": self.source.label(index)}

    def prepare(self, sample: dict[str, Any]) -> dict[str, Any]:
        rendered = isinstance(sample["image"], Tensor)
        return sample if rendered else {**sample, "image": self.transform(sample["image"])}


def collate(samples: Sequence[dict[str, Any] | None]) -> Batch | None:
    """Stack samples; what was skipped as corrupt is counted. None if nothing is left."""
    kept = [sample for sample in samples if sample is not None]
    if not kept:
        return None
    return {**default_collate(kept), "corrupt": torch.tensor(len(samples) - len(kept))}


class KeyedBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) keys whose order depends on (seed, epoch) alone.

    With `shuffle`, every global batch is cut into equal parts for the ranks and an incomplete last
    batch is dropped. Without it, whole batches go to the ranks in turn, so a batch has the same
    images however many ranks there are, and none is repeated.
    """

    def __init__(self, count: int, batch_size: int, *, shuffle: bool, seed: int = 0, rank: int = 0, world: int = 1):
        if shuffle and batch_size % world:
            raise InputError(f"--batch-size {batch_size} is the whole batch and must be a multiple of {world} devices")
        self.count, self.batch_size, self.shuffle, self.seed = count, batch_size, shuffle, seed
        self.rank, self.world, self.epoch = rank, world, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffle:
            return self.count // self.batch_size
        batches = -(-self.count // self.batch_size)
        return len(range(self.rank, batches, self.world))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = torch.arange(self.count)
        if self.shuffle:
            order = torch.argsort(make_keys(self.seed, self.epoch, order), stable=True)
            part = self.batch_size // self.world
            for start in range(0, self.count - self.batch_size + 1, self.batch_size):
                first = start + self.rank * part
                yield [(self.epoch, int(index)) for index in order[first : first + part]]
        else:
            for batch in order.split(self.batch_size)[self.rank :: self.world]:
                yield [(self.epoch, int(index)) for index in batch]


def make_loader(samples: Dataset[Any], batches: KeyedBatches, workers: int = 0) -> DataLoader[Batch | None]:
    """A loader of collated batches; workers stay alive between epochs."""
    return DataLoader(
        samples,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="spawn" if workers else None,
    )
