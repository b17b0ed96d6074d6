"""Checkpoints of segmentation networks: the same four files, rebuilt by `create_segmenter`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm

from backbones import Segmenter, create_segmenter
from backbones.segmentation import TORCHVISION
from checkpoints.config import CONFIG, network_arguments
from checkpoints.format import (
    WEIGHTS,
    Checkpoint,
    describe_checkpoint,
    fill_weights,
    read_folder,
    read_folder_weights,
    write_folder,
)
from checkpoints.load import download, read_weights
from core.deletion import DeletionSpec
from core.errors import InputError, unknown_name
from core.results import sha256_file

INPUT = ("input_size", "interpolation", "mean", "std")


def save_segmenter(
    folder: Path,
    segmenter: Segmenter,
    *,
    deletion: DeletionSpec | None,
    classes: list[str],
    training: dict[str, Any],
) -> None:
    """Write a checkpoint folder; each file whole or not at all, the weights first."""
    config = {
        "task": "segmentation",
        "architecture": segmenter.architecture,
        "num_classes": segmenter.num_classes,
        "model_args": segmenter.arguments,
        "pretrained_cfg": {key: segmenter.data_config[key] for key in INPUT},
    }
    write_folder(folder, segmenter, config, deletion, classes, training)


def load_segmenter(
    text: str,
    *,
    arch: str | None = None,
    num_classes: int | None = None,
    pretrained: bool = False,
    input_size: int | None = None,
    model_args: dict[str, Any] | None = None,
) -> Checkpoint[Segmenter]:
    """Load what `--model` names, where a segmentation network is wanted.

    Args:
        text: a folder, a weight file (with `arch`), `torchvision:NAME`, `timm:NAME` (an FCN on it), a bare
            name of either, or `hf-hub:ORG/NAME`.
        num_classes: logits per pixel of a network whose weights don't say.
        pretrained: torchvision's weights, or timm's of the backbone; untrained otherwise.
        arch, input_size, model_args: as `load_model`.
    Raises:
        InputError: nothing there, weights that don't fit, unknown names.
    """
    model_args = dict(model_args or {})
    path = Path(text).expanduser()
    if model_args and (path.is_dir() or text.startswith("hf-hub:")):
        raise InputError(f"--model-args are for new models; {text} brings its own")
    if path.is_dir():
        return _load_folder(path, input_size)
    if path.is_file():
        if not arch:
            raise InputError(f"{path} is a single weight file; name its architecture with --arch")
        return _load_weight_file(path, arch, input_size, model_args)
    source, _, name = text.rpartition(":")
    if source == "hf-hub":
        return _load_folder(download(name), input_size)
    if source not in ("", "timm", "torchvision"):
        raise InputError(f"unknown model source {source!r} in {text!r}; known: torchvision, timm, hf-hub, or a path")
    if source == "torchvision" and name not in TORCHVISION:
        raise unknown_name("torchvision segmentation model", name, TORCHVISION)
    if name not in TORCHVISION and not timm.is_model(name.split(".")[0]):
        if "/" in text:
            raise InputError(
                f"no checkpoint at {text}; expected a folder with {CONFIG}, a weight file or torchvision:NAME"
            )
        raise unknown_name("segmentation model or checkpoint folder", text, [*TORCHVISION, *timm.list_models()])
    segmenter = create_segmenter(name, num_classes, pretrained=pretrained, input_size=input_size, **model_args)
    return Checkpoint(segmenter, name)


def _load_folder(folder: Path, input_size: int | None = None) -> Checkpoint[Segmenter]:
    config, training, digest = read_folder(folder)
    if config.get("task") != "segmentation":
        raise InputError(f"{folder} holds no segmentation network; train one with training.segmentation_finetune")
    name, classes, shown = config["architecture"], config["num_classes"], config["pretrained_cfg"]
    size = shown["input_size"][-1]
    segmenter = create_segmenter(name, classes, input_size=size, **network_arguments(config))
    segmenter.data_config |= {key: _tuple(shown[key]) for key in INPUT if key in shown}
    fill_weights(segmenter, read_folder_weights(folder), folder / WEIGHTS)
    if input_size:
        segmenter.set_input_size(input_size)
    return describe_checkpoint(segmenter, folder, config, training, digest)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _load_weight_file(
    path: Path, arch: str, input_size: int | None, model_args: dict[str, Any]
) -> Checkpoint[Segmenter]:
    """Weights of torchvision's model itself, or of a segmenter as its folder holds them."""
    name = arch.removeprefix("torchvision:").removeprefix("timm:")
    state = {key: value for key, value in read_weights(path).items() if not key.startswith("aux_classifier.")}
    last = f"{TORCHVISION[name][0] if name in TORCHVISION else 'classifier'}.weight"
    if last not in state:
        raise InputError(f"the weights in {path} are not those of a {arch} that segments: {last} is missing")
    segmenter = create_segmenter(name, len(state[last]), input_size=input_size, **model_args)
    fill_weights(segmenter.get_submodule("model") if name in TORCHVISION else segmenter, state, path)
    return Checkpoint(segmenter, name, sha256=sha256_file(path))
