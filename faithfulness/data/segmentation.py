"""Data sets with a class for every pixel: Pascal VOC, SBD, and scenes of several digits."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.io import loadmat
from torch import Tensor
from torchvision import tv_tensors
from torchvision.datasets import SBDataset, VOCSegmentation
from torchvision.transforms import v2

from faithfulness.core.errors import InputError
from faithfulness.core.registry import Registry
from faithfulness.data.base import CorruptImage, IndexedData, renders, short_digest, written
from faithfulness.data.digits import DigitScenes
from faithfulness.data.loading import KeyedSamples, check_normalized
from faithfulness.data.pictures import opened, read_image

VOID = 255
"""The label of pixels that count for nothing."""
VOC_CLASSES = [
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]


class SegmentationData(IndexedData):
    """Pictures and the class of each of their pixels; class 0 is the background, 255 is void."""

    def image(self, index: int) -> Image.Image | Tensor:
        return self.example(index)[0]

    def mask(self, index: int) -> Tensor:
        """The class of each pixel, int64 (H, W)."""
        return self.example(index)[1]

    @abstractmethod
    def example(self, index: int) -> tuple[Image.Image | Tensor, Tensor]:
        """Picture and mask, read once; CorruptImage names what can't be read or doesn't fit."""

    def training_transform(self, size: int) -> Callable[[Any, Any], tuple[Any, Any]]:
        """Random transform of (picture, mask) to a square of `size`: crop of a quarter and up, and flip."""
        return v2.Compose([v2.RandomResizedCrop(size, scale=(0.25, 1.0)), v2.RandomHorizontalFlip()])


SEGMENTATION_DATA: Registry[Callable[..., SegmentationData]] = Registry("segmentation data set", __package__)
"""factory(path, split, size, seed, count) -> SegmentationData; `path` is None for embedded data, `size` for its own."""


class SegmentationSamples(KeyedSamples):
    """Pictures uint8 (3, S, S) and, as `label`, masks int64 (S, S), resized together to the model's square.

    The sides are resized alone, so the whole picture stays in sight; pictures bilinearly, masks to
    the nearest pixel.
    """

    source: SegmentationData

    def __init__(self, source: SegmentationData, data_config: dict[str, Any], *, training: bool, **keyed: Any):
        super().__init__(source, training=training, **keyed)
        self.data_config = data_config
        height, width = data_config["input_size"][1:]
        if height != width:
            raise InputError(f"segmentation is done on squares, got a model for {height}×{width} pixels")
        self.resize = v2.Resize([height, width])
        self.transform = source.training_transform(height) if training else self.resize

    def read(self, index: int) -> dict[str, Any]:
        image, mask = self.source.example(index)
        return {"image": image, "label": mask}

    def prepare(self, sample: dict[str, Any]) -> dict[str, Any]:
        image = sample["image"]
        if isinstance(image, Tensor) and image.is_floating_point():
            return {**sample, "image": check_normalized(image, self.data_config, self.source.name)}
        pixels = image if isinstance(image, Tensor) else v2.functional.pil_to_tensor(image)
        pixels, mask = self.transform(tv_tensors.Image(pixels), tv_tensors.Mask(sample["label"]))
        return {"image": pixels.as_subclass(Tensor), "label": mask.as_subclass(Tensor)}


class TorchvisionMasks(SegmentationData):
    """The files that torchvision's VOCSegmentation or SBDataset names, checked when they are read."""

    def __init__(self, name: str, split: str, root: Path, source: VOCSegmentation | SBDataset):
        self.name, self.split, self.root = name, split, root
        self.classes = VOC_CLASSES
        self.files = [(Path(image), Path(mask)) for image, mask in zip(source.images, source.masks, strict=True)]
        missing = [path for pair in self.files for path in pair if not path.is_file()]
        if missing:
            raise InputError(f"{len(missing)} files that the {split} list of {name} names are missing: {missing[0]}")
        if not self.files:
            raise InputError(f"the {split} list of {name} is empty")

    def __len__(self) -> int:
        return len(self.files)

    def example(self, index: int) -> tuple[Image.Image, Tensor]:
        image_file, mask_file = self.files[index]
        image = read_image(image_file)
        try:
            values, kind = _read_mask(mask_file)
        except Exception as error:  # SciPy's parser raises whatever it stumbles on
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise _corrupt(f"can't read {mask_file} ({reason})") from error
        if values.ndim != 2 or values.dtype.kind not in "ub":
            raise _corrupt(f"{mask_file} has mode {kind}; a mask is a palette or grayscale image of class indices")
        if values.shape != (image.height, image.width):
            raise _corrupt(
                f"{mask_file} has {values.shape[1]}×{values.shape[0]} pixels, its image {image.width}×{image.height}"
            )
        mask = torch.from_numpy(values.astype(np.int64))
        unknown = [label for label in mask.unique().tolist() if label >= len(self.classes) and label != VOID]
        if unknown:
            raise _corrupt(f"{mask_file} has label {unknown[0]}, expected 0 … {len(self.classes) - 1} or {VOID} (void)")
        return image, mask

    def identity(self) -> Iterable[str]:
        yield f"{self.name.partition(':')[0]}/{self.split}"
        for pair in self.files:
            yield "/".join(f"{path.name}/{path.stat().st_size}" for path in pair)

    def state(self, count: int) -> str:
        """By when files were written."""
        return short_digest(written(path) for pair in self.files[:count] for path in pair)


def _read_mask(path: Path) -> tuple[np.ndarray, str]:
    """The numbers in a picture, or in a file of the SBD benchmark, and what kind they are of."""
    if path.suffix == ".mat":
        values = loadmat(path)["GTcls"][0]["Segmentation"][0]
        return values, str(values.dtype)
    with opened(path) as picture:
        return np.asarray(picture), picture.mode


def _corrupt(message: str) -> CorruptImage:
    return CorruptImage(f"{message}; --skip-corrupt counts such files and goes on")


def _root(kind: str, path: str | None, expected: str) -> Path:
    if not path:
        raise InputError(f"{kind} needs a folder: --data {kind}:PATH, with {expected}")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise InputError(f"no folder {root} (--data {kind}:{path})")
    return root


def _check_split(kind: str, split: str) -> None:
    if split not in ("train", "val"):
        raise InputError(f"unknown split {split!r} of {kind}; known: train, val")


def _check_list(path: Path) -> None:
    """Raise InputError for a list that is no text, or names a file twice, or one outside the data's folders."""
    if not path.exists():
        return  # torchvision says so
    try:
        if not path.is_file():
            raise ValueError("not a regular file")
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no list of names: {error}") from error
    found: set[str] = set()
    for name in names:
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise InputError(f"{path} names {name!r}, which lies outside the folders of images and masks")
        if "\0" in name or name in found:
            raise InputError(f"{path} names {name!r}" + (" twice" if name in found else ", which is no name of a file"))
        found.add(name)


@SEGMENTATION_DATA.decorator("voc")
def open_voc(path: str | None, *, split: str, **unused: object) -> TorchvisionMasks:
    """Pascal VOC 2012: PATH holds VOCdevkit/VOC2012, or is one of these two folders."""
    expected = "VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation}"
    root = _root("voc", path, expected)
    _check_split("voc", split)
    holders = [folder for folder in (root, *root.resolve().parents[:2]) if (folder / "VOCdevkit/VOC2012").is_dir()]
    if not holders:
        raise InputError(f"{root} is no Pascal VOC 2012; expected {expected} in it")
    _check_list(holders[0] / f"VOCdevkit/VOC2012/ImageSets/Segmentation/{split}.txt")
    try:
        source = VOCSegmentation(holders[0], year="2012", image_set=split, download=False)
    except (RuntimeError, OSError) as error:
        raise InputError(f"{root} is no Pascal VOC 2012 ({error}); expected {expected} in it") from error
    return TorchvisionMasks(f"voc:{path}", split, root, source)


@SEGMENTATION_DATA.decorator("sbd")
def open_sbd(path: str | None, *, split: str, **unused: object) -> TorchvisionMasks:
    """SBD: PATH holds img, cls and the lists; training takes train_noval, which has no image of VOC 2012 val."""
    image_set = "train_noval" if split == "train" else "val"
    expected = f"img/*.jpg, cls/*.mat and {image_set}.txt"
    root = _root("sbd", path, expected)
    _check_split("sbd", split)
    _check_list(root / f"{image_set}.txt")
    try:
        source = SBDataset(str(root), image_set=image_set, mode="segmentation", download=False)
    except (RuntimeError, OSError) as error:
        hint = " (torchvision's list of images that aren't in VOC 2012 val)" if split == "train" else ""
        raise InputError(f"{root} is no SBD; expected {expected}{hint} in it") from error
    return TorchvisionMasks(f"sbd:{path}", split, root, source)


class SegmentedDigits(SegmentationData):
    """Scenes of two to four digits of different classes; class d + 1 is the digit d.

    A region covers some 5 % of the image, so what is deleted of it is 0.5, 1, …, 4 %.
    """

    rendered = True
    default_size = DigitScenes.default_size
    fractions = tuple(percent / 200 for percent in range(1, 9))
    workers = 0

    def __init__(self, split: str = "val", size: int | None = None, seed: int = 0, count: int | None = None):
        self.scenes = DigitScenes(split, size, seed, count, digits=(2, 4))
        self.name, self.split = "digits", split
        self.classes = ["background", *self.scenes.classes]

    def at_size(self, size: int) -> SegmentedDigits:
        if size == self.scenes.size:
            return self
        other = copy(self)
        other.scenes = self.scenes.at_size(size)
        return other

    def __len__(self) -> int:
        return len(self.scenes)

    def example(self, index: int) -> tuple[Tensor, Tensor]:
        scene = self.scenes.scene(index)
        classes = np.array([0, *(label + 1 for label in scene.labels)])
        return torch.from_numpy(scene.image), torch.from_numpy(classes[scene.mask])

    def identity(self) -> Iterable[str]:
        yield f"segmentation of {hashlib.sha256('/'.join(self.scenes.identity()).encode()).hexdigest()}"

    def training_transform(self, size: int) -> Callable[[Any, Any], tuple[Any, Any]]:
        """Shift by up to a tenth, permute the color channels, invert: what leaves the digits as they are."""
        shift = v2.RandomCrop(size, padding=max(size // 10, 1), padding_mode="reflect")
        return v2.Compose([shift, v2.RandomChannelPermutation(), v2.RandomInvert(0.5)])


@SEGMENTATION_DATA.decorator("digits")
@renders
def _open_digits(path: str | None, *, split: str, size: int | None, seed: int, count: int | None) -> SegmentedDigits:
    if path:
        raise InputError(f"digits is embedded and takes no path, got {path!r}")
    return SegmentedDigits(split, size, seed, count)
