"""The one reader of weight files: safetensors, or a pickle of tensors that runs no code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from faithfulness.core.errors import InputError


def read_weights(path: Path, *, wrapped: bool = False) -> dict[str, Tensor]:
    """The state dict in a file.

    Args:
        path: `.safetensors`, or anything that `torch.load` reads with `weights_only=True`.
        wrapped: take off what trainers add around and before the names: `state_dict`, `model`, `module.`.
    Raises:
        InputError: a file that can't be read, holds anything but tensors, or holds NaN or infinity.
    """
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, ImportError) as error:
        raise InputError(f"can't read weights from {path}: {str(error).splitlines()[0]}") from error
    except Exception as error:
        raise InputError(f"{path} is no plain weight file (only tensors are read, never code)") from error
    if wrapped:
        content = _unwrap(content)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path} holds no state dict")
    for name, tensor in content.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path}: {name} holds NaN or infinity; the training that wrote it has diverged")
    return content


def _unwrap(content: Any) -> Any:
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    for prefix in ("module.", "model."):
        if isinstance(content, dict) and content and all(str(key).startswith(prefix) for key in content):
            content = {key.removeprefix(prefix): value for key, value in content.items()}
    return content


def fill_weights(model: nn.Module, state: dict[str, Tensor], path: Path, of: str | None = None) -> None:
    """Load a state dict into the network it was made from; InputError if it doesn't fit.

    `of` names the network where the file doesn't say itself what it is of.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        problem = f"are not those of {of}" if of else "don't fit"
        raise InputError(f"the weights in {path} {problem}: {first}") from error
