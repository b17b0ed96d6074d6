"""What `--model` takes, for any task: a checkpoint folder, a weight file, a name, a file's function, or a module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from checkpoints.config import CONFIG, network_arguments
from checkpoints.format import WEIGHTS, Checkpoint, is_known, own_name, own_weights, read_folder
from checkpoints.published import as_published, is_published
from checkpoints.renaming import fit_names
from checkpoints.weights import WeightFile, check_names, fill_weights, read_file, read_weights, rows_of
from faithfulness.backbones import adopt_classifier, create_backbone
from faithfulness.backbones.backbone import check_logits
from faithfulness.core.deletion import DeletionSpec
from faithfulness.core.errors import InputError, unknown_name
from faithfulness.core.files import sha256_file
from faithfulness.core.plugin_files import call_function, file_of, function_name, is_in_file, load_function


@dataclass(frozen=True)
class Kind:
    """How networks of one task are made; the rest of loading is the same for all.

    Attributes:
        task: as `config.json` has it; None for classification.
        adopt: (module, input_size, default_size) -> a user's module as a network of this task.
        by_name: (text, keywords of a new network) -> network and its name.
        from_config: (checked config) -> the network that a folder's weights go into.
        from_state: (architecture, state dict, file, keywords) -> the network of a weight file, filled.
        refusal: what is said of a folder of another task.
    """

    task: str | None
    adopt: Callable[..., Any]
    by_name: Callable[..., tuple[Any, str]]
    from_config: Callable[[dict[str, Any]], Any]
    from_state: Callable[..., Any]
    refusal: str


@dataclass(frozen=True)
class Request:
    """What was asked of a model besides where it is; see `load_model`."""

    arch: str | Callable[..., Any] | None
    num_classes: int | None
    pretrained: bool
    input_size: int | None
    model_args: dict[str, Any]
    default_size: int | None

    @property
    def size(self) -> int | None:
        """The side of the images of a network that says none itself."""
        return self.input_size or (None if "img_size" in self.model_args else self.default_size)


def load_model(
    model: str | Path | nn.Module | Checkpoint[Any],
    *,
    arch: str | Callable[..., Any] | None = None,
    num_classes: int | None = None,
    pretrained: bool = False,
    input_size: int | None = None,
    model_args: dict[str, Any] | None = None,
    default_size: int | None = None,
) -> Checkpoint[Any]:
    """Load what `--model` names, or take a module as it is.

    Args:
        model: a folder, a weight file, `timm:NAME` (a bare timm name too), `hf-hub:ORG/NAME`,
            `path/to/file.py:function`, where function() or function(num_classes) returns a network, or the network
            itself: a `Backbone`, a timm model, or any module with logits (B, classes). It isn't changed.
        arch: the timm name of a weight file's architecture, where the file doesn't say it; its weights may be named
            as by torchvision or the published networks; `path/to/file.py:function`, or the function, that makes
            the network whose weights a file or folder holds.
        num_classes: logits of an untrained network; a checkpoint brings its own.
        pretrained: load timm's weights.
        input_size: side of the images in pixels; a folder's network is brought to it.
        model_args: further arguments of timm's model, or of the function.
        default_size: the side where neither the model nor `input_size` says one.
    Raises:
        InputError: nothing there, a folder that is incomplete or says more than a network's shape, weights that
            aren't those recorded, don't fit or aren't numbers, unknown names, a size that the network can't take.

    >>> from checkpoints import load_model
    >>> checkpoint = load_model("timm:test_resnet", num_classes=10)  # or a folder that `patch_finetune` wrote
    >>> checkpoint.name, checkpoint.model.layers[:3]
    ('test_resnet', ['input', 'middle', 'final'])
    >>> checkpoint.deletion is None  # it never saw deleted images
    True
    """
    asked = Request(arch, num_classes, pretrained, input_size, dict(model_args or {}), default_size)
    return load_any(CLASSIFIERS, model, asked)


def load_checkpoint(folder: Path, input_size: int | None = None) -> Checkpoint[Any]:
    """Read a classifier's checkpoint folder, see `load_model`."""
    if not Path(folder).is_dir():
        raise InputError(f"no checkpoint folder at {folder}")
    return load_model(folder, input_size=input_size)


def load_any(kind: Kind, model: Any, asked: Request) -> Checkpoint[Any]:
    """`load_model` for networks of any kind."""
    if isinstance(model, Checkpoint):
        size = asked.input_size
        return replace(model, model=kind.adopt(model.model, size)) if size else model
    if isinstance(model, nn.Module):
        return _take_module(kind, model, asked)
    if not isinstance(model, str | Path):
        raise InputError(f"expected a network, or what names one, as the model, got {type(model).__name__}")
    text, path = str(model), Path(model).expanduser()
    if is_in_file(text):
        return _run_code(kind, text, asked)
    if path.is_dir():
        return _load_folder(kind, path, text, short_name(path), asked)
    if path.is_file():
        return open_file(kind, path, text, asked)[0]
    source, _, name = text.rpartition(":")
    if source == "hf-hub":
        return _load_folder(kind, download(name), text, name, asked)
    backbone, name = kind.by_name(text, asked)
    return Checkpoint(backbone, name, text, name)


def short_name(path: Path) -> str:
    """The last two parts of a path: what tells two checkpoints of one architecture apart."""
    return "/".join(part for part in path.resolve().parts[-2:] if part != path.anchor and part != "/")


def download(name: str) -> Path:
    """The folder of a checkpoint on the Hub, fetched once."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(name, allow_patterns=["*.json", "model.safetensors", "README.md"])
    except Exception as error:
        raise InputError(f"can't download hf-hub:{name}: {type(error).__name__}; is there a network?") from error
    return Path(folder)


def _take_module(kind: Kind, model: nn.Module, asked: Request) -> Checkpoint[Any]:
    for flag in ("arch", "pretrained", "model_args"):
        if getattr(asked, flag):
            raise InputError(f"{flag} is for models by name; {type(model).__name__} is a module already")
    adopted = kind.adopt(model, asked.input_size, asked.default_size)
    return Checkpoint(adopted, adopted.name, None, adopted.name if is_known(adopted) else own_name(adopted))


def _make(source: str | Callable[..., Any], asked: Request) -> tuple[Any, str]:
    """What a user's code makes, and what the code is called."""
    text = source if isinstance(source, str) else getattr(source, "__name__", type(source).__name__)
    function = load_function(source) if isinstance(source, str) else source
    offered = {} if asked.num_classes is None else {"num_classes": asked.num_classes}
    if asked.pretrained:
        asked.model_args.setdefault("pretrained", True)
    return call_function(function, text, offered, asked.model_args), function_name(text)


def _run_code(kind: Kind, text: str, asked: Request) -> Checkpoint[Any]:
    made, function = _make(text, asked)
    adopted = kind.adopt(made, asked.input_size, asked.default_size)
    adopted.own = function
    return Checkpoint(adopted, f"{Path(file_of(text)).stem}.{function}", text, function)


def open_file(kind: Kind, path: Path, text: str, asked: Request) -> tuple[Checkpoint[Any], WeightFile]:
    """The network of a weight file, with what the file says of its training; and what else is in the file."""
    file = read_file(path)
    said = (file.arguments or {}).get("model")
    if not asked.arch:
        if kind.task is not None or not isinstance(said, str) or not timm.is_model(said):
            raise InputError(f"{path} is a single weight file; name its architecture with --arch")
        asked = replace(asked, arch=said)
    if is_published(file.arguments):
        asked = replace(asked, default_size=None)  # their script's images have the size that the network has by itself
    if isinstance(asked.arch, str) and not is_in_file(asked.arch):
        try:
            backbone = kind.from_state(asked.arch, file.state, path, asked)
        except InputError as error:
            if not isinstance(said, str) or said == asked.arch:
                raise
            raise InputError(f"{error}; the file says that it is of a {said[:60]}") from error
        architecture = getattr(backbone, "architecture", "") or backbone.name
    else:
        made, architecture = _make(asked.arch, asked)  # type: ignore[arg-type]
        backbone = kind.adopt(made, asked.input_size, asked.default_size)
        backbone.own = architecture
        fill_weights(own_weights(backbone), file.state, path, architecture)
    checkpoint = Checkpoint(backbone, short_name(path), text, architecture, sha256=sha256_file(path))
    return (as_published(checkpoint, file.arguments) if kind.task is None else checkpoint), file


def _load_folder(kind: Kind, folder: Path, text: str, name: str, asked: Request) -> Checkpoint[Any]:
    config, training, digest = read_folder(folder)
    if config.get("task") != kind.task:
        raise InputError(f"{folder} {kind.refusal}")
    if config.get("own"):
        backbone = _rebuild_own(kind, folder, config, asked)
    elif asked.model_args:
        raise InputError(f"--model-args are for new models; {text} brings its own")
    elif asked.arch and (callable(asked.arch) or is_in_file(asked.arch)):
        raise InputError(f"--arch {asked.arch} is for networks of one's own; {text} is a {config['architecture']}")
    else:
        backbone = kind.from_config(config)
    fill_weights(own_weights(backbone), read_weights(folder / WEIGHTS), folder / WEIGHTS)
    if asked.input_size and not config.get("own"):
        backbone.set_input_size(asked.input_size)
    spec = config.get("deletion")
    return Checkpoint(
        backbone,
        name,
        text,
        config["architecture"],
        DeletionSpec.from_dict(spec) if spec else None,
        config.get("label_names"),
        training,
        digest,
        config.get("composite"),
    )


def _rebuild_own(kind: Kind, folder: Path, config: Mapping[str, Any], asked: Request) -> Any:
    """The network of the user's own whose weights a folder holds: made by the code that the person names."""
    architecture, shown = config["architecture"], config["pretrained_cfg"]
    if not asked.arch:
        raise InputError(
            f"{folder} holds weights of a network of one's own; name the code that makes it: "
            f"--arch path/to/file.py:{architecture}"
        )
    if isinstance(asked.arch, str) and not is_in_file(asked.arch):
        raise InputError(f"expected --arch path/to/file.py:{architecture} for {folder}, got {asked.arch}")
    made, _ = _make(asked.arch, replace(asked, num_classes=config["num_classes"]))
    backbone = kind.adopt(made, asked.input_size or tuple(shown["input_size"][1:]))
    told = {key: tuple(value) if isinstance(value, list) else value for key, value in shown.items()}
    backbone.data_config = {**backbone.data_config, **told, "input_size": backbone.data_config["input_size"]}
    backbone.own = architecture
    return backbone


_TOLD = {
    "num_classes": "the data tells that",
    "pretrained": "it has a flag, --pretrained",
    "input_size": "it has a flag, --input-size",
    "pretrained_cfg": "it would stand for other weights",
    "pretrained_cfg_overlay": "it would stand for other weights",
    "weights": "a weight file goes to --model, with --arch",
    "checkpoint_path": "a weight file goes to --model, with --arch",
}


def own_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a new network that are for it alone; InputError for one that something else tells.

    So no word loads weights of which the record says nothing.
    """
    for name, why in _TOLD.items():
        if name in arguments:
            raise InputError(f"--model-args.{name}: {why}; got {arguments[name]!r}")
    return arguments


def _classifier_by_name(text: str, asked: Request) -> tuple[Any, str]:
    source, _, name = text.rpartition(":")
    if source not in ("timm", ""):
        raise InputError(f"unknown model source {source!r} in {text!r}; known: timm, hf-hub, or a path")
    if source or timm.is_model(name.split(".")[0]):
        classes = None if asked.pretrained and asked.num_classes is None else asked.num_classes
        backbone = create_backbone(
            name, classes, pretrained=asked.pretrained, input_size=asked.size, **own_arguments(asked.model_args)
        )
        if asked.model_args:  # timm takes some that only the first pass shows to be none
            check_logits(backbone, 2)
        return backbone, backbone.name
    if "/" not in text:
        raise unknown_name("model or checkpoint folder", text, timm.list_models())
    raise InputError(
        f"no checkpoint at {text}; expected a folder with {CONFIG}, a weight file, timm:NAME, hf-hub:ORG/NAME or "
        "file.py:function"
    )


def _classifier_from_config(config: dict[str, Any]) -> Any:
    arguments = network_arguments(config)
    pretrained = config["pretrained_cfg"] | {"num_classes": config["num_classes"]}
    backbone = create_backbone(config["architecture"], config["num_classes"], pretrained_cfg=pretrained, **arguments)
    backbone.arguments = arguments
    return backbone


def _classifier_from_state(arch: str, state: dict[str, Tensor], path: Path, asked: Request) -> Any:
    shape = {"input_size": asked.size, **asked.model_args}
    probe = _shaped(arch, shape)
    state = fit_names(state, probe.model, arch.partition(".")[0])
    check_names(probe.model, state, path, f"a {arch}")
    classifier = probe.pretrained_cfg.get("classifier")
    head = f"{classifier}.weight" if isinstance(classifier, str) else ""
    classes = rows_of(state, head, path) if head in state else None
    backbone = create_backbone(arch, classes, **shape)
    fill_weights(backbone.model, state, path, f"a {arch}")
    return backbone


def _shaped(arch: str, shape: dict[str, Any]) -> Any:
    """A network of an architecture, without memory for its weights where it can be made so."""
    try:
        with torch.device("meta"):
            return create_backbone(arch, **shape)
    except InputError:  # or it needs numbers to be made, or there is no such network, which is said then
        return create_backbone(arch, **shape)


CLASSIFIERS = Kind(
    None,
    adopt_classifier,
    _classifier_by_name,
    _classifier_from_config,
    _classifier_from_state,
    "holds a segmentation network; evaluate it with eval.dea",
)
