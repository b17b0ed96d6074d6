"""Gradient methods: gradient, input × gradient, integrated gradients, and SmoothGrad versions.

All of them average a term over points near or on the way to the input. `average_over_points` runs
the points of a whole batch in sub-batches, so memory doesn't grow with steps, samples or images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attribution.base import Attribution, Passes, gradient, register_attribution
from core.errors import InputError
from core.keyed import keyed_normal, keyed_uniform, make_keys


def average_over_points(
    term: Callable[[Tensor, Tensor, Tensor], Tensor], activations: Tensor, targets: Tensor, points: int, chunk: int
) -> Tensor:
    """Σ over points k of term(activations, targets, k), shaped like the activations.

    `term` gets up to `chunk` (image, point) pairs at once: activations (n, …), targets (n,), k (n,).
    """
    images = len(activations)
    total = torch.zeros_like(activations, dtype=torch.promote_types(activations.dtype, torch.float32))
    for start in range(0, images * points, chunk):
        flat = torch.arange(start, min(start + chunk, images * points), device=activations.device)
        image, point = flat % images, flat // images
        total.index_add_(0, image, term(activations[image], targets[image], point).to(total.dtype))
    return total


def fixed_noise(draw: Callable[..., Tensor], seed: int, points: Tensor, like: Tensor) -> Tensor:
    """Noise of each point, (n, …) shaped like `like`; it depends on (seed, point) alone."""
    numbers, inverse = torch.unique(points, return_inverse=True)
    return draw(make_keys(seed, numbers), tuple(like.shape[1:]))[inverse].to(like.dtype)


def make_baseline(baseline: str | Tensor, activations: Tensor, seed: int) -> Tensor:
    """The point from which integrated gradients start, broadcastable to the activations."""
    if isinstance(baseline, Tensor):
        return baseline.to(activations)
    if baseline == "zeros":
        return torch.zeros_like(activations[:1])
    if baseline == "uniform":
        key = make_keys(seed, device=activations.device)[None]
        return (2 * keyed_uniform(key, tuple(activations.shape[1:])) - 1).to(activations.dtype)
    raise InputError(f"unknown baseline {baseline!r}; known: zeros, uniform, or a tensor")


@register_attribution("grad", aliases=("gradient", "saliency"))
class Gradient(Attribution):
    """The gradient of the target logit (Simonyan et al. 2014), absolute before the channel sum.

    `absolute=False` keeps the signs.
    """

    def __init__(self, model: nn.Module, layer: str | None = None, *, absolute: bool = True, **common: Any):
        super().__init__(model, layer, **common)
        self.absolute = absolute

    def attribute(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        def term(x: Tensor, t: Tensor, k: Tensor) -> Tensor:
            return gradient(self.split.rest, x, t)

        relevance = average_over_points(term, activations, targets, 1, self.chunk)
        return self.sum_channels(relevance.abs() if self.absolute else relevance)

    @property
    def passes(self) -> Passes:
        return Passes(1, 1)


@register_attribution("ixg", aliases=("inputxgradient", "IxG"))
class InputXGradient(Attribution):
    """Input × gradient (Shrikumar et al. 2016)."""

    def attribute(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        def term(x: Tensor, t: Tensor, k: Tensor) -> Tensor:
            return x * gradient(self.split.rest, x, t)

        return self.sum_channels(average_over_points(term, activations, targets, 1, self.chunk))

    @property
    def passes(self) -> Passes:
        return Passes(1, 1)


@register_attribution("ig", aliases=("IG", "intgrad", "integratedgradients"))
class IntegratedGradients(Attribution):
    """Integrated gradients (Sundararajan et al. 2017) by Gauss–Legendre quadrature.

    Args:
        steps: quadrature points; 50 in Hesse et al., 20 in Rao et al.
        baseline: `zeros`, `uniform` (one fixed image, uniform in [-1, 1]), or a tensor.
    """

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
        if steps < 1:
            raise InputError(f"steps must be at least 1, got {steps}")
        self.steps, self.baseline, self.seed = steps, baseline, seed

    def attribute(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        start = make_baseline(self.baseline, activations, self.seed)
        nodes, weights = (
            torch.as_tensor(v, device=activations.device) for v in np.polynomial.legendre.leggauss(self.steps)
        )
        nodes, weights = (nodes + 1) / 2, weights / 2

        def term(x: Tensor, t: Tensor, k: Tensor) -> Tensor:
            shape = (-1, *[1] * (x.dim() - 1))
            alpha, weight = nodes[k].to(x.dtype).view(shape), weights[k].to(x.dtype).view(shape)
            return weight * gradient(self.split.rest, start + alpha * (x - start), t)

        average = average_over_points(term, activations, targets, self.steps, self.chunk)
        return self.sum_channels((activations - start) * average)

    @property
    def passes(self) -> Passes:
        return Passes(self.steps, self.steps)


@register_attribution("ig-u", aliases=("IG-U", "ig-uniform"))
class IntegratedGradientsUniform(IntegratedGradients):
    """Integrated gradients from one fixed uniform image in [-1, 1] (IG-U in Hesse et al.)."""

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


@register_attribution("ixg-sg", aliases=("IxG-SG",))
class InputXGradientSmooth(Attribution):
    """SmoothGrad (Smilkov et al. 2017) over input × gradient: the mean over noisy inputs.

    Args:
        samples: noisy inputs per image; all images of a run see the same noise.
        noise: standard deviation in normalised space.
    """

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

    def attribute(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        def term(x: Tensor, t: Tensor, k: Tensor) -> Tensor:
            x = x + self.noise * fixed_noise(keyed_normal, self.seed, k, x)
            return x * gradient(self.split.rest, x, t) / self.samples

        return self.sum_channels(average_over_points(term, activations, targets, self.samples, self.chunk))

    @property
    def passes(self) -> Passes:
        return Passes(self.samples, self.samples)
