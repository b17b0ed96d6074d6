"""Fine-tune a backbone on images with one deleted patch, so that deletion is in-domain.

python -m training.patch_finetune                                   # embedded data, minutes
python -m training.patch_finetune --model resnet50 --data imagenet:PATH --pretrained --devices 8
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from checkpoints import load_model, save_checkpoint
from core import DeletionSpec, InputError
from core.cli import run_command
from data import Samples, open_data
from training.composite import CompositeSpec
from training.module import KeyedData, PatchFineTuner
from training.recipe import recipe_for
from training.run import Hardware, check_data, deletion_grid, fit_and_export, loader_workers, prepare_out


def finetune(
    out: Path = Path("runs/finetuned"),
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
    composite_prob: float = 0.0,
    composite_scale: int = 2,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    optimizer: Literal["sgd", "adamw"] | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    schedule: Literal["step", "onecycle"] | None = None,
    step_epochs: int | None = None,
    loss: Literal["cross_entropy", "binary_cross_entropy"] | None = None,
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
    """Fine-tune with deleted patches and write a checkpoint folder.

    Args:
        out: checkpoint folder to write.
        model: timm name, checkpoint folder, weight file (with --arch), or hf-hub:ORG/NAME.
        data: digits, imagefolder:PATH or imagenet:PATH.
        pretrained: start from timm's weights (needs a network or timm's cache).
        arch: timm name of a weight file's architecture.
        model_args: further arguments of timm's model.
        input_size: side of the images in pixels; the model's own by default, 64 for digits.
        grid: rows and columns of the deletion grid; 4 4 by default.
        fill: zeros, mean, random or blur (which leaks the deleted pixels).
        deletion_probability: share of the images that lose a cell.
        composite_prob: share of each batch that is composed into grids and trained through each cell's own head.
        composite_scale: cells per side of these grids.
        epochs: passes over the training images; this and the flags below default to the recipe.
        batch_size: images per step, over all devices together.
        lr: learning rate (of step 0 for `step`, the peak for `onecycle`).
        optimizer: sgd or adamw.
        momentum: of sgd.
        weight_decay: weight decay.
        schedule: step (×0.1 every --step-epochs) or onecycle.
        step_epochs: epochs between two steps of the schedule.
        loss: cross_entropy, or binary_cross_entropy with one-hot targets; by default the latter for B-cos networks.
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
        skip_corrupt: count corrupt images and go on.
    """
    given = {key: value for key, value in locals().items() if key not in ("resume", "overwrite", "out")}
    recipe = recipe_for(data)
    own_model_args = recipe.model_args if model is None else {}
    recipe = recipe.override(**{**given, "model_args": {**own_model_args, **(model_args or {})}})
    deletion = DeletionSpec(deletion_grid(grid), fill, deletion_probability)
    composite = CompositeSpec(composite_prob, composite_scale) if composite_prob else None
    if composite is None:
        given = {key: value for key, value in given.items() if not key.startswith("composite_")}

    own_size = Path(recipe.model).is_dir() or "img_size" in recipe.model_args
    size = input_size or (64 if data.partition(":")[0] == "digits" and not own_size else None)
    classes = len(open_data(data, "train", count=1).classes)
    torch.manual_seed(seed)
    checkpoint = load_model(
        recipe.model,
        arch=arch,
        num_classes=classes,
        pretrained=pretrained,
        input_size=size,
        model_args=recipe.model_args,
    )
    backbone = checkpoint.backbone
    if backbone.num_classes != classes:
        raise InputError(f"{recipe.model} has {backbone.num_classes} classes, {data} has {classes}")
    recipe = recipe.override(loss=loss or backbone.training_loss)
    settings = {**given, **asdict(recipe), "grid": [deletion.grid.rows, deletion.grid.cols]}
    prepare_out(out, settings, resume, overwrite)
    deletion.grid.check(*backbone.input_size)
    train, val = (
        open_data(data, split, size=backbone.input_size[0], seed=seed, count=count)
        for split, count in (("train", train_images), ("val", val_images))
    )
    check_data(data, train, val, recipe)
    if composite:
        composite.check(recipe.batch_size)
    fast = backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    module = PatchFineTuner(fast, deletion, recipe, seed, out / "deletions", train, composite)
    training, validation = (
        Samples(source, backbone.data_config, training=source is train, seed=seed, skip_corrupt=skip_corrupt)
        for source in (train, val)
    )
    batches = KeyedData(training, validation, recipe.batch_size, seed, loader_workers(workers, data))
    save = partial(save_checkpoint, composite=composite.to_dict() if composite else None)
    hardware = Hardware(accelerator, devices, num_nodes, strategy, precision)
    fit_and_export(out, module, batches, hardware, settings, resume, checkpoint.sha256, save)


if __name__ == "__main__":
    sys.exit(run_command(finetune))
