"""From a data set to batches: transforms of the model's own data config, keyed randomness, loaders."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from multiprocessing import parent_process
from multiprocessing.connection import wait
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate
from torchvision.transforms.functional import to_pil_image

from faithfulness.core.errors import InputError
from faithfulness.core.keyed import make_keys
from faithfulness.data.base import CorruptImage, ImageData, IndexedData
from faithfulness.data.transforms import crop_and_flip, evaluation_transform

Batch = dict[str, Tensor]
"""image uint8 (B, 3, H, W), or float32 if it is normalized already, label int64 (B,) or (B, H, W), index and epoch
int64 (B,), and corrupt int64 (k,): the indices of samples that can't be read. A batch of which nothing can be read
holds `corrupt` alone."""


def normalize(images: Tensor, data_config: dict[str, Any], dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixels uint8 (B, 3, H, W) -> what the model was trained on, on whatever device they are.

    Images of floating point are normalized already, and only cast.
    """
    if images.is_floating_point():
        return images.to(dtype)
    mean, std = (
        # Without waiting for the device.
        torch.tensor(data_config[key], dtype=dtype).to(images.device, non_blocking=True).view(1, -1, 1, 1)
        for key in ("mean", "std")
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


class KeyedSamples(Dataset[Batch]):
    """Samples by (epoch, index): augmentation depends on nothing else. A subclass reads and transforms.

    With `skip_corrupt`, a sample that can't be read has an `index` and an `epoch`, but no `image`.
    """

    def __init__(self, source: IndexedData, *, training: bool, seed: int = 0, skip_corrupt: bool = False):
        self.source, self.training, self.seed, self.skip_corrupt = source, training, seed, skip_corrupt

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> dict[str, Any]:
        """`image` and `label` as the source has them; CorruptImage if it can't be decoded."""
        raise NotImplementedError

    def prepare(self, sample: dict[str, Any]) -> dict[str, Any]:
        """`image` (3, H, W) and `label`; for training, drawn from the global generator, seeded by the key."""
        raise NotImplementedError

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[dict[str, Any]]:
        """The samples of a batch, as torch's loaders ask for them."""
        epochs, indices = torch.tensor(keys, dtype=torch.int64).view(-1, 2).T
        seeds = make_keys(self.seed, epochs, indices).tolist()
        return [self._sample(*key, seed) for key, seed in zip(keys, seeds, strict=True)]

    def _sample(self, epoch: int, index: int, seed: int) -> dict[str, Any]:
        place = {"index": index, "epoch": epoch}
        try:
            sample = self.read(index)
        except CorruptImage:
            if not self.skip_corrupt:
                raise
            return place
        with _seeded(seed) if self.training else nullcontext():
            return self.prepare(sample) | place


class Samples(KeyedSamples):
    """Pictures as uint8 tensors, or float32 where they are normalized already, with their labels."""

    source: ImageData

    def __init__(self, source: ImageData, data_config: dict[str, Any], *, training: bool, **keyed: Any):
        super().__init__(source, training=training, **keyed)
        self.data_config = data_config
        self.transform = (crop_and_flip if training else evaluation_transform)(data_config)

    def read(self, index: int) -> dict[str, Any]:
        image, label = self.source.example(index)
        return {"image": image, "label": label}

    def prepare(self, sample: dict[str, Any]) -> dict[str, Any]:
        image = sample["image"]
        if isinstance(image, Tensor) and image.is_floating_point():
            return {**sample, "image": check_normalized(image, self.data_config, self.source.name)}
        if self.source.rendered:
            return sample
        return {**sample, "image": self.transform(to_pil_image(image) if isinstance(image, Tensor) else image)}


def check_normalized(image: Tensor, data_config: dict[str, Any], name: str) -> Tensor:
    """An image (3, H, W) that is normalized already; InputError unless it has the model's size."""
    expected = tuple(data_config["input_size"])
    if tuple(image.shape) != expected:
        raise InputError(
            f"{name} gives normalized images {tuple(image.shape)}, the model takes {expected}; float images are "
            "taken as they are (uint8 and PIL images are resized)"
        )
    return image


def collate(samples: Sequence[dict[str, Any]]) -> Batch:
    """Stack the samples that have an image; the others are named by their index, as `corrupt`."""
    kept = [sample for sample in samples if "image" in sample]
    corrupt = torch.tensor([sample["index"] for sample in samples if "image" not in sample], dtype=torch.int64)
    return {**(default_collate(kept) if kept else {}), "corrupt": corrupt}


class KeyedBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) keys whose order depends on (seed, epoch) alone.

    With `shuffle`, every global batch is cut into equal parts for the ranks and an incomplete last
    batch is dropped. Without it, whole batches go to the ranks in turn, so a batch has the same
    images however many ranks there are, and none is repeated; with `in_step` every rank gets as many
    batches as the first, the last of which may be empty.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        in_step: bool = False,
    ):
        if shuffle and batch_size % world:
            raise InputError(f"--batch-size {batch_size} is the whole batch and must be a multiple of {world} devices")
        self.count, self.batch_size, self.shuffle, self.seed = count, batch_size, shuffle, seed
        self.rank, self.world, self.in_step, self.epoch = rank, world, in_step, 0

    @property
    def sampler(self) -> KeyedBatches:
        """Itself: Lightning tells the epoch to `loader.batch_sampler.sampler`, and to nothing else of ours."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration is of."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffle:
            return self.count // self.batch_size
        batches = -(-self.count // self.batch_size)
        return len(range(0 if self.in_step else self.rank, batches, self.world))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = torch.arange(self.count)
        if self.shuffle:
            order = torch.argsort(make_keys(self.seed, self.epoch, order), stable=True)
            part = self.batch_size // self.world
            for start in range(0, self.count - self.batch_size + 1, self.batch_size):
                first = start + self.rank * part
                yield [(self.epoch, int(index)) for index in order[first : first + part]]
        else:
            batches = order.split(self.batch_size)
            for number in range(len(self)):
                batch = batches[place] if (place := self.rank + number * self.world) < len(batches) else ()
                yield [(self.epoch, int(index)) for index in batch]


def make_loader(samples: Dataset[Any], batches: Iterable[list[tuple[int, int]]], workers: int = 0) -> DataLoader[Batch]:
    """A loader of collated batches; workers stay alive between epochs."""
    return DataLoader(
        samples,
        batch_sampler=batches,  # type: ignore[arg-type]
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_end_with_parent,
    )


def _end_with_parent(worker: int) -> None:
    """In a worker: end once the process that asked for it has gone.

    torch's own watch takes whoever is the parent by the time a worker has imported everything, which is another
    process where the true one was killed until then; the worker would wait for ever.
    """
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()
