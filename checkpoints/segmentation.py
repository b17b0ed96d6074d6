"""Checkpoints of segmentation networks: the same four files, rebuilt by `create_segmenter`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from checkpoints.config import CONFIG, network_arguments
from checkpoints.format import Checkpoint, own_config, own_weights, write_folder
from checkpoints.load import Kind, Request, load_any, own_arguments
from checkpoints.weights import fill_weights, rows_of
from faithfulness.backbones import OwnSegmenter, Segmenter, adopt_segmenter, create_segmenter
from faithfulness.backbones.segmentation import TORCHVISION
from faithfulness.core.deletion import DeletionSpec
from faithfulness.core.errors import InputError, unknown_name

INPUT = ("input_size", "interpolation", "mean", "std")


def save_segmenter(
    folder: Path,
    segmenter: Segmenter,
    *,
    deletion: DeletionSpec | None,
    classes: list[str],
    training: dict[str, Any],
    composite: None = None,
) -> None:
    """Write a checkpoint folder; each file whole or not at all, the weights first. No grids: `composite` is None."""
    if segmenter.own or isinstance(segmenter, OwnSegmenter):
        config = {"task": "segmentation", **own_config(segmenter)}
    else:
        config = {
            "task": "segmentation",
            "architecture": segmenter.architecture,
            "num_classes": segmenter.num_classes,
            "model_args": segmenter.arguments,
            "pretrained_cfg": {key: segmenter.data_config[key] for key in INPUT},
        }
    write_folder(folder, own_weights(segmenter), config, deletion, classes, training)


def load_segmenter(
    model: str | Path | nn.Module | Checkpoint[Any],
    *,
    arch: str | Callable[..., Any] | None = None,
    num_classes: int | None = None,
    pretrained: bool = False,
    input_size: int | None = None,
    model_args: dict[str, Any] | None = None,
    default_size: int | None = None,
) -> Checkpoint[Segmenter]:
    """Load what `--model` names, where a segmentation network is wanted, or take a module as it is.

    Args:
        model: a folder, a weight file (with `arch`), `torchvision:NAME`, `timm:NAME` (an FCN on it), a bare
            name of either, `hf-hub:ORG/NAME`, `path/to/file.py:function`, or any module with logits (B, K, H, W),
            or with torchvision's dict that has them as "out".
        num_classes: logits per pixel of a network whose weights don't say.
        pretrained: torchvision's weights, or timm's of the backbone; untrained otherwise.
        arch, input_size, model_args, default_size: as `load_model`.
    Raises:
        InputError: as `load_model`.
    """
    asked = Request(arch, num_classes, pretrained, input_size, dict(model_args or {}), default_size)
    return load_any(SEGMENTERS, model, asked)


def _segmenter_by_name(text: str, asked: Request) -> tuple[Segmenter, str]:
    source, _, name = text.rpartition(":")
    if source not in ("", "timm", "torchvision"):
        raise InputError(f"unknown model source {source!r} in {text!r}; known: torchvision, timm, hf-hub, or a path")
    if source == "torchvision" and name not in TORCHVISION:
        raise unknown_name("torchvision segmentation model", name, TORCHVISION)
    if name not in TORCHVISION and not timm.is_model(name.split(".")[0]):
        if "/" in text:
            raise InputError(
                f"no checkpoint at {text}; expected a folder with {CONFIG}, a weight file, torchvision:NAME or "
                "file.py:function"
            )
        raise unknown_name("segmentation model or checkpoint folder", text, [*TORCHVISION, *timm.list_models()])
    new: dict[str, Any] = {"pretrained": asked.pretrained, "input_size": asked.size, **own_arguments(asked.model_args)}
    return create_segmenter(name, asked.num_classes, **new), name


def _segmenter_from_config(config: dict[str, Any]) -> Segmenter:
    name, classes, shown = config["architecture"], config["num_classes"], config["pretrained_cfg"]
    size = shown["input_size"][-1]
    segmenter = create_segmenter(name, classes, input_size=size, **network_arguments(config))
    told = {key: tuple(value) if isinstance(value, list) else value for key, value in shown.items() if key in INPUT}
    segmenter.data_config |= told
    return segmenter


def _segmenter_from_state(arch: str, state: dict[str, Tensor], path: Path, asked: Request) -> Segmenter:
    """Weights of torchvision's model itself, or of a segmenter as its folder holds them."""
    name = arch.removeprefix("torchvision:").removeprefix("timm:")
    state = {key: value for key, value in state.items() if not key.startswith("aux_classifier.")}
    last = f"{TORCHVISION[name][0] if name in TORCHVISION else 'classifier'}.weight"
    if last not in state:
        raise InputError(f"the weights in {path} are not those of a {arch} that segments: {last} is missing")
    arguments = own_arguments(asked.model_args)
    segmenter = create_segmenter(name, rows_of(state, last, path), input_size=asked.size, **arguments)
    fill_weights(segmenter.get_submodule("model") if name in TORCHVISION else segmenter, state, path)
    return segmenter


SEGMENTERS = Kind(
    "segmentation",
    adopt_segmenter,
    _segmenter_by_name,
    _segmenter_from_config,
    _segmenter_from_state,
    "holds no segmentation network; train one with training.segmentation_finetune",
)
