"""Hostile class folders: files that are no pictures, or pictures of a kind that nobody expects."""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.reference.hostile import SINGLE, Case

MODEL = ["--model", "timm:test_resnet", "--input-size", "32", *SINGLE[2:]]


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def noise(mode: str = "RGB", width: int = 40, height: int = 36) -> Image.Image:
    pixels = np.random.default_rng(width * height).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def claiming(width: int, height: int, content: bytes = b"") -> bytes:
    """A PNG that says it is of some size, whatever is in it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


PNG, JPEG = encoded(noise()), encoded(noise(), "JPEG")
FLOATS = Image.fromarray(np.full((8, 8), np.nan, np.float32))
FRAMES = [noise(), noise().rotate(90), noise().rotate(180)]
FILES: list[tuple[str, str, str, bytes]] = [
    ("empty", "corrupt image", "x.png", b""),
    ("one byte", "corrupt image", "x.jpg", b"\xff"),
    ("text", "corrupt image", "x.png", b"<html>404</html>"),
    ("cut png", "corrupt image", "x.png", PNG[:-900]),
    ("cut jpeg", "corrupt image", "x.jpg", JPEG[:-400]),
    ("a header alone", "corrupt image", "x.png", PNG[:33]),
    ("a bomb", "corrupt image", "x.png", claiming(100_000, 100_000)),
    ("no pixels", "corrupt image", "x.png", claiming(0, 0)),
    ("a side of 2 to the 31", "corrupt image", "x.png", claiming(2**31 - 1, 1)),
    ("floats without a number", "floating point", "x.tif", encoded(FLOATS, "TIFF")),
    ("a wrong checksum", "corrupt image", "x.png", PNG.replace(b"IDAT", b"IDAX")),
    ("zeros", "corrupt image", "x.bmp", bytes(1000)),
    ("code", "corrupt image", "x.ppm", b"import os\nos.system('touch code_has_run')\n"),
    (
        "postscript",
        "corrupt image",
        "x.png",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n",
    ),
    ("two lines in a name", "corrupt image", "x\ny.png", b""),
    ("a long name", "corrupt image", "x" * 250 + ".png", b""),
]
"""A file among good ones: name of the case, what is said, name of the file, content."""

HARMLESS = {
    "one_pixel.png": encoded(noise(width=1, height=1)),
    "wide.png": encoded(noise(width=10_000, height=1)),
    "high.png": encoded(noise(width=1, height=10_000)),
    "frames.gif": encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
    "fewer_rows_than_said.png": claiming(64, 64, bytes(193 * 2)),
    "animated.webp": encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]),
    "palette.png": encoded(noise("P"), transparency=bytes(range(256))),
    "cmyk.jpg": encoded(noise("CMYK"), "JPEG"),
    "bits.png": encoded(noise("1")),
    "sixteen.png": encoded(Image.fromarray(np.full((9, 9), 40_000, np.uint16))),
    "exif.jpg": encoded(noise(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage"),
    ".hidden.png": b"",
    "Thumbs.db": b"\xd0\xcf\x11\xe0",
    "notes.txt": b"",
}
"""What is read, or left out without a word, all in one run."""


def lay_pictures(folder: Path, splits: tuple[str, ...] = ("val",)) -> Path:
    """Two classes of three pictures; returns the folder of the first class."""
    for split in splits:
        for shade, name in enumerate(("cat", "dog")):
            target = folder / "pets" / split / name
            target.mkdir(parents=True)
            for number in range(3):
                noise(width=30 + 10 * shade + number).save(target / f"{number}.png")
    return folder / "pets" / splits[0] / "cat"


def reading(folder: Path, *more: str) -> list[str]:
    return [*MODEL, "--data", f"imagefolder:{folder / 'pets'}", *more]


def with_files(files: dict[str, bytes], *more: str) -> Callable[[Path], list[str]]:
    def lay(folder: Path) -> list[str]:
        cat = lay_pictures(folder)
        for name, content in files.items():
            (cat / name).write_bytes(content)
        return reading(folder, *more)

    return lay


def with_odd(make: Callable[[Path], object], *more: str) -> Callable[[Path], list[str]]:
    """A file x.png that `make` makes of its path, among good ones."""

    def lay(folder: Path) -> list[str]:
        make(lay_pictures(folder) / "x.png")
        return reading(folder, *more)

    return lay


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:  # a path of theirs is short
        here = os.getcwd()
        os.chdir(path.parent)
        listener.bind(path.name)
        os.chdir(here)


def _loop(path: Path) -> None:
    path.symlink_to("y.png")
    (path.parent / "y.png").symlink_to("x.png")


def _foreign_name(path: Path) -> None:
    with open(os.path.join(os.fsencode(path.parent), b"caf\xe9.png"), "wb") as file:
        file.write(b"")


def _foreign_class(path: Path) -> None:
    os.rename(path.parent, os.path.join(os.fsencode(path.parent.parent), b"caf\xe9"))


def _class_of_two_lines(path: Path) -> None:
    path.parent.rename(path.parent.parent / "c\nat")


def _unreadable(path: Path) -> None:
    path.write_bytes(PNG)
    path.chmod(0)


ODD: list[tuple[str, str, Callable[[Path], object]]] = [
    ("a pipe", "not a regular file", os.mkfifo),
    ("a socket", "not a regular file", _socket),
    ("a device", "not a regular file", lambda path: path.symlink_to("/dev/zero")),
    ("a dangling link", "corrupt image", lambda path: path.symlink_to("nowhere")),
    ("a link loop", "corrupt image", _loop),
    ("a name that isn't utf-8", "corrupt image", _foreign_name),
    ("a folder", "", Path.mkdir),
    ("a class that isn't utf-8", "isn't UTF-8", _foreign_class),
    ("a class of two lines", "", _class_of_two_lines),
    *([("no permission", "Permission denied", _unreadable)] if os.geteuid() else []),
]


def _odd_ones(path: Path) -> None:
    for number, (name, says, make) in enumerate(ODD):
        if says and "class" not in name:
            (path.parent / str(number)).mkdir()
            make(path.parent / str(number) / path.name)


def whole_folder(change: Callable[[Path], object], *more: str, splits: tuple[str, ...] = ("val",)):
    """The class folders after a change of the data's folder."""

    def lay(folder: Path) -> list[str]:
        lay_pictures(folder, splits)
        change(folder / "pets")
        return reading(folder, *more)

    return lay


def _empty_class(pets: Path) -> None:
    (pets / "val" / "eel").mkdir()


def _one_class(pets: Path) -> None:
    (pets / "val" / "dog").rename(pets / "dog")


def _no_classes(pets: Path) -> None:
    for path in pets.rglob("*.png"):
        path.rename(pets / "val" / f"{path.parent.name}{path.name}")
    for path in (pets / "val" / "cat", pets / "val" / "dog"):
        path.rmdir()


def _all_corrupt(pets: Path) -> None:
    for path in pets.rglob("*.png"):
        path.write_bytes(b"")


def _all_dangling(pets: Path) -> None:
    for path in list(pets.rglob("*.png")):
        path.unlink()
        path.symlink_to("nowhere")


def _split_is_a_file(pets: Path) -> None:
    (pets / "val").rename(pets / "train")
    (pets / "val").write_text("x")


def _split_is_a_pipe(pets: Path) -> None:
    (pets / "val").rename(pets / "train")
    os.mkfifo(pets / "val")


FOLDERS: list[tuple[str, str, Callable[[Path], object]]] = [
    ("a class without images", "without images", _empty_class),
    ("no classes", "no images", _no_classes),
    ("no validation", "no folder", lambda pets: (pets / "val").rename(pets / "train")),
    ("the split is a file", "no folder", _split_is_a_file),
    ("the split is a pipe", "no folder", _split_is_a_pipe),
    ("nothing", "no folder", lambda pets: pets.rename(pets.parent / "other")),
    ("all corrupt", "corrupt image", _all_corrupt),
]


def imagenet(change: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    def lay(folder: Path) -> list[str]:
        lay_pictures(folder)
        change(folder / "pets")
        return [*MODEL, "--data", f"imagenet:{folder / 'pets'}"]

    return lay


TRAINING = ["--epochs", "1", "--batch-size", "2", "--workers", "0"]


def training(change: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    def lay(folder: Path) -> list[str]:
        lay_pictures(folder, ("val", "train"))
        change(folder / "pets")
        return [*MODEL[:4], "--data", f"imagefolder:{folder / 'pets'}", *TRAINING]

    return lay


CASES = [
    *(Case(f"pictures: {name}", says, with_files({file: content})) for name, says, file, content in FILES),
    *(Case(f"pictures: {name}", says, with_odd(make)) for name, says, make in ODD),
    Case("pictures: harmless ones", "", with_files(HARMLESS)),
    Case(
        "pictures: corrupt ones skipped",
        "",
        with_files(
            {f"{number} {file[-240:]}": content for number, (*_, file, content) in enumerate(FILES)}, "--skip-corrupt"
        ),
    ),
    Case("pictures: odd files skipped", "", with_odd(_odd_ones, "--skip-corrupt")),
    *(Case(f"class folders: {name}", says, whole_folder(change)) for name, says, change in FOLDERS),
    Case("class folders: one class", "", whole_folder(_one_class)),
    Case("all corrupt and skipped", "could be read", whole_folder(_all_corrupt, "--skip-corrupt")),
    Case("all dangling and skipped", "could be read", whole_folder(_all_dangling, "--skip-corrupt")),
    Case("imagenet: two classes", "1000", imagenet(lambda pets: None)),
    Case("imagenet: no validation", "no folder", imagenet(lambda pets: (pets / "val").rename(pets / "test"))),
    Case("imagenet: no labels", "ILSVRC2012_devkit_t12", imagenet(_no_classes)),
    Case(
        "training: other classes",
        "classes",
        training(lambda pets: (pets / "val/cat").rename(pets / "val/cow")),
        "training",
    ),
    Case(
        "training: no folder to train on",
        "no folder",
        training(lambda pets: (pets / "train").rename(pets / "x")),
        "training",
    ),
    Case("training: an empty class", "without images", training(lambda pets: (pets / "train/eel").mkdir()), "training"),
]
