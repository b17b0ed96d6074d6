"""`imagenet`: ILSVRC 2012 as it unpacks: class folders, or pictures for validation in one folder with their devkit."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from faithfulness.core.errors import InputError, shown
from faithfulness.data.base import DATA
from faithfulness.data.class_folders import class_files, is_image
from faithfulness.data.folders import FolderData, existing_folder, in_order

CLASSES = 1000
DEVKIT = "ILSVRC2012_devkit_t12/data"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
KAGGLE, SOLUTION = "ILSVRC/Data/CLS-LOC", "LOC_val_solution.csv"
_LARGEST_FILE = 64 << 20
_WNID = re.compile(r"n\d{8}")


class ImageNetData(FolderData):
    """Pictures of ImageNet: in whatever layout they lie, the same ones have one fingerprint and one order."""

    def known_as(self, below: str, label: int) -> str:
        """WNID/NAME, as it lies in class folders."""
        return f"{self.classes[label]}/{os.path.basename(below)}"


@DATA.decorator("imagenet")
def open_imagenet(path: str | None, *, split: str, **unused: object) -> ImageNetData:
    """PATH/train/WNID/* and PATH/val/WNID/*, 1000 folders each, or PATH/val/* with its devkit; ordered by file name.

    The names of the validation files are in random order of class, so their first N are spread. A class is the place
    of its WordNet id among the 1000, sorted, as with class folders and in all weights of torchvision and timm; the
    devkit's own numbers are others. The labels of pictures that lie in one folder are those of
    PATH/ILSVRC2012_devkit_t12, or of Kaggle's LOC_val_solution.csv.
    """
    given = existing_folder("imagenet", path)
    root = given / KAGGLE if (given / KAGGLE).is_dir() else given
    folder = root / split
    if split == "val" and not folder.is_dir() and _is_flat(root):
        folder = root
    if not folder.is_dir():
        raise InputError(f"no folder {folder}; expected {root}/train/WNID/*.JPEG and {root}/val/WNID/*.JPEG")
    if split == "val" and _is_flat(folder):
        classes, files = flat_files(folder, (given, folder.parent, given.parent))
    else:
        classes, files = class_files(folder)
        if len(classes) != CLASSES:
            raise InputError(f"{folder} holds {len(classes)} class folders; ImageNet has {CLASSES}")
    ordered = in_order(folder, files, lambda path: (path.rpartition(b"/")[2], path.split(b"/")))
    return ImageNetData(f"imagenet:{path}", split, folder, classes, ordered)


def _is_flat(folder: Path) -> bool:
    """Whether pictures lie in a folder itself, and no class folders."""
    flat = False
    with os.scandir(os.fsencode(folder)) as entries:
        for entry in entries:
            if entry.is_dir() and not entry.name.startswith(b"."):
                return False
            flat = flat or is_image(entry.name)
    return flat


def flat_files(folder: Path, places: tuple[Path, ...]) -> tuple[list[str], list[tuple[bytes, int]]]:
    """WordNet ids sorted, and the file name and label of each picture in a folder of validation pictures.

    Args:
        places: where the devkit, or Kaggle's table, may be.
    Raises:
        InputError: neither is there, they aren't of ImageNet, or name other pictures than there are.
    """
    names = sorted(name for name in os.listdir(os.fsencode(folder)) if is_image(name))
    devkit = next((place / DEVKIT for place in places if (place / DEVKIT / GROUND_TRUTH).exists()), None)
    solution = next((place / SOLUTION for place in places if (place / SOLUTION).exists()), None)
    if devkit is not None:
        classes, labels = read_devkit(devkit)
        where, expected = devkit / GROUND_TRUTH, [f"ILSVRC2012_val_{n + 1:08d}" for n in range(len(labels))]
        labelled = dict(zip(expected, labels, strict=True))
    elif solution is not None:
        where, (classes, labelled) = solution, read_solution(solution)
    else:
        raise InputError(
            f"{folder} holds pictures without class folders, and their labels aren't there; expected "
            f"{places[0] / DEVKIT} with {GROUND_TRUTH} and meta.mat, or Kaggle's {places[0] / SOLUTION}"
        )
    if len(names) != len(labelled):
        raise InputError(f"{folder} holds {len(names)} pictures, and {where} labels {len(labelled)}")
    found = [os.fsdecode(name).rpartition(".")[0] for name in names]
    unknown = next((name for name in found if name not in labelled), None)
    if unknown is not None or len(set(found)) != len(found):
        raise InputError(f"{folder}: {where} says nothing of the picture {unknown or 'that is there twice'}")
    return classes, [(name, labelled[stem]) for name, stem in zip(names, found, strict=True)]


def _check_file(path: Path) -> None:
    """Raise ValueError for what is no regular file of a few megabytes."""
    if not path.is_file():
        raise ValueError("no such file" if not path.exists() else "not a regular file")
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"larger than {_LARGEST_FILE >> 20} MiB")


def _checked_ids(ids: list[str], where: Path) -> list[str]:
    """The 1000 WordNet ids, sorted."""
    wrong = next((wnid for wnid in ids if not _WNID.fullmatch(wnid)), None)
    if wrong is not None:
        raise InputError(f"{where} names the class {shown(wrong, 40)!r}, expected a WordNet id such as n01440764")
    if len(set(ids)) != CLASSES:
        raise InputError(f"{where} names {len(set(ids))} classes; ImageNet has {CLASSES}")
    return sorted(set(ids))


def read_devkit(devkit: Path) -> tuple[list[str], list[int]]:
    """WordNet ids sorted, and the place there of each validation picture's class, from the devkit of ILSVRC 2012.

    Its `ILSVRC2012_ID` counts the classes 1 … 1000 in an order of its own; ids above are inner nodes of the tree.

    Raises:
        InputError: files that can't be read, or aren't of ImageNet.
    """
    meta, truth = devkit / "meta.mat", devkit / GROUND_TRUTH
    try:
        _check_file(meta)
        synsets: Any = loadmat(meta, squeeze_me=True, variable_names=["synsets"])["synsets"]
        leaves = np.asarray(synsets["num_children"], dtype=np.int64) == 0
        numbers = np.asarray(synsets["ILSVRC2012_ID"], dtype=np.int64)[leaves].tolist()
        ids = [str(wnid) for wnid in synsets["WNID"][leaves]]
    except Exception as error:  # SciPy's parser raises whatever it stumbles on
        raise InputError(f"can't read {meta} ({shown(str(error) or type(error).__name__, 200)})") from error
    classes = _checked_ids(ids, meta)
    if sorted(numbers) != list(range(1, CLASSES + 1)):
        raise InputError(f"{meta}: expected the numbers 1 … {CLASSES} for its classes, each once")
    place = {wnid: number for number, wnid in enumerate(classes)}
    label_of = {number: place[wnid] for number, wnid in zip(numbers, ids, strict=True)}
    try:
        _check_file(truth)
        given = [int(line) for line in truth.read_text(encoding="ascii").split()]
        return classes, [label_of[number] for number in given]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{truth}: expected numbers 1 … {CLASSES}, one a line ({shown(str(error), 80)})") from error


def read_solution(path: Path) -> tuple[list[str], dict[str, int]]:
    """WordNet ids sorted, and the place there of each validation picture's class, from Kaggle's table.

    A row is the picture's name, and its class before each of its boxes: `ILSVRC2012_val_00048981,n03995372 85 1 …`.

    Raises:
        InputError: a file that can't be read, or isn't that table.
    """
    try:
        _check_file(path)
        with path.open(encoding="utf-8", newline="") as stream:
            rows = [(row["ImageId"], row["PredictionString"].split()[0]) for row in csv.DictReader(stream)]
    except (OSError, ValueError, LookupError, AttributeError, TypeError, csv.Error) as error:
        raise InputError(f"{path}: expected columns ImageId and PredictionString ({shown(str(error), 80)})") from error
    classes = _checked_ids([wnid for _, wnid in rows], path)
    place = {wnid: number for number, wnid in enumerate(classes)}
    if len({name for name, _ in rows}) != len(rows):
        raise InputError(f"{path} names a picture twice")
    return classes, {name: place[wnid] for name, wnid in rows}
