"""What the values in a checkpoint's config.json may be, so that none asks for more than a machine has."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
import torch

from faithfulness.core.deletion import DeletionSpec
from faithfulness.core.errors import InputError

MOST_CLASSES, MOST_PIXELS, MOST_CHANNELS = 1_000_000, 16_384, 1_024
"""Classes, pixels a side and color channels that a config may ask for."""
MOST_BLOCKS, LARGEST_ARGUMENT = 4_096, 2**24
"""Blocks of a network, all stages together, and any other number that shapes it."""
INTERPOLATIONS = ("bicubic", "bilinear", "box", "hamming", "lanczos", "nearest", "nearest-exact", "random")
CROP_MODES = ("center", "squash", "border")
SLACK = 2**24
"""Numbers that a network may have beyond the bytes of its file, so that small ones are never in doubt."""
_DEEP = ("depth", "layers", "blocks", "num_stages")


def shown(value: object) -> str:
    """A value as it stands in a message, cut short."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def check_classes(config: dict[str, Any], path: Path) -> None:
    """Raise InputError unless the count of classes, and their names if there are any, can be a network's."""
    classes, names = config["num_classes"], config.get("label_names")
    if not _is_whole(classes, 1, MOST_CLASSES):
        raise InputError(f"{path}: expected num_classes in 1 … {MOST_CLASSES}, got {shown(classes)}")
    if names is None:
        return
    other = next((name for name in names if not isinstance(name, str)), None)
    if other is not None:
        raise InputError(f"{path}: expected texts as label_names, got {shown(other)}")
    if len(names) != classes:
        raise InputError(f"{path}: expected {classes} label_names, one per class, got {len(names)}")


def check_images(told: dict[str, Any], path: Path) -> None:
    """Raise InputError unless what `pretrained_cfg` says of images can be used: size, normalization, crop."""

    def refuse(key: str, expected: str) -> InputError:
        return InputError(f"{path}: expected {expected} as {key} in pretrained_cfg, got {shown(told.get(key))}")

    size = told.get("input_size")
    most = (MOST_CHANNELS, MOST_PIXELS, MOST_PIXELS)
    if not isinstance(size, list) or len(size) != 3 or not all(map(_is_whole, size, (1, 1, 1), most)):
        raise refuse("input_size", f"channels, height and width (at most {MOST_PIXELS} pixels)")
    for key in ("mean", "std"):
        numbers = told.get(key)
        if numbers is None:
            continue
        if not isinstance(numbers, list) or len(numbers) not in (1, size[0]) or not all(map(_is_number, numbers)):
            raise refuse(key, f"a number for each of {size[0]} channels")
        if key == "std" and min(numbers) <= 0:
            raise refuse(key, "numbers above 0")
    if told.get("crop_pct") is not None and not (_is_number(told["crop_pct"]) and 0.1 <= told["crop_pct"] <= 10):
        raise refuse("crop_pct", "a number in 0.1 … 10")
    if told.get("fixed_input_size") not in (None, True, False):
        raise refuse("fixed_input_size", "true or false")
    for key, known in (("interpolation", INTERPOLATIONS), ("crop_mode", CROP_MODES)):
        if told.get(key) is not None and told[key] not in known:
            raise refuse(key, f"one of {', '.join(known)}")


def check_deletion(spec: dict[str, Any] | None, path: Path) -> None:
    """Raise InputError unless a deletion is a grid, a known fill and a probability."""
    if spec is None:
        return
    grid, fill = spec.get("grid"), spec.get("fill")
    if not isinstance(grid, list) or len(grid) != 2 or not all(_is_whole(side, 1, MOST_PIXELS) for side in grid):
        raise InputError(f"{path}: expected rows and columns as grid in deletion, got {shown(grid)}")
    if not isinstance(fill, str) or not _is_number(spec.get("probability")):
        raise InputError(f"{path}: expected grid, fill and a probability as deletion, got {shown(spec)}")
    try:
        DeletionSpec.from_dict(spec)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def check_arguments(arguments: dict[str, Any], path: Path) -> None:
    """Raise InputError for numbers in model_args that no network has: too large, too many, too deep."""
    for key, value in arguments.items():
        numbers = list(_numbers(value))
        if any(not math.isfinite(number) or abs(number) > LARGEST_ARGUMENT for number in numbers):
            raise InputError(f"{path}: {key} in model_args is beyond what a network can have, {shown(value)}")
        if len(numbers) > MOST_BLOCKS or (any(word in key for word in _DEEP) and sum(numbers) > MOST_BLOCKS):
            raise InputError(f"{path}: {key} in model_args asks for more than {MOST_BLOCKS} blocks, {shown(value)}")


def _numbers(value: Any) -> Iterable[float]:
    if isinstance(value, int | float):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _numbers(item)


def check_extent(name: str, classes: int, arguments: dict[str, Any], weights: Path, path: Path) -> None:
    """Raise InputError if a timm network has more numbers than the file of its weights has bytes.

    The network is shaped without memory for it. What can't be shaped that way is left to whoever builds it.
    """
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            network = timm.create_model(name, num_classes=classes, **arguments)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return
    numbers, held = sum(tensor.numel() for tensor in network.state_dict().values()), weights.stat().st_size
    if numbers > held + SLACK:
        raise InputError(
            f"{path}: a {name} of {classes} classes with these model_args has {numbers} numbers, more than {weights} "
            f"can hold ({held} bytes)"
        )
