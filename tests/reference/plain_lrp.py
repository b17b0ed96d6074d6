"""LRP of one image, layer by layer, with every layer's full matrix and its contributions written out.

Slow and literal: an affine layer (a convolution with the batch normalization behind it) is turned into
a matrix by feeding it unit vectors, and the rules are applied to the table of contributions c[j, i].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Back = Callable[[Tensor], Tensor]


def matrix_of(affine: Callable[[Tensor], Tensor], shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Matrix (outputs, inputs) and bias (outputs,) of an affine function of one image of this shape."""
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    units = torch.eye(zero.numel(), dtype=torch.float64).view(-1, *shape)
    bias = affine(zero).flatten()
    columns = torch.cat([affine(part).flatten(1) for part in units.split(64)]) - bias
    return columns.T, bias


def away_from_zero(value: Tensor, epsilon: float) -> Tensor:
    return torch.where(value >= 0, value + epsilon, value - epsilon)


def spread_out(
    rule: str, matrix: Tensor, bias: Tensor, x: Tensor, relevance: Tensor, gamma: float, epsilon: float, box: tuple
) -> Tensor:
    """Relevance (inputs,) of x from relevance (outputs,), output by output."""
    result = torch.zeros_like(x)
    for j in range(len(relevance)):
        c, b = matrix[j] * x, bias[j]
        if rule == "epsilon":
            numerator, denominator = c, c.sum() + b
        elif rule == "zplus" and c.sum() + b >= 0:
            numerator, denominator = c.clamp(min=0), c.clamp(min=0).sum() + b.clamp(min=0)
        elif rule == "zplus":
            numerator, denominator = c.clamp(max=0), c.clamp(max=0).sum() + b.clamp(max=0)
        elif rule == "gamma":
            positive = bool(c.sum() + b >= 0)
            extra = c.clamp(min=0) if positive else c.clamp(max=0)
            extra_bias = b.clamp(min=0) if positive else b.clamp(max=0)
            numerator, denominator = c + gamma * extra, (c + gamma * extra).sum() + b + gamma * extra_bias
        elif rule == "box":
            low, high = box
            numerator = c - low * matrix[j].clamp(min=0) - high * matrix[j].clamp(max=0)
            denominator = numerator.sum()
        result += numerator / away_from_zero(denominator, epsilon) * relevance[j]
    return result


class PlainLRP:
    """Forward once, keeping for each step how relevance goes back."""

    def __init__(self, composite: str, gamma: float, epsilon: float, low: Tensor, high: Tensor):
        self.composite, self.gamma, self.epsilon, self.low, self.high = composite, gamma, epsilon, low, high

    def affine(self, layer: Callable[[Tensor], Tensor], x: Tensor, rule: str) -> tuple[Tensor, Back]:
        matrix, bias = matrix_of(layer, x.shape[1:])
        box = (self.low.expand_as(x[0]).flatten(), self.high.expand_as(x[0]).flatten()) if rule == "box" else ()

        def back(relevance: Tensor) -> Tensor:
            return spread_out(
                rule, matrix, bias, x.flatten(), relevance.flatten(), self.gamma, self.epsilon, box
            ).view_as(x)

        return layer(x), back

    def selection(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Back]:
        """Max pooling: the value that came through gets the relevance."""
        numbers = torch.arange(1, x.numel() + 1, dtype=torch.float64).view_as(x)
        windows = nn.functional.unfold(x.transpose(0, 1), layer.kernel_size, 1, layer.padding, layer.stride)
        where = nn.functional.unfold(numbers.transpose(0, 1), layer.kernel_size, 1, layer.padding, layer.stride)
        windows = torch.where(where > 0, windows, -torch.inf)
        winners = where.gather(1, windows.argmax(dim=1, keepdim=True)).long().flatten() - 1

        def back(relevance: Tensor) -> Tensor:
            result = torch.zeros(x.numel(), dtype=torch.float64)
            for winner, value in zip(winners.tolist(), relevance.flatten().tolist(), strict=True):
                result[winner] += value
            return result.view_as(x)

        return layer(x), back

    def chain(self, layers: list[nn.Module], x: Tensor, image: bool = False) -> tuple[Tensor, list[Back]]:
        """Layers one after another; the first convolution sees the image if `image`."""
        backs: list[Back] = []
        i = 0
        while i < len(layers):
            layer = layers[i]
            if isinstance(layer, nn.Conv2d):
                followed = i + 1 < len(layers) and isinstance(layers[i + 1], nn.BatchNorm2d)
                both = nn.Sequential(layer, layers[i + 1]) if followed else layer
                rule = "box" if image and self.composite != "epsilon" else self.composite
                x, back = self.affine(both, x, rule)
                i += followed
            elif isinstance(layer, nn.MaxPool2d):
                x, back = self.selection(layer, x)
            elif isinstance(layer, nn.ReLU):
                x, back = x.clamp(min=0), lambda relevance: relevance
            elif isinstance(layer, (nn.Identity, nn.Flatten)):
                x, back = layer(x), lambda relevance, shape=x.shape: relevance.view(shape)
            elif hasattr(layer, "conv2"):
                x, back = self.block(layer, x)
            else:
                x, back = self.affine(layer, x, "epsilon")
            image = False
            backs.append(back)
            i += 1
        return x, backs

    def block(self, block: nn.Module, x: Tensor) -> tuple[Tensor, Back]:
        """A residual block of timm: branch and shortcut share by their values."""
        branch_layers = [block.conv1, block.bn1, nn.ReLU(), block.conv2, block.bn2]
        if hasattr(block, "conv3"):
            branch_layers += [nn.ReLU(), block.conv3, block.bn3]
        shortcut_layers = [] if block.downsample is None else list(block.downsample)
        branch, branch_backs = self.chain(branch_layers, x)
        shortcut, shortcut_backs = self.chain(shortcut_layers, x)
        total = branch + shortcut

        def back(relevance: Tensor) -> Tensor:
            shares = relevance / away_from_zero(total, self.epsilon)
            return run_back(branch_backs, branch * shares) + run_back(shortcut_backs, shortcut * shares)

        return total.clamp(min=0), back


def run_back(backs: list[Back], relevance: Tensor) -> Tensor:
    for back in reversed(backs):
        relevance = back(relevance)
    return relevance


def plain_lrp(
    layers: list[nn.Module],
    x: Tensor,
    target: int,
    composite: str,
    gamma: float,
    epsilon: float,
    box: tuple,
    image: bool = True,
) -> Tensor:
    """Relevance (1, 1, h, w) of one input (1, C, h, w), float64, for a list of layers ending in logits."""
    plain = PlainLRP(composite, gamma, epsilon, box[0].double().view(-1, 1, 1), box[1].double().view(-1, 1, 1))
    with torch.no_grad():
        logits, backs = plain.chain(layers, x, image)
        start = torch.zeros_like(logits)
        start[0, target] = logits[0, target]
        return run_back(backs, start).sum(dim=1, keepdim=True)
