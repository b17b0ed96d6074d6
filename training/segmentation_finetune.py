"""Train a segmentation network on images with one deleted patch, so that deletion is in-domain.

python -m training.segmentation_finetune                            # embedded data, about a minute
python -m training.segmentation_finetune --model torchvision:deeplabv3_resnet50 --pretrained --data voc:PATH
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import CrossEntropyLoss
from torchmetrics.classification import MulticlassJaccardIndex

from backbones import Segmenter
from checkpoints import load_segmenter, save_segmenter
from core import DeletionSpec, InputError
from core.cli import run_command
from data import SegmentationSamples, open_segmentation_data
from data.segmentation import VOID
from training.module import DeletionFineTuner, KeyedData
from training.recipe import Recipe, recipe_for
from training.run import Hardware, check_data, deletion_grid, fit_and_export, loader_workers, prepare_out


class SegmentationFineTuner(DeletionFineTuner):
    """Cross entropy of every pixel that isn't void; mean IoU.

    Pixels of the deleted cell keep their class, as a deleted image keeps its label in classification:
    what is hidden there is to be told from the rest.
    """

    measure = "mean_iou"

    def __init__(self, backbone: Segmenter, deletion: DeletionSpec, recipe: Recipe, seed: int, deletions: Path):
        def mean_iou() -> MulticlassJaccardIndex:
            return MulticlassJaccardIndex(backbone.num_classes, ignore_index=VOID)

        super().__init__(backbone, deletion, recipe, seed, deletions, CrossEntropyLoss(ignore_index=VOID), mean_iou)

    def update_metric(self, metric: Any, predictions: Tensor, labels: Tensor) -> None:
        metric.update(predictions, labels)


def finetune(
    out: Path = Path("runs/segmenter"),
    model: str | None = None,
    data: str = "digits",
    *,
    pretrained: bool = False,
    arch: str | None = None,
    model_args: dict[str, Any] | None = None,
    input_size: int | None = None,
    grid: list[int] | None = None,
    fill: str = "zeros",
    deletion_probability: float = 0.5,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    optimizer: Literal["sgd", "adamw"] | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    schedule: Literal["step", "onecycle"] | None = None,
    step_epochs: int | None = None,
    train_images: int | None = None,
    val_images: int | None = None,
    accelerator: str = "auto",
    devices: int | str = "auto",
    num_nodes: int = 1,
    strategy: Literal["auto", "ddp"] = "auto",
    precision: Literal["32-true", "tf32", "bf16-mixed", "16-mixed"] = "32-true",
    workers: int | None = None,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    skip_corrupt: bool = False,
) -> None:
    """Train a segmentation network with deleted patches and write a checkpoint folder.

    Args:
        out: checkpoint folder to write.
        model: torchvision:NAME, a timm name (an FCN on it), checkpoint folder, weight file (with --arch), or hf-hub.
        data: digits, voc:PATH or sbd:PATH.
        pretrained: start from torchvision's weights, or timm's of the backbone.
        arch: architecture of a weight file.
        model_args: further arguments of timm's model; skip, the layer that an FCN's head sees besides the last.
        input_size: side of the images in pixels; the model's own by default, 64 for digits.
        grid: rows and columns of the deletion grid; 4 4 by default.
        fill: zeros, mean, random or blur (which leaks the deleted pixels).
        deletion_probability: share of the images that lose a cell.
        epochs: passes over the training images; this and the flags below default to the recipe.
        batch_size: images per step, over all devices together.
        lr: learning rate (of step 0 for `step`, the peak for `onecycle`).
        optimizer: sgd or adamw.
        momentum: of sgd.
        weight_decay: weight decay.
        schedule: step (×0.1 every --step-epochs) or onecycle.
        step_epochs: epochs between two steps of the schedule.
        train_images: how many scenes to draw, for digits.
        val_images: how many validation scenes to draw, for digits.
        accelerator: as in Lightning.
        devices: how many devices per node, or auto.
        num_nodes: how many nodes.
        strategy: auto, or ddp for several processes.
        precision: 32-true (IEEE), tf32, bf16-mixed or 16-mixed.
        workers: loader processes; 0 for digits, else 8.
        seed: keys every random choice.
        resume: go on from the last epoch of the run in --out.
        overwrite: replace the run in --out.
        skip_corrupt: count corrupt images and masks and go on.
    """
    given = {key: value for key, value in locals().items() if key not in ("resume", "overwrite", "out")}
    recipe = recipe_for(data, segmentation=True)
    own_model_args = recipe.model_args if model is None else {}
    recipe = recipe.override(**{**given, "model_args": {**own_model_args, **(model_args or {})}})
    deletion = DeletionSpec(deletion_grid(grid), fill, deletion_probability)
    settings = {**given, **asdict(recipe), "grid": [deletion.grid.rows, deletion.grid.cols]}
    prepare_out(out, settings, resume, overwrite)

    own_size = Path(recipe.model).is_dir() or "img_size" in recipe.model_args
    size = input_size or (64 if data.partition(":")[0] == "digits" and not own_size else None)
    classes = len(open_segmentation_data(data, "train", count=1).classes)
    torch.manual_seed(seed)
    checkpoint = load_segmenter(
        recipe.model,
        arch=arch,
        num_classes=classes,
        pretrained=pretrained,
        input_size=size,
        model_args=recipe.model_args,
    )
    segmenter = checkpoint.backbone
    if segmenter.num_classes != classes:
        raise InputError(f"{recipe.model} has {segmenter.num_classes} classes, {data} has {classes}")
    deletion.grid.check(*segmenter.input_size)
    train, val = (
        open_segmentation_data(data, split, size=segmenter.input_size[0], seed=seed, count=count)
        for split, count in (("train", train_images), ("val", val_images))
    )
    check_data(data, train, val, recipe)
    module = SegmentationFineTuner(
        segmenter.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        deletion,
        recipe,
        seed,
        out / "deletions",
    )
    training, validation = (
        SegmentationSamples(
            source, segmenter.data_config, training=source is train, seed=seed, skip_corrupt=skip_corrupt
        )
        for source in (train, val)
    )
    batches = KeyedData(training, validation, recipe.batch_size, seed, loader_workers(workers, data))
    hardware = Hardware(accelerator, devices, num_nodes, strategy, precision)
    fit_and_export(out, module, batches, hardware, settings, resume, checkpoint.sha256, save_segmenter)


if __name__ == "__main__":
    sys.exit(run_command(finetune))
