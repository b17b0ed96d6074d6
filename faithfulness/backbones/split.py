"""`split(layer) → (stem, rest)`: the one thing an attribution method needs to know of a network."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from faithfulness.core.errors import InputError

Transform = Callable[[Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    """x itself."""
    return x


def softmax(logits: Tensor) -> Tensor:
    """Probabilities (B, classes) of logits in which all classes compete."""
    return torch.softmax(logits, dim=1)


@dataclass(frozen=True)
class Split:
    """A network cut at a layer: `rest(stem(images))` are its logits.

    Attributes:
        layer: what the cut was asked for, e.g. "middle".
        stem: images (B, C, H, W) -> activations at the layer.
        rest: activations -> logits (B, classes). Never writes into its input.
        to_map: a tensor shaped like the activations -> (B, channels, h, w), e.g. tokens to a map.
        spread: weights over the map (B, 1, h, w) -> weights that multiply the activations; what
            has no place in the map (class tokens) gets weight 1.
        upsample: how a map of this layer is brought to image size (`bilinear`, or `nearest` for
            tokens), as published.
        softmax: logits -> probabilities, among the logits that compete with each other.
        origin: what `cut` was called with, if it was: network, layer, whether probabilities, other keywords.
    Unpacks as `stem, rest = split`.
    Stem and rest run the network's own modules: a copy of a split would go on running those of the original.
    So a split that `cut` made is copied and pickled as its origin, and cut anew; any other refuses.
    """

    layer: str
    stem: Transform
    rest: Transform
    to_map: Transform = identity
    spread: Transform = identity
    upsample: str = "bilinear"
    softmax: Transform = softmax
    origin: tuple[nn.Module, str, bool, dict[str, Any]] | None = field(default=None, repr=False, compare=False)

    def __iter__(self) -> Iterator[Transform]:
        yield self.stem
        yield self.rest

    def of_probabilities(self) -> Split:
        """The same cut with probabilities, float32 at least, in place of the logits: the target after the softmax."""

        def rest(activations: Tensor) -> Tensor:
            logits = self.rest(activations)
            return self.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)))

        return replace(self, rest=rest, softmax=identity, origin=None)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.origin is None:
            raise TypeError(f"a split can't be copied or pickled; copy its network, and split that at {self.layer!r}")
        return _cut, self.origin


def cut(model: Any, layer: str, *, probabilities: bool = False, **settings: Any) -> Split:
    """`model.split(layer, **settings)`, of the logits or their probabilities, in a form that follows copies of it."""
    if "cell" in settings and "cell" not in inspect.signature(model.split).parameters:
        raise InputError(
            f"expected a setting with cells (DiFull, GridPG, DiPart) for cell={settings['cell']!r}, got a plain network"
        )
    split = model.split(layer, **settings)
    split = split.of_probabilities() if probabilities else split
    return replace(split, origin=(model, layer, probabilities, settings))


def _cut(model: Any, layer: str, probabilities: bool, settings: dict[str, Any]) -> Split:
    return cut(model, layer, probabilities=probabilities, **settings)


@dataclass(frozen=True)
class Step:
    """One named step of a network's forward pass."""

    path: str
    run: Transform


@dataclass(frozen=True)
class Layout:
    """A network as a list of steps and a head, with the layers that methods are compared at.

    `taps` maps "middle" and "final" (and a user's own names) to step paths; a tap lies after the
    last step whose path equals it or begins with it. `on_grid(scale, per_cell)` describes the same
    network for a scale × scale grid of its images, with the prefix tokens once or for every cell;
    None where the steps take images of any size.

    A network makes its layout anew whenever it is asked: one that it kept would outlive a replaced
    submodule, and a copy of the network would run the original's steps.
    """

    steps: tuple[Step, ...]
    head: Transform
    taps: dict[str, str] = field(default_factory=dict)
    to_map: Transform = identity
    spread: Transform = identity
    upsample: str = "bilinear"
    on_grid: Callable[[int, bool], Layout] | None = None

    def cut(self, path: str) -> int | None:
        """How many steps come before the cut at `path`; None if no step has that name."""
        ends = [i for i, step in enumerate(self.steps, 1) if step.path == path or step.path.startswith(path + ".")]
        return ends[-1] if ends else None

    def features(self, x: Tensor) -> Tensor:
        """All steps before the head."""
        return run_steps(self.steps, x)


def run_steps(steps: tuple[Step, ...], x: Tensor) -> Tensor:
    """Apply steps in order."""
    for step in steps:
        x = step.run(x)
    return x


def flatten_steps(path: str, module: nn.Module) -> list[Step]:
    """The module as steps: an `nn.Sequential` is opened, to any depth; anything else is one step."""
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        return [
            step
            for name, child in module.named_children()
            for step in flatten_steps(f"{path}.{name}" if path else name, child)
        ]
    return [Step(path, module)]
