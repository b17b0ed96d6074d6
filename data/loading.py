"""From a data set to batches: transforms of the model's own data config, keyed randomness, loaders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from core.errors import InputError
from core.keyed import make_keys
from data.base import CorruptImage, ImageData
from data.transforms import crop_and_flip, evaluation_transform

Batch = dict[str, Tensor]
"""image uint8 (B, 3, H, W), label int64 (B,), index int64 (B,), corrupt int64 (): files skipped."""


def normalize(images: Tensor, data_config: dict[str, Any], dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixels uint8 (B, 3, H, W) -> what the model was trained on, on whatever device they are."""
    mean, std = (
        torch.tensor(data_config[key], dtype=dtype, device=images.device).view(1, -1, 1, 1) for key in ("mean", "std")
    )
    return (images.to(dtype) / 255 - mean) / std


class Samples(Dataset[Batch | None]):
    """Pictures as uint8 tensors. A key is (epoch, index): augmentation depends on nothing else."""

    def __init__(
        self,
        source: ImageData,
        data_config: dict[str, Any],
        *,
        training: bool,
        seed: int = 0,
        skip_corrupt: bool = False,
    ):
        self.source, self.seed, self.skip_corrupt = source, seed, skip_corrupt
        self.training = training
        self.transform = (crop_and_flip if training else evaluation_transform)(data_config)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any] | None:
        epoch, index = key
        try:
            image = self.source.image(index)
        except CorruptImage:
            if not self.skip_corrupt:
                raise
            return None
        if isinstance(image, Tensor):
            return {"image": image, "label": self.source.label(index), "index": index}
        if self.training:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(make_keys(self.seed, epoch, index)))
                image = self.transform(image)
        else:
            image = self.transform(image)
        return {"image": image, "label": self.source.label(index), "index": index}


def collate(samples: Sequence[dict[str, Any] | None]) -> Batch | None:
    """Stack samples; what was skipped as corrupt is counted. None if nothing is left."""
    kept = [sample for sample in samples if sample is not None]
    if not kept:
        return None
    return {
        "image": torch.stack([sample["image"] for sample in kept]),
        "label": torch.tensor([sample["label"] for sample in kept]),
        "index": torch.tensor([sample["index"] for sample in kept]),
        "corrupt": torch.tensor(len(samples) - len(kept)),
    }


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
