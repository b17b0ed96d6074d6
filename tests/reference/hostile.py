"""Hostile files: a case lays out files in an empty folder, and says what a command must make of them."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from checkpoints import save_segmenter
from tests.reference.checkpoints import save_resnet
from tests.reference.tiny_models import tiny_segmenter

BRIEF = ["--limit", "2", "--attributions", "random"]
SINGLE = [*BRIEF, "--protocol", "single"]


class Case(NamedTuple):
    """What is laid out, which command reads it, and what its one line must contain; "" for a run that ends well."""

    name: str
    says: str
    make: Callable[[Path], list[str]]
    command: str = "idsds"


@functools.cache
def checkpoint_files(segmenter: bool = False) -> dict[str, bytes]:
    """The files of a checkpoint folder of a small network for the digits."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "checkpoint"
        if segmenter:
            classes = ["background", *"0123456789"]
            save_segmenter(folder, tiny_segmenter(), deletion=None, classes=classes, training={})
        else:
            save_resnet(folder)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def lay_checkpoint(
    folder: Path, changed: dict[str, bytes | None] | None = None, segmenter: bool = False, training: bool = False
) -> list[str]:
    """Write a checkpoint with some files changed, or left out; returns the arguments of the command that reads it.

    The record of training holds the digest of the weights, and is left out unless `training` says so.
    """
    target = folder / "checkpoint"
    target.mkdir()
    left_out: dict[str, bytes | None] = {} if training else {"training.json": None}
    for name, content in (checkpoint_files(segmenter) | left_out | (changed or {})).items():
        if content is not None:
            (target / name).write_bytes(content)
    return ["--model", str(target), *(BRIEF if segmenter else SINGLE)]


def config_of(segmenter: bool = False) -> dict[str, Any]:
    """What config.json of the checkpoint says, to be changed."""
    return json.loads(checkpoint_files(segmenter)["config.json"])
