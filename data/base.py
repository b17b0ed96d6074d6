"""What a data set is here: images by index, labels, class names, and a fingerprint."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from PIL import Image
from torch import Tensor

from core.errors import InputError
from core.registry import Registry


class IndexedData(ABC):
    """Pictures by index. The order never depends on the model, the method or the machine.

    Attributes:
        name: what `--data` called it; `split`: "train" or "val"; `classes`: names by label.
    """

    name: str
    split: str
    classes: list[str]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def image(self, index: int) -> Image.Image | Tensor:
        """The picture: a PIL image, or uint8 (3, H, W) where it is rendered at the size asked for.

        Raises CorruptImage where a file can't be decoded.
        """

    @abstractmethod
    def identity(self) -> Iterable[str]:
        """Strings that together determine the data; the fingerprint is their digest."""

    def augment(self, images: Tensor, keys: Tensor) -> Tensor:
        """Random change of a training batch on its device, uint8 (B, 3, H, W), by the samples' keys (B,).

        For pictures that are rendered; files are cropped and flipped where they are loaded.
        """
        return images

    def fingerprint(self) -> str:
        """A short digest of `identity`: equal data, equal fingerprint."""
        digest = hashlib.sha256()
        for line in self.identity():
            digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
        return digest.hexdigest()[:16]


class ImageData(IndexedData):
    """Pictures with one label each."""

    @abstractmethod
    def label(self, index: int) -> int:
        """The class index."""


class CorruptImage(InputError):
    """A file that should hold an image and doesn't."""


DATA: Registry[Callable[..., ImageData]] = Registry("data set")
"""factory(path, split, size, seed, count) -> ImageData; `path` is None for embedded data."""


def open_data(text: str, split: str = "val", *, size: int = 64, seed: int = 0, count: int | None = None) -> ImageData:
    """Open what `--data` names: `digits`, `imagefolder:PATH`, `imagenet:PATH`.

    Args:
        split: "train" or "val".
        size: pixels, for data that is rendered; files are resized by the transforms instead.
        seed, count: which scenes and how many of them, for data that is rendered.
    Raises:
        InputError: unknown data set, missing or empty folder.
    """
    kind, _, path = text.partition(":")
    factory = DATA[kind]
    return factory(path or None, split=split, size=size, seed=seed, count=count)
