"""A checkpoint is a folder that timm itself can load, and that says how the model saw deletion.

model.safetensors   weights
config.json         timm's model config, plus `deletion`, `composite`, `label_names`, and `own` for a user's network
training.json       command, settings, versions, commit, data fingerprint, metrics, license, base model, digest
README.md           model card
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import timm
from torch import nn

from checkpoints.card import model_card
from checkpoints.config import CONFIG, PRETRAINED_KEYS, check_config, network_arguments
from checkpoints.header import metadata_of, save_weights
from checkpoints.values import check_extent
from faithfulness.backbones import Explainable, InputOnlyModel, OwnSegmenter, TimmBackbone
from faithfulness.core.deletion import DeletionSpec
from faithfulness.core.errors import InputError
from faithfulness.core.files import atomic_file, sha256_file, write_json

WEIGHTS, TRAINING, CARD = "model.safetensors", "training.json", "README.md"
DATA_KEYS = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
LONGEST = 2**26
"""Bytes of a config or of a record of training."""
_FOREIGN = {"license", "origin_url", "paper_ids", "architecture", "label_names", "test_input_size"}
"""What timm says of its own weights, and is untrue of those that are saved, or stands elsewhere in the config."""

Model = TypeVar("Model", bound=Explainable)


@dataclass(frozen=True)
class Checkpoint(Generic[Model]):
    """A loaded model and what is known of it; `deletion` is None for a model that never saw any.

    Attributes:
        name: what tables call it: the last two parts of a path, so that two checkpoints of one architecture differ.
        path: what the user named; None for a module that was given itself.
        architecture: timm's or torchvision's name, or that of the user's own code.
        sha256: digest of the weights' file.
        composite: how it saw grids in training.
    """

    model: Model
    name: str
    path: str | None = None
    architecture: str = ""
    deletion: DeletionSpec | None = None
    classes: list[str] | None = None
    training: dict[str, Any] | None = None
    sha256: str | None = None
    composite: dict[str, Any] | None = None

    def describe(self) -> dict[str, Any]:
        """The `model` entry of `summary.json`."""
        return {
            "name": self.name,
            "path": self.path,
            "architecture": self.architecture,
            "sha256": self.sha256,
            "deletion": self.deletion.to_dict() if self.deletion else None,
        } | ({"composite": self.composite} if self.composite else {})


def save_checkpoint(
    folder: Path,
    backbone: Any,
    *,
    deletion: DeletionSpec | None,
    classes: list[str] | None,
    training: dict[str, Any],
    composite: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint folder; each file whole or not at all, the weights first.

    A timm model is saved so that timm itself can load it; of any other the folder holds no more than the name
    of the code that makes it, and whoever loads it says where that is.

    Args:
        backbone: a `TimmBackbone`, or a network of the user's own as `load_model` gives it.
        classes: their names in order; None if they aren't known.
        composite: how the model saw grids in training: share of the images, scale, setting.
    """
    config = _timm_config(backbone) if is_known(backbone) else own_config(backbone)
    write_folder(folder, own_weights(backbone), config | {"composite": composite}, deletion, classes, training)


def is_known(backbone: nn.Module) -> bool:
    """Whether timm can build a network again, from its name and arguments that a file can hold."""
    if not isinstance(backbone, TimmBackbone) or backbone.own or not timm.is_model(backbone.name):
        return False
    try:
        json.dumps(backbone.arguments)
    except TypeError:
        return False
    return True


def own_weights(model: nn.Module) -> nn.Module:
    """The module whose weights a checkpoint holds: a wrapped one itself, whatever it is wrapped in."""
    return model.model if isinstance(model, TimmBackbone | InputOnlyModel | OwnSegmenter) else model


def own_config(model: Any) -> dict[str, Any]:
    """The config of a network of the user's own."""
    return {
        "architecture": own_name(model),
        "own": True,
        "num_classes": model.num_classes,
        "pretrained_cfg": {key: model.data_config[key] for key in DATA_KEYS if key in model.data_config},
    }


def own_name(model: Any) -> str:
    """What the code is called that makes a network: the function that was named, or the class."""
    return model.own or type(own_weights(model)).__name__


def write_folder(
    folder: Path,
    model: nn.Module,
    config: dict[str, Any],
    deletion: DeletionSpec | None,
    classes: list[str] | None,
    training: dict[str, Any],
) -> None:
    """The four files of a checkpoint: a model's own weights, its config and what is known of it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config | {"label_names": classes, "deletion": deletion.to_dict() if deletion else None}
    with atomic_file(folder / WEIGHTS) as temporary:
        state = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
        save_weights(temporary, state, metadata_of(config, training))
    training = {**training, "sha256": sha256_file(folder / WEIGHTS)}
    write_json(folder / CONFIG, config)
    write_json(folder / TRAINING, training)
    with atomic_file(folder / CARD) as temporary:
        temporary.write_text(model_card(folder, config, training), encoding="utf-8")


def _timm_config(backbone: TimmBackbone) -> dict[str, Any]:
    known = PRETRAINED_KEYS - _FOREIGN
    pretrained = {key: value for key, value in backbone.pretrained_cfg.items() if key in known and value is not None}
    pretrained |= {key: backbone.data_config[key] for key in DATA_KEYS}
    features = getattr(backbone.model, "num_features", None)
    return {
        "architecture": backbone.name,
        "num_classes": backbone.num_classes,
        **({"num_features": features} if isinstance(features, int) else {}),
        "model_args": backbone.arguments,
        "pretrained_cfg": pretrained | {"num_classes": backbone.num_classes, "custom_load": False},
    }


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Any] | None, str]:
    """Config, which must only shape a network, training record, and digest of the weights, the recorded one."""
    missing = [name for name in (WEIGHTS, CONFIG) if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} is no checkpoint: it lacks {' and '.join(missing)}")
    config = _read_json(folder / CONFIG)
    try:
        check_config(config, folder)
    except RecursionError as error:
        raise InputError(f"{folder / CONFIG} is nested too deeply") from error
    if not config.get("own") and timm.is_model(config["architecture"]):
        shape = network_arguments(config)
        check_extent(config["architecture"], config["num_classes"], shape, folder / WEIGHTS, folder / CONFIG)
    training = _read_json(folder / TRAINING) if (folder / TRAINING).is_file() else None
    digest = sha256_file(folder / WEIGHTS)
    if training and training.get("sha256", digest) != digest:
        raise InputError(f"{folder / WEIGHTS} is not the file that {TRAINING} recorded (sha256 {digest[:12]}… differs)")
    return config, training, digest


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LONGEST:
            raise ValueError(f"more than {LONGEST} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"can't read {path}: {error}") from error
    except RecursionError as error:
        raise InputError(f"can't read {path}: it is nested too deeply") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}, expected an object")
    return content
