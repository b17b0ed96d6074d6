"""The Lightning modules and data module of deletion fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch
from torch import Tensor
from torch.nn import Module, ModuleDict
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric, Metric

from backbones import TimmBackbone
from core.deletion import DeletionSpec
from core.keyed import make_keys
from core.results import atomic_file
from data import Batch, ImageData, KeyedBatches, KeyedSamples, make_loader, normalize
from training.composite import Composite, CompositeSpec
from training.recipe import Recipe, loss_function

_FILL, _AUGMENT, _GLOBAL, _VALIDATION = 11, 12, 13, -1
"""What random numbers are for: the random fill, augmentation, dropout and its kin, the validation's cells."""


class DeletionFineTuner(L.LightningModule):
    """Trains on images of which `deletion.probability` have one cell deleted.

    Every random choice is keyed by (seed, epoch, sample index), and the global generator (dropout,
    stochastic depth) is set at the start of each epoch, so a resumed run is the uninterrupted one.
    A subclass names its `measure`, and says how it is updated and what else the record holds.

    Args:
        deletions: folder for the record of what was deleted, a parquet file per epoch and rank.
    """

    measure: str
    """What validation measures on whole images; on deleted ones it is called `…_deleted`."""

    def __init__(
        self,
        backbone: Any,
        deletion: DeletionSpec,
        recipe: Recipe,
        seed: int,
        deletions: Path,
        loss: Module,
        make_metric: Callable[[], Metric],
    ):
        super().__init__()
        self.backbone, self.deletion, self.recipe, self.seed = backbone, deletion, recipe, seed
        self.deletions, self.loss = deletions, loss
        self.metrics = ModuleDict({name: make_metric() for name in (self.measure, f"{self.measure}_deleted")})
        self._record: list[dict[str, Tensor]] = []
        self._corrupt = 0

    def augment(self, images: Tensor, keys: Tensor) -> Tensor:
        """The batch's pictures, changed at random by key where the data are not augmented as they are read."""
        return images

    def loss_of(self, images: Tensor, labels: Tensor, keys: Tensor) -> Tensor:
        """The training loss of a batch; `keys` (B,) are of (seed, epoch, sample index)."""
        return self.loss(self.backbone(images), labels)

    def update_metric(self, metric: Any, predictions: Tensor, labels: Tensor) -> None:
        """Add predicted classes, shaped like the labels, to a metric."""
        raise NotImplementedError

    def record(self, batch: Batch, cells: Tensor) -> dict[str, Tensor]:
        """The columns of the record of deletions."""
        return {"index": batch["index"], "cell": cells}

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
        loss = self.loss_of(images, batch["label"], keys)
        self._record.append(self.record(batch, cells))
        self._corrupt += int(batch["corrupt"])
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(images))
        return loss

    def on_train_epoch_end(self) -> None:
        """Write which cells were deleted: the record that `mask statistics` are audited by."""
        names = self._record[0]
        columns = {name: torch.cat([part[name] for part in self._record]).cpu().numpy() for name in names}
        table = pd.DataFrame({"epoch": self.current_epoch, **columns})
        with atomic_file(self.deletions / f"epoch{self.current_epoch:03d}-rank{self.global_rank}.parquet") as path:
            table.to_parquet(path)

    def validation_step(self, batch: Batch | None, step: int) -> None:
        if batch is None:
            return
        images = normalize(batch["image"], self.backbone.data_config)
        keys = make_keys(self.seed, _VALIDATION, batch["index"])
        always = DeletionSpec(self.deletion.grid, self.deletion.fill, 1.0)
        cells = always.sample_cells(self.seed, _VALIDATION, batch["index"])
        for name, shown in zip(self.metrics, (images, always.delete(images, cells, keys)), strict=True):
            metric: Any = self.metrics[name]
            self.update_metric(metric, self.backbone(shown).argmax(dim=1), batch["label"])
            self.log(f"val/{name}", metric, on_epoch=True, prog_bar=True, batch_size=len(images))

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


class PatchFineTuner(DeletionFineTuner):
    """Classification of `data`: accuracy, its augmentation of batches, and the label in the record.

    With `composite`, part of each batch is composed into grids after the deletion.
    """

    measure = "accuracy"

    def __init__(
        self,
        backbone: TimmBackbone,
        deletion: DeletionSpec,
        recipe: Recipe,
        seed: int,
        deletions: Path,
        data: ImageData,
        composite: CompositeSpec | None = None,
    ):
        super().__init__(backbone, deletion, recipe, seed, deletions, loss_function(recipe.loss), MeanMetric)
        self.data = data
        self.composite = Composite(composite, backbone) if composite else None
        self.accuracy_grid = MeanMetric()

    def augment(self, images: Tensor, keys: Tensor) -> Tensor:
        return self.data.augment(images, keys)

    def update_metric(self, metric: Any, predictions: Tensor, labels: Tensor) -> None:
        metric.update((predictions == labels).float())

    def loss_of(self, images: Tensor, labels: Tensor, keys: Tensor) -> Tensor:
        if self.composite is None:
            return super().loss_of(images, labels, keys)
        return self.loss(*self.composite.logits(self.backbone, images, labels, keys))

    def validation_step(self, batch: Batch | None, step: int) -> None:
        """Besides, with `composite`: accuracy of the cells' heads on the grids that the batch makes."""
        super().validation_step(batch, step)
        if batch is None or self.composite is None:
            return
        images, labels = normalize(batch["image"], self.backbone.data_config), batch["label"]
        whole = len(images) - len(images) % self.composite.spec.scale**2
        if whole:
            self.accuracy_grid.update(
                (self.composite.grid_logits(images[:whole]).argmax(dim=1) == labels[:whole]).float()
            )
        self.log("val/accuracy_grid", self.accuracy_grid, on_epoch=True, batch_size=len(images))

    def record(self, batch: Batch, cells: Tensor) -> dict[str, Tensor]:
        return {"index": batch["index"], "label": batch["label"], "cell": cells}


class KeyedData(L.LightningDataModule):
    """Training and validation batches of two splits; who sees what depends on (seed, epoch) alone."""

    def __init__(self, train: KeyedSamples, val: KeyedSamples, batch_size: int, seed: int, workers: int):
        super().__init__()
        self.train, self.val = train, val
        self.batch_size, self.seed, self.workers = batch_size, seed, workers

    def _loader(self, samples: KeyedSamples, shuffle: bool) -> DataLoader[Batch | None]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batches = KeyedBatches(len(samples), self.batch_size, shuffle=shuffle, seed=self.seed, rank=rank, world=world)
        return make_loader(samples, batches, self.workers)

    def train_dataloader(self) -> DataLoader[Batch | None]:
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch | None]:
        return self._loader(self.val, shuffle=False)
