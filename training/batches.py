"""Training and validation batches, for Lightning."""

from __future__ import annotations

from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from faithfulness.core.hardware import share_workers
from faithfulness.data import Batch, KeyedBatches, KeyedSamples, make_loader


class KeyedData(L.LightningDataModule):
    """Training and validation batches of two splits; who sees what depends on (seed, epoch) alone.

    Attributes:
        workers: loader processes of the two loaders of each process.
    """

    def __init__(self, train: KeyedSamples, val: KeyedSamples, batch_size: int, seed: int, workers: int | None = None):
        super().__init__()
        self.train, self.val = train, val
        self.batch_size, self.seed = batch_size, seed
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
        validation = -(-len(self.val) // self.batch_size)
        self.workers = share_workers([self.steps_per_epoch, -(-validation // world)], here)

    def _loader(self, samples: KeyedSamples, shuffle: bool) -> DataLoader[Batch]:
        assert self.trainer is not None
        batches = KeyedBatches(
            len(samples),
            self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
            in_step=True,
        )
        # Workers fetch their first batches as soon as they are there, before Lightning tells the epoch.
        progress: Any = self.trainer.fit_loop.epoch_progress.current
        batches.set_epoch(progress.processed)
        return make_loader(samples, batches, self.workers[0 if shuffle else 1])

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.val, shuffle=False)
