"""The Lightning modules of deletion fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch
from torch import Tensor
from torch.nn import CrossEntropyLoss, Module, ModuleDict
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassJaccardIndex

from faithfulness.backbones import Segmenter
from faithfulness.core.deletion import DeletionSpec
from faithfulness.core.errors import InputError
from faithfulness.core.files import atomic_file
from faithfulness.core.keyed import make_keys
from faithfulness.core.stopping import Stopped
from faithfulness.data import (
    Batch,
    IndexedData,
    augment_batch,
    digest_pixels,
    normalize,
)
from faithfulness.data.segmentation import VOID
from training.composite import Composite, CompositeSpec
from training.keeping import RUN
from training.optimization import loss_function, make_optimizer
from training.recipe import Recipe

_FILL, _GLOBAL, _VALIDATION = 11, 13, -1
"""What random numbers are for: the random fill, dropout and its kin, the validation's cells."""


class DeletionFineTuner(L.LightningModule):
    """Trains on images of which `deletion.probability` have one cell deleted.

    Every random choice is keyed by (seed, epoch, sample index), and the global generator (dropout,
    stochastic depth) is set at the start of each epoch, so a resumed run is the uninterrupted one.
    A subclass names its `measure`, and says how it is updated and what else the record holds.

    Args:
        deletions: folder for the record of what was trained on, a parquet file per epoch and rank: the samples
            in their order, a digest of their pixels before the deletion, and the deleted cells.
        data: what is trained on; it augments batches where that isn't done as they are read.
    Attributes:
        run: digest of the settings, by which a checkpoint is known to be of this run.
        part: how many images the network sees at once on each process, where all can be read.
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
        data: IndexedData,
        loss: Module,
        make_metric: Callable[[], Metric],
    ):
        super().__init__()
        self.backbone, self.deletion, self.recipe, self.seed = backbone, deletion, recipe, seed
        self.deletions, self.data, self.loss = deletions, data, loss
        self.measures = (self.measure, f"{self.measure}_deleted")
        self.metrics = ModuleDict({name: make_metric() for name in self.measures})
        self._record: list[dict[str, Tensor]] = []
        self._corrupt: set[int] = set()
        self._losses: list[tuple[Tensor, int]] = []
        self._validated = 0
        self._compiled = torch.compile(backbone.forward, dynamic=False) if recipe.compile else None
        self.run, self.part = "", recipe.batch_size // recipe.accumulate

    def share(self, processes: int) -> None:
        """Told how many processes share a batch. Raises InputError where that leaves each too few images."""
        self.part = self.recipe.batch_size // (processes * self.recipe.accumulate)

    def network(self, images: int) -> Callable[[Tensor], Tensor]:
        """What runs so many images in training: the compiled network if it was asked for.

        Where corrupt images are left out, it is the plain one: for another number of images torch would compile
        anew, for any number from then on, and a resumed run, which hasn't met them, would round otherwise.
        """
        return self._compiled if self._compiled is not None and images == self.part else self.backbone

    def loss_of(self, images: Tensor, labels: Tensor, keys: Tensor) -> Tensor:
        """The training loss of a batch; `keys` (B,) are of (seed, epoch, sample index)."""
        return self.loss(self.network(len(images))(images), labels)

    def update_metric(self, metric: Any, predictions: Tensor, labels: Tensor) -> None:
        """Add predicted classes, shaped like the labels, to a metric."""
        raise NotImplementedError

    def record(self, batch: Batch) -> dict[str, Tensor]:
        """What the record holds of a batch besides pixels and cells."""
        return {"epoch": batch["epoch"], "index": batch["index"]}

    def configure_optimizers(self) -> Any:
        # Not Lightning's estimate of the steps: it would make the loader before a resumed run's epoch is known.
        steps = self.trainer.datamodule.steps_per_epoch  # type: ignore[attr-defined]
        optimizer, schedule = make_optimizer(self.recipe, self.backbone, self.recipe.epochs * steps, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(int(make_keys(self.seed, self.current_epoch, self.global_rank, _GLOBAL)))
        self._record.clear()
        self._losses.clear()

    def training_step(self, batch: Batch, step: int) -> Tensor:
        self._corrupt.update(batch["corrupt"].tolist())
        if "image" not in batch:
            return self.shared(self._no_loss(), 0, batch)
        keys = make_keys(self.seed, batch["epoch"], batch["index"])
        pixels = augment_batch(self.data, batch["image"], keys)
        cells = self.deletion.sample_cells(self.seed, batch["epoch"], batch["index"])
        images = self.deletion.delete(normalize(pixels, self.backbone.data_config), cells, make_keys(keys, _FILL))
        loss = self.loss_of(images, batch["label"], keys)
        self._record.append({**self.record(batch), "cell": cells, "pixels": digest_pixels(pixels)})
        self._losses.append((loss.detach(), len(images)))
        if self._is_told():
            self.log("train/loss", loss, prog_bar=True, batch_size=len(images))
        return self.shared(loss, len(images), batch)

    def _is_told(self) -> bool:
        """Whether the bar or the logger shows this step's loss; to tell Lightning takes a hundredth of a step."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return self.trainer.progress_bar_callback is not None or (self.trainer.global_step + 1) % every == 0

    def _no_loss(self) -> Tensor:
        """0, with a gradient of 0 for every parameter: what a batch without a readable image has to give.

        A step that is left out on one process would leave the others waiting for its gradients.
        """
        return torch.stack([parameter.sum() * 0 for parameter in self.parameters() if parameter.requires_grad]).sum()

    def shared(self, loss: Tensor, images: int, batch: Batch) -> Tensor:
        """The loss, weighted so that the mean over processes and parts of a batch is that over all their images."""
        shares = self.trainer.world_size * self.recipe.accumulate
        if shares == 1:
            return loss
        total = batch["whole"].float() if "whole" in batch else torch.full((), float(images), device=self.device)
        if self.trainer.world_size > 1:
            total = self.trainer.strategy.reduce(total, reduce_op="sum")
        return loss * (images * shares / total.clamp(min=1))

    @property
    def last_loss(self) -> float:
        """Of the last images that were trained on, in this epoch; NaN if there were none."""
        return float(self._losses[-1][0]) if self._losses else float("nan")

    def mean_loss(self) -> float:
        """The epoch's training loss, the mean over the images of all processes; every process has to ask."""
        images = sum(count for _, count in self._losses)
        total = sum(float(loss) * count for loss, count in self._losses)
        totals, counts = zip(*self._from_all((total, images)), strict=True)
        return sum(totals) / max(sum(counts), 1)

    def measured(self) -> dict[str, float]:
        """The metrics of the last validation, by name."""
        found = self.trainer.callback_metrics
        return {key.removeprefix("val/"): float(value) for key, value in found.items() if key.startswith("val/")}

    def on_train_epoch_end(self) -> None:
        """Write what was trained on: the record by which the choice of the deleted cells is audited.

        Raises InputError where training has diverged, or no image could be read.
        """
        broken = [name for name, tensor in self.backbone.state_dict().items() if not torch.isfinite(tensor).all()]
        named = [name for each in self._from_all(broken) for name in each]
        if named:
            raise self._refusal(
                f"training diverged in epoch {self.current_epoch}: {named[0]} has NaN or infinite values; lower --lr"
            )
        self._corrupt.update(index for each in self._from_all(sorted(self._corrupt)) for index in each)
        if not any(self._from_all(len(self._record))):
            raise self._refusal(f"no training image could be read ({len(self._corrupt)} corrupt)")
        if not self._record:
            return
        table = pd.DataFrame(
            {name: torch.cat([part[name] for part in self._record]).cpu().numpy() for name in self._record[0]}
        )
        if not (table["epoch"] == self.current_epoch).all():
            raise RuntimeError(f"epoch {self.current_epoch} was fed with samples of {sorted(set(table['epoch']))}")
        with atomic_file(self.deletions / f"epoch{self.current_epoch:03d}-rank{self.global_rank}.parquet") as path:
            table.to_parquet(path)

    def _refusal(self, reason: str) -> BaseException:
        """What ends all processes, told by the first of them."""
        return InputError(reason) if self.global_rank == 0 else Stopped(2, reason)

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
            raise self._refusal("no validation image could be read")
        self._validated = 0
        for name, metric in self.metrics.items():
            assert isinstance(metric, Metric)
            self.log(f"val/{name}", metric.compute(), prog_bar=True)
            metric.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the epoch's metrics beside its weights, and which files could not be read so far."""
        checkpoint["metrics"] = self.measured()
        checkpoint["corrupt"] = sorted(self._corrupt)
        checkpoint[RUN] = self.run

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting corrupt files where the run was interrupted."""
        self._corrupt.update(checkpoint.get("corrupt", ()))

    @property
    def corrupt(self) -> int:
        """How many training files could not be read, each counted once, on all processes."""
        return len(self._corrupt)


class PatchFineTuner(DeletionFineTuner):
    """Classification: accuracy, and the label in the record.

    With `composite`, part of each batch is composed into grids after the deletion.
    """

    measure = "accuracy"

    def __init__(
        self,
        backbone: Any,
        deletion: DeletionSpec,
        recipe: Recipe,
        seed: int,
        deletions: Path,
        data: IndexedData,
        composite: CompositeSpec | None = None,
    ):
        super().__init__(backbone, deletion, recipe, seed, deletions, data, loss_function(recipe.loss), MeanMetric)
        self.composite = Composite(composite, backbone) if composite else None
        self.share(1)
        if composite:
            self.metrics["accuracy_grid"] = MeanMetric()

    def share(self, processes: int) -> None:
        super().share(processes)
        if self.composite is not None:
            self.composite.spec.check(self.part)

    def update_metric(self, metric: Any, predictions: Tensor, labels: Tensor) -> None:
        metric.update((predictions == labels).float())

    def loss_of(self, images: Tensor, labels: Tensor, keys: Tensor) -> Tensor:
        if self.composite is None:
            return super().loss_of(images, labels, keys)
        return self.loss(*self.composite.logits(self.network(len(images)), images, labels, keys))

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


class SegmentationFineTuner(DeletionFineTuner):
    """Segmentation: cross entropy of every pixel that isn't void; mean IoU.

    Pixels of the deleted cell keep their class, as a deleted image keeps its label in classification:
    what is hidden there is to be told from the rest.
    """

    measure = "mean_iou"

    def __init__(
        self,
        backbone: Segmenter,
        deletion: DeletionSpec,
        recipe: Recipe,
        seed: int,
        deletions: Path,
        data: IndexedData,
    ):
        def mean_iou() -> MulticlassJaccardIndex:
            return MulticlassJaccardIndex(backbone.num_classes, ignore_index=VOID)

        super().__init__(
            backbone, deletion, recipe, seed, deletions, data, CrossEntropyLoss(ignore_index=VOID), mean_iou
        )

    def loss_of(self, images: Tensor, labels: Tensor, keys: Tensor) -> Tensor:
        """Of images that are void throughout there is nothing to learn."""
        return super().loss_of(images, labels, keys) if bool((labels != VOID).any()) else self._no_loss()

    def update_metric(self, metric: Any, predictions: Tensor, labels: Tensor) -> None:
        metric.update(predictions, labels)
