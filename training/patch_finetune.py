"""Fine-tune a backbone on images with one deleted patch, so that deletion is in-domain.

python -m training.patch_finetune                                   # embedded data, minutes
python -m training.patch_finetune --model resnet50 --data imagenet:PATH --pretrained --devices 8
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from backbones import TimmBackbone
from checkpoints import load_model, save_checkpoint
from core import DeletionSpec, InputError, PatchGrid
from core.cli import run_command
from core.results import check_out, environment, write_json
from data import ImageData, open_data
from training.composite import CompositeSpec
from training.module import PatchData, PatchFineTuner
from training.recipe import Recipe, recipe_for

SETTINGS = "settings.json"


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
    strategy: str = "auto",
    precision: str = "32-true",
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
        loss: cross_entropy, or binary_cross_entropy with one-hot targets (B-cos).
        train_images: how many scenes to draw, for digits.
        val_images: how many validation scenes to draw, for digits.
        accelerator: as in Lightning.
        devices: how many devices per node, or auto.
        num_nodes: how many nodes.
        strategy: as in Lightning: auto, ddp, fsdp, ...
        precision: 32-true, bf16-mixed, 16-mixed, ...
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
    deletion = DeletionSpec(PatchGrid(*_grid(grid)), fill, deletion_probability)
    composite = CompositeSpec(composite_prob, composite_scale) if composite_prob else None
    if composite is None:
        given = {key: value for key, value in given.items() if not key.startswith("composite_")}
    settings = {**given, **asdict(recipe), "grid": [deletion.grid.rows, deletion.grid.cols]}
    _prepare_out(out, settings, resume, overwrite)

    size = input_size or (64 if data.partition(":")[0] == "digits" else None)
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
    deletion.grid.check(*backbone.input_size)
    train, val = (
        open_data(data, split, size=backbone.input_size[0], seed=seed, count=count)
        for split, count in (("train", train_images), ("val", val_images))
    )
    if len(train) < recipe.batch_size:
        raise InputError(
            f"{len(train)} training images are fewer than one batch of {recipe.batch_size}; lower --batch-size"
        )
    if composite:
        composite.check(recipe.batch_size)
    if train.classes != val.classes:
        raise InputError(f"{data} has other classes in train than in val")

    workers = workers if workers is not None else (0 if data.partition(":")[0] == "digits" else 8)
    module = PatchFineTuner(
        backbone.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        deletion,
        recipe,
        seed,
        train.augment,
        out / "deletions",
        composite,
    )
    batches = PatchData(train, val, backbone.data_config, recipe, seed, workers, skip_corrupt)
    trainer = _make_trainer(out, recipe, accelerator, devices, num_nodes, strategy, precision)
    if trainer.is_global_zero:
        write_json(out / SETTINGS, settings)
    last = out / "lightning" / "last.ckpt"
    trainer.fit(module, batches, ckpt_path=last if resume and last.exists() else None, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    if trainer.is_global_zero:
        _export(out, trainer, module, train, val, settings, checkpoint.sha256)


def _grid(grid: list[int] | None) -> tuple[int, int]:
    if grid is None:
        return (4, 4)
    if len(grid) not in (1, 2):
        raise InputError(f"--grid takes rows and columns, got {grid}")
    return (grid[0], grid[-1])


@rank_zero_only
def _prepare_out(out: Path, settings: dict[str, Any], resume: bool, overwrite: bool) -> None:
    """Refuse a folder that isn't ours to write; on `--resume`, one whose settings differ."""
    recorded = out / SETTINGS
    ours = recorded.is_file()
    if resume and ours:
        before = json.loads(recorded.read_text(encoding="utf-8"))
        now = json.loads(json.dumps(settings))
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                raise InputError(
                    f"--resume with another {key}: the run in {out} has {before.get(key)!r}, asked {now.get(key)!r}"
                )
    elif resume and out.exists() and any(out.iterdir()):
        raise InputError(f"--resume: {out} holds no training run")
    elif ours and not overwrite:
        raise InputError(f"--out {out} already holds a training run; pass --resume, --overwrite, or another folder")
    elif ours:
        shutil.rmtree(out)
    else:
        check_out(out)


def _make_trainer(
    out: Path, recipe: Recipe, accelerator: str, devices: int | str, num_nodes: int, strategy: str, precision: str
) -> L.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*number of training batches.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory.*")
    folder = {"dirpath": out / "lightning", "save_on_train_epoch_end": True, "enable_version_counter": False}
    best = ModelCheckpoint(filename="best", monitor="val/accuracy_deleted", mode="max", **folder)
    last = ModelCheckpoint(filename="last", **folder)
    return L.Trainer(
        max_epochs=recipe.epochs,
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy=strategy,
        precision=precision,  # type: ignore[arg-type]
        logger=[CSVLogger(out, "logs"), TensorBoardLogger(out, "logs")],
        callbacks=[best, last, TQDMProgressBar(refresh_rate=1 if sys.stderr.isatty() else 0)],
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        enable_model_summary=False,
    )


def _export(
    out: Path,
    trainer: L.Trainer,
    module: PatchFineTuner,
    train: ImageData,
    val: ImageData,
    settings: dict[str, Any],
    parent: str | None,
) -> None:
    """The best epoch's weights to `out`, the last one's to `out/last`."""
    for folder, name in ((out / "last", "last"), (out, "best")):
        file = out / "lightning" / f"{name}.ckpt"
        content = torch.load(file, "cpu", weights_only=True)
        prefix = "backbone.model."
        state = {
            key.removeprefix(prefix): value for key, value in content["state_dict"].items() if key.startswith(prefix)
        }
        backbone: TimmBackbone = module.backbone
        backbone.model.load_state_dict(state)
        training = {
            "settings": settings,
            "epoch": content["epoch"],
            "metrics": content["metrics"],
            "data": {"name": train.name, "n_train": len(train), "n_val": len(val), "fingerprint": train.fingerprint()},
            "n_corrupt": module.corrupt,
            "parent_sha256": parent,
            "environment": environment(),
        }
        composite = module.composite.spec.to_dict() if module.composite else None
        save_checkpoint(
            folder,
            backbone,
            deletion=module.deletion,
            classes=train.classes,
            training=training,
            composite=composite,
        )
    print(f"checkpoint: {out}")


if __name__ == "__main__":
    sys.exit(run_command(finetune))
