"""A checkpoint is a folder that timm itself can load, and that says how the model saw deletion.

model.safetensors   weights
config.json         timm's model config, plus `deletion`, `composite` and `label_names`
training.json       settings, versions, commit, data fingerprint, metrics, digest of the weights
README.md           model card
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from backbones import Explainable, TimmBackbone, create_backbone
from checkpoints.card import model_card
from checkpoints.config import CONFIG, SOURCES, check_config, check_weights, network_arguments
from core.deletion import DeletionSpec
from core.errors import InputError
from core.results import atomic_file, sha256_file, write_json

WEIGHTS, TRAINING, CARD = "model.safetensors", "training.json", "README.md"
_FOREIGN = SOURCES | {"license", "origin_url", "paper_ids"}
"""What timm says of its own weights, and is untrue of those that are saved."""


Model = TypeVar("Model", bound=Explainable)


@dataclass(frozen=True)
class Checkpoint(Generic[Model]):
    """A loaded model and what is known of it; `deletion` is None for a model that never saw any."""

    backbone: Model
    name: str
    deletion: DeletionSpec | None = None
    classes: list[str] | None = None
    training: dict[str, Any] | None = None
    sha256: str | None = None
    composite: dict[str, Any] | None = None

    def describe(self) -> dict[str, Any]:
        """The `model` entry of `summary.json`."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "deletion": self.deletion.to_dict() if self.deletion else None,
        } | ({"composite": self.composite} if self.composite else {})


def save_checkpoint(
    folder: Path,
    backbone: TimmBackbone,
    *,
    deletion: DeletionSpec | None,
    classes: list[str],
    training: dict[str, Any],
    composite: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint folder; each file whole or not at all, the weights first.

    `composite` says how the model saw grids in training: share of the images, scale, setting.
    """
    write_folder(folder, backbone.model, _timm_config(backbone) | {"composite": composite}, deletion, classes, training)


def write_folder(
    folder: Path,
    model: nn.Module,
    config: dict[str, Any],
    deletion: DeletionSpec | None,
    classes: list[str],
    training: dict[str, Any],
) -> None:
    """The four files of a checkpoint: a model's own weights, its config and what is known of it."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / WEIGHTS) as temporary:
        save_file({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}, temporary)
    training = {**training, "sha256": sha256_file(folder / WEIGHTS)}
    config = config | {"label_names": classes, "deletion": deletion.to_dict() if deletion else None}
    write_json(folder / CONFIG, config)
    write_json(folder / TRAINING, training)
    with atomic_file(folder / CARD) as temporary:
        temporary.write_text(model_card(folder.name, config, training), encoding="utf-8")


def _timm_config(backbone: TimmBackbone) -> dict[str, Any]:
    model: nn.Module = backbone.model
    source: dict[str, Any] = dict(model.pretrained_cfg)  # type: ignore[call-overload]
    pretrained = {key: value for key, value in source.items() if key not in _FOREIGN and value is not None}
    pretrained.pop("architecture", None)
    pretrained.pop("label_names", None)
    pretrained.pop("test_input_size", None)
    data = backbone.data_config
    pretrained |= {key: data[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")}
    return {
        "architecture": backbone.name,
        "num_classes": backbone.num_classes,
        "num_features": int(model.num_features),  # type: ignore[arg-type]
        "model_args": backbone.arguments,
        "pretrained_cfg": pretrained | {"num_classes": backbone.num_classes, "custom_load": False},
    }


def load_checkpoint(folder: Path, input_size: int | None = None) -> Checkpoint[TimmBackbone]:
    """Read a checkpoint folder.

    The weights are `model.safetensors`, read here: timm's own loader of folders takes other files too.

    Args:
        input_size: side of the images in pixels; the one it was trained with by default.
    Raises:
        InputError: a folder that is incomplete, a config that says more than a network's shape, weights
            that aren't those recorded, don't fit or aren't numbers, a size that the network can't take.
    """
    config, training, digest = read_folder(folder)
    if config.get("task") == "segmentation":
        raise InputError(f"{folder} holds a segmentation network; evaluate it with eval.dea")
    name, arguments = config["architecture"], network_arguments(config)
    pretrained = config["pretrained_cfg"] | {"num_classes": config["num_classes"]}
    backbone = create_backbone(name, config["num_classes"], pretrained_cfg=pretrained, **arguments)
    backbone.arguments = arguments
    fill_weights(backbone.model, read_folder_weights(folder), folder / WEIGHTS)
    if input_size:
        backbone.set_input_size(input_size)
    return describe_checkpoint(backbone, folder, config, training, digest)


def read_folder_weights(folder: Path) -> dict[str, Tensor]:
    """The state dict of a folder; InputError if it can't be read or holds NaN or infinity."""
    try:
        state = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise InputError(f"can't read weights from {folder / WEIGHTS}: {str(error).splitlines()[0]}") from error
    check_weights(state, folder / WEIGHTS)
    return state


def fill_weights(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load a state dict into the network it was made from; InputError if it doesn't fit."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise InputError(f"the weights in {path} don't fit: {first}") from error


def describe_checkpoint(
    backbone: Model, folder: Path, config: dict[str, Any], training: dict[str, Any] | None, digest: str
) -> Checkpoint[Model]:
    """A loaded model with what its folder says of it."""
    spec = config.get("deletion")
    return Checkpoint(
        backbone,
        str(config.get("architecture", folder.name)),
        DeletionSpec.from_dict(spec) if spec else None,
        config.get("label_names"),
        training,
        digest,
        config.get("composite"),
    )


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Any] | None, str]:
    """Config, which must only shape a network, training record, and digest of the weights, the recorded one."""
    missing = [name for name in (WEIGHTS, CONFIG) if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} is no checkpoint: it lacks {' and '.join(missing)}")
    config = _read_json(folder / CONFIG)
    check_config(config, folder)
    training = _read_json(folder / TRAINING) if (folder / TRAINING).is_file() else None
    digest = sha256_file(folder / WEIGHTS)
    if training and training.get("sha256", digest) != digest:
        raise InputError(f"{folder / WEIGHTS} is not the file that {TRAINING} recorded (sha256 {digest[:12]}… differs)")
    return config, training, digest


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"can't read {path}: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}, expected an object")
    return content
