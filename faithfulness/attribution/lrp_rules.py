"""Rules of layer-wise relevance propagation for one linear map: relevance of its output to its input's.

A rule is a function `(linear, x, z, relevance, …) → relevance of x`, with z = linear(x). Each shares the
relevance of an output out to the inputs in proportion to their contributions c = x·w, weighed in its
own way. A bias is a contribution too, of no input: its share is absorbed (but in LRP-ZB), so that the
relevance is conserved where there are no biases and less by the biases' share where there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearMap:
    """x ↦ run(x, weight, bias), with its transpose `pull(s, weight, shape of x)`."""

    weight: Tensor
    bias: Tensor | None
    run: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    pull: Callable[[Tensor, Tensor, torch.Size], Tensor]
    dense: bool = False

    def scaled(self, scale: Tensor, shift: Tensor) -> LinearMap:
        """This map followed by a scale and a shift of each output channel: batch normalization, folded."""
        weight = self.weight * scale.view(-1, *[1] * (self.weight.dim() - 1))
        return replace(self, weight=weight, bias=shift if self.bias is None else self.bias * scale + shift)

    def to(self, dtype: torch.dtype) -> LinearMap:
        """This map in another precision."""
        return replace(self, weight=self.weight.to(dtype), bias=None if self.bias is None else self.bias.to(dtype))


def stabilize(z: Tensor, epsilon: float) -> Tensor:
    """z moved away from 0 by epsilon, up where z = 0."""
    return z + epsilon * torch.where(z < 0, -1.0, 1.0).to(z.dtype)


def signed_parts(x: Tensor, weight: Tensor, sign: int) -> list[tuple[Tensor, Tensor]]:
    """Pairs (part of x, part of the weight) whose products are the contributions of one sign.

    Positive: x⁺w⁺ and x⁻w⁻; negative: x⁺w⁻ and x⁻w⁺. Where no x is negative, as after a ReLU, one pair.
    """
    above, below = weight.clamp(min=0), weight.clamp(max=0)
    pairs = [(x.clamp(min=0), above if sign > 0 else below)]
    if bool((x < 0).any()):
        pairs.append((x.clamp(max=0), below if sign > 0 else above))
    return pairs


def positive_output(linear: LinearMap, x: Tensor) -> Tensor:
    """The sum of the positive contributions to each output, the positive part of the bias included."""
    bias = None if linear.bias is None else linear.bias.clamp(min=0)
    (first, *others) = signed_parts(x, linear.weight, 1)
    total = linear.run(*first, bias)
    for part, weight in others:
        total = total + linear.run(part, weight, None)
    return total


def pull_signed(linear: LinearMap, x: Tensor, shares: Tensor, above: Tensor) -> Tensor:
    """Σ over outputs of `shares` times the contributions of the output's own sign, shaped like x.

    `above` tells where the output is not negative. Below 0 most outputs carry no relevance: only where
    a residual branch is added do they.
    """
    result = torch.zeros_like(x)
    for sign, own in ((1, above), (-1, ~above)):
        masked = shares * own
        if sign > 0 or bool(masked.any()):
            for part, weight in signed_parts(x, linear.weight, sign):
                result = result + part * linear.pull(masked, weight, x.shape)
    return result


def epsilon_rule(linear: LinearMap, x: Tensor, z: Tensor, relevance: Tensor, epsilon: float) -> Tensor:
    """LRP-ε: all contributions alike (Bach et al. 2015, equation 58)."""
    return x * linear.pull(relevance / stabilize(z, epsilon), linear.weight, x.shape)


def zplus_rule(linear: LinearMap, x: Tensor, z: Tensor, relevance: Tensor, epsilon: float) -> Tensor:
    """LRP-Z⁺: positive contributions only (Montavon et al. 2017, section 4.2), for inputs of both signs.

    An output below 0, which carries relevance in a residual branch only, shares by its negative
    contributions: the limit of the γ-rule. Sharing by positive ones, which it may not have, loses
    relevance and blows maps up.
    """
    above, positive = z >= 0, positive_output(linear, x)
    shares = relevance / stabilize(torch.where(above, positive, z - positive), epsilon)
    return pull_signed(linear, x, shares, above)


def gamma_rule(
    linear: LinearMap, x: Tensor, z: Tensor, relevance: Tensor, epsilon: float, gamma: float = 0.25
) -> Tensor:
    """LRP-γ: contributions of the output's own sign count 1 + γ times (Montavon et al. 2019, section 10.2.3).

    For inputs and outputs that are not negative this is the published rule, w + γw⁺; for outputs below
    0, which carry relevance in a residual branch only, it is its mirror image.
    """
    above, positive = z >= 0, positive_output(linear, x)
    shares = relevance / stabilize(z + gamma * torch.where(above, positive, z - positive), epsilon)
    return x * linear.pull(shares, linear.weight, x.shape) + gamma * pull_signed(linear, x, shares, above)


def box_rule(linear: LinearMap, x: Tensor, relevance: Tensor, epsilon: float, low: Tensor, high: Tensor) -> Tensor:
    """LRP-ZB for an input in the box [low, high] (Montavon et al. 2017, section 4.2); the bias takes no share.

    All that an output shares by is then positive; a bias would bring the sum near 0 and blow maps up.
    """
    low, high = low.expand_as(x), high.expand_as(x)
    above, below = linear.weight.clamp(min=0), linear.weight.clamp(max=0)
    z = linear.run(x, linear.weight, None) - linear.run(low, above, None) - linear.run(high, below, None)
    shares = relevance / stabilize(z, epsilon)
    result = x * linear.pull(shares, linear.weight, x.shape)
    return result - low * linear.pull(shares, above, x.shape) - high * linear.pull(shares, below, x.shape)
