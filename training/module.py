"""The Lightning module and data module of deletion fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from backbones import TimmBackbone
from core.deletion import DeletionSpec
from core.keyed import make_keys
from core.results import atomic_file
from data import Batch, ImageData, KeyedBatches, Samples, make_loader, normalize
from training.composite import Composite, CompositeSpec
from training.recipe import Recipe, loss_function

_FILL, _AUGMENT, _GLOBAL, _VALIDATION = 11, 12, 13, -1
"""What random numbers are for: the random fill, augmentation, dropout and its kin, the validation's cells."""


class PatchFineTuner(L.LightningModule):
    """Trains on images of which `deletion.probability` have one cell deleted.

    Every random choice is keyed by (seed, epoch, sample index), and the global generator (dropout,
    stochastic depth) is set at the start of each epoch, so a resumed run is the uninterrupted one.

    Args:
        augment: the data set's `augment`.
        deletions: folder for the record of what was deleted, a parquet file per epoch and rank.
        composite: compose part of each batch into grids, after the deletion.
    """

    def __init__(
        self,
        backbone: TimmBackbone,
        deletion: DeletionSpec,
        recipe: Recipe,
        seed: int,
        augment: Callable[[Tensor, Tensor], Tensor],
        deletions: Path,
        composite: CompositeSpec | None = None,
    ):
        super().__init__()
        self.backbone, self.deletion, self.recipe, self.seed = backbone, deletion, recipe, seed
        self.augment, self.deletions = augment, deletions
        self.loss = loss_function(recipe.loss)
        self.accuracy = torch.nn.ModuleDict({"accuracy": MeanMetric(), "accuracy_deleted": MeanMetric()})
        self.composite = Composite(composite, backbone) if composite else None
        if composite:
            self.accuracy["accuracy_grid"] = MeanMetric()
        self._record: list[Tensor] = []
        self._corrupt = 0

    def configure_optimizers(self) -> Any:
        total = int(self.trainer.estimated_stepping_batches)
        optimizer, schedule = self.recipe.make_optimizer(self.backbone, total, max(1, total // self.recipe.epochs))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(int(make_keys(self.seed, self.current_epoch, self.global_rank, _GLOBAL)))
        self._record.clear()

    def training_step(self, batch: Batch | None, step: int) -> Tensor | None:
        if batch is None:
            return None
        keys = make_keys(self.seed, self.current_epoch, batch["index"])
        images = normalize(self.augment(batch["image"], make_keys(keys, _AUGMENT)), self.backbone.data_config)
        cells = self.deletion.sample_cells(self.seed, self.current_epoch, batch["index"])
        images = self.deletion.delete(images, cells, make_keys(keys, _FILL))
        labels = batch["label"]
        if self.composite is None:
            logits = self.backbone(images)
        else:
            logits, labels = self.composite.logits(self.backbone, images, labels, keys)
        loss = self.loss(logits, labels)
        self._record.append(torch.stack([batch["index"], batch["label"], cells]))
        self._corrupt += int(batch["corrupt"])
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(images))
        return loss

    def on_train_epoch_end(self) -> None:
        """Write which cells were deleted: the record that `mask statistics` are audited by."""
        index, label, cell = torch.cat(self._record, dim=1).cpu().numpy()
        table = pd.DataFrame({"epoch": self.current_epoch, "index": index, "label": label, "cell": cell})
        with atomic_file(self.deletions / f"epoch{self.current_epoch:03d}-rank{self.global_rank}.parquet") as path:
            table.to_parquet(path)

    def validation_step(self, batch: Batch | None, step: int) -> None:
        if batch is None:
            return
        images = normalize(batch["image"], self.backbone.data_config)
        keys = make_keys(self.seed, _VALIDATION, batch["index"])
        always = DeletionSpec(self.deletion.grid, self.deletion.fill, 1.0)
        cells = always.sample_cells(self.seed, _VALIDATION, batch["index"])
        for name, shown in (("accuracy", images), ("accuracy_deleted", always.delete(images, cells, keys))):
            right = (self.backbone(shown).argmax(dim=1) == batch["label"]).float()
            self.accuracy[name].update(right)
            self.log(f"val/{name}", self.accuracy[name], on_epoch=True, prog_bar=True, batch_size=len(images))
        if self.composite is not None:
            self._validate_grids(images, batch["label"])

    def _validate_grids(self, images: Tensor, labels: Tensor) -> None:
        """Accuracy of the cells' heads on the grids that the batch makes; what is left over is left out."""
        assert self.composite is not None
        whole = len(images) - len(images) % self.composite.spec.scale**2
        if whole:
            right = (self.composite.grid_logits(images[:whole]).argmax(dim=1) == labels[:whole]).float()
            self.accuracy["accuracy_grid"].update(right)
        self.log("val/accuracy_grid", self.accuracy["accuracy_grid"], on_epoch=True, batch_size=len(images))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the epoch's metrics beside its weights."""
        metrics = self.trainer.callback_metrics
        checkpoint["metrics"] = {
            key.removeprefix("val/"): float(value) for key, value in metrics.items() if key.startswith("val/")
        }

    @property
    def corrupt(self) -> int:
        """How many corrupt files this process has skipped in training."""
        return self._corrupt


class PatchData(L.LightningDataModule):
    """Training and validation batches of two splits; who sees what depends on (seed, epoch) alone."""

    def __init__(
        self,
        train: ImageData,
        val: ImageData,
        data_config: dict[str, Any],
        recipe: Recipe,
        seed: int,
        workers: int,
        skip_corrupt: bool,
    ):
        super().__init__()
        self.recipe, self.seed, self.workers = recipe, seed, workers
        self.train = Samples(train, data_config, training=True, seed=seed, skip_corrupt=skip_corrupt)
        self.val = Samples(val, data_config, training=False, seed=seed, skip_corrupt=skip_corrupt)

    def _loader(self, samples: Samples, shuffle: bool) -> DataLoader[Batch | None]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batches = KeyedBatches(
            len(samples), self.recipe.batch_size, shuffle=shuffle, seed=self.seed, rank=rank, world=world
        )
        return make_loader(samples, batches, self.workers)

    def train_dataloader(self) -> DataLoader[Batch | None]:
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch | None]:
        return self._loader(self.val, shuffle=False)
