"""What every fine-tuning command does around its module: the folder, the trainer, the export."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from core import InputError, PatchGrid
from core.precision import use_precision
from core.results import check_out, environment, write_json
from data import IndexedData
from training.module import DeletionFineTuner, KeyedData
from training.recipe import Recipe

SETTINGS = "settings.json"


class Hardware(NamedTuple):
    """Where training runs, in Lightning's words."""

    accelerator: str
    devices: int | str
    num_nodes: int
    strategy: str
    precision: str


def deletion_grid(grid: list[int] | None) -> PatchGrid:
    """What `--grid` says; 4×4 by default."""
    if grid is None:
        return PatchGrid(4, 4)
    if len(grid) not in (1, 2):
        raise InputError(f"--grid takes rows and columns, got {grid}")
    return PatchGrid(grid[0], grid[-1])


def loader_workers(workers: int | None, data: str) -> int:
    """What `--workers` says; by default none for data that is rendered, else 8."""
    return workers if workers is not None else (0 if data.partition(":")[0] == "digits" else 8)


def check_data(text: str, train: IndexedData, val: IndexedData, recipe: Recipe) -> None:
    """Enough images for a batch, and the same classes in both splits."""
    if len(train) < recipe.batch_size:
        raise InputError(
            f"{len(train)} training images are fewer than one batch of {recipe.batch_size}; lower --batch-size"
        )
    if train.classes != val.classes:
        raise InputError(f"{text} has other classes in train than in val")


@rank_zero_only
def prepare_out(out: Path, settings: dict[str, Any], resume: bool, overwrite: bool) -> None:
    """Refuse a folder that isn't ours to write; on `--resume`, one whose settings differ. Nothing is changed yet."""
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
    else:
        check_out(out, overwrite, kind="training", inputs=[settings["model"], settings["data"]])
    aside = replaced_by(out)
    if aside.exists() and not (resume or overwrite):
        raise InputError(
            f"{aside} holds the run that an interrupted --overwrite was to replace; rename it to {out}, remove it, or "
            "pass --overwrite to replace it"
        )


def replaced_by(out: Path) -> Path:
    """Where the run in `out` is while another one replaces it."""
    return out.resolve().with_name(f".{out.resolve().name}.replaced")


@contextmanager
def _replacing(out: Path, resume: bool) -> Iterator[None]:
    """Put the run in `out` aside, and remove it once the block has ended well.

    A block that fails before its first epoch puts it back; one that fails later leaves it aside, beside
    what there is of the new run, and says where.
    """
    aside = replaced_by(out)
    if not resume and (out / SETTINGS).is_file():
        if not aside.exists():
            out.rename(aside)
        elif (out / "training.json").is_file():
            shutil.rmtree(aside)
            out.rename(aside)
        else:  # what a replacement left that was killed; the run that it was to replace is still aside
            shutil.rmtree(out)
    try:
        yield
    except BaseException:
        if aside.exists() and not (out / "lightning" / "last.ckpt").exists():
            shutil.rmtree(out, ignore_errors=True)
            aside.rename(out)
        elif aside.exists():
            print(f"the run that {out} held before is in {aside}", file=sys.stderr)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def fit_and_export(
    out: Path,
    module: DeletionFineTuner,
    batches: KeyedData,
    hardware: Hardware,
    settings: dict[str, Any],
    resume: bool,
    parent: str | None,
    save: Callable[..., None],
) -> None:
    """Train, from the last epoch if there is one, and write the checkpoint folder with `save`."""
    trainer = _make_trainer(out, module, hardware)
    processes = trainer.num_devices * trainer.num_nodes
    if batches.batch_size % processes:
        raise InputError(
            f"--batch-size {batches.batch_size} is the whole batch and must be a multiple of {processes} devices"
        )
    last = out / "lightning" / "last.ckpt"
    with _replacing(out, resume) if trainer.is_global_zero else nullcontext():
        if trainer.is_global_zero:
            write_json(out / SETTINGS, settings)
        try:
            trainer.fit(module, batches, ckpt_path=last if resume and last.exists() else None, weights_only=True)
        except SystemExit as error:  # what Lightning makes of Ctrl-C
            raise (KeyboardInterrupt if trainer.interrupted else error) from error
        if trainer.is_global_zero:
            _export(out, module, batches, settings, parent, save)


def _make_trainer(out: Path, module: DeletionFineTuner, hardware: Hardware) -> L.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*number of training batches.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # The metrics are those of all processes already, whether or not this one had images to measure.
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    warnings.filterwarnings("ignore", message=".*was called before the ``update`` method.*")
    folder = {"dirpath": out / "lightning", "save_on_train_epoch_end": True, "enable_version_counter": False}
    best = ModelCheckpoint(filename="best", monitor=f"val/{module.measure}_deleted", mode="max", **folder)
    last = ModelCheckpoint(filename="last", **folder)
    return L.Trainer(
        max_epochs=module.recipe.epochs,
        **hardware._replace(precision=use_precision(hardware.precision))._asdict(),
        logger=[CSVLogger(out, "logs"), TensorBoardLogger(out, "logs")],
        callbacks=[best, last, TQDMProgressBar(refresh_rate=1 if sys.stderr.isatty() else 0)],
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        enable_model_summary=False,
    )


def _export(
    out: Path,
    module: DeletionFineTuner,
    batches: KeyedData,
    settings: dict[str, Any],
    parent: str | None,
    save: Callable[..., None],
) -> None:
    """The best epoch's weights to `out`, the last one's to `out/last`."""
    train, val = batches.train.source, batches.val.source
    for folder, name in ((out / "last", "last"), (out, "best")):
        content = torch.load(out / "lightning" / f"{name}.ckpt", "cpu", weights_only=True)
        prefix = "backbone."
        module.backbone.load_state_dict(
            {key.removeprefix(prefix): value for key, value in content["state_dict"].items() if key.startswith(prefix)}
        )
        training = {
            "settings": settings,
            "epoch": content["epoch"],
            "metrics": content["metrics"],
            "data": {"name": train.name, "n_train": len(train), "n_val": len(val), "fingerprint": train.fingerprint()},
            "n_corrupt": module.corrupt,
            "parent_sha256": parent,
            "environment": environment(),
        }
        save(folder, module.backbone, deletion=module.deletion, classes=train.classes, training=training)
    print(f"checkpoint: {out}")
