"""The one reader of weight files: safetensors, or a pickle of tensors that runs no code."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from checkpoints.values import shown
from faithfulness.core.errors import InputError

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def read_weights(path: Path, *, wrapped: bool = False) -> dict[str, Tensor]:
    """The state dict in a file.

    Args:
        path: `.safetensors`, or anything that `torch.load` reads with `weights_only=True`.
        wrapped: take off what trainers add around and before the names: `state_dict`, `model`, `module.`.
    Raises:
        InputError: a file that can't be read, claims more than it holds, holds anything but named, dense tensors
            of 16 bits or more, or holds NaN or infinity.
    """
    try:
        content = _load(path)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [f"{type(error).__name__}, {path.stat().st_size} bytes"])[0]
        raise InputError(f"can't read weights from {path}: {reason}") from error
    except Exception as error:
        raise InputError(f"{path} is no plain weight file (only tensors are read, never code)") from error
    if wrapped:
        content = _unwrap(content)
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
    with warnings.catch_warnings():
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
    problem = f"the weights in {path} " + (f"are not those of {of}" if of else "don't fit")
    wanted = model.state_dict()
    for name, tensor in state.items():
        other = wanted.get(name)
        if other is not None and _family(other) != "whole numbers" and _family(tensor) != _family(other):
            raise InputError(f"{problem}: expected {_family(other)} as {name}, got {_family(tensor)}")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise InputError(f"{problem}: {first}") from error


def _family(tensor: Tensor) -> str:
    return "complex numbers" if tensor.is_complex() else "floats" if tensor.is_floating_point() else "whole numbers"
