"""Images in local folders: one folder per class."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from faithfulness.core.errors import InputError
from faithfulness.data.base import DATA, ImageData, short_digest, written
from faithfulness.data.class_folders import class_files
from faithfulness.data.pictures import read_image


class FolderData(ImageData):
    """Files in class folders, in the order given.

    Their names lie end to end in one tensor, some 50 bytes an image, and go to loader processes as
    shared memory.

    Args:
        files: (path, label) pairs; paths below `root`, as text, bytes or `Path`.
    """

    def __init__(
        self,
        name: str,
        split: str,
        root: Path,
        classes: list[str],
        files: Iterable[tuple[str | bytes | os.PathLike[Any], int]],
    ):
        self.name, self.split, self.root, self.classes = name, split, root, classes
        within = os.path.join(os.fsencode(root), b"")
        names, ends, labels = bytearray(), array("q", [0]), array("i")
        for path, label in files:
            encoded = os.fsencode(path)
            if not encoded.startswith(within):
                encoded = within + os.fsencode(Path(os.fsdecode(encoded)).relative_to(root))
            names += encoded[len(within) :]
            ends.append(len(names))
            labels.append(label)
        self._names = _as_tensor(names, torch.uint8)
        self._ends, self._labels = _as_tensor(ends, torch.int64), _as_tensor(labels, torch.int32)

    def __len__(self) -> int:
        return len(self._labels)

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.root / self._below_root(range(len(self))[index])

    def _below_root(self, index: int) -> str:
        start, end = self._ends[index : index + 2].tolist()
        return os.fsdecode(self._names[start:end].numpy().tobytes())

    def image(self, index: int) -> Image.Image:
        return read_image(self.path(index))

    def label(self, index: int) -> int:
        return int(self._labels[index])

    def identity(self) -> Iterable[str]:
        yield f"{self.name.partition(':')[0]}/{self.split}/{','.join(self.classes)}"
        for index in range(len(self)):
            below, label = self._below_root(index), self.label(index)
            yield f"{self.known_as(below, label)}/{label}/{_size(os.path.join(self.root, below))}"

    def known_as(self, below: str, label: int) -> str:
        """What the fingerprint calls a file, by its path below the root and its label."""
        return below.replace(os.sep, "/")

    @cached_property
    def _fingerprint(self) -> str:
        return super().fingerprint()

    def fingerprint(self) -> str:
        """Asks for the size of every file, once."""
        return self._fingerprint

    def state(self, count: int) -> str:
        """By when files were written."""
        return short_digest(written(self.path(index)) for index in range(count))


def _as_tensor(buffer: bytearray | array[int], dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(buffer, dtype=dtype).clone() if buffer else torch.empty(0, dtype=dtype)


def _size(path: str) -> int | str:
    """Bytes of a file; a link that leads nowhere is found corrupt when it is read."""
    try:
        return os.stat(path).st_size
    except OSError:
        return "missing"


def existing_folder(kind: str, path: str | None) -> Path:
    """The folder that `--data KIND:PATH` names; InputError unless there is one."""
    if not path:
        raise InputError(f"{kind} needs a folder: --data {kind}:PATH")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise InputError(f"no folder {root} (--data {kind}:{path})")
    return root


def in_order(
    folder: Path, files: list[tuple[bytes, int]], order: Callable[[bytes], Any]
) -> Iterable[tuple[bytes, int]]:
    """Files below a folder, sorted by what `order` makes of their path there."""
    files.sort(key=lambda file: order(file[0].replace(os.sep.encode(), b"/")))
    root = os.fsencode(folder)
    return ((os.path.join(root, path), label) for path, label in files)


@DATA.decorator("imagefolder")
def open_imagefolder(path: str | None, *, split: str, **unused: object) -> FolderData:
    """PATH/train/CLASS/* and PATH/val/CLASS/*; for scoring alone, PATH/CLASS/* will do.

    Files come in the order of a digest of their names, so that the first N are spread over classes
    and are the same N for every model and method.
    """
    root = existing_folder("imagefolder", path)
    folder = root / split
    if not folder.is_dir():
        if (root / "train").is_dir() or (root / "val").is_dir() or split == "train":
            raise InputError(f"no folder {folder}; expected {root}/train/CLASS/* and {root}/val/CLASS/*")
        folder = root
    classes, files = class_files(folder)
    ordered = in_order(folder, files, lambda path: hashlib.sha256(path).digest())
    return FolderData(f"imagefolder:{path}", split, folder, classes, ordered)
