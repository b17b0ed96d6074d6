"""`Backbone`: a network that can be cut at named layers, made of the user's own two modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from faithfulness.backbones.split import Layout, Split, Transform, flatten_steps, identity, run_steps
from faithfulness.core.errors import InputError, is_out_of_memory, unknown_name

Size = int | tuple[int, int]
"""Side of square images in pixels, or height and width."""


class Explainable(nn.Module):
    """A network with logits (B, classes) that may be cut into `(stem, rest)` at named layers."""

    name: str = "model"
    own: str | None = None
    """What a checkpoint calls the user's own code that makes it; None for a network that is built by a known name."""
    one_stem: ClassVar[bool] = False
    """Whether the stem of a split is the same for all its cells; a subclass doesn't inherit it."""

    @property
    def layout(self) -> Layout | None:
        """The network as steps and head; None if it can be explained at its input only."""
        return None

    @property
    def layers(self) -> list[str]:
        """The names that `split` takes: "input", the taps, then every step."""
        layout = self.layout
        if layout is None:
            return ["input"]
        return ["input", *layout.taps, *(step.path for step in layout.steps if step.path not in layout.taps)]

    def split(self, layer: str = "input") -> Split:
        """Cut at `layer`: "input", "middle", "final", a tap's name or a step's path.

        Raises InputError for an unknown layer, or where this network offers no layers.
        """
        if layer == "input":
            return Split("input", identity, self)
        layout = self.layout
        if layout is None:
            raise InputError(
                f"{self.name} offers no split into layers; it can be explained at layer 'input' only, or given as "
                "Backbone(features, head, taps)"
            )
        cut = layout.cut(layout.taps.get(layer, layer))
        if cut is None:
            raise unknown_name(f"layer of {self.name}", layer, self.layers)
        stem, rest = partial(run_steps, layout.steps[:cut]), partial(_finish, layout, cut)
        return Split(layer, stem, rest, layout.to_map, layout.spread, layout.upsample)

    def embed(self, images: Tensor) -> Tensor:
        """The penultimate features, pooled: (B, C, H, W) -> (B, D)."""
        layout = self.layout
        if layout is None:
            raise InputError(f"{self.name} offers no split into layers, so its features can't be read")
        return layout.to_map(layout.features(images)).mean(dim=(2, 3))


def _finish(layout: Layout, cut: int, activations: Tensor) -> Tensor:
    """The logits of activations at a cut."""
    return layout.head(run_steps(layout.steps[cut:], activations.clone()))


class OwnNetwork(Explainable):
    """A network of the user's own making: nobody but itself knows its images and its classes.

    Attributes:
        data_config: input size, mean, std, interpolation and crop of its images, as timm spells them.
        size_told: whether anybody said the input size.
    """

    data_config: dict[str, Any]
    size_told: bool
    normalization_told: bool
    """Whether the mean and standard deviation are known, or only assumed."""

    def tell(self, told: Mapping[str, Any] | None) -> None:
        """Take what is said of the images, see `own_data_config`."""
        self.data_config, self.size_told = own_data_config(told), bool((told or {}).get("input_size"))
        self.normalization_told = {"mean", "std"} <= (told or {}).keys()

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return tuple(self.data_config["input_size"][1:])  # type: ignore[return-value]

    @property
    def num_classes(self) -> int:
        """Number of logits, by one forward pass."""
        return count_logits(self, self.data_config["input_size"])


class Backbone(OwnNetwork):
    """A classifier from two modules: `head(features(images))` are logits (B, classes).

    Args:
        features: images -> activations. Layers inside an `nn.Sequential` can be cut at.
        head: activations -> logits.
        taps: layer name -> submodule of `features`, e.g. `{"middle": "3", "final": "5"}`.
            "final" is the end of `features` unless said otherwise.
        to_map, spread: for networks whose activations aren't maps (B, C, h, w); see `Split`.
        data_config: what its images are like, see `own_data_config`.
    Raises:
        InputError: a tap that names no submodule at which `features` can be cut.

    >>> import torch
    >>> from torch import nn
    >>> from faithfulness import Backbone
    >>> features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
    >>> head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    >>> backbone = Backbone(features, head, taps={"middle": "1", "final": "3"})
    >>> stem, rest = backbone.split("middle")
    >>> images = torch.rand(2, 3, 16, 16)
    >>> stem(images).shape
    torch.Size([2, 8, 14, 14])
    >>> torch.equal(rest(stem(images)), backbone(images))
    True
    """

    def __init__(
        self,
        features: nn.Module,
        head: nn.Module,
        taps: dict[str, str] | None = None,
        *,
        to_map: Transform = identity,
        spread: Transform = identity,
        name: str = "backbone",
        data_config: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.tell(data_config)
        self.features = features
        self.head = head
        self.name = name
        self.taps, self.to_map, self.spread = dict(taps or {}), to_map, spread
        layout = self.layout
        for tap, path in layout.taps.items():
            if layout.cut(path) is None:
                raise unknown_name(f"submodule for tap {tap!r}", path, [step.path for step in layout.steps])

    @property
    def layout(self) -> Layout:
        """The steps of `features`, and the head."""
        steps = flatten_steps("" if isinstance(self.features, nn.Sequential) else "features", self.features)
        return Layout(tuple(steps), self.head, {"final": steps[-1].path, **self.taps}, self.to_map, self.spread)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.head(self.features(images))


class InputOnlyModel(OwnNetwork):
    """Any module with logits (B, classes), explained at its input only.

    What its images are like is told by `data_config`, or by the module's own attribute of that name,
    `pretrained_cfg` or `default_cfg`; see `own_data_config`.
    """

    def __init__(self, model: nn.Module, data_config: Mapping[str, Any] | None = None):
        super().__init__()
        self.model = model
        self.name = name_of(model)
        self.tell(told_config(model) if data_config is None else data_config)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.model(images)


def as_explainable(model: nn.Module) -> Any:
    """The model itself if it has `split`, otherwise wrapped so that it does (at the input)."""
    return model if hasattr(model, "split") else InputOnlyModel(model)


def name_of(model: nn.Module) -> str:
    """What a module calls itself, or its class is called."""
    name = getattr(model, "name", None)
    return name if isinstance(name, str) and name else type(model).__name__


def told_config(model: nn.Module) -> dict[str, Any]:
    """What a module tells of its images by an attribute `data_config`, `pretrained_cfg` or `default_cfg`."""
    for name in ("data_config", "pretrained_cfg", "default_cfg"):
        told: Any = getattr(model, name, None)
        told = told.to_dict() if hasattr(told, "to_dict") else told
        if isinstance(told, Mapping) and told:
            return {key: value for key, value in told.items() if value is not None}
    return {}


def own_data_config(told: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What images are like, in timm's words: as told, and else 224 px, mean 0, std 1, bicubic, uncropped.

    Args:
        told: any of input_size (a side, height and width, or channels, height and width), mean and std (a number,
            or one per channel), interpolation, crop_pct and crop_mode; whatever else it holds is left out.
        side: of the images in pixels, or height and width, in place of the one that is told.
    """
    told = told or {}
    size: Any = told.get("input_size") or 224
    size = (size, size) if isinstance(size, int) else tuple(size)
    if len(size) not in (2, 3) or not all(isinstance(length, int) and length > 0 for length in size):
        raise InputError(f"expected a side, (height, width) or (channels, height, width) as input_size, got {size}")
    size = size if len(size) == 3 else (3, *size)

    def channels(key: str, default: float) -> tuple[float, ...]:
        value = told.get(key, default)
        return (float(value),) * size[0] if isinstance(value, int | float) else tuple(value)

    return {
        "input_size": size,
        "interpolation": told.get("interpolation", "bicubic"),
        "mean": channels("mean", 0.0),
        "std": channels("std", 1.0),
        "crop_pct": told.get("crop_pct", 1.0),
        "crop_mode": told.get("crop_mode", "center"),
    }


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients for a while; every module's own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def count_logits(model: nn.Module, shape: tuple[int, ...], dimensions: int = 2) -> int:
    """How many logits a module gives for images of a shape (C, H, W), by one forward pass of zeros.

    Raises InputError unless it gives logits (B, K), or (B, K, H, W) where `dimensions` is 4.
    """
    weights = next(model.parameters(), None)
    dtype = weights.dtype if weights is not None and weights.is_floating_point() else torch.float32
    with evaluating(model), torch.random.fork_rng(devices=()):
        images = torch.zeros(1, *shape, dtype=dtype, device=device_of(model))
        logits = model(images)
    if not isinstance(logits, Tensor) or logits.dim() != dimensions or len(logits) != 1:
        expected = "(1, classes)" if dimensions == 2 else "(1, classes, height, width)"
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"{name_of(model)} gives {got} for one image, expected logits {expected}")
    if not logits.is_floating_point() or logits.device != images.device:
        got = f"{logits.dtype} on {logits.device}"
        raise InputError(f"{name_of(model)} gives {got}, expected floats where its weights are, on {images.device}")
    return logits.shape[1]


@contextmanager
def refuses_size(name: str, side: int) -> Iterator[None]:
    """What a network says of images that it can't take, as InputError."""
    try:
        yield
    except (RuntimeError, AssertionError, ValueError, TypeError, ArithmeticError) as error:
        if isinstance(error, InputError) or is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{name} can't take images of {side} px: {reason}") from error


def shape_of(side: Size) -> tuple[int, int, int]:
    """Channels, height and width of images with a side, or height and width."""
    return (3, side, side) if isinstance(side, int) else (3, *side)


def check_module(model: object) -> None:
    """Raise InputError unless it is an nn.Module."""
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a network, an nn.Module, got {type(model).__name__}")


def check_logits(model: Any, dimensions: int) -> None:
    """Raise InputError unless a network takes images of its size and gives logits of so many dimensions."""
    shape = model.data_config["input_size"]
    with refuses_size(model.name, shape[-1]):
        count_logits(model, shape, dimensions)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters (or buffers) are; the CPU for a model without any."""
    tensor = next(model.parameters(), None)
    if tensor is None:
        tensor = next(model.buffers(), None)
    return torch.device("cpu") if tensor is None else tensor.device
