"""`digits`: scenes with one real handwritten digit (or several) on a textured, cluttered background.

The digits are the 1797 that scikit-learn carries (Alpaydin and Kaynak 1998). A scene is drawn anew
from (seed, split, index) alone, at any size; no source digit is shared between splits. Clutter is
made of pieces of other digits, so that contours alone don't tell where the evidence is. Drawing one
at 64 px takes about 1 ms of one core, and what is drawn is kept: the 8192 scenes of training cost 8 s
in the first epoch and nothing later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from copy import copy
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import zoom
from sklearn.datasets import load_digits
from torch import Tensor

from faithfulness.core.errors import InputError
from faithfulness.core.keyed import keyed_integers, keyed_uniform, make_keys
from faithfulness.data.base import DATA, ImageData, renders

VERSION = 1
SPLITS = {"train": range(8), "val": range(8, 10)}
"""Which residues of the source digit's number, modulo 10, belong to a split."""
COUNTS = {"train": 8192, "val": 1024}
SIZE = 64
"""Side of the scenes unless asked otherwise."""
GLYPH = 32
"""Side of the smoothed source digits, from which scenes sample; kept with a border of one pixel."""
Array = NDArray[np.float32]


class Scene(NamedTuple):
    """A rendered scene: image uint8 (3, H, W), labels of its digits, mask uint8 (H, W).

    The mask is 0 for background and k + 1 on the k-th digit.
    """

    image: NDArray[np.uint8]
    labels: tuple[int, ...]
    mask: NDArray[np.uint8]


@lru_cache(maxsize=1)
def _sources() -> tuple[Array, NDArray[np.int64]]:
    digits: Any = load_digits()
    glyphs: Any = zoom(digits.images / 16.0, (1, GLYPH / 8, GLYPH / 8), order=3, mode="grid-constant", grid_mode=True)
    glyphs = np.pad(np.clip(glyphs, 0, 1), ((0, 0), (1, 1), (1, 1)))
    return glyphs.astype(np.float32), digits.target.astype(np.int64)


@lru_cache(maxsize=len(SPLITS))
def _split_sources(split: str) -> NDArray[np.int64]:
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r} of digits; known: {', '.join(SPLITS)}")
    numbers = np.arange(len(_sources()[1]))
    return numbers[np.isin(numbers % 10, list(SPLITS[split]))]


def _rng(seed: int, split: str, index: int) -> np.random.Generator:
    key = hashlib.blake2b(f"digits/{VERSION}/{seed}/{split}/{index}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype=np.uint64)))


class Background(NamedTuple):
    """Three gratings between two colors: angles, pitches, phases (3,) each; colors (3,) each, float32."""

    angle: NDArray[np.floating]
    pitch: NDArray[np.floating]
    phase: NDArray[np.floating]
    first: Array
    second: Array


class Stamp(NamedTuple):
    """One glyph of a scene as it is in the file, and where and how it comes; `colors` (n, 3) are to choose among."""

    glyph: Array
    side: float
    center: NDArray[np.floating]
    angle: float
    colors: Array


class Plan(NamedTuple):
    """All that is drawn by chance for a scene but its noise, for any size; pieces of digits lie below the digits."""

    background: Background
    pieces: list[Stamp]
    digits: list[Stamp]
    labels: tuple[int, ...]


def _plan_background(rng: np.random.Generator) -> Background:
    angle, pitch, phase = rng.uniform(0, np.pi, 3), rng.uniform(2, 9, 3), rng.uniform(0, 2 * np.pi, 3)
    first = rng.uniform(0.1, 0.9, 3).astype(np.float32)
    second = np.clip(first + rng.uniform(-0.3, 0.3, 3).astype(np.float32), 0, 1)
    return Background(angle, pitch, phase, first, second)


def _plan_scene(rng: np.random.Generator, split: str, digits: tuple[int, int]) -> Plan:
    glyphs, labels = _sources()
    own = _split_sources(split)
    background, pieces = _plan_background(rng), []
    for _ in range(rng.integers(3, 7)):
        piece = glyphs[own[rng.integers(len(own))]].copy()
        keep = rng.integers(GLYPH // 4, GLYPH // 2)
        start = rng.integers(0, GLYPH - keep)
        piece[: start + 1] = piece[start + keep + 1 :] = 0
        where = rng.uniform(0.25, 0.45), rng.uniform(0.05, 0.95, 2), rng.uniform(0, 2 * np.pi)
        pieces.append(Stamp(piece, *where, rng.uniform(0, 1, (1, 3)).astype(np.float32)))
    count = int(rng.integers(digits[0], digits[1] + 1))
    classes = rng.permutation(10)[:count]
    stamps = []
    for (side, center), label in zip(_place(rng, count), classes, strict=True):
        alike = own[labels[own] == label]
        glyph = glyphs[alike[rng.integers(len(alike))]]
        angle = rng.uniform(-0.3, 0.3)
        stamps.append(Stamp(glyph, side, center, angle, rng.uniform(0, 1, (8, 3)).astype(np.float32)))
    return Plan(background, pieces, stamps, tuple(int(label) for label in classes))


def _background(plan: Background, size: int) -> Array:
    """Three gratings of random direction and pitch between two colors, (3, size, size)."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size)[None]
    turns = (2 * np.pi * plan.pitch)[:, None]
    across = np.exp(1j * (axis * np.cos(plan.angle)[:, None] * turns + plan.phase[:, None])).astype(np.complex64)
    down = np.exp(1j * (axis * np.sin(plan.angle)[:, None] * turns)).astype(np.complex64)
    texture = np.einsum("ky,kx->yx", down, across).imag.astype(np.float32) / 6 + 0.5
    return plan.first[:, None, None] + (plan.second - plan.first)[:, None, None] * texture


def _stamp(
    glyph: Array, size: int, side: float, center: NDArray[np.floating], angle: float
) -> tuple[Array, slice, slice]:
    """Opacity of a turned, scaled glyph in its bounding box: (h, w), rows, columns."""
    reach = side * (abs(np.cos(angle)) + abs(np.sin(angle))) / 2
    low = np.maximum(np.floor((center - reach) * size), 0).astype(int)
    high = np.minimum(np.ceil((center + reach) * size) + 1, size).astype(int)
    rows, cols = slice(low[0], high[0]), slice(low[1], high[1])
    y = ((np.arange(low[0], high[0], dtype=np.float32) + 0.5) / size - np.float32(center[0]))[:, None]
    x = ((np.arange(low[1], high[1], dtype=np.float32) + 0.5) / size - np.float32(center[1]))[None]
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    scale, middle, last = np.float32(GLYPH / side), np.float32((GLYPH + 1) / 2), np.float32(GLYPH + 0.999)
    u = np.minimum(np.maximum(cos * scale * y - sin * scale * x + middle, 0), last)
    v = np.minimum(np.maximum(sin * scale * y + cos * scale * x + middle, 0), last)
    i, j = u.astype(np.int32), v.astype(np.int32)
    u -= i
    v -= j
    flat, at = glyph.ravel(), i * (GLYPH + 2) + j
    upper, lower = flat.take(at), flat[GLYPH + 2 :].take(at)
    upper += v * (flat[1:].take(at) - upper)
    lower += v * (flat[GLYPH + 3 :].take(at) - lower)
    upper += u * (lower - upper)
    return np.minimum(np.maximum(upper * 4 - np.float32(1.2), 0), 1), rows, cols


def _most_distant(colors: Array, around: Array) -> Array:
    """The most distant of some colors (n, 3) from the mean color of what is drawn on."""
    return colors[np.argmax(np.linalg.norm(colors - around.mean(axis=(1, 2)), axis=1))]


def _paint(canvas: Array, stamp: Stamp) -> tuple[Array, slice, slice]:
    """Lay a glyph over what is there; returns its opacity in its bounding box, rows, columns."""
    opacity, rows, cols = _stamp(stamp.glyph, canvas.shape[-1], stamp.side, stamp.center, stamp.angle)
    region = canvas[:, rows, cols]
    color = stamp.colors[0] if len(stamp.colors) == 1 else _most_distant(stamp.colors, region)
    region += opacity * (color[:, None, None] - region)
    return opacity, rows, cols


def _place(rng: np.random.Generator, count: int) -> list[tuple[float, NDArray[np.floating]]]:
    """Sides and centers (shares of the image) of `count` digits that don't overlap much."""
    if count == 1:
        side = rng.uniform(0.65, 0.9)
        return [(side, rng.uniform(side / 2, 1 - side / 2, 2))]
    quarters = rng.permutation(4)[:count]
    return [
        (side, np.array([q // 2, q % 2]) / 2 + rng.uniform(side / 2, 0.5 - side / 2, 2))
        for q in quarters
        for side in (rng.uniform(0.36, 0.48),)
    ]


def scene_labels(seed: int, split: str, index: int, digits: tuple[int, int] = (1, 1)) -> tuple[int, ...]:
    """The labels of scene `index`, which isn't drawn for that."""
    return _plan_scene(_rng(seed, split, index), split, digits).labels


def render_scene(seed: int, split: str, index: int, size: int, digits: tuple[int, int] = (1, 1)) -> Scene:
    """Draw scene `index` of a split: `digits` is the least and most digits, of different classes."""
    rng = _rng(seed, split, index)
    plan = _plan_scene(rng, split, digits)
    canvas = _background(plan.background, size)
    for piece in plan.pieces:
        _paint(canvas, piece)
    mask = np.zeros((size, size), dtype=np.uint8)
    for number, digit in enumerate(plan.digits, start=1):
        opacity, rows, cols = _paint(canvas, digit)
        mask[rows, cols][opacity > 0.5] = number
    canvas += 0.02 * rng.standard_normal((1, size, size), dtype=np.float32)
    image = (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)
    return Scene(image, plan.labels, mask)


class DigitScenes(ImageData):
    """Scenes with one digit each; the label is the digit. With `digits`, the least and most of a scene.

    Rendered once and kept, up to `cache_bytes`, so that training reads memory from its second
    epoch on.
    """

    rendered = True
    default_size = SIZE
    workers = 0

    def __init__(
        self,
        split: str = "val",
        size: int | None = None,
        seed: int = 0,
        count: int | None = None,
        cache_bytes: int = 1 << 29,
        digits: tuple[int, int] = (1, 1),
    ):
        _split_sources(split)
        size = SIZE if size is None else size
        self.name, self.split, self.size, self.seed, self.digits = "digits", split, size, seed, digits
        self.classes = [str(digit) for digit in range(10)]
        self.count = COUNTS[split] if count is None else count
        if self.count < 1 or size < 8:
            raise InputError(f"digits needs at least one scene of at least 8 px, got {self.count} of {size} px")
        self._kept: dict[int, Scene] = {}
        self._cache_bytes = cache_bytes

    def at_size(self, size: int) -> DigitScenes:
        if size == self.size:
            return self
        if size < 8:
            raise InputError(f"digits needs scenes of at least 8 px, got {size} px")
        other = copy(self)  # without the scenes that are kept, as `__getstate__` says
        other.size = size
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Without the scenes that are kept: a loader process draws its own."""
        return {**self.__dict__, "_kept": {}}

    def __len__(self) -> int:
        return self.count

    def scene(self, index: int) -> Scene:
        """The whole scene, with its mask."""
        if index in self._kept:
            return self._kept[index]
        scene = render_scene(self.seed, self.split, index, self.size, self.digits)
        if len(self._kept) < self._cache_bytes // (4 * self.size * self.size):
            self._kept[index] = scene
        return scene

    def image(self, index: int) -> Tensor:
        return torch.from_numpy(self.scene(index).image)

    def mask(self, index: int) -> Tensor:
        """True on the digit: bool (H, W)."""
        return torch.from_numpy(self.scene(index).mask > 0)

    def label(self, index: int) -> int:
        if index in self._kept:
            return self._kept[index].labels[0]
        return scene_labels(self.seed, self.split, index, self.digits)[0]

    def identity(self) -> Iterable[str]:
        glyphs, _ = _sources()
        several = "" if self.digits == (1, 1) else f"/{self.digits}"
        yield f"digits/{VERSION}/{self.seed}/{self.split}/{self.size}/{self.count}{several}"
        digits: Any = load_digits()
        yield hashlib.sha256(digits.images.tobytes()).hexdigest() + str(glyphs.shape)

    def augment(self, images: Tensor, keys: Tensor) -> Tensor:
        """Shift by up to a tenth, permute the color channels, invert: what leaves the digit as it is."""
        count, channels, height, width = images.shape
        reach = self.size // 10
        start = keyed_integers(make_keys(keys, 0), 2 * reach + 1, (2, 1))
        order = keyed_uniform(make_keys(keys, 1), (channels,)).argsort(dim=1)
        image = torch.arange(count, device=images.device)[:, None]
        # Whole windows of a mirrored batch are copied faster than pixels by their own positions.
        windows = _mirrored(_mirrored(images, 2, reach), 3, reach).unfold(2, height, 1).unfold(3, width, 1)
        moved = windows[image, order, start[:, 0], start[:, 1]]
        inverted = keyed_uniform(make_keys(keys, 2)) < 0.5
        return moved ^ (inverted.to(torch.uint8) * 255)[:, None, None, None]


def _mirrored(images: Tensor, side: int, reach: int) -> Tensor:
    """With so many more pixels at both ends of a side, mirrored at the border pixel."""
    length = images.shape[side]
    before = images.narrow(side, 1, reach).flip(side)
    after = images.narrow(side, length - 1 - reach, reach).flip(side)
    return torch.cat([before, images, after], dim=side)


@DATA.decorator("digits")
@renders
def _open(path: str | None, *, split: str, size: int | None, seed: int, count: int | None) -> DigitScenes:
    if path:
        raise InputError(f"digits is embedded and takes no path, got {path!r}")
    return DigitScenes(split, size, seed, count)
