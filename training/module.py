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
from core.errors import InputError
from core.keyed import content_keys, make_keys
from core.results import atomic_file
from data import Batch, ImageData, KeyedBatches, KeyedSamples, make_loader, normalize
from training.composite import Composite, CompositeSpec
from training.recipe import Recipe, loss_function

_FILL, _AUGMENT, _GLOBAL, _VALIDATION = 11, 12, 13, -1
"""What random numbers are for: the random fill, augmentation, dropout and its kin, the validation's cells."""
_LOOKS = 16
"""Pixels per side of a sample that the record's digest is made of."""


class DeletionFineTuner(L.LightningModule):
    """Trains on images of which `deletion.probability` have one cell deleted.

    Every random choice is keyed by (seed, epoch, sample index), and the global generator (dropout,
    stochastic depth) is set at the start of each epoch, so a resumed run is the uninterrupted one.
    A subclass names its `measure`, and says how it is updated and what else the record holds.

    Args:
        deletions: folder for the record of what was trained on, a parquet file per epoch and rank: the samples
            in their order, a digest of their pixels before the deletion, and the deleted cells.
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
        self.measures = (self.measure, f"{self.measure}_deleted")
        self.metrics = ModuleDict({name: make_metric() for name in self.measures})
        self._record: list[dict[str, Tensor]] = []
        self._corrupt: set[int] = set()
        self._validated = 0

    def augment(self, images: Tensor, keys: Tensor) -> Tensor:
        """The batch's pictures, changed at random by key where the data are not augmented as they are read."""
        return images

    def loss_of(self, images: Tensor, labels: Tensor, keys: Tensor) -> Tensor:
        """The training loss of a batch; `keys` (B,) are of (seed, epoch, sample index)."""
        return self.loss(self.backbone(images), labels)

    def update_metric(self, metric: Any, predictions: Tensor, labels: Tensor) -> None:
        """Add predicted classes, shaped like the labels, to a metric."""
        raise NotImplementedError

    def record(self, batch: Batch) -> dict[str, Tensor]:
        """What the record holds of a batch besides pixels and cells."""
        return {"epoch": batch["epoch"], "index": batch["index"]}

    def configure_optimizers(self) -> Any:
        # Not Lightning's estimate of the steps: it would make the loader before a resumed run's epoch is known.
        steps = self.trainer.datamodule.steps_per_epoch  # type: ignore[attr-defined]
        optimizer, schedule = self.recipe.make_optimizer(self.backbone, self.recipe.epochs * steps, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(int(make_keys(self.seed, self.current_epoch, self.global_rank, _GLOBAL)))
        self._record.clear()

    def training_step(self, batch: Batch, step: int) -> Tensor:
        self._corrupt.update(batch["corrupt"].tolist())
        if "image" not in batch:
            return self.shared(self._no_loss(), 0)
        keys = make_keys(self.seed, batch["epoch"], batch["index"])
        pixels = self.augment(batch["image"], make_keys(keys, _AUGMENT))
        cells = self.deletion.sample_cells(self.seed, batch["epoch"], batch["index"])
        images = self.deletion.delete(normalize(pixels, self.backbone.data_config), cells, make_keys(keys, _FILL))
        loss = self.loss_of(images, batch["label"], keys)
        self._record.append({**self.record(batch), "cell": cells, "pixels": digest_pixels(pixels)})
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(images))
        return self.shared(loss, len(images))

    def _no_loss(self) -> Tensor:
        """0, with a gradient of 0 for every parameter: what a batch without a readable image has to give.

        A step that is left out on one process would leave the others waiting for its gradients.
        """
        return torch.stack([parameter.sum() * 0 for parameter in self.parameters() if parameter.requires_grad]).sum()

    def shared(self, loss: Tensor, images: int) -> Tensor:
        """The loss, weighted so that the mean over processes is that over all their images."""
        if self.trainer.world_size == 1:
            return loss
        total = self.trainer.strategy.reduce(torch.tensor(float(images), device=self.device), reduce_op="sum")
        return loss * (images * self.trainer.world_size / total.clamp(min=1))

    def on_train_epoch_end(self) -> None:
        """Write what was trained on: the record by which the choice of the deleted cells is audited.

        Raises InputError where training has diverged, or no image could be read.
        """
        broken = [name for name, tensor in self.backbone.state_dict().items() if not torch.isfinite(tensor).all()]
        named = [name for each in self._from_all(broken) for name in each]
        if named:
            raise InputError(
                f"training diverged in epoch {self.current_epoch}: {named[0]} has NaN or infinite values; lower --lr"
            )
        self._corrupt.update(index for each in self._from_all(sorted(self._corrupt)) for index in each)
        if not any(self._from_all(len(self._record))):
            raise InputError(f"no training image could be read ({len(self._corrupt)} corrupt)")
        if not self._record:
            return
        table = pd.DataFrame(
            {name: torch.cat([part[name] for part in self._record]).cpu().numpy() for name in self._record[0]}
        )
        if not (table["epoch"] == self.current_epoch).all():
            raise RuntimeError(f"epoch {self.current_epoch} was fed with samples of {sorted(set(table['epoch']))}")
        with atomic_file(self.deletions / f"epoch{self.current_epoch:03d}-rank{self.global_rank}.parquet") as path:
            table.to_parquet(path)

    def _from_all(self, content: Any) -> list[Any]:
        """Every process's content."""
        received = [content] * self.trainer.world_size
        if self.trainer.world_size > 1:
            torch.distributed.all_gather_object(received, content)
        return received

    def validation_step(self, batch: Batch, step: int) -> None:
        if "image" in batch:
            self._validated += len(batch["image"])
            self.validate(batch)

    def validate(self, batch: Batch) -> None:
        """Update the metrics with a batch, whole and with one cell of each image deleted."""
        images = normalize(batch["image"], self.backbone.data_config)
        keys = make_keys(self.seed, _VALIDATION, batch["index"])
        always = DeletionSpec(self.deletion.grid, self.deletion.fill, 1.0)
        cells = always.sample_cells(self.seed, _VALIDATION, batch["index"])
        for name, shown in zip(self.measures, (images, always.delete(images, cells, keys)), strict=True):
            self.update_metric(self.metrics[name], self.backbone(shown).argmax(dim=1), batch["label"])

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of all processes, of those too that had no image to look at."""
        if not any(self._from_all(self._validated)):
            raise InputError("no validation image could be read")
        self._validated = 0
        for name, metric in self.metrics.items():
            assert isinstance(metric, Metric)
            self.log(f"val/{name}", metric.compute(), prog_bar=True)
            metric.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the epoch's metrics beside its weights, and which files could not be read so far."""
        metrics = self.trainer.callback_metrics
        checkpoint["metrics"] = {
            key.removeprefix("val/"): float(value) for key, value in metrics.items() if key.startswith("val/")
        }
        checkpoint["corrupt"] = sorted(self._corrupt)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting corrupt files where the run was interrupted."""
        self._corrupt.update(checkpoint.get("corrupt", ()))

    @property
    def corrupt(self) -> int:
        """How many training files could not be read, each counted once, on all processes."""
        return len(self._corrupt)


def digest_pixels(pixels: Tensor) -> Tensor:
    """One int64 per image from a grid of its pixels, uint8 (B, 3, H, W) -> (B,): another crop, another digest."""
    rows, cols = (
        torch.linspace(0, side - 1, min(side, _LOOKS), device=pixels.device).long() for side in pixels.shape[2:]
    )
    return content_keys(pixels[:, :, rows][..., cols].float())


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
        if composite:
            self.metrics["accuracy_grid"] = MeanMetric()

    def augment(self, images: Tensor, keys: Tensor) -> Tensor:
        return self.data.augment(images, keys)

    def update_metric(self, metric: Any, predictions: Tensor, labels: Tensor) -> None:
        metric.update((predictions == labels).float())

    def loss_of(self, images: Tensor, labels: Tensor, keys: Tensor) -> Tensor:
        if self.composite is None:
            return super().loss_of(images, labels, keys)
        return self.loss(*self.composite.logits(self.backbone, images, labels, keys))

    def validate(self, batch: Batch) -> None:
        """Besides, with `composite`: accuracy of the cells' heads on the grids that the batch makes."""
        super().validate(batch)
        if self.composite is None:
            return
        images, labels = normalize(batch["image"], self.backbone.data_config), batch["label"]
        whole = len(images) - len(images) % self.composite.spec.scale**2
        if whole:
            predictions = self.composite.grid_logits(images[:whole]).argmax(dim=1)
            self.update_metric(self.metrics["accuracy_grid"], predictions, labels[:whole])

    def record(self, batch: Batch) -> dict[str, Tensor]:
        return super().record(batch) | {"label": batch["label"]}


class KeyedData(L.LightningDataModule):
    """Training and validation batches of two splits; who sees what depends on (seed, epoch) alone."""

    def __init__(self, train: KeyedSamples, val: KeyedSamples, batch_size: int, seed: int, workers: int):
        super().__init__()
        self.train, self.val = train, val
        self.batch_size, self.seed, self.workers = batch_size, seed, workers

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps; an incomplete last batch is left out."""
        return len(self.train) // self.batch_size

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
        return make_loader(samples, batches, self.workers)

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.val, shuffle=False)
