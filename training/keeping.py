"""Lightning's files of a run: written whole or not at all, and read only if they are whole and of this run."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from faithfulness.core.errors import InputError
from faithfulness.core.files import atomic_file

FOLDER, LAST, BEST = "lightning", "last.ckpt", "best.ckpt"
RUN = "run"
"""What a checkpoint calls the digest of the settings of its run."""


class WholeFiles(TorchCheckpointIO):
    """Writes beside the target, to the disk, then renames: the file before stays until the new one is whole.

    Attributes:
        epochs: how many are in `last.ckpt`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.epochs = 0

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Raises OSError where the disk is full; torch's own writer would raise something else."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        try:
            with atomic_file(Path(path)) as temporary, temporary.open("wb") as stream:
                stream.write(buffer.getbuffer())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            error.filename = error.filename or str(path)
            raise
        if Path(path).name == LAST:
            self.epochs = checkpoint["epoch"] + 1


class Kept(ModelCheckpoint):
    """One file that each epoch (or each better one) replaces; a run may be moved, and goes on where it is then."""

    def __init__(self, folder: Path, name: str, monitor: str | None = None):
        super().__init__(
            dirpath=folder / FOLDER,
            filename=name.removesuffix(".ckpt"),
            monitor=monitor,
            mode="max",
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Paths are of wherever the run was when it was interrupted: only the names count."""

        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        moved = {key: here(value) for key, value in state_dict.items() if key.endswith("_path")}
        scores = {here(path): score for path, score in state_dict.get("best_k_models", {}).items()}
        super().load_state_dict({**state_dict, **moved, "dirpath": self.dirpath, "best_k_models": scores})


def read_checkpoint(path: Path, run: str | None = None) -> dict[str, Any]:
    """What a file of Lightning's holds.

    Args:
        run: digest of the settings that it must be of.
    Raises:
        InputError: a file that is damaged, or another run's. Nothing in it is run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            torn = archive.testzip()
        content = None if torn else torch.load(path, "cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, AttributeError, TypeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {str(error).splitlines()[0]:.80})") from error
    except (zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise InputError(f"{path} is damaged ({str(error).splitlines()[0]:.80})") from error
    if torn:
        raise InputError(f"{path} is damaged ({torn} has another checksum)")
    if not isinstance(content, dict) or not isinstance(content.get("epoch"), int) or "state_dict" not in content:
        raise InputError(f"{path} is no checkpoint of a training")
    if run is not None and content.get(RUN) != run:
        raise InputError(f"{path} is of another run, or of an earlier version; pass --overwrite to begin anew")
    return content


def find_last(out: Path, run: str | None) -> tuple[Path, int, int, str] | None:
    """Where to go on: the file, how many epochs and steps are in it, and what is to be said about it.

    Where `last.ckpt` is damaged, the best epoch does as well, as long as there is one: what follows is the same.
    None where there is no epoch yet. Raises InputError where there is none that is whole, or another run's.
    """
    last, best = out / FOLDER / LAST, out / FOLDER / BEST
    if not last.exists():
        return None
    found, note = last, ""
    try:
        content = read_checkpoint(last, run)
    except InputError as error:
        if not best.exists() or "damaged" not in str(error):
            raise
        content, found = read_checkpoint(best, run), best
        note = f"{error}; going on from {BEST}, epoch {content['epoch'] + 1}"
    if found is last and best.exists():
        read_checkpoint(best, run)
    return found, content["epoch"] + 1, content["global_step"], note
