"""Lightning's part of a training: the trainer, its epochs, and the export of what came out."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from faithfulness.core.errors import InputError
from faithfulness.core.files import write_json
from faithfulness.core.precision import use_precision
from faithfulness.core.results import environment
from training.folder import SETTINGS, replacing
from training.module import DeletionFineTuner, KeyedData


class Hardware(NamedTuple):
    """Where training runs, in Lightning's words."""

    accelerator: str
    devices: int | str
    num_nodes: int
    strategy: str
    precision: str


def fit_and_export(
    out: Path,
    module: DeletionFineTuner,
    batches: KeyedData,
    hardware: Hardware,
    settings: dict[str, Any],
    resume: bool,
    parent: str | None,
    save: Callable[..., None],
) -> dict[str, Any] | None:
    """Train, from the last epoch if there is one, and write the checkpoint folder with `save`.

    Returns what is recorded of the training; None on all processes but the first.
    """
    trainer = _make_trainer(out, module, hardware)
    processes = trainer.num_devices * trainer.num_nodes
    if batches.batch_size % processes:
        raise InputError(
            f"--batch-size {batches.batch_size} is the whole batch and must be a multiple of {processes} devices"
        )
    last = out / "lightning" / "last.ckpt"
    with replacing(out, resume) if trainer.is_global_zero else nullcontext():
        if trainer.is_global_zero:
            write_json(out / SETTINGS, settings)
        try:
            trainer.fit(module, batches, ckpt_path=last if resume and last.exists() else None, weights_only=True)
        except SystemExit as error:  # what Lightning makes of Ctrl-C
            raise (KeyboardInterrupt if trainer.interrupted else error) from error
        if trainer.is_global_zero:
            return _export(out, module, batches, settings, parent, save)
    return None


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
) -> dict[str, Any]:
    """The best epoch's weights to `out`, the last one's to `out/last`; the record of the best."""
    train, val = batches.train.source, batches.val.source
    training: dict[str, Any] = {}
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
    return training
