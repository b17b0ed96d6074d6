"""What an attribution method is: `(images, targets) → maps`, at a layer, leaving the model as it was."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from backbones import Split, as_explainable
from core.checks import check_images, check_targets
from core.errors import InputError
from core.registry import Registry

OUTPUTS = ("logit", "probability")


class Passes(NamedTuple):
    """Forward and backward passes through the network per map: a cost that no machine changes."""

    forward: float
    backward: float


class Attribution(ABC):
    """Base of the methods. A subclass implements `attribute` on a layer's activations.

    Args:
        model: a network with `split`, or any module with logits (then `layer` is the input).
        layer: where to explain; the method's own default if None.
        cell: which cell's head to explain, for a grid setting.
        chunk: the most images that one forward or backward pass takes; bounds the memory.
        output: what is explained of the target, its `logit` (before the softmax) or its `probability` (after
            it), among the logits that compete; Hesse et al. 2024 compare the two in their design study.
    """

    default_layer: ClassVar[str] = "input"
    needs: ClassVar[str] = "gradients"
    """What the method asks of the model, as `--list-attributions` shows it."""
    logits_only: ClassVar[bool] = False
    """Whether its rules end at the logit, so that a probability can't be explained."""
    from_images: ClassVar[bool] = False
    """Whether its passes start at the images, even if it explains a later layer."""
    passes_in_words: ClassVar[tuple[str, str] | None] = None
    """Forward and backward passes as text, for a method whose `passes` depend on the size of a layer."""

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        *,
        cell: int | None = None,
        chunk: int = 256,
        output: str = "logit",
    ):
        if chunk < 1:
            raise InputError(f"chunk must be at least 1, got {chunk}")
        if output not in OUTPUTS:
            raise InputError(f"output is logit or probability, got {output!r}")
        if output == "probability" and self.logits_only:
            raise InputError(f"{type(self).__name__} explains the logit only: it has no rule for the softmax")
        self.model = as_explainable(model)
        self.layer = layer or self.default_layer
        self.output = output
        self.split = self.cut_model(self.layer, cell)
        self.chunk = chunk

    def __call__(self, images: Float[Tensor, "b c *size"], targets: Int[Tensor, " b"]) -> Float[Tensor, "b 1 h w"]:
        """Maps (B, 1, h, w) at the layer's own resolution, signed, float, detached.

        Args:
            images: normalised images (B, C, H, W), or what the model takes.
            targets: (B,) int64 class indices.
        """
        with undisturbed(self.model):
            if not isinstance(images, Tensor) or not images.is_floating_point() or len(images) != len(targets):
                check_images(images, targets)
            with torch.no_grad():
                activations = join([self.split.stem(part) for part in images.split(self.chunk)])
            maps = self.attribute(images, activations, targets)
        return maps.detach().to(torch.promote_types(images.dtype, torch.float32))

    @abstractmethod
    def attribute(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        """The maps (B, 1, h, w), given the images and their activations at the layer."""

    @property
    @abstractmethod
    def passes(self) -> Passes:
        """Passes per map, besides the one that computes the activations.

        NaN until the first call where the count depends on the size of the layer.
        """

    def cut_model(self, layer: str, cell: int | None) -> Split:
        """The model cut at a layer, for a cell's head, ending in what is explained."""
        split = self.model.split(layer, **({} if cell is None else {"cell": cell}))
        return split if self.output == "logit" else split.of_probabilities()

    @property
    def upsample(self) -> str:
        """How a map of this layer is brought to image size."""
        return self.split.upsample

    def sum_channels(self, relevance: Tensor) -> Tensor:
        """Relevance shaped like the activations -> its signed sum over channels (B, 1, h, w)."""
        return self.split.to_map(relevance).sum(dim=1, keepdim=True)

    def scores(self, activations: Tensor, targets: Tensor) -> Tensor:
        """The target logits (B,) of activations, float32 at least, without gradients, `chunk` at a time."""
        with torch.no_grad():
            pieces = [
                select_logits(self.split.rest(part), indices)
                for part, indices in zip(activations.split(self.chunk), targets.split(self.chunk), strict=True)
            ]
        return widen(join(pieces))

    def gradients(self, activations: Tensor, targets: Tensor) -> Tensor:
        """Gradients of the target logits, shaped like the activations, float32 at least, `chunk` at a time."""
        parts = zip(activations.split(self.chunk), targets.split(self.chunk), strict=True)
        return widen(join([gradient(self.split.rest, part, indices) for part, indices in parts]))


ATTRIBUTIONS: Registry[Callable[..., Any]] = Registry("attribution")
F = TypeVar("F", bound=Callable[..., Any])


def register_attribution(name: str, aliases: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Decorator: make `factory(model, layer, **parameters)` known as `name` to every command.

    The factory is an `Attribution` class, or any function that returns `(images, targets) → maps`.
    """

    def register(factory: F) -> F:
        ATTRIBUTIONS.register(name, factory, aliases)
        return factory

    return register


def select_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """The logit of each image's target: (B, classes), (B,) -> (B,)."""
    check_targets(targets, logits.shape[1])
    return logits.gather(1, targets[:, None]).squeeze(1)


def gradient(rest: Callable[[Tensor], Tensor], activations: Tensor, targets: Tensor) -> Tensor:
    """Gradient of the target logit with respect to the activations, shaped like them."""
    with torch.enable_grad():
        leaf = activations.detach().requires_grad_(True)
        (result,) = torch.autograd.grad(select_logits(rest(leaf), targets).sum(), leaf)
    return result


def widen(x: Tensor) -> Tensor:
    """x in float32 if it has half precision: what is summed or subtracted must not be rounded first."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def join(pieces: list[Tensor]) -> Tensor:
    """The pieces one after another; a single one without a copy."""
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def pair_chunks(images: int, points: int, chunk: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices (image, point) of all pairs, up to `chunk` of them at a time; the images run fastest.

    The points of a chunk are consecutive, so what is made for a point is made for a whole batch.
    """
    for start in range(0, images * points, chunk):
        flat = torch.arange(start, min(start + chunk, images * points), device=device)
        yield flat % images, flat // images


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and parameters without gradients inside the block; all as before after it."""
    training = [module for module in model.modules() if module.training]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for module in training:
        module.training = False
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in trainable:
            parameter.requires_grad_(True)
