"""Picture files → RGB of 8 bits, with every other depth scaled by what its format means, or refused."""

from __future__ import annotations

import io
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from faithfulness.core.errors import InputError
from faithfulness.data.base import CorruptImage

_PHOTOMETRIC, _PLANAR, _BITS = 262, 284, 258
"""Tags of TIFF (version 6.0): whether 0 is white, whether channels lie apart, bits per channel."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a picture upright, by its orientation (EXIF 2.3, tag 274)."""
_OF_FILES = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow's decoders raise where a file isn't what it says."""


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A picture file while it is decoded, without Pillow's warnings: it is read, or corrupt.

    Raises ValueError for what isn't a regular file: a pipe would be waited for, a device has no end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("not a regular file")
    with _quietly_opened(path) as picture:
        yield picture


@contextmanager
def _quietly_opened(source: Path | io.BytesIO) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(source) as picture:
            yield picture


def read_image(path: Path) -> Image.Image:
    """Decode a file as RGB, 8 bits.

    16 bits are scaled so that 65535 is white, in gray as in color, 12 so that 4095 is. Floating point
    is read with 1 as white. Transparency is dropped: a pixel has the color that lies under it, as with torchvision's
    folders. The orientation that a camera noted (EXIF) is left alone, and of several frames the
    first is taken.

    Raises:
        CorruptImage: a file that can't be decoded; floating point outside [0, 1] and integers of 32
            bits, whose white no format tells.
    """
    try:
        with opened(path) as picture:
            return to_rgb(picture)
    except _OF_FILES as error:
        raise corrupt_image(path, error) from error


def read_upright(path: Path) -> Image.Image:
    """Decode a person's own picture as RGB, turned as the camera noted (EXIF).

    Raises:
        InputError: a file that can't be decoded, with the reason; see `read_image`.
    """
    try:
        with opened(path) as picture:
            turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
            image = to_rgb(picture)
    except _OF_FILES as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"can't read {path} as a picture ({reason})") from error
    return image if turn is None else image.transpose(turn)


def decode_image(content: bytes, where: str) -> Image.Image:
    """Decode the content of a picture file, as `read_image` does; `where` it is from is for the message.

    Raises:
        CorruptImage: as `read_image`.
    """
    try:
        with _quietly_opened(io.BytesIO(content)) as picture:
            return to_rgb(picture)
    except _OF_FILES as error:
        raise corrupt_image(where, error) from error


def corrupt_image(where: object, error: Exception) -> CorruptImage:
    """What a picture that can't be had is called: in a line, with the reason."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return CorruptImage(f"corrupt image {where} ({reason}); --skip-corrupt counts such files and goes on")


def to_rgb(picture: Image.Image) -> Image.Image:
    """An opened picture as RGB, 8 bits; ValueError says why it can't be."""
    tags: Any = getattr(picture, "tag_v2", {})
    if tags.get(_PLANAR) == 2 and max(tags.get(_BITS, (8,))) > 8:
        raise ValueError("16 bits in separate planes, which Pillow misreads; save it with interleaved channels")
    mode = picture.mode
    if mode.startswith("I;16") or (mode == "I" and picture.format in ("PNG", "PPM")):
        white = 2.0 ** max(tags.get(_BITS, (16,))) - 1
    elif mode == "F":
        white = 1.0
    elif mode == "I":
        raise ValueError("integers of more than 16 bits have no agreed white; save it with 8 or 16")
    else:
        return picture.convert("RGB")
    gray = np.asarray(picture).astype(np.float64) / white
    if not ((gray >= 0) & (gray <= 1)).all():
        raise ValueError("floating point outside [0, 1] has no agreed white; scale it, or save it with 8 or 16 bits")
    if tags.get(_PHOTOMETRIC) == 0:
        gray = 1 - gray
    return Image.fromarray((gray * 255).round().astype(np.uint8)).convert("RGB")
