"""Hostile masks, their lists, and hostile parquet files of compositions."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scipy.io import savemat

from tests.reference.hostile import Case
from tests.reference.hostile_pictures import MODEL, claiming, encoded, lay_pictures, noise
from tests.reference.segmentation_folders import SIZES, drawn_mask, make_sbd, make_voc

SEGMENTER = ["--model", "timm:test_resnet", "--input-size", "32", "--attributions", "random"]
VOC = Path("voc/VOCdevkit/VOC2012")
ONE = (("val", 1),)


def mask_of(value: int, width: int = SIZES[0][0], height: int = SIZES[0][1]) -> bytes:
    return encoded(Image.fromarray(np.full((height, width), value, np.uint8)))


def in_voc(change: Callable[[Path], object], *more: str) -> Callable[[Path], list[str]]:
    """Pascal VOC with one picture, after a change of its folder."""

    def lay(folder: Path) -> list[str]:
        make_voc(folder / "voc", ONE)
        change(folder / VOC)
        return [*SEGMENTER, "--data", f"voc:{folder / 'voc'}", *more]

    return lay


def in_sbd(change: Callable[[Path], object], *more: str) -> Callable[[Path], list[str]]:
    def lay(folder: Path) -> list[str]:
        make_sbd(folder / "sbd", ONE)
        change(folder / "sbd")
        return [*SEGMENTER, "--data", f"sbd:{folder / 'sbd'}", *more]

    return lay


def mask(content: bytes) -> Callable[[Path], object]:
    return lambda base: (base / "SegmentationClass/val_0.png").write_bytes(content)


def matlab(content: bytes) -> Callable[[Path], object]:
    return lambda base: (base / "cls/val_0.mat").write_bytes(content)


def saved(fields: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    savemat(file, fields)
    return file.getvalue()


def names(text: str | bytes) -> Callable[[Path], object]:
    content = text if isinstance(text, bytes) else text.encode()
    return lambda base: (base / "ImageSets/Segmentation/val.txt").write_bytes(content)


def replaced(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(base: Path) -> None:
        (base / name).unlink()
        make(base / name)

    return change


def _outside(base: Path) -> None:
    """A list that leads to a picture and a mask above the data's folders."""
    for name in ("JPEGImages/val_0.jpg", "SegmentationClass/val_0.png"):
        (base / name).rename(base.parent.parent.parent / Path(name).name)
    names("../../../../val_0")(base)


def _absolute(base: Path) -> None:
    names(str(base / "JPEGImages" / "val_0"))(base)


MATLAB = saved({"GTcls": {"Segmentation": drawn_mask(0)}})
HDF5 = (
    b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124)
    + b"\x00\x02IM"
    + bytes(384)
    + b"\x89HDF\r\n\x1a\n"
    + bytes(200)
)
MASKS: list[tuple[str, str, Callable[[Path], object]]] = [
    ("empty", "can't read", mask(b"")),
    ("text", "can't read", mask(b"1 2 3")),
    ("cut", "can't read", mask(mask_of(1)[:60])),
    ("other size", "pixels, its image", mask(mask_of(1, 50, 50))),
    ("one pixel", "pixels, its image", mask(mask_of(1, 1, 1))),
    ("colors", "has mode RGB", mask(encoded(noise("RGB", *SIZES[0])))),
    ("floats", "has mode F", mask(encoded(Image.fromarray(np.zeros(SIZES[0][::-1], np.float32)), "TIFF"))),
    ("a bomb", "can't read", mask(claiming(100_000, 100_000))),
    ("unknown class", "has label 21", mask(mask_of(21))),
    ("all void", "no (image, class) pair", mask(mask_of(255))),
    ("all background", "no (image, class) pair", mask(mask_of(0))),
    ("missing", "missing", lambda base: (base / "SegmentationClass/val_0.png").unlink()),
    ("a pipe", "missing", replaced("SegmentationClass/val_0.png", os.mkfifo)),
    ("a folder", "missing", replaced("SegmentationClass/val_0.png", Path.mkdir)),
    ("picture: empty", "corrupt image", lambda base: (base / "JPEGImages/val_0.jpg").write_bytes(b"")),
    ("picture: missing", "missing", lambda base: (base / "JPEGImages/val_0.jpg").unlink()),
    ("list: empty", "is empty", names("")),
    ("list: blank lines", "twice", names("\n\n")),
    ("list: cut", "missing", names("val_")),
    ("list: not utf-8", "no list of names", names(b"val_0\n\xff\xfe\n")),
    ("list: zeros", "no name of a file", names(b"val_0\0\n")),
    ("list: outside", "outside", _outside),
    ("list: absolute", "outside", _absolute),
    ("list: twice", "twice", names("val_0\nval_0\n")),
    ("list: missing", "Pascal VOC", lambda base: (base / "ImageSets/Segmentation/val.txt").unlink()),
    ("list: a folder", "no list of names", replaced("ImageSets/Segmentation/val.txt", Path.mkdir)),
    ("list: a pipe", "no list of names", replaced("ImageSets/Segmentation/val.txt", os.mkfifo)),
    ("no lists", "Pascal VOC", lambda base: (base / "ImageSets").rename(base / "Lists")),
]
MATLABS: list[tuple[str, str, Callable[[Path], object]]] = [
    ("empty", "can't read", matlab(b"")),
    ("cut", "can't read", matlab(MATLAB[:-200])),
    ("header alone", "can't read", matlab(MATLAB[:128])),
    ("version 7.3", "can't read", matlab(HDF5)),
    ("other fields", "can't read", matlab(saved({"mask": drawn_mask(0)}))),
    ("without the mask", "can't read", matlab(saved({"GTcls": {"Boundaries": 1}}))),
    ("a text", "can't read", matlab(saved({"GTcls": "GTcls"}))),
    ("floats", "has mode float64", matlab(saved({"GTcls": {"Segmentation": drawn_mask(0).astype(np.float64)}}))),
    ("three dimensions", "has mode", matlab(saved({"GTcls": {"Segmentation": np.zeros((90, 120, 3), np.uint8)}}))),
    ("no pixels", "pixels, its image", matlab(saved({"GTcls": {"Segmentation": np.zeros((0, 0), np.uint8)}}))),
    ("a picture", "can't read", matlab(mask_of(1))),
    ("missing", "missing", lambda base: (base / "cls/val_0.mat").unlink()),
    ("list: outside", "outside", lambda base: (base / "val.txt").write_text("../cls/../../sbd/cls/val_0\n")),
    ("list: a pipe", "no list of names", replaced("val.txt", os.mkfifo)),
]

GRIDS = {
    "grid": np.repeat(np.arange(2), 4),
    "cell": np.tile(np.arange(4), 2),
    "index": np.array([0, 1, 2, 3, 3, 4, 5, 0]),
    "label": np.array([0, 1, 2, 0, 3, 4, 5, 3]),
}
META = {"scale": 2, "kind": "corners", "about": {}}


def table(changes: dict[str, Any] | None = None, meta: object = META, **options: Any) -> bytes:
    """Compositions of six pictures, with columns and metadata changed."""
    columns = {name: column for name, column in (GRIDS | (changes or {})).items() if column is not None}
    text = meta if isinstance(meta, bytes) else json.dumps(meta).encode()
    file = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata({b"compositions": text}), file, **options)
    return file.getvalue()


def bomb() -> bytes:
    """A few kilobytes that unpack to more rows than any run composes."""
    file = io.BytesIO()
    pq.write_table(pa.table({"grid": np.zeros(10_000_001, np.int8)}), file)
    return file.getvalue()


def with_meta(**changes: object) -> bytes:
    return table(meta={**META, **changes})


def _numbers(name: str, place: int, value: float) -> dict[str, Any]:
    column = GRIDS[name].astype(type(value))
    column[place] = value
    return {name: column}


def _nulls() -> dict[str, Any]:
    return {"index": pa.array([0, 1, 2, None, 3, 4, 5, 0], pa.int64())}


WHOLE = table()
HUGE = WHOLE[:-8] + (2**31 - 1).to_bytes(4, "little") + b"PAR1"
PARQUET: list[tuple[str, str, bytes]] = [
    ("empty", "no compositions", b""),
    ("cut", "no compositions", WHOLE[:-100]),
    ("text", "no compositions", b"grid,cell,index,label\n"),
    ("footer of 2 gigabytes", "no compositions", HUGE),
    ("not a number", "no compositions", table(_numbers("index", 3, float("nan")))),
    ("infinite", "no compositions", table(_numbers("index", 3, float("inf")))),
    ("fractions", "no compositions", table(_numbers("index", 3, 10.5))),
    ("nulls", "no compositions", table(_nulls())),
    ("texts", "no compositions", table({"index": list("01234567"), "label": list("abcdefgh")})),
    ("negative index", "sample index -1", table(_numbers("index", 3, -1))),
    ("index beyond the data", "sample 1000000", table(_numbers("index", 3, 10**6))),
    ("index of 2 to the 62", "sample", table(_numbers("index", 3, 2**62))),
    ("negative label", "other data", table(_numbers("label", 3, -1))),
    ("labels of other data", "other data", table({"label": GRIDS["label"][::-1].copy()})),
    ("a column missing", "no compositions", table({"label": None})),
    ("another column", "other data", table({"more": np.arange(8)})),
    ("a cell missing", "no compositions", table({"cell": np.tile([0, 1, 2, 2], 2)})),
    ("unequal grids", "no compositions", table({"grid": np.array([0, 0, 0, 0, 0, 1, 1, 1])})),
    ("no rows", "rows, got 0", table({name: np.array([], np.int64) for name in GRIDS})),
    ("ten million rows", "rows, got 10000001", bomb()),
    ("no metadata", "no compositions", table(meta=b"")),
    ("metadata of text", "no compositions", table(meta=b"\xff\xfe")),
    ("deep metadata", "no compositions", table(meta=b"[" * 100_000)),
    ("metadata that is a list", "no compositions", table(meta=[1])),
    ("huge scale", "no compositions", with_meta(scale=10**9)),
    ("larger scale", "no compositions", with_meta(scale=10**30)),
    ("scale zero", "no compositions", with_meta(scale=0)),
    ("scale of text", "no compositions", with_meta(scale="2")),
    ("scale of half", "no compositions", with_meta(scale=1.5)),
    ("unknown kind", "no compositions", with_meta(kind="circles")),
    ("kind that is a list", "no compositions", with_meta(kind=["corners"])),
    ("nothing about", "no compositions", table(meta={"scale": 2, "kind": "corners"})),
    ("other scale", "no compositions", table(meta={**META, "scale": 1})),
]


def compositions(make: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    """Two classes of three pictures, and what `make` makes of a path as the file of compositions."""

    def lay(folder: Path) -> list[str]:
        lay_pictures(folder)
        make(folder / "grids.parquet")
        data = ["--data", f"imagefolder:{folder / 'pets'}", "--compositions", str(folder / "grids.parquet")]
        return [*MODEL[:-2], *data]

    return lay


CASES = [
    *(Case(f"mask: {name}", says, in_voc(change), "dea") for name, says, change in MASKS),
    *(Case(f"mat: {name}", says, in_sbd(change), "dea") for name, says, change in MATLABS),
    Case("mask: a bomb, skipped", "no (image, class) pair", in_voc(MASKS[7][2], "--skip-corrupt"), "dea"),
    Case("mat: empty, skipped", "no (image, class) pair", in_sbd(MATLABS[0][2], "--skip-corrupt"), "dea"),
    *(
        Case(
            f"compositions: {name}",
            says,
            compositions(lambda path, content=content: path.write_bytes(content)),
            "difull",
        )
        for name, says, content in PARQUET
    ),
    Case("compositions: missing", "no compositions", compositions(lambda path: None), "difull"),
    Case("compositions: a pipe", "no compositions", compositions(os.mkfifo), "difull"),
    Case("compositions: an empty folder", "no compositions", compositions(Path.mkdir), "difull"),
]
