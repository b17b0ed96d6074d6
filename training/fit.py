"""Lightning's part of a training: the trainer, its epochs, and the export of what came out."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors import SafetensorError

from faithfulness.core.errors import InputError
from faithfulness.core.files import write_json
from faithfulness.core.hardware import choose_port
from faithfulness.core.precision import use_precision
from faithfulness.core.progress import Progress, silence_lightning
from faithfulness.core.results import environment
from faithfulness.core.stopping import STOPS, ignore_signals, watching_others
from training.averaging import MovingAverage
from training.batches import KeyedData
from training.epochs import LOGS, EpochLog, processes_caution
from training.folder import SETTINGS, only_writer, remove_leftovers, replacing
from training.keeping import BEST, FOLDER, LAST, Kept, WholeFiles, find_last, read_checkpoint
from training.module import DeletionFineTuner
from training.stops import Signals, end_processes, environments, explained, started_by


class Hardware(NamedTuple):
    """Where training runs, in Lightning's words."""

    accelerator: str
    devices: int | str
    num_nodes: int
    strategy: str
    precision: str


@dataclass
class Fit:
    """One training, ready to begin.

    Attributes:
        out: the run's folder, resolved; `shown`: as the user wrote it.
        files, log: what of it is on disk, and its epochs.
    """

    out: Path
    shown: Path
    module: DeletionFineTuner
    batches: KeyedData
    trainer: L.Trainer
    files: WholeFiles
    log: EpochLog
    progress: Progress

    @classmethod
    def prepare(
        cls, shown: Path, module: DeletionFineTuner, batches: KeyedData, hardware: Hardware, progress: Progress
    ) -> Fit:
        """Make the trainer, which finds the devices. Raises InputError where they aren't there or share no batch."""
        out, files = shown.resolve(), WholeFiles()
        log = EpochLog(out, progress, batches.batch_size)
        try:
            trainer = _make_trainer(out, module, hardware, files, log, progress)
        except (MisconfigurationException, ValueError, RuntimeError) as error:
            raise InputError(f"no training on such devices: {' '.join(str(error).split())[:200]}") from error
        processes = trainer.num_devices * trainer.num_nodes
        if batches.batch_size % (processes * batches.accumulate):
            parts = f" × {batches.accumulate} parts (--accumulate)" if batches.accumulate > 1 else ""
            raise InputError(
                f"--batch-size {batches.batch_size} is the whole batch and must be a multiple of {processes} "
                f"device{'s' * (processes > 1)}{parts}"
            )
        module.share(processes)
        if hardware.precision == "16-mixed" and trainer.strategy.root_device.type == "cpu":
            raise InputError("--precision 16-mixed needs a GPU; a CPU has bf16-mixed")
        batches.share(processes, trainer.num_devices)
        return cls(out, shown, module, batches, trainer, files, log, progress)

    def run(self, settings: dict[str, Any], resume: bool) -> None:
        """Train, from the last epoch if there is one.

        Raises InputError for a damaged or foreign checkpoint, and whatever ends a training, with a note on what
        is on disk.
        """
        found = find_last(self.out, self.module.run or None) if resume else None
        if found is not None:
            _, self.files.epochs, steps, note = found
            self.trainer.logger = TensorBoardLogger(self.out, LOGS, version="", purge_step=steps)
            self.progress.say(note or f"going on after epoch {self.files.epochs} of {self.trainer.max_epochs}")
        if self.trainer.is_global_zero:
            write_json(self.out / SETTINGS, settings)
        checkpoint = None if found is None else found[0]
        with watching_others(lambda: started_by(self.trainer), self.on_disk):
            self.trainer.fit(self.module, self.batches, ckpt_path=checkpoint, weights_only=True)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Whatever ends a training ends its other processes, and has its true reason."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, SystemExit) and self.trainer.interrupted:  # what Lightning makes of Ctrl-C
                reason: BaseException = KeyboardInterrupt()
            else:
                reason = explained(error, self.trainer) if isinstance(error, RuntimeError) else error
            ignore_signals()
            end_processes(started_by(self.trainer))
            if self.trainer.is_global_zero:
                remove_leftovers(self.out)
            if isinstance(reason, (*STOPS, OSError, MemoryError, RuntimeError)):
                reason.add_note(self.on_disk())
            if reason is error:
                raise
            raise reason from error

    def on_disk(self) -> str:
        """What is there of the run if it ends now."""
        if not self.files.epochs:
            return f"no epoch is complete yet in {self.shown}"
        return (
            f"{self.shown} holds {self.files.epochs} of {self.trainer.max_epochs} epochs; "
            "the same command with --resume goes on"
        )

    def export(self, settings: dict[str, Any], parent: dict[str, Any], save: Callable[..., None]) -> dict[str, Any]:
        """The best epoch's weights to `out`, the last one's to `out/last`; the record of the best, `parent` in it."""
        train, val = self.batches.train.source, self.batches.val.source
        began = settings["began"]["data"]
        training: dict[str, Any] = {}
        counts = [row["processes"] for row in self.log.rows]
        for folder, name in ((self.out / "last", LAST), (self.out, BEST)):
            content = read_checkpoint(self.out / FOLDER / name, self.module.run)
            prefix = "backbone."
            weights = content["state_dict"].items()
            self.module.backbone.load_state_dict(
                {key.removeprefix(prefix): value for key, value in weights if key.startswith(prefix)}
            )
            training = {
                "settings": {key: value for key, value in settings.items() if key != "began"},
                "epoch": content["epoch"],
                "metrics": content["metrics"],
                "data": {
                    "name": train.name, "n_train": len(train), "n_val": len(val),
                    "fingerprint": began["train"], "fingerprint_val": began["val"],
                },
                "n_corrupt": self.module.corrupt,
                **parent,
                "processes": counts,
                "cautions": [text for text in (processes_caution(counts),) if text],
                "environment": environment(),
            }  # fmt: skip
            try:
                save(
                    folder,
                    self.module.backbone,
                    deletion=self.module.deletion,
                    classes=train.classes,
                    training=training,
                )
            except SafetensorError as error:
                if "No space left" in str(error):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
                raise
        return training


@contextmanager
def writing(fit: Fit, resume: bool) -> Iterator[None]:
    """Around all that is written, on the first process: the only writer, what it replaces, and what is on disk."""
    if not fit.trainer.is_global_zero:
        yield
        return
    with only_writer(fit.shown), replacing(fit.out, resume):
        yield


def _make_trainer(
    out: Path, module: DeletionFineTuner, hardware: Hardware, files: WholeFiles, log: EpochLog, progress: Progress
) -> L.Trainer:
    silence_lightning()
    for message in (
        ".*does not have many workers.*",
        ".*number of training batches.*",
        ".*Checkpoint directory.*",
        ".*LeafSpec.*",
        # The metrics are those of all processes already, whether or not this one had images to measure.
        ".*sync_dist=True.*",
        ".*was called before the ``update`` method.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    terminal = not progress.quiet and progress.stream.isatty()
    best, last = Kept(out, BEST, f"val/{module.measure}_deleted"), Kept(out, LAST)
    recipe = module.recipe
    average = [] if recipe.ema is None else [MovingAverage(recipe.ema)]
    trainer = L.Trainer(
        max_epochs=recipe.epochs,
        accumulate_grad_batches=recipe.accumulate,
        gradient_clip_val=recipe.clip,
        **hardware._replace(precision=use_precision(hardware.precision))._asdict(),
        logger=TensorBoardLogger(out, LOGS, version=""),
        callbacks=[Signals(), log, *average, best, last, *([TQDMProgressBar()] if terminal else [])],
        plugins=[files, *environments()],
        enable_progress_bar=terminal,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        enable_model_summary=False,
        default_root_dir=out,
    )
    if trainer.world_size > 1:
        choose_port()
    return trainer
