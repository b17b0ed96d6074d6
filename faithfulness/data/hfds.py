"""`hfds`: image data sets of the Hugging Face Hub, as parquet files in a folder or by their name there."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.imagenet_info import ImageNetInfo

from faithfulness.core.errors import InputError
from faithfulness.core.keyed import make_keys
from faithfulness.data.base import DATA, ImageData, short_digest, written
from faithfulness.data.hub_files import Source, card_features, choose_files, download_split, local_files
from faithfulness.data.parquet import OF_PARQUET, Columns, PictureRows, find_columns, open_parquet, read_labels
from faithfulness.data.pictures import corrupt_image, decode_image

_ORDER = 13
"""What the random numbers are for."""
_WHOLE, _LOOKS, _LOOK = 16 << 20, 16, 1 << 16
"""The digest of a file is of all of it up to 16 MiB, and else of its end and 16 more looks of 64 KiB, evenly spread."""
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*(@\S+)?")


class ParquetData(ImageData):
    """Rows of parquet files, each an encoded picture and its label.

    They come in the order of the files' names and of their rows. Rows that lie there by class are put into an order
    that their number alone decides, so that the first N are spread over classes.

    Args:
        rows: the files' pictures.
        labels: class of each row (N,), in the order of the rows.
        named: whether the data says its classes' names; numbers up to the largest label else, and a model may have
            more classes.
    """

    def __init__(
        self,
        name: str,
        split: str,
        source: Source,
        rows: PictureRows,
        labels: NDArray[np.int64],
        classes: list[str],
        named: bool,
    ):
        self.name, self.split, self.source, self.classes = name, split, source, classes
        self.rows, self.named = rows, named
        if len(labels) != len(self.rows):
            raise InputError(f"{source.folder} has {len(labels)} labels for {len(self.rows)} rows")
        wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
        if len(wrong):
            known = f"0 … {len(classes) - 1}" if classes else "labels from 0 (one without labels can't be scored)"
            raise InputError(f"{rows.where(int(wrong[0]))} has label {labels[wrong[0]]}, expected {known}")
        self._labels = torch.from_numpy(labels.astype(np.int32))
        self._order = torch.argsort(make_keys(_ORDER, torch.arange(len(labels)))) if by_class(labels) else None

    def __len__(self) -> int:
        return len(self._labels)

    def row(self, index: int) -> int:
        """Which row, over all files, an image is."""
        index = range(len(self))[index]
        return index if self._order is None else int(self._order[index])

    def image(self, index: int) -> Image.Image:
        row = self.row(index)
        try:
            content = self.rows.read(row)
        except OF_PARQUET as error:
            raise corrupt_image(self.rows.where(row), error) from error
        return decode_image(content, self.rows.where(row))

    def label(self, index: int) -> int:
        return int(self._labels[self.row(index)])

    def suits(self, classes: int) -> bool:
        """Whether a model of that many classes fits; where the data names none, not every label need occur."""
        if not self.named and len(self.classes) < classes:
            self.classes = [str(number) for number in range(classes)]
        return super().suits(classes)

    def identity(self) -> Iterable[str]:
        yield f"hfds/{self.split}/{self.rows.columns.picture}/{self.rows.columns.label}/{self._names}"
        yield hashlib.sha256(self._labels.numpy().tobytes()).hexdigest()
        for name, path in zip(self.source.files, self.source.paths(), strict=True):
            yield f"{name}/{content_digest(path)}"

    @cached_property
    def _names(self) -> str:
        """The names of the classes, where the data says them: a model with more may number them anew."""
        return ",".join(self.classes) if self.named else ""

    @cached_property
    def _fingerprint(self) -> str:
        return super().fingerprint()

    def fingerprint(self) -> str:
        """Reads of the files what `content_digest` does, once."""
        return self._fingerprint

    def state(self, count: int) -> str:
        """By when the files were written."""
        return short_digest(written(path) for path in self.source.paths())


def by_class(labels: NDArray[np.int64]) -> bool:
    """Whether rows lie by class: neighbors are of one class far more often than of rows in random order."""
    if len(labels) < 2:
        return False
    shares = np.bincount(labels) / len(labels)
    return bool((labels[1:] != labels[:-1]).mean() < (1 - (shares**2).sum()) / 2)


def content_digest(path: Path) -> str:
    """Size and digest of a file: of all of it up to 16 MiB, and else of its end and of looks into it."""
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size <= _WHOLE:
            return f"{size}/{hashlib.file_digest(stream, 'sha256').hexdigest()}"
        digest = hashlib.sha256()
        for look in range(_LOOKS + 1):
            stream.seek(look * (size - _LOOK) // _LOOKS)
            digest.update(stream.read(_LOOK))
        return f"{size}/{digest.hexdigest()}"


@DATA.decorator("hfds")
def open_hfds(path: str | None, *, split: str, **unused: object) -> ParquetData:
    """PATH holds parquet files as the Hub has them (data/train-00000-of-00001.parquet, validation, test), or is a name.

    A name is ORG/NAME, ORG/NAME/FOLDER where one repository holds several data sets, and ORG/NAME@REVISION. The split
    val is `validation`, or `test` where there is none. Labels that are texts are numbered over all splits: of a name
    they are refused unless each is fetched, and of a folder with one split alone a warning says so.
    """
    if not path:
        raise InputError("hfds needs a folder of parquet files or a name on the Hub: --data hfds:PATH or hfds:ORG/NAME")
    where, folder, whole = f"hfds:{path}", Path(path).expanduser(), True
    if not folder.is_dir():
        if path.startswith((".", "/", "~")) or not _NAME.fullmatch(path):
            raise InputError(f"no folder {folder} (--data {where})")
        folder, whole = download_split(path, split)
    files, others, word = choose_files(local_files(folder), split, where)
    source = Source(folder, files, others)
    with open_parquet(source.paths()[0]) as first:
        columns = find_columns(first.schema_arrow, card_features(folder), source.paths()[0])
    rows = PictureRows(source.paths(), columns)
    labels, names = read_labels(source.paths(), columns.label)
    if names is not None:
        if not whole:
            raise InputError(
                f"{where}: its labels are texts, so their numbers depend on all splits, of which only {split} is "
                "fetched; download it whole (hf download --repo-type dataset --local-dir DIR) and name that, hfds:DIR"
            )
        names, labels = _joined(source, columns, names, labels)
    classes = imagenet_ids(columns.names) or columns.names or names
    named = classes is not None
    data = ParquetData(where, split, source, rows, labels, classes or [str(n) for n in range(_most(labels))], named)
    _tell_unusual(data, word, alone=names is not None and not others)
    return data


def imagenet_ids(names: list[str] | None) -> list[str] | None:
    """The WordNet ids of ImageNet's classes where names are theirs, in the order that all weights have; None else.

    So a checkpoint trained on `imagenet:PATH` fits `imagenet-1k` of the Hub, which calls them by their words. Two of
    the 1000 are called crane, and the Hub tells them apart in its way: 95 % that agree are enough, as of another
    order next to none would.
    """
    if names is None or len(names) != 1000:
        return None
    known = ImageNetInfo("imagenet-1k")
    ids = known.label_names()
    words = (known.label_name_to_description(wnid, detailed=False) for wnid in ids)
    agree = sum(mine.partition(",")[0] == word.partition(",")[0] for mine, word in zip(names, words, strict=True))
    return ids if agree >= 950 else None


def _most(labels: NDArray[np.int64]) -> int:
    """How many classes labels without names are of."""
    most = int(labels.max(initial=-1)) + 1
    if most > 1_000_000:
        raise InputError(f"expected labels below 1000000 where classes have no names, got {most - 1}")
    return most


def _joined(
    source: Source, columns: Columns, names: list[str], labels: NDArray[np.int64]
) -> tuple[list[str], NDArray[np.int64]]:
    """Names of classes over all splits, where labels are texts, so that a number means the same in each."""
    _, more = read_labels(source.paths(all_splits=True)[len(source.files) :], columns.label)
    joined = sorted({*names, *(more or ())})
    place = {name: number for number, name in enumerate(joined)}
    return joined, np.array([place[name] for name in names])[labels]


def _tell_unusual(data: ParquetData, word: str | None, *, alone: bool) -> None:
    """Warn, in a line, where a choice was made among files or columns, or texts of one split alone are the classes."""
    picture, found = data.rows.columns.picture.partition(".")[0], []
    if (picture, data.rows.columns.label) not in (("image", "label"), ("img", "label")):
        found.append(f"pictures from the column {picture}, labels from {data.rows.columns.label}")
    if data.split == "val" and word == "test":
        found.append("the split test, as there is no validation")
    if alone:
        found.append(
            f"its labels are texts and no other split is there, so the {len(data.classes)} classes are its own"
        )
    if found:
        warnings.warn(f"{data.name}: {'; '.join(found)}", stacklevel=4)
