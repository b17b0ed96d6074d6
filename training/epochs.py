"""What a training says of its epochs: a table on disk, TensorBoard, and lines where there is no terminal."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from faithfulness.core.files import atomic_file
from faithfulness.core.progress import Progress, duration
from training.module import DeletionFineTuner

LOGS, TABLE = "logs", "epochs.csv"
TIMES = ("images_per_second", "seconds")
"""Columns of the table that no two runs share."""


class EpochLog(L.Callback):
    """A row per epoch: learning rate, loss, metrics, throughput; in each checkpoint too, so a resumed run has all.

    Attributes:
        rows: of the epochs so far. `processes` is how many computed an epoch: where the network has BatchNorm, its
            statistics are those of one process's part of the batch.
    """

    def __init__(self, out: Path, progress: Progress, batch_size: int):
        self.out, self.progress, self.batch_size = out, progress, batch_size
        self.rows: list[dict[str, Any]] = []
        self._start = self._validated = self._said = time.monotonic()
        self._rate = self._first = 0.0
        self._lr = self._loss = float("nan")

    def state_dict(self) -> dict[str, Any]:
        """Kept in each checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What the epochs before an interruption gave."""
        self.rows = list(state_dict["rows"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say where a changed number of processes matters."""
        self._first = trainer.global_step
        self._began = self._said = time.monotonic()
        before = self.rows[-1]["processes"] if self.rows else trainer.world_size
        if before != trainer.world_size and trainer.is_global_zero:
            self.progress.say(f"caution: {processes_caution([before, trainer.world_size])}")

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start = time.monotonic()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._lr = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A line a minute, where there is no bar."""
        assert isinstance(pl_module, DeletionFineTuner)
        now = time.monotonic()
        if (
            not trainer.is_global_zero
            or trainer.progress_bar_callback is not None
            or now - self._said < self.progress.every
        ):
            return
        self._said = now
        parts = trainer.accumulate_grad_batches
        rate = (batch_idx + 1) / parts * self.batch_size / max(now - self._start, 1e-9)
        self.progress.say(
            f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}, step {batch_idx // parts + 1} of "
            f"{_steps(trainer)}: {rate:.3g} images/s, {self._left(trainer)} left, loss {pl_module.last_loss:.4g}"
        )

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validated = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The epoch's row, after its validation and before its checkpoint."""
        assert isinstance(pl_module, DeletionFineTuner)
        loss = pl_module.mean_loss()
        if not trainer.is_global_zero:
            return
        images = _steps(trainer) * self.batch_size
        row = {
            "epoch": trainer.current_epoch,
            "learning_rate": self._lr,
            "train_loss": loss,
            **pl_module.measured(),
            "images_per_second": images / max(self._validated - self._start, 1e-9),
            "seconds": time.monotonic() - self._start,
            "processes": trainer.world_size,
        }
        self.rows.append(row)
        write_table(self.out / LOGS / TABLE, self.rows)
        told = {"train/loss_epoch": loss, "learning_rate": self._lr, "images_per_second": row["images_per_second"]}
        for logger in trainer.loggers:
            logger.log_metrics(told, step=trainer.global_step - 1)
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()
        self._said = time.monotonic()
        scores = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in pl_module.measured().items())
        self.progress.say(
            f"epoch {row['epoch'] + 1} of {trainer.max_epochs}: loss {loss:.4g}, {scores}; "
            f"{row['images_per_second']:.3g} images/s, {self._left(trainer)} left"
        )

    def _left(self, trainer: L.Trainer) -> str:
        """How long the rest will take, as long as it goes on like this."""
        done = trainer.global_step - self._first
        rest = _steps(trainer) * (trainer.max_epochs or 0) - trainer.global_step
        return duration(rest * (time.monotonic() - self._began) / max(done, 1))


def _steps(trainer: L.Trainer) -> int:
    """Optimizer steps of an epoch, of which Lightning's batches are parts."""
    return int(trainer.num_training_batches) // trainer.accumulate_grad_batches


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """The table, whole or not at all; a column that one row lacks is empty there."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_file(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def processes_caution(counts: list[int]) -> str | None:
    """What is to be said where the number of processes changed in the middle of a training; None where it didn't."""
    changes = [count for place, count in enumerate(counts) if not place or count != counts[place - 1]]
    if len(changes) < 2:
        return None
    return (
        f"epochs ran on {', then '.join(map(str, changes))} processes; BatchNorm's statistics are those of each "
        "process's part of a batch, and sums are rounded otherwise, so one number throughout gives other weights"
    )
