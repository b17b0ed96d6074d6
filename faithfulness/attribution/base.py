"""What an attribution method is: `(images, targets) → maps`, at a layer, leaving the model as it was."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from faithfulness.attribution.shared import forget, share
from faithfulness.backbones import Split, as_explainable, cut
from faithfulness.backbones.split import identity
from faithfulness.core.checks import check_images, check_labels, check_targets, kind_of
from faithfulness.core.errors import InputError, is_out_of_memory
from faithfulness.core.registry import Registry

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
    paper: ClassVar[str] = ""
    """Where the method is from, author and year, for the table of methods; a subclass doesn't inherit it there."""
    needs: ClassVar[str] = "gradients"
    """What the method asks of the model, as `--list-attributions` shows it."""
    logits_only: ClassVar[bool] = False
    """Whether its rules end at the logit, so that a probability can't be explained."""
    from_images: ClassVar[bool] = False
    """Whether its passes start at the images, even if it explains a later layer."""
    plain_gradients: ClassVar[bool] = False
    """Whether `gradients` are the network's own, which other methods can take; a subclass doesn't inherit it."""
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
        self._cell = cell
        self.split: Split = self.cut_model(self.layer, cell)
        self.chunk = chunk

    def __call__(self, images: Float[Tensor, "b c *size"], targets: Int[Tensor, " b"]) -> Float[Tensor, "b 1 h w"]:
        """Maps (B, 1, h, w) at the layer's own resolution, signed, float, detached.

        Args:
            images: normalized images (B, C, H, W), or what the model takes.
            targets: (B,) int64 class indices.
        """
        if not isinstance(images, Tensor) or not images.is_floating_point() or images.dim() < 2:
            check_images(images)
        check_labels(images, targets)
        with frozen(self.model), range_known(targets), takes(self.model, images):
            maps = self._bearable(lambda: self.attribute(images, self._activations(images), targets))
        return maps.detach().to(torch.promote_types(images.dtype, torch.float32))

    def _bearable(self, work: Callable[[], Tensor]) -> Tensor:
        """What `work` gives; where the device runs out of memory, with half the `chunk`, from then on.

        Raises MemoryError where one image a pass is too many.
        """
        while True:
            try:
                return work()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if self.chunk == 1:
                    raise MemoryError(f"with one image a pass: {error}") from error
            self.chunk = -(-self.chunk // 2)
            forget()
            torch.cuda.empty_cache()

    def _activations(self, images: Tensor) -> Tensor:
        """The activations of images, shared by all methods of the layer; on grids, by all heads."""
        if self.split.stem is identity:
            return images
        if type(self).cut_model is not Attribution.cut_model:  # a cut of its own
            return self._stem(images)
        head = None if type(self.model).__dict__.get("one_stem") else self._cell
        kind = ("activations", self.model, self.layer, head, self.chunk)
        return share(kind, (images,), lambda: self._stem(images))

    @torch.no_grad()
    def _stem(self, images: Tensor) -> Tensor:
        return join([self.split.stem(part) for part in images.split(self.chunk)])

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
        settings = {} if cell is None else {"cell": cell}
        return cut(self.model, layer, probabilities=self.output == "probability", **settings)

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
        return upcast(join(pieces))

    def gradients(self, activations: Tensor, targets: Tensor) -> Tensor:
        """Gradients of the target logits, shaped like the activations, float32 at least, `chunk` at a time."""

        def make() -> Tensor:
            parts = zip(activations.split(self.chunk), targets.split(self.chunk), strict=True)
            return upcast(join([gradient(self.split.rest, part, indices) for part, indices in parts]))

        if not type(self).__dict__.get("plain_gradients"):
            return make()
        kind = ("gradients", self.model, self.layer, self._cell, self.output, self.chunk)
        return share(kind, (activations, targets), make)


ATTRIBUTIONS: Registry[Callable[..., Any]] = Registry("attribution", __package__)
F = TypeVar("F", bound=Callable[..., Any])


def register_attribution(name: str, aliases: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Decorator: make `factory(model, layer, **parameters)` known as `name` to every command.

    The factory is an `Attribution` class, or any function that returns `(images, targets) → maps`.

    >>> import torch
    >>> from faithfulness import create_attribution, register_attribution
    >>> @register_attribution("brightness", aliases=("Brightness",))
    ... def brightness(model, layer=None):
    ...     return lambda images, targets: images.mean(dim=1, keepdim=True)
    >>> explain = create_attribution("Brightness", torch.nn.Flatten())
    >>> explain(torch.ones(2, 3, 8, 8), torch.tensor([0, 1])).shape
    torch.Size([2, 1, 8, 8])
    """

    def register(factory: F) -> F:
        ATTRIBUTIONS.register(name, factory, aliases)
        return factory

    return register


class TargetRange:
    """The lowest and the highest target of a call, read from the device when first asked for, and once."""

    def __init__(self, targets: Tensor):
        self.targets = targets

    @cached_property
    def ends(self) -> list[int]:
        """Lowest and highest; 0 and -1 without targets."""
        return torch.stack(self.targets.aminmax()).tolist() if self.targets.numel() else [0, -1]

    def check(self, classes: int) -> None:
        """Raise InputError unless all targets are class indices."""
        if self.ends[0] < 0 or self.ends[1] >= classes:
            check_targets(self.targets, classes)


_known_range: ContextVar[TargetRange | None] = ContextVar("known_range", default=None)


@contextmanager
def range_known(targets: Tensor) -> Iterator[None]:
    """Inside the block targets are these, or some of them: `select_logits` waits for the device but once."""
    token = _known_range.set(TargetRange(targets))
    try:
        yield
    finally:
        _known_range.reset(token)


def select_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """The logit of each image's target: (B, classes), (B,) -> (B,)."""
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise InputError(f"the network gives {kind_of(logits)}, expected logits (B, classes)")
    known = _known_range.get()
    if known is None:
        check_targets(targets, logits.shape[1])
    else:
        known.check(logits.shape[1])
    return logits.gather(1, targets[:, None]).squeeze(1)


def gradient(rest: Callable[[Tensor], Tensor], activations: Tensor, targets: Tensor) -> Tensor:
    """Gradient of the target logit with respect to the activations, shaped like them."""
    with torch.enable_grad():
        leaf = activations.detach().requires_grad_(True)
        (result,) = pull_back(select_logits(rest(leaf), targets), [leaf])
    return result


def pull_back(selected: Tensor, inputs: list[Tensor], start: Tensor | None = None) -> tuple[Tensor, ...]:
    """Gradients of selected logits (B,), times `start` (B,) if given, with respect to inputs (B, …).

    Where float16 takes part, gradients below 6e-8 on the way would be 0: they are pulled back enlarged, and come
    as float32, reduced. An image whose gradients are too large for that gets a smaller factor; each factor is a
    power of two, so that none rounds.
    """
    if not selected.requires_grad:
        raise InputError(
            "the network's logits have no gradient: it runs under torch.no_grad() or inference_mode(), detaches or "
            "isn't of floats; occlusion, rise and scorecam need none"
        )
    seed = torch.ones_like(selected) if start is None else start
    if not _in_half(selected, inputs):
        found = torch.autograd.grad(selected, inputs, seed, allow_unused=True)
        if any(each is None for each in found):
            raise InputError("the network's logits don't depend on what is explained, as of quantized parts")
        return found
    exact = upcast(selected)
    factors = torch.full_like(exact, LARGEST_FACTOR).detach()
    while True:
        seeds = factors * upcast(seed)
        scaled = torch.autograd.grad(exact, inputs, seeds, retain_graph=True)
        finite = torch.stack([torch.isfinite(found).flatten(1).all(dim=1) for found in scaled]).all(dim=0)
        smaller = torch.where(finite, factors, (factors / FACTOR_STEP).clamp(min=1))
        if torch.equal(smaller, factors):
            return tuple(upcast(found) / factors.view(-1, *[1] * (found.dim() - 1)) for found in scaled)
        factors = smaller


LARGEST_FACTOR, FACTOR_STEP = 2.0**12, 2.0**4


def _in_half(selected: Tensor, inputs: list[Tensor]) -> bool:
    device = selected.device.type
    cast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) is torch.float16
    return cast or any(tensor.dtype is torch.float16 for tensor in (selected, *inputs))


def upcast(x: Tensor) -> Tensor:
    """x in float32 if it has half precision: what is summed or subtracted must not be rounded first."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@contextmanager
def takes(model: nn.Module, images: Tensor) -> Iterator[None]:
    """What torch says of images of another type, place or shape than the network's is said as InputError."""
    try:
        yield
    except RuntimeError as error:
        weights = next(model.parameters(), images)
        shape = tuple(getattr(model, "data_config", {}).get("input_size", images.shape[1:]))
        placed = (images.dtype, images.device, images.layout) == (weights.dtype, weights.device, torch.strided)
        if placed and images.dim() == 4 and images.shape[1] == shape[0]:
            raise
        raise InputError(
            f"the network, of {weights.dtype} on {weights.device}, can't take {kind_of(images)} on {images.device}; "
            f"expected images (B, {shape[0]}, H, W) like its weights"
        ) from error


def join(pieces: list[Tensor]) -> Tensor:
    """The pieces one after another; a single one without a copy."""
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
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
