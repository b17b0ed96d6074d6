"""`Backbone`: a network that can be cut at named layers, made of the user's own two modules."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from backbones.split import Layout, Split, Transform, flatten_steps, identity, run_steps
from core.errors import InputError, unknown_name


class Explainable(nn.Module):
    """A network with logits (B, classes) that may be cut into `(stem, rest)` at named layers."""

    name: str = "model"

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
            raise InputError(f"{self.name} offers no split into layers; it can be explained at layer 'input' only")
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


class Backbone(Explainable):
    """A classifier from two modules: `head(features(images))` are logits (B, classes).

    Args:
        features: images -> activations. Layers inside an `nn.Sequential` can be cut at.
        head: activations -> logits.
        taps: layer name -> submodule of `features`, e.g. `{"middle": "3", "final": "5"}`.
            "final" is the end of `features` unless said otherwise.
        to_map, spread: for networks whose activations aren't maps (B, C, h, w); see `Split`.
    Raises:
        InputError: a tap that names no submodule at which `features` can be cut.
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
    ):
        super().__init__()
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


class PlainModel(Explainable):
    """Any module with logits (B, classes), explained at its input only."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.name = type(model).__name__

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.model(images)


def as_explainable(model: nn.Module) -> Any:
    """The model itself if it has `split`, otherwise wrapped so that it does (at the input)."""
    return model if hasattr(model, "split") else PlainModel(model)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters (or buffers) are; the CPU for a model without any."""
    tensor = next(model.parameters(), None)
    if tensor is None:
        tensor = next(model.buffers(), None)
    return torch.device("cpu") if tensor is None else tensor.device
