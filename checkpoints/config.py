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
from timm.models import PretrainedCfg, build_model_with_cfg
from timm.models import model_entrypoint as entry_point
from torch import nn

from checkpoints.values import check_arguments, check_classes, check_deletion, check_images, shown
from faithfulness.backbones.segmentation import TORCHVISION
from faithfulness.core.errors import InputError, unknown_name

CONFIG = "config.json"
KEYS = frozenset(
    (
        *("architecture", "num_classes", "num_features", "global_pool", "model_args", "pretrained_cfg"),
        *("label_names", "label_descriptions", "task", "deletion", "composite", "own"),
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
    "own": (bool,),
}
_REQUIRED = ("architecture", "num_classes", "pretrained_cfg")


def check_config(config: dict[str, Any], folder: Path) -> None:
    """Raise InputError unless the config only shapes a network that is known by name.

    Checks the keys of the whole, of `pretrained_cfg` and of `model_args`, and what kind of values they hold. A network
    of the user's own (`own`) is known by a name that only the person who loads it can tell the code of.
    """
    path = folder / CONFIG
    _only_known(config, KEYS, path, "")
    for key in (*_REQUIRED, *(key for key in _KINDS if key in config)):
        if not isinstance(config.get(key), _KINDS[key]) or (isinstance(config[key], bool) and key != "own"):
            expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in _KINDS[key])
            raise InputError(f"{path}: expected {expected} as {key}, got {shown(config.get(key))}")
    if config.get("task") not in (None, "segmentation"):
        raise InputError(f"{path}: expected no task, or segmentation, got {shown(config['task'])}")
    _only_known(config["pretrained_cfg"], PRETRAINED_KEYS, path, " in pretrained_cfg")
    check_images(config["pretrained_cfg"], path)
    check_classes(config, path)
    check_deletion(config.get("deletion"), path)
    name = config["architecture"]
    if config.get("own"):
        _check_own(config, path)
        return
    segmentation = config.get("task") == "segmentation"
    if not (segmentation and name in TORCHVISION) and (_is_address(name) or not timm.is_model(name)):
        raise unknown_name(f"{path}: architecture", name, timm.list_models())
    arguments = network_arguments(config)
    _only_known(arguments, _arguments_of(name, segmentation), path, " in model_args")
    for key, value in arguments.items():
        if any(_is_address(text) for text in _texts(value)):
            raise InputError(f"{path}: {key} in model_args holds a path or an address, {shown(value)}")
    if segmentation and not isinstance(arguments.get("skip", ""), str):
        raise InputError(f"{path}: expected the name of a layer as skip in model_args, got {shown(arguments['skip'])}")
    check_arguments(arguments, path)


def _check_own(config: dict[str, Any], path: Path) -> None:
    """A network of the user's own: its code, and what the code is called with, come from the person alone."""
    if not config["architecture"].isidentifier():
        raise InputError(
            f"{path}: expected the name of a function as architecture, got {shown(config['architecture'])}"
        )
    if config.get("model_args"):
        raise InputError(f"{path}: model_args of a network of the user's own come from --model-args alone")


def network_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """What a config says of the network's shape besides its name and classes, which timm's own says twice."""
    arguments = config.get("model_args") or {}
    return {key: value for key, value in arguments.items() if (key, value) != ("num_classes", config["num_classes"])}


def _only_known(given: dict[str, Any], known: Iterable[str], path: Path, where: str) -> None:
    for key in given:
        if key not in known:
            raise InputError(f"{path}: {shown(key)}{where} is nothing that a checkpoint may say")


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
