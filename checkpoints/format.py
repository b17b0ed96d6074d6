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

from safetensors.torch import save_file
from torch import nn

from backbones import Explainable, TimmBackbone, create_backbone
from checkpoints.card import model_card
from core.deletion import DeletionSpec
from core.errors import InputError
from core.results import atomic_file, sha256_file, write_json

WEIGHTS, CONFIG, TRAINING, CARD = "model.safetensors", "config.json", "training.json", "README.md"
_SOURCES = {"url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "license", "origin_url", "paper_ids"}


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
    pretrained = {key: value for key, value in source.items() if key not in _SOURCES and value is not None}
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


def load_checkpoint(folder: Path) -> Checkpoint[TimmBackbone]:
    """Read a checkpoint folder; InputError if it is incomplete or its weights aren't those recorded."""
    config, training, digest = read_folder(folder)
    if config.get("task") == "segmentation":
        raise InputError(f"{folder} holds a segmentation network; evaluate it with eval.dea")
    backbone = create_backbone(f"local-dir:{folder}")
    backbone.arguments = config.get("model_args", {})
    return describe_checkpoint(backbone, folder, config, training, digest)


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
    """Config, training record and the digest of the weights, which must be the recorded one."""
    missing = [name for name in (WEIGHTS, CONFIG) if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} is no checkpoint: it lacks {' and '.join(missing)}")
    config = _read_json(folder / CONFIG)
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
