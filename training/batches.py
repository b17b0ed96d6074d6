"""Training and validation batches, for Lightning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from faithfulness.core.hardware import share_workers
from faithfulness.data import Batch, KeyedBatches, KeyedSamples, make_loader


class KeyedData(L.LightningDataModule):
    """Training and validation batches of two splits; who sees what depends on (seed, epoch) alone.

    Args:
        batch_size: of a whole batch, of all processes.
        accumulate: parts in which each process gets its share of a training batch; validation goes by batches of a
            part's size.
    Attributes:
        workers: loader processes of the two loaders of each process.
    """

    def __init__(
        self,
        train: KeyedSamples,
        val: KeyedSamples,
        batch_size: int,
        seed: int,
        workers: int | None = None,
        accumulate: int = 1,
    ):
        super().__init__()
        self.train, self.val = train, val
        self.batch_size, self.seed, self.accumulate = batch_size, seed, accumulate
        self.asked, self.workers = workers, [workers or 0] * 2

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps; an incomplete last batch is left out."""
        return len(self.train) // self.batch_size

    def share(self, world: int, here: int) -> None:
        """Settle the workers: those asked for, each loader as many; else what the processors bear, where it pays off.

        Args:
            world: processes of the run.
            here: how many of them run on this machine.
        """
        if self.asked is not None or not self.train.source.workers:
            return
        validation = -(-len(self.val) // (self.batch_size // self.accumulate))
        self.workers = share_workers([self.steps_per_epoch, -(-validation // world)], here)

    def _loader(self, samples: KeyedSamples, shuffle: bool) -> DataLoader[Batch]:
        assert self.trainer is not None
        batches = KeyedBatches(
            len(samples),
            self.batch_size if shuffle else self.batch_size // self.accumulate,
            shuffle=shuffle,
            seed=self.seed,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
            in_step=True,
        )
        # Workers fetch their first batches as soon as they are there, before Lightning tells the epoch.
        progress: Any = self.trainer.fit_loop.epoch_progress.current
        batches.set_epoch(progress.processed)
        loader = make_loader(samples, batches, self.workers[0 if shuffle else 1])
        # Of the global generator it would draw a number before or after dropout's seed is set, as it happens.
        loader.generator = torch.Generator().manual_seed(self.seed)
        return loader

    def train_dataloader(self) -> DataLoader[Batch] | MicroBatches:
        loader = self._loader(self.train, shuffle=True)
        return loader if self.accumulate == 1 else MicroBatches(loader, self.accumulate)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.val, shuffle=False)


class MicroBatches:
    """Every batch of a loader in parts, for Lightning to accumulate: read, keyed and recorded as the whole batch is.

    Each part says by `whole` () how many images its batch has: only who has read all of it knows how much a part
    counts, since corrupt images are left out. The numbers of images in the parts differ by one at most.
    """

    def __init__(self, loader: DataLoader[Batch], parts: int):
        self.loader, self.parts = loader, parts
        self.batch_sampler = loader.batch_sampler  # Lightning tells it the epoch

    def __len__(self) -> int:
        return len(self.loader) * self.parts

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            yield from split_batch(batch, self.parts)


def split_batch(batch: Batch, parts: int) -> Iterator[Batch]:
    """The parts of a batch; one that gets no image holds no more than a batch of which nothing can be read."""
    split = {name: tensor.tensor_split(parts) for name, tensor in batch.items() if name != "corrupt"}
    whole = torch.tensor(len(batch.get("image", ())))
    for number in range(parts):
        part = {name: pieces[number] for name, pieces in split.items()} if number < whole else {}
        yield {**part, "whole": whole, "corrupt": batch["corrupt"][: None if number == 0 else 0]}
