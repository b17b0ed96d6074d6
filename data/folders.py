"""Images in local folders: one folder per class, and ImageNet as it unpacks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from torchvision.datasets.folder import IMG_EXTENSIONS

from core.errors import InputError
from data.base import DATA, CorruptImage, ImageData


class FolderData(ImageData):
    """Files in class folders, in the order given.

    Args:
        files: (path, label) pairs; paths below `root`.
    """

    def __init__(self, name: str, split: str, root: Path, classes: list[str], files: list[tuple[Path, int]]):
        self.name, self.split, self.root, self.classes, self.files = name, split, root, classes, files

    def __len__(self) -> int:
        return len(self.files)

    def image(self, index: int) -> Image.Image:
        return read_image(self.files[index][0])

    def label(self, index: int) -> int:
        return self.files[index][1]

    def identity(self) -> Iterable[str]:
        yield f"{self.name.partition(':')[0]}/{self.split}/{','.join(self.classes)}"
        for path, label in self.files:
            yield f"{path.relative_to(self.root).as_posix()}/{label}/{path.stat().st_size}"


def read_image(path: Path) -> Image.Image:
    """Decode a file as RGB; CorruptImage names it if that fails."""
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CorruptImage(f"corrupt image {path} ({reason}); --skip-corrupt counts such files and goes on") from error


def _existing_folder(kind: str, path: str | None) -> Path:
    if not path:
        raise InputError(f"{kind} needs a folder: --data {kind}:PATH")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise InputError(f"no folder {root} (--data {kind}:{path})")
    return root


def _class_files(root: Path) -> tuple[list[str], list[tuple[Path, int]]]:
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    files = [
        (Path(folder) / name, label)
        for label, kind in enumerate(classes)
        for folder, _, names in os.walk(root / kind, followlinks=True)
        for name in names
        if name.lower().endswith(IMG_EXTENSIONS) and not name.startswith(".")
    ]
    if not files:
        raise InputError(f"no images in {root}; expected {root}/CLASS/*.jpg (one folder per class)")
    empty = set(range(len(classes))) - {label for _, label in files}
    if empty:
        raise InputError(f"class folders without images in {root}: {', '.join(classes[i] for i in sorted(empty)[:5])}")
    return classes, files


@DATA.decorator("imagefolder")
def open_imagefolder(path: str | None, *, split: str, **unused: object) -> FolderData:
    """PATH/train/CLASS/* and PATH/val/CLASS/*; for scoring alone, PATH/CLASS/* will do.

    Files come in the order of a digest of their names, so that the first N are spread over classes
    and are the same N for every model and method.
    """
    root = _existing_folder("imagefolder", path)
    folder = root / split
    if not folder.is_dir():
        if (root / "train").is_dir() or (root / "val").is_dir() or split == "train":
            raise InputError(f"no folder {folder}; expected {root}/train/CLASS/* and {root}/val/CLASS/*")
        folder = root
    classes, files = _class_files(folder)
    files.sort(key=lambda file: hashlib.sha256(file[0].relative_to(folder).as_posix().encode()).digest())
    return FolderData(f"imagefolder:{path}", split, folder, classes, files)


@DATA.decorator("imagenet")
def open_imagenet(path: str | None, *, split: str, **unused: object) -> FolderData:
    """PATH/train/WNID/* and PATH/val/WNID/*, 1000 folders each; ordered by file name.

    The names of the validation files are in random order of class, so their first N are spread.
    """
    root = _existing_folder("imagenet", path)
    folder = root / split
    if not folder.is_dir():
        raise InputError(f"no folder {folder}; expected {root}/train/WNID/*.JPEG and {root}/val/WNID/*.JPEG")
    classes, files = _class_files(folder)
    if len(classes) != 1000:
        raise InputError(f"{folder} holds {len(classes)} class folders; ImageNet has 1000")
    files.sort(key=lambda file: (file[0].name, file[0]))
    return FolderData(f"imagenet:{path}", split, folder, classes, files)
