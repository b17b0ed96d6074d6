"""What a data set is here: images by index, labels, class names, and a fingerprint."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from PIL import Image
from torch import Tensor

from faithfulness.core.errors import InputError
from faithfulness.core.registry import Registry

Data = TypeVar("Data", bound="IndexedData")


class IndexedData(ABC):
    """Pictures by index. The order never depends on the model, the method or the machine.

    Attributes:
        name: what `--data` called it; `split`: "train" or "val"; `classes`: names by label.
        rendered: pictures are drawn at the size asked for, and augmented by `augment`.
        default_size: side in pixels that suits the data, where no model says another.
        fractions: shares of the image to delete that suit the data's regions; None for the usual ones.
        workers: loader processes that pay off unless asked otherwise.
    """

    name: str
    split: str
    classes: list[str]
    rendered: bool = False
    default_size: int | None = None
    fractions: tuple[float, ...] | None = None
    workers: int = 8

    def at_size(self: Data, size: int) -> Data:
        """The same pictures, rendered with sides of `size` pixels; itself where they aren't rendered."""
        return self

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def image(self, index: int) -> Image.Image | Tensor:
        """The picture: a PIL image, pixels uint8 (3, H, W), or what a network sees of them, float32 (3, H, W).

        Raises CorruptImage where a file can't be decoded.
        """

    @abstractmethod
    def identity(self) -> Iterable[str]:
        """Strings that together determine the data; the fingerprint is their digest."""

    def suits(self, classes: int) -> bool:
        """Whether a model of that many classes fits the data."""
        return classes == len(self.classes)

    def augment(self, images: Tensor, keys: Tensor) -> Tensor:
        """Random change of a training batch on its device, uint8 (B, 3, H, W), by the samples' keys (B,).

        For pictures that are rendered; files are cropped and flipped where they are loaded.
        """
        return images

    def fingerprint(self) -> str:
        """A short digest of `identity`: equal data, equal fingerprint."""
        return short_digest(self.identity())

    def state(self, count: int) -> str:
        """What tells on this machine whether the first `count` samples are as they were; `fingerprint` may see less."""
        return self.fingerprint()


def short_digest(lines: Iterable[str]) -> str:
    """Of lines of text."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()[:16]


def written(path: Path | str) -> str:
    """When a file was last written, and its size; of a link that leads nowhere, that."""
    try:
        found = os.stat(path)
    except OSError:
        return "missing"
    return f"{found.st_mtime_ns}/{found.st_size}"


class ImageData(IndexedData):
    """Pictures with one label each."""

    @abstractmethod
    def label(self, index: int) -> int:
        """The class index."""

    def example(self, index: int) -> tuple[Image.Image | Tensor, int]:
        """Picture and label, read once."""
        return self.image(index), self.label(index)


class CorruptImage(InputError):
    """A file that should hold an image and doesn't."""


DATA: Registry[Callable[..., ImageData]] = Registry("data set", __package__)
"""factory(path, split, size, seed, count) -> ImageData; `path` is None for embedded data, `size` for its own size."""
Factory = TypeVar("Factory", bound=Callable[..., IndexedData])


def renders(factory: Factory) -> Factory:
    """Decorator of a factory whose data are rendered, so that this is known before they are opened."""
    factory.rendered = True  # type: ignore[attr-defined]
    return factory
