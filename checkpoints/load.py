"""What `--model` takes: a checkpoint folder, a weight file with `--arch`, `timm:NAME`, `hf-hub:ORG/NAME`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from backbones import TimmBackbone, create_backbone
from checkpoints.config import CONFIG, check_weights
from checkpoints.format import Checkpoint, load_checkpoint
from core.errors import InputError, unknown_name
from core.results import sha256_file


def load_model(
    text: str,
    *,
    arch: str | None = None,
    num_classes: int | None = None,
    pretrained: bool = False,
    input_size: int | None = None,
    model_args: dict[str, Any] | None = None,
) -> Checkpoint[TimmBackbone]:
    """Load what `--model` names.

    Args:
        text: a folder, a weight file, `timm:NAME` (a bare timm name too), or `hf-hub:ORG/NAME`.
        arch: the timm name of a weight file's architecture.
        num_classes: logits of an untrained timm model; a checkpoint brings its own.
        pretrained: load timm's weights.
        input_size: side of the images in pixels; a folder's network is brought to it, see `load_checkpoint`.
        model_args: passed to timm.
    Raises:
        InputError: nothing there, weights that don't fit, unknown names.
    """
    model_args = dict(model_args or {})
    path = Path(text).expanduser()
    if model_args and (path.is_dir() or text.startswith("hf-hub:")):
        raise InputError(f"--model-args are for timm models; {text} brings its own")
    if path.is_dir():
        return load_checkpoint(path, input_size)
    if path.is_file():
        if not arch:
            raise InputError(f"{path} is a single weight file; name its architecture with --arch")
        return _load_weight_file(path, arch, input_size, model_args)
    source, _, name = text.rpartition(":")
    if source in ("timm", ""):
        if source or timm.is_model(name.split(".")[0]):
            classes = None if pretrained and num_classes is None else num_classes
            backbone = create_backbone(name, classes, pretrained=pretrained, input_size=input_size, **model_args)
            return Checkpoint(backbone, backbone.name)
        if "/" not in text:
            raise unknown_name("model or checkpoint folder", text, timm.list_models())
        raise InputError(
            f"no checkpoint at {text}; expected a folder with {CONFIG}, a weight file, timm:NAME or hf-hub:ORG/NAME"
        )
    if source == "hf-hub":
        return load_checkpoint(download(name), input_size)
    raise InputError(f"unknown model source {source!r} in {text!r}; known: timm, hf-hub, or a path")


def download(name: str) -> Path:
    """The folder of a checkpoint on the Hub, fetched once."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(name, allow_patterns=["*.json", "model.safetensors", "README.md"])
    except Exception as error:
        raise InputError(f"can't download hf-hub:{name}: {type(error).__name__}; is there a network?") from error
    return Path(folder)


def _load_weight_file(
    path: Path, arch: str, input_size: int | None, model_args: dict[str, Any]
) -> Checkpoint[TimmBackbone]:
    state = read_weights(path)
    probe = create_backbone(arch, input_size=input_size, **model_args)
    classifier = probe.model.pretrained_cfg.get("classifier")  # type: ignore[union-attr]
    head = state.get(f"{classifier}.weight") if isinstance(classifier, str) else None
    backbone = probe if head is None else create_backbone(arch, len(head), input_size=input_size, **model_args)
    try:
        backbone.model.load_state_dict(state)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise InputError(f"the weights in {path} are not those of a {arch}: {first}") from error
    return Checkpoint(backbone, backbone.name, sha256=sha256_file(path))


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from safetensors or a weights-only pickle, without the wrappers that trainers add."""
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, ImportError) as error:
        raise InputError(f"can't read weights from {path}: {str(error).splitlines()[0]}") from error
    except Exception as error:
        raise InputError(f"{path} is no plain weight file (only tensors are read, never code)") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path} holds no state dict")
    for prefix in ("module.", "model."):
        if content and all(key.startswith(prefix) for key in content):
            content = {key.removeprefix(prefix): value for key, value in content.items()}
    check_weights(content, path)
    return content
