"""Any timm classification model, with its normalization, input size and the layers to compare at.

`register_layout` tells how a family of timm models runs, as a list of steps and a head. A layout is
held against the model's own forward pass before it is first used, so that a variant which runs
differently is explained at its input only, rather than wrongly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import timm
import torch
from timm.data.config import resolve_data_config
from timm.models.convnext import ConvNeXt
from timm.models.densenet import DenseNet
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.regnet import RegNet
from timm.models.resnet import ResNet
from timm.models.vgg import VGG
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from faithfulness.backbones.backbone import Explainable, count_logits, device_of, evaluating, refuses_size, told_config
from faithfulness.backbones.split import Layout, Step, flatten_steps
from faithfulness.backbones.timm_refusals import OF_ARGUMENTS, check_arguments, check_model_name, no_weights, not_built
from faithfulness.backbones.vit_grid import vit_on_grid
from faithfulness.core.errors import InputError, machine_failure
from faithfulness.core.registry import import_submodules

LAYOUTS: dict[type[nn.Module], Callable[[Any], Layout]] = {}


def register_layout(*families: type[nn.Module]) -> Callable[[Callable[[Any], Layout]], Callable[[Any], Layout]]:
    """Decorator: the function describes models of these classes (and their subclasses)."""

    def register(describe: Callable[[Any], Layout]) -> Callable[[Any], Layout]:
        LAYOUTS.update(dict.fromkeys(families, describe))
        return describe

    return register


def _children(model: nn.Module, *names: str) -> tuple[Step, ...]:
    return tuple(step for name in names for step in flatten_steps(name, model.get_submodule(name)))


@register_layout(ResNet)
def _resnet(model: ResNet) -> Layout:
    steps = _children(model, "conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4")
    return Layout(steps, model.forward_head, {"middle": "layer2", "final": "layer4"})


@register_layout(VGG)
def _vgg(model: VGG) -> Layout:
    """Middle: the ReLU after the first convolution of the fourth block; final: the last ReLU; pool: the pool after it.

    CAMs of Hesse et al. 2024 lie at `pool`, the end of `features`.
    """
    kinds = [(name, child) for name, child in model.features.named_children()]
    pools = [i for i, (_, child) in enumerate(kinds) if isinstance(child, nn.MaxPool2d)]
    relus = [i for i, (_, child) in enumerate(kinds) if isinstance(child, nn.ReLU)]
    third_pool = pools[2] if len(pools) > 3 else pools[len(pools) // 2 - 1]
    middle = next(i for i in relus if i > third_pool)
    places = {"middle": middle, "final": relus[-1], "pool": pools[-1]}
    taps = {tap: f"features.{kinds[place][0]}" for tap, place in places.items()}
    return Layout(_children(model, "features"), model.forward_head, taps)


@register_layout(ConvNeXt)
def _convnext(model: ConvNeXt) -> Layout:
    steps = _children(model, "stem", "stages", "norm_pre")
    last = len(model.stages) - 1
    return Layout(steps, model.head, {"middle": f"stages.{(last - 1) // 2}", "final": f"stages.{last}"})


@register_layout(RegNet)
def _regnet(model: RegNet) -> Layout:
    steps = _children(model, "stem", "s1", "s2", "s3", "s4", "final_conv")
    return Layout(steps, model.head, {"middle": "s2", "final": "final_conv"})


@register_layout(EfficientNet)
def _efficientnet(model: EfficientNet) -> Layout:
    steps = _children(model, "conv_stem", "bn1", "blocks", "conv_head", "bn2")
    middle = f"blocks.{len(model.blocks) // 2 - 1}"
    return Layout(steps, model.forward_head, {"middle": middle, "final": "bn2"})


@register_layout(MobileNetV3)
def _mobilenet(model: MobileNetV3) -> Layout:
    steps = _children(model, "conv_stem", "bn1", "blocks")
    last = len(model.blocks) - 1
    return Layout(steps, model.forward_head, {"middle": f"blocks.{last // 2}", "final": f"blocks.{last}"})


@register_layout(DenseNet)
def _densenet(model: DenseNet) -> Layout:
    steps = _children(model, "features")
    return Layout(steps, model.forward_head, {"middle": "features.denseblock2", "final": "features.norm5"})


@register_layout(VisionTransformer)
def _vision_transformer(model: VisionTransformer) -> Layout:
    """Final is the last place where patch tokens still matter.

    With the class token as the output, the last block's patch tokens can't reach the logits, so the
    tap lies before that block; with pooled tokens it lies after it.
    """

    def embed(images: Tensor) -> Tensor:
        return model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))

    blocks = len(model.blocks)
    final = blocks - 2 if model.global_pool == "token" and blocks > 1 else blocks - 1
    steps = (Step("embed", embed), *_children(model, "blocks", "norm"))
    layout = Layout(
        steps,
        model.forward_head,
        {"middle": f"blocks.{max(0, blocks // 2 - 1)}", "final": f"blocks.{final}"},
        partial(tokens_to_map, prefix=model.num_prefix_tokens, grid=tuple(model.patch_embed.grid_size)),
        partial(weights_to_tokens, prefix=model.num_prefix_tokens),
        "nearest",
    )
    return replace(layout, on_grid=partial(vit_on_grid, model, layout))


def tokens_to_map(tokens: Tensor, prefix: int, grid: tuple[int, int]) -> Tensor:
    """Token values (B, prefix + h·w, D) -> (B, D, h, w); class and register tokens are left out.

    `grid` is the model's own; for another count of tokens a square one is assumed.
    """
    patches = tokens[:, prefix:]
    count = patches.shape[1]
    if grid[0] * grid[1] != count:
        side = round(count**0.5)
        if side * side != count:
            raise InputError(f"{count} patch tokens form neither the model's {grid[0]}×{grid[1]} grid nor a square")
        grid = (side, side)
    return patches.transpose(1, 2).unflatten(2, grid)


def weights_to_tokens(weights: Tensor, prefix: int) -> Tensor:
    """Weights over the token map (B, 1, h, w) -> (B, prefix + h·w, 1); prefix tokens get 1."""
    return torch.nn.functional.pad(weights.flatten(2).transpose(1, 2), (0, 0, prefix, 0), value=1)


class TimmBackbone(Explainable):
    """A timm model with logits (B, classes) for images normalized as its `data_config` says.

    Attributes:
        model: the timm model; its parameters are this module's parameters.
        data_config: timm's input size, interpolation, mean, std and crop.
        pretrained_cfg: what timm knows of the model; a network that was registered with timm may have none.
        arguments: what `timm.create_model` was given besides name and classes, to build it again; timm keeps them.
        name: of the architecture, as timm or else `name` has it.
    """

    def __init__(
        self,
        model: nn.Module,
        input_size: int | None = None,
        arguments: dict[str, Any] | None = None,
        name: str | None = None,
    ):
        super().__init__()
        self.model = model
        kept = {key: value for key, value in getattr(model, "_model_args", {}).items() if key != "num_classes"}
        self.arguments = dict(kept if arguments is None else arguments)
        self._has_layout: bool | None = None  # not known before it is first asked for
        given = self.arguments.get("pretrained_cfg")
        self.pretrained_cfg = (given if isinstance(given, dict) else {}) | told_config(model)
        self.name = str(self.pretrained_cfg.get("architecture") or name or type(model).__name__)
        made_for = getattr(getattr(model, "patch_embed", None), "img_size", None)
        side = input_size or self.arguments.get("img_size") or made_for
        wanted = {"input_size": (3, *_pair(side))} if side else {}
        config = resolve_data_config(wanted, {"input_size": None, **self.pretrained_cfg})
        self.data_config: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in config.items()
        }

    @property
    def num_classes(self) -> int:
        """Number of logits: what the model says, or else one forward pass."""
        told = getattr(self.model, "num_classes", None)
        return told if isinstance(told, int) else count_logits(self.model, self.data_config["input_size"])

    @property
    def training_loss(self) -> str:
        """The loss that the network is trained with unless asked otherwise; its class may declare one."""
        return str(getattr(self.model, "training_loss", "cross_entropy"))

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return tuple(self.data_config["input_size"][1:])  # type: ignore[return-value]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of normalized images (B, 3, H, W)."""
        return self.model(images)

    def embed(self, images: Tensor) -> Tensor:
        """The features before the last linear layer: (B, 3, H, W) -> (B, D)."""
        if not hasattr(self.model, "forward_head"):
            return super().embed(images)
        features = self.model.forward_features(images)  # type: ignore[operator]
        return self.model.forward_head(features, pre_logits=True).flatten(1)  # type: ignore[operator]

    def set_input_size(self, side: int) -> None:
        """Take square images of `side` pixels from now on; timm resamples position embeddings.

        Raises InputError if the network can't take them.
        """
        if self.input_size == (side, side):
            return
        resize = getattr(self.model, "set_input_size", None)
        with refuses_size(self.name, side):
            if resize is not None:
                resize(img_size=(side, side))
                self.arguments["img_size"] = side
            self.data_config["input_size"], self._has_layout = (3, side, side), None
            self._run(self.model)

    def _run(self, *functions: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """What functions give for one fixed image of noise, in evaluation mode."""
        parameter = next(self.model.parameters())
        generator = torch.Generator().manual_seed(0)
        probe = torch.randn(1, *self.data_config["input_size"], generator=generator).to(
            device_of(self), parameter.dtype
        )
        with evaluating(self.model):
            return [function(probe) for function in functions]

    def _runs_like_model(self, layout: Layout) -> bool:
        try:
            ours, theirs = self._run(lambda probe: layout.head(layout.features(probe)), self.model)
            return torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        except (RuntimeError, TypeError, AttributeError):
            return False

    @property
    def layout(self) -> Layout | None:
        """Steps and head of the timm model; None for a family without a layout that matches it."""
        describe = next((LAYOUTS[kind] for kind in type(self.model).__mro__ if kind in LAYOUTS), None)
        if describe is None or self._has_layout is False:
            return None
        try:
            layout = describe(self.model)
        except (AttributeError, IndexError, StopIteration):
            return None
        if self._has_layout is None:
            self._has_layout = self._runs_like_model(layout)
        return layout if self._has_layout else None


def _pair(side: Any) -> tuple[int, int]:
    """A side as height and width, as timm's `img_size` may be either."""
    height, width = (side, side) if isinstance(side, int) else side
    return int(height), int(width)


def create_backbone(
    name: str,
    num_classes: int | None = None,
    *,
    pretrained: bool = False,
    input_size: int | None = None,
    **timm_arguments: Any,
) -> TimmBackbone:
    """Create a timm model by name: `create_backbone("resnet18", num_classes=10)`.

    Args:
        name: any name that `timm.create_model` takes, `local-dir:` and `hf-hub:` included.
        num_classes: logits; the pretrained count if None.
        pretrained: load timm's weights (from the network or timm's cache).
        input_size: side of the square images in pixels; the model's own by default. timm's own word for
            the networks that are made for one size is `img_size`, which does as well.
        timm_arguments: passed on to `timm.create_model`, e.g. `zero_init_last=False`.
    Raises:
        InputError: unknown name (near matches shown), arguments that the model refuses, weights
            that can't be had.

    >>> import torch
    >>> from faithfulness import create_backbone
    >>> backbone = create_backbone("test_resnet", num_classes=10)
    >>> backbone(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 10])
    >>> backbone.layers[:4]
    ['input', 'middle', 'final', 'conv1.0']
    """
    check_arguments(name, num_classes, input_size, timm_arguments.get("in_chans"))
    source = name.partition(":")[0] if ":" in name else ""
    if not source:
        check_model_name(name)
        fixed = (timm.get_pretrained_cfg(name, allow_unregistered=True) or timm.models.PretrainedCfg()).fixed_input_size
        if input_size and fixed:
            timm_arguments.setdefault("img_size", input_size)
    side = timm_arguments.get("img_size")
    if input_size and side and _pair(side) != (input_size, input_size):
        raise InputError(f"expected one size of images, got input_size={input_size} and img_size={side}")
    classes = {} if num_classes is None else {"num_classes": num_classes}
    try:
        model = timm.create_model(name, pretrained=pretrained or bool(source), **classes, **timm_arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise not_built(name, classes | timm_arguments, error) from error
    except Exception as error:
        if pretrained or source:
            raise no_weights(name, source, error) from error
        if machine_failure(error) or not isinstance(error, OF_ARGUMENTS):
            raise
        raise not_built(name, classes | timm_arguments, error) from error
    return TimmBackbone(model, input_size, timm_arguments, None if source else name.split(".")[0])


# The suite's own networks register with timm; they use what stands above.
import_submodules("faithfulness.backbones.networks")
