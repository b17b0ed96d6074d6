"""What a checkpoint folder may say. A folder comes from anywhere: it shapes a network, and names no code or file.

`timm.create_model` takes a dozen words that load weights from files and addresses; a folder's weights are in
`model.safetensors` and nowhere else, so none of these words is let through, nor any that isn't known.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, build_model_with_cfg
from timm.models import model_entrypoint as entry_point
from torch import Tensor, nn

from backbones.segmentation import TORCHVISION
from core.errors import InputError, unknown_name

CONFIG = "config.json"
KEYS = frozenset(
    (
        *("architecture", "num_classes", "num_features", "global_pool", "model_args", "pretrained_cfg"),
        *("label_names", "label_descriptions", "task", "deletion", "composite"),
    )
)
SOURCES = frozenset(("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source"))
"""Where timm would look for weights."""
PRETRAINED_KEYS = frozenset(field.name for field in fields(PretrainedCfg)) - SOURCES
LOADING = frozenset(
    (
        *inspect.signature(timm.create_model).parameters,
        *inspect.signature(build_model_with_cfg).parameters,
        *("pretrained_model_args", "weights", "features_only", "out_indices", "pruned", "device", "dtype"),
        *("num_classes", "input_size"),
    )
)
"""Words of timm and of this suite that load, or that a folder says elsewhere."""
_KINDS: dict[str, tuple[type, ...]] = {
    "architecture": (str,),
    "num_classes": (int,),
    "model_args": (dict,),
    "pretrained_cfg": (dict,),
    "label_names": (list, type(None)),
    "deletion": (dict, type(None)),
    "composite": (dict, type(None)),
}
_REQUIRED = ("architecture", "num_classes", "pretrained_cfg")


def check_config(config: dict[str, Any], folder: Path) -> None:
    """Raise InputError unless the config only shapes a network that is known by name.

    Checks the keys of the whole, of `pretrained_cfg` and of `model_args`, and what kind of values they hold.
    """
    path = folder / CONFIG
    _only_known(config, KEYS, path, "")
    for key in (*_REQUIRED, *(key for key in _KINDS if key in config)):
        if not isinstance(config.get(key), _KINDS[key]) or isinstance(config[key], bool):
            expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in _KINDS[key])
            raise InputError(f"{path}: expected {expected} as {key}, got {config.get(key)!r}")
    name = config["architecture"]
    segmentation = config.get("task") == "segmentation"
    if not (segmentation and name in TORCHVISION) and (_is_address(name) or not timm.is_model(name)):
        raise unknown_name(f"{path}: architecture", name, timm.list_models())
    pretrained, arguments = config["pretrained_cfg"], network_arguments(config)
    _only_known(pretrained, PRETRAINED_KEYS, path, " in pretrained_cfg")
    size = pretrained.get("input_size")
    if not isinstance(size, list) or len(size) != 3 or not all(type(side) is int and side > 0 for side in size):
        raise InputError(f"{path}: expected channels, height and width as input_size in pretrained_cfg, got {size!r}")
    _only_known(arguments, _arguments_of(name, segmentation), path, " in model_args")
    for key, value in arguments.items():
        if any(_is_address(text) for text in _texts(value)):
            raise InputError(f"{path}: {key} in model_args holds a path or an address, {value!r}")


def network_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """What a config says of the network's shape besides its name and classes, which timm's own says twice."""
    arguments = config.get("model_args") or {}
    return {key: value for key, value in arguments.items() if (key, value) != ("num_classes", config["num_classes"])}


def check_weights(state: dict[str, Tensor], path: Path) -> None:
    """Raise InputError, with its name, if a tensor holds NaN or infinity."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path}: {name} holds NaN or infinity; the training that wrote it has diverged")


def _only_known(given: dict[str, Any], known: Iterable[str], path: Path, where: str) -> None:
    for key in given:
        if key not in known:
            raise InputError(f"{path}: {key!r}{where} is nothing that a checkpoint may say")


def _arguments_of(architecture: str, segmentation: bool) -> frozenset[str]:
    """What shapes a network: the parameters of the classes in its timm module, without those that load."""
    if architecture in TORCHVISION:
        return frozenset()
    found = {"skip"} if segmentation else set()
    for kind in vars(sys.modules[entry_point(architecture).__module__]).values():
        if inspect.isclass(kind) and is_dataclass(kind):
            found |= {field.name for field in fields(kind)}
        elif inspect.isclass(kind) and issubclass(kind, nn.Module):
            for base in kind.__mro__:
                if "__init__" in vars(base):
                    found |= set(inspect.signature(vars(base)["__init__"]).parameters)
    return frozenset(found) - LOADING - {"self", "kwargs", "args"}


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = [*value, *value.values()]
    return [text for item in value for text in _texts(item)] if isinstance(value, list) else []


def _is_address(text: str) -> bool:
    return any(mark in text for mark in "/\\:")
