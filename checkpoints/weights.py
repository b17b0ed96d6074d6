"""The one reader of weight files: safetensors, or a pickle of tensors that runs no code.

A pickle may hold an `argparse.Namespace` too, which training scripts keep beside their weights: it is made without
running anything, and only what it holds is read. Any other class, one of its subclasses as well, is refused unmade.
"""

from __future__ import annotations

import argparse
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from checkpoints.renaming import names_apart
from checkpoints.values import shown
from faithfulness.core.errors import InputError

TOLD = ("epoch", "best_acc1")
"""Numbers that training scripts keep beside the weights."""
_LARGEST, _MOST_NAMES = 1e15, 4
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class WeightFile:
    """What a file of weights holds.

    Attributes:
        state: the state dict, without what trainers put before the names.
        arguments: those of the training script, where the file holds an `argparse.Namespace` called `args`.
        told: the numbers of `TOLD` that lie beside the state dict.
    """

    state: dict[str, Tensor]
    arguments: dict[str, Any] | None
    told: dict[str, int | float]


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint's weights.

    Args:
        path: `.safetensors`, or anything that `torch.load` reads with `weights_only=True`.
    Raises:
        InputError: a file that can't be read, claims more than it holds, holds anything but named, dense tensors
            of 16 bits or more, or holds NaN or infinity.
    """
    return _check_state(_read(path), path)


def read_file(path: Path) -> WeightFile:
    """What a training script wrote: its state dict, wherever it lies in the file, and its arguments.

    Raises InputError as `read_weights`.
    """
    content = _read(path)
    state = _check_state(_unwrap(content), path)
    beside = content if isinstance(content, dict) and "state_dict" in content else {}
    arguments = beside.get("args")
    held = vars(arguments) if type(arguments) is argparse.Namespace else None
    told = {key: number for key in TOLD if (number := _number(beside.get(key))) is not None}
    return WeightFile(state, held and {key: value for key, value in held.items() if isinstance(key, str)}, told)


def _number(value: Any) -> int | float | None:
    """A finite number, or the one number in a tensor; None for anything else."""
    if isinstance(value, Tensor):
        plain = value.layout == torch.strided and value.dtype in _FLOATS and not value.is_meta
        value = value.item() if plain and value.numel() == 1 else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < _LARGEST else None


def _read(path: Path) -> Any:
    """What is in a file; InputError if that can't be read."""
    try:
        return _load(path)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [f"{type(error).__name__}, {path.stat().st_size} bytes"])[0]
        raise InputError(f"can't read weights from {path}: {reason}") from error
    except Exception as error:
        raise InputError(f"{path} is no plain weight file (only tensors are read, never code)") from error


def _check_state(content: Any, path: Path) -> dict[str, Tensor]:
    """The content as a state dict; InputError unless it holds plain tensors by name."""
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path} holds no state dict")
    held = path.stat().st_size
    for name, tensor in content.items():
        if not isinstance(name, str):
            raise InputError(f"{path} holds no state dict: expected names of tensors, got {shown(name)}")
        _check_tensor(name, tensor, path, held)
    return content


def _load(path: Path) -> Any:
    """What is in a file, without warnings of its format, which say nothing that matters here."""
    if path.suffix == ".safetensors":
        return load_file(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > path.stat().st_size:
            raise ValueError(f"it unpacks to {unpacked} bytes; torch packs nothing")
    with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
        warnings.simplefilter("ignore")
        return torch.load(path, "cpu", weights_only=True)


def _check_tensor(name: str, tensor: Tensor, path: Path, held: int) -> None:
    """Raise InputError unless a tensor is plain numbers that the file, of so many bytes, holds."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
        kind = "quantized" if tensor.is_quantized else "on no device" if tensor.is_meta else str(tensor.layout)
        raise InputError(f"{path}: expected plain tensors, {name} is {kind.removeprefix('torch.')}")
    if tensor.numel() * tensor.element_size() > held:
        raise InputError(f"{path}: {name} claims {tensor.numel()} numbers, more than the file holds ({held} bytes)")
    if tensor.is_floating_point() and tensor.dtype not in _FLOATS:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise InputError(f"{path}: expected floating point of 16 bits or more, {name} is {kind}")
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise InputError(f"{path}: {name} holds NaN or infinity; the training that wrote it has diverged")


def _unwrap(content: Any) -> Any:
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    for prefix in ("module.", "model."):
        if isinstance(content, dict) and content and all(str(key).startswith(prefix) for key in content):
            content = {key.removeprefix(prefix): value for key, value in content.items()}
    return content


def rows_of(state: dict[str, Tensor], name: str, path: Path) -> int:
    """How many classes the last layer of that name tells apart; InputError unless it is a layer's weight."""
    if state[name].dim() < 2 or not len(state[name]):
        raise InputError(f"{path}: expected a row per class as {name}, got shape {tuple(state[name].shape)}")
    return len(state[name])


def fill_weights(model: nn.Module, state: dict[str, Tensor], path: Path, of: str | None = None) -> None:
    """Load a state dict into the network it was made from; InputError if it doesn't fit.

    `of` names the network where the file doesn't say itself what it is of.
    """
    check_names(model, state, path, of)
    wanted = model.state_dict()
    for name, tensor in state.items():
        other = wanted[name]
        if tensor.shape != other.shape:
            expected, got = tuple(other.shape), tuple(tensor.shape)
            raise InputError(f"{_problem(path, of)}: expected {expected} as {name}, got {got}")
        if _family(other) != "whole numbers" and _family(tensor) != _family(other):
            raise InputError(f"{_problem(path, of)}: expected {_family(other)} as {name}, got {_family(tensor)}")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise InputError(f"{_problem(path, of)}: {first}") from error


def check_names(model: nn.Module, state: dict[str, Tensor], path: Path, of: str | None = None) -> None:
    """Raise InputError, with names that are missing and too many, unless the names are those of the network."""
    missing, unknown = names_apart(state, model.state_dict())
    if missing or unknown:
        named = [_listed("missing", missing), _listed("not of this network", unknown)]
        raise InputError(f"{_problem(path, of)}: {'; '.join(filter(None, named))}")


def _problem(path: Path, of: str | None) -> str:
    return f"the weights in {path} " + (f"are not those of {of}" if of else "don't fit")


def _listed(what: str, names: list[str]) -> str:
    """How many names and which, the first few of many; nothing for none."""
    if not names:
        return ""
    more = f", … ({len(names)})" if len(names) > _MOST_NAMES else ""
    return f"{what} {', '.join(name[:80] for name in names[:_MOST_NAMES])}{more}"


def _family(tensor: Tensor) -> str:
    return "complex numbers" if tensor.is_complex() else "floats" if tensor.is_floating_point() else "whole numbers"
