"""Hostile parquet folders, as the Hub has them, and hostile devkits of ImageNet."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.reference.hostile import Case
from tests.reference.hostile_pictures import HARMLESS, MODEL, claiming
from tests.reference.parquet_folders import features, painted, write_rows

NAME = "data/validation-00000-of-00001.parquet"
PICTURES: list[bytes | None] = [painted(row) for row in range(6)]
LABELS = [0, 1, 2, 0, 1, 2]


def parquet(change: Callable[[Path], object], *more: str) -> Callable[[Path], list[str]]:
    """Six pictures in one file for validation, after what `change` does with it."""

    def lay(folder: Path) -> list[str]:
        change(write_rows(folder / "pets" / NAME, PICTURES, LABELS))
        return [*MODEL, "--data", f"hfds:{folder / 'pets'}", *more]

    return lay


def rows(pictures: list[bytes | None] = PICTURES, labels: Any = LABELS, **options: Any) -> Callable[[Path], object]:
    return lambda file: write_rows(file, pictures, labels, **options)


def columns(**kept: Any) -> Callable[[Path], object]:
    return lambda file: pq.write_table(pa.table(kept), file)


def content(make: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(make(file.read_bytes()))


def instead(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(file: Path) -> None:
        file.unlink()
        make(file)

    return change


def card(text: str) -> Callable[[Path], object]:
    """A card for rows whose file doesn't name its classes."""

    def change(file: Path) -> None:
        write_rows(file, PICTURES, LABELS, meta=None)
        (file.parent.parent / "README.md").write_text(f"---\n{text}\n---\n")

    return change


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
NAMED = "dataset_info:\n  features:\n  - name: label\n    dtype:\n      class_label:\n        names: "
CHANGES: list[tuple[str, str, Callable[[Path], object]]] = [
    ("empty", "no parquet file", content(lambda whole: b"")),
    ("cut", "no parquet file", content(lambda whole: whole[:-100])),
    ("text", "no parquet file", content(lambda whole: b"image,label\n")),
    ("zeros", "no parquet file", content(lambda whole: bytes(len(whole)))),
    ("footer of 2 gigabytes", "no parquet file", content(lambda whole: whole[:-8] + b"\xff\xff\xff\x7fPAR1")),
    ("pages of zeros", "can't read the labels", content(lambda whole: bytes(len(whole) - 3000) + whole[-3000:])),
    ("a folder", "no parquet files", instead(Path.mkdir)),
    ("a pipe", "not a regular file", instead(os.mkfifo)),
    ("a device", "not a regular file", instead(lambda file: file.symlink_to("/dev/zero"))),
    ("a dangling link", "no parquet file", instead(lambda file: file.symlink_to("nowhere"))),
    ("a link loop", "no parquet file", instead(lambda file: file.symlink_to(file.name))),
    ("no rows", "no rows", rows([], pa.array([], pa.int64()))),
    ("no picture", "a column of pictures", columns(label=LABELS)),
    ("pictures as texts", "a column of pictures", columns(image=["aGk="] * 6, label=LABELS)),
    ("pictures without bytes", "a column of pictures", columns(image=[{"path": "/etc/passwd"}] * 6, label=LABELS)),
    ("no label", "a column of labels", columns(image=PICTURES)),
    ("labels of floats", "a column of labels", rows(labels=np.arange(6.0))),
    ("labels missing", "2 rows have no label", rows(labels=pa.array([0, 1, None, 2, None, 1], pa.int64()))),
    ("a label beyond the classes", "label 3, expected 0 … 2", rows(labels=[0, 1, 2, 3, 1, 2])),
    ("hidden labels", "label -1", rows(labels=[-1] * 6)),
    ("hidden labels without names", "labels from 0", rows(labels=[-1] * 6, meta=None)),
    ("a label of 2 to the 62", "expected labels below 1000000", rows(labels=[2**62] * 6, meta=None)),
    ("a label of 2 to the 63", "can't read the labels", rows(labels=pa.array([2**63] * 6, pa.uint64()))),
    ("texts of a megabyte", "at most 1000 letters", rows(labels=["x" * 2**20] * 6, meta=None)),
    ("metadata of text", "can't be read", rows(meta=b"\xff\xfe")),
    ("deep metadata", "can't be read", rows(meta=b"[" * 100_000)),
    ("metadata that is a list", "can't be read", rows(meta=b"[1]")),
    (
        "features that are a list",
        "is list, expected a mapping",
        rows(meta=json.dumps({"info": {"features": []}}).encode()),
    ),
    ("names that are numbers", "no list of", rows(meta=features([1, 2, 3]))),  # type: ignore[list-item]
    ("names that are a text", "no list of", rows(meta=features("abc"))),  # type: ignore[arg-type]
    ("a picture that is a bomb", "row 3 (", rows([*PICTURES[:3], claiming(100_000, 100_000), *PICTURES[4:]])),
    ("a row without a picture", "holds no bytes", rows([*PICTURES[:3], None, *PICTURES[4:]])),
    (
        "a file missing",
        "expected files 0 … 2 of 3",
        lambda file: file.rename(file.parent / "val-00000-of-00003.parquet"),
    ),
    ("another split alone", "it has train", lambda file: file.rename(file.parent / "train.parquet")),
    (
        "files of other columns",
        "has no column image.bytes",
        lambda file: [
            file.rename(file.parent / "val-0.parquet"),
            pq.write_table(pa.table({"label": [1]}), file.parent / "val-1.parquet"),
        ],
    ),
    ("card: names of laughs", "no list of", card(f"{NAMED}*i".replace("dataset", f"{LAUGHS}dataset", 1))),
    ("card: fewer names", "label 1, expected 0 … 0", card(f"{NAMED}{{'0': cat}}")),
]
with tempfile.TemporaryDirectory() as _folder:
    WHOLE = write_rows(Path(_folder) / "x.parquet", PICTURES, LABELS).read_bytes()
HARMLESS_ROWS = [
    claiming(64, 64, bytes(193 * 2)),
    *(HARMLESS[name] for name in ("palette.png", "cmyk.jpg", "exif.jpg")),
]


def _harmless(file: Path) -> None:
    """Odd pictures, named as in the Hub's cache by a link to what is called by its digest; and a card of brackets."""
    write_rows(file, HARMLESS_ROWS, [0, 1, 2, 0], meta=None)
    (file.parent.parent / "README.md").write_text(f"---\n{'[' * 10_000}\n---\n")
    file.rename(file.parent / "0123")
    file.symlink_to("0123")


ALL_CORRUPT: list[bytes | None] = [b"", None, b"x", b"\0" * 99, PICTURES[0][:60], claiming(0, 0)]  # type: ignore[index]
CASES = [
    *(Case(f"parquet: {name}", says, parquet(change)) for name, says, change in CHANGES),
    Case("parquet: harmless pictures", "", parquet(_harmless)),
    Case("parquet: all corrupt and skipped", "could be read", parquet(rows(ALL_CORRUPT), "--skip-corrupt")),
    Case("shards", "shards are streams", lambda folder: [*MODEL, "--data", "wds:x-{000..100}.tar"]),
]
