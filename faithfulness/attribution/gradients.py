"""Gradient methods: gradient, input × gradient, integrated gradients, and SmoothGrad versions.

The averages run over points near or on the way to the input. `average_over_points` takes the points
of a whole batch in sub-batches, so memory doesn't grow with steps, samples or images.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from faithfulness.attribution.base import Attribution, Passes, gradient, register_attribution, upcast
from faithfulness.attribution.chunks import Points, point_chunks
from faithfulness.core.errors import InputError
from faithfulness.core.keyed import keyed_normal, keyed_uniform, make_keys

MOST_STEPS = 4096
"""The nodes of a quadrature are the eigenvalues of a steps × steps matrix."""


def average_over_points(
    term: Callable[[Tensor, Tensor, Points], Tensor], activations: Tensor, targets: Tensor, points: int, chunk: int
) -> Tensor:
    """Σ over points k of term(activations, targets, k), shaped like the activations.

    `term` gets up to `chunk` (image, point) pairs at once: activations (n, …), a copy that it may
    overwrite, targets (n,), and the pairs' points.
    """
    total = torch.zeros_like(activations, dtype=torch.promote_types(activations.dtype, torch.float32))
    for image, those in point_chunks(len(activations), points, chunk, activations.device):
        total.index_add_(0, image, term(activations[image], targets[image], those).to(total.dtype))
    return total


def fixed_noise(draw: Callable[..., Tensor], seed: int, points: Points, like: Tensor) -> Tensor:
    """Noise of each point, (n, …) shaped like `like`; it depends on (seed, point) alone."""
    return draw(make_keys(seed, points.numbers), tuple(like.shape[1:]))[points.index].to(like.dtype)


def make_baseline(baseline: str | Tensor, activations: Tensor, seed: int) -> Tensor:
    """What stands for "nothing there", broadcastable to the activations: `zeros`, `uniform` or a tensor."""
    if isinstance(baseline, Tensor):
        return baseline.to(activations)
    if baseline == "zeros":
        return torch.zeros_like(activations[:1])
    if baseline == "uniform":
        key = make_keys(seed, device=activations.device)[None]
        return (2 * keyed_uniform(key, tuple(activations.shape[1:])) - 1).to(activations.dtype)
    raise InputError(f"unknown baseline {baseline!r}; known: zeros, uniform, or a tensor")


class GradientMethod(Attribution):
    """A method whose relevance has a value for each element of the activations."""

    points: int = 1
    """Gradients per map."""

    @abstractmethod
    def relevance(self, activations: Tensor, targets: Tensor) -> Tensor:
        """Relevance (B, …), shaped like the activations."""

    def attribute(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        return self.sum_channels(self.relevance(activations, targets))

    @property
    def passes(self) -> Passes:
        return Passes(self.points, self.points)


@register_attribution("grad", aliases=("gradient", "saliency"))
class Gradient(GradientMethod):
    """The gradient of the target logit (Simonyan et al. 2014), absolute before the channel sum.

    `absolute=False` keeps the signs.
    """

    paper = "Simonyan et al. 2014"
    plain_gradients = True

    def __init__(self, model: nn.Module, layer: str | None = None, *, absolute: bool = True, **common: Any):
        super().__init__(model, layer, **common)
        self.absolute = absolute

    def relevance(self, activations: Tensor, targets: Tensor) -> Tensor:
        return self.gradients(activations, targets)

    def attribute(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        relevance = self.relevance(activations, targets)
        return self.sum_channels(relevance.abs() if self.absolute else relevance)


@register_attribution("ixg", aliases=("inputxgradient", "IxG"))
class InputXGradient(GradientMethod):
    """Input × gradient (Shrikumar et al. 2016)."""

    paper = "Shrikumar et al. 2016"
    plain_gradients = True

    def relevance(self, activations: Tensor, targets: Tensor) -> Tensor:
        return activations * self.gradients(activations, targets)


@register_attribution("ig", aliases=("IG", "intgrad", "integratedgradients"))
class IntegratedGradients(GradientMethod):
    """Integrated gradients (Sundararajan et al. 2017) by Gauss–Legendre quadrature.

    Args:
        steps: quadrature points; 50 in Hesse et al., 20 in Rao et al.
        baseline: `zeros`, `uniform` (one fixed image, uniform in [-1, 1]), or a tensor.
    """

    paper = "Sundararajan et al. 2017"

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        *,
        steps: int = 50,
        baseline: str | Tensor = "zeros",
        seed: int = 0,
        **common: Any,
    ):
        super().__init__(model, layer, **common)
        if not 1 <= steps <= MOST_STEPS:
            raise InputError(f"steps must lie in 1 … {MOST_STEPS}, got {steps}")
        self.steps, self.baseline, self.seed = steps, baseline, seed

    @property
    def points(self) -> int:  # type: ignore[override]
        return self.steps

    def relevance(self, activations: Tensor, targets: Tensor) -> Tensor:
        start = upcast(make_baseline(self.baseline, activations, self.seed))
        nodes, weights = (
            torch.as_tensor(v, device=activations.device) for v in np.polynomial.legendre.leggauss(self.steps)
        )
        nodes, weights = (nodes + 1) / 2, weights / 2

        def term(x: Tensor, t: Tensor, points: Points) -> Tensor:
            shape, k = (-1, *[1] * (x.dim() - 1)), points.each
            alpha, weight = nodes[k].to(start.dtype).view(shape), weights[k].to(start.dtype).view(shape)
            point = upcast(x).sub_(start).mul_(alpha).add_(start).to(x.dtype)
            return gradient(self.split.rest, point, t) * weight

        average = average_over_points(term, activations, targets, self.steps, self.chunk)
        return (activations - start) * average


@register_attribution("ig-u", aliases=("IG-U", "ig-uniform"))
class IntegratedGradientsUniform(IntegratedGradients):
    """Integrated gradients from one fixed uniform image in [-1, 1] (IG-U in Hesse et al.)."""

    paper = "Sundararajan et al. 2017, Hesse et al. 2024"

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        *,
        steps: int = 50,
        baseline: str | Tensor = "uniform",
        **common: Any,
    ):
        super().__init__(model, layer, steps=steps, baseline=baseline, **common)


class NoisyMean(GradientMethod):
    """SmoothGrad (Smilkov et al. 2017): the mean relevance of noisy copies of the activations.

    Args:
        samples: noisy copies per image; all images of a run see the same noise.
        noise: standard deviation, at the input in normalized space.
    """

    squared = False
    """Whether each copy's relevance is squared before the mean."""

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        *,
        samples: int = 4,
        noise: float = 1.0,
        seed: int = 0,
        **common: Any,
    ):
        super().__init__(model, layer, **common)
        if samples < 1 or noise < 0:
            raise InputError(f"samples must be at least 1 and noise at least 0, got {samples} and {noise}")
        self.samples, self.noise, self.seed = samples, noise, seed

    @property
    def points(self) -> int:  # type: ignore[override]
        return self.samples * super().points

    def relevance(self, activations: Tensor, targets: Tensor) -> Tensor:
        relevance = super().relevance  # of the method that is smoothed, next in the order of bases

        def term(x: Tensor, t: Tensor, points: Points) -> Tensor:
            noise = fixed_noise(keyed_normal, self.seed, points, x).mul_(self.noise)
            result = relevance(x.add_(noise), t)
            return result.square() if self.squared else result

        return average_over_points(term, activations, targets, self.samples, self.chunk) / self.samples


@register_attribution("sg", aliases=("SmoothGrad", "grad-sg"))
class SmoothGrad(NoisyMean, Gradient):
    """SmoothGrad (Smilkov et al. 2017): the mean gradient of noisy inputs, absolute before the channel sum.

    `absolute=False` keeps the signs.
    """

    paper = "Smilkov et al. 2017"


@register_attribution("ixg-sg", aliases=("IxG-SG",))
class InputXGradientSmooth(NoisyMean, InputXGradient):
    """SmoothGrad over input × gradient: the mean over noisy inputs, each times its own gradient."""

    paper = "Smilkov et al. 2017"


@register_attribution("ig-sg", aliases=("IG-SG",))
class IntegratedGradientsSmooth(NoisyMean, IntegratedGradients):
    """SmoothGrad over integrated gradients: the mean over noisy inputs, `samples` × `steps` gradients."""

    paper = "Smilkov et al. 2017"


@register_attribution("ig-sg-sq", aliases=("IG-SG-SQ",))
class IntegratedGradientsSmoothSquared(IntegratedGradientsSmooth):
    """SmoothGrad-squared over integrated gradients: the mean square of each element, then the channel sum.

    The squares are those of Hooker et al. 2019; the map has no sign left.
    """

    paper = "Smilkov et al. 2017, Hooker et al. 2019"
    squared = True
