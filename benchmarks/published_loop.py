"""The published evaluation loop of IDSDS, restated plainly: what `benchmarks.idsds` is held against.

Method after method, each goes through the data anew; the drops are computed again for each of them, in 17 forward
passes that track gradients; class activation maps and RISE take one image at a time; SciPy correlates image by image.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.stats import ConstantInputWarning, spearmanr
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

Method = Callable[[nn.Module, nn.Module | None, Tensor, Tensor], Tensor]
"""(model, the layer of CAMs, images (B, 3, H, W), targets (B,)) -> maps (B, 1, H, W)."""


def gradient(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    images = images.detach().requires_grad_(True)
    selected = model(images).gather(1, targets[:, None]).sum()
    return torch.autograd.grad(selected, images)[0]


def grad(model: nn.Module, layer: nn.Module | None, images: Tensor, targets: Tensor) -> Tensor:
    return gradient(model, images, targets).abs().sum(1, keepdim=True)


def ixg(model: nn.Module, layer: nn.Module | None, images: Tensor, targets: Tensor) -> Tensor:
    return (images * gradient(model, images, targets)).sum(1, keepdim=True)


def ixg_sg(model: nn.Module, layer: nn.Module | None, images: Tensor, targets: Tensor) -> Tensor:
    noisy = [images + torch.randn_like(images) for _ in range(4)]
    return sum((x * gradient(model, x, targets)).sum(1, keepdim=True) for x in noisy) / 4  # type: ignore[return-value]


def _integrated(model: nn.Module, images: Tensor, targets: Tensor, baseline: Tensor) -> Tensor:
    nodes, weights = np.polynomial.legendre.leggauss(50)
    total = torch.zeros_like(images)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        total += float(weight) * gradient(model, baseline + float(node) * (images - baseline), targets)
    return ((images - baseline) * total).sum(1, keepdim=True)


def ig(model: nn.Module, layer: nn.Module | None, images: Tensor, targets: Tensor) -> Tensor:
    return _integrated(model, images, targets, torch.zeros_like(images))


def ig_u(model: nn.Module, layer: nn.Module | None, images: Tensor, targets: Tensor) -> Tensor:
    baseline = 2 * torch.rand(images.shape[1:], device=images.device) - 1
    return _integrated(model, images, targets, baseline.expand_as(images))


def _cam(weigh: Callable[[Tensor, Tensor], Tensor]) -> Method:
    def explain(model: nn.Module, layer: nn.Module | None, images: Tensor, targets: Tensor) -> Tensor:
        kept: list[Any] = []
        assert layer is not None
        handle = layer.register_forward_hook(lambda module, given, output: kept.append(output))
        maps = []
        for image, target in zip(images, targets, strict=True):
            selected = model(image[None])[0, target]
            activations = kept.pop()
            pulled = torch.autograd.grad(selected, activations)[0]
            maps.append(relu((weigh(activations, pulled) * activations).sum(1, keepdim=True)).detach())
        handle.remove()
        return interpolate(torch.cat(maps), images.shape[-2:], mode="bilinear")

    return explain


def _plus_plus(activations: Tensor, pulled: Tensor) -> Tensor:
    square, cube = pulled**2, pulled**3
    below = 2 * square + (activations * cube).sum((2, 3), keepdim=True)
    share = square / torch.where(below == 0, torch.ones_like(below), below)
    return (share * relu(pulled)).sum((2, 3), keepdim=True)


def rise(count: int) -> Method:
    """RISE with so many masks of 8×8 cells, an eighth of a thousand of them in a pass."""

    def explain(model: nn.Module, layer: nn.Module | None, images: Tensor, targets: Tensor) -> Tensor:
        side, cell = images.shape[-1], -(-images.shape[-1] // 8)
        kept = (torch.rand(count, 1, 8, 8, device=images.device) < 0.1).float()
        large = interpolate(kept, size=(side + cell, side + cell), mode="bilinear")
        shifts = np.random.default_rng(0).integers(0, cell, (count, 2))
        cuts = zip(large, shifts, strict=True)
        masks = torch.stack([mask[:, y : y + side, x : x + side] for mask, (y, x) in cuts])
        maps = []
        with torch.no_grad():
            for image, target in zip(images, targets, strict=True):
                scores = [model(part * image).softmax(1)[:, target] for part in masks.split(125)]
                maps.append((torch.cat(scores).view(-1, 1, 1, 1) * masks).sum(0, keepdim=True) / (count * 0.1))
        return torch.cat(maps)

    return explain


def methods(masks: int) -> dict[str, Method]:
    """The nine methods by their names here."""
    return {
        "grad": grad,
        "ixg": ixg,
        "ixg-sg": ixg_sg,
        "ig": ig,
        "ig-u": ig_u,
        "gradcam": _cam(lambda activations, pulled: pulled.mean((2, 3), keepdim=True)),
        "gradcampp": _cam(_plus_plus),
        "layercam": _cam(lambda activations, pulled: relu(pulled)),
        f"rise(masks={masks})": rise(masks),
    }


def drops(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Logit drops (B, 16)."""
    side, columns = images.shape[-1] // 4, targets[:, None]
    whole = model(images).gather(1, columns)
    found = []
    for row in range(4):
        for column in range(4):
            deleted = images.clone()
            deleted[:, :, row * side : (row + 1) * side, column * side : (column + 1) * side] = 0
            found.append(whole - model(deleted).gather(1, columns))
    return torch.cat(found, dim=1)


def score(
    explain: Method, model: nn.Module, layer: nn.Module | None, batches: list[tuple[Tensor, Tensor]]
) -> list[float]:
    """The correlation of each image, of one method."""
    found = []
    for images, targets in batches:
        maps = explain(model, layer, images, targets)
        cells = maps.unfold(2, maps.shape[2] // 4, maps.shape[2] // 4).unfold(3, maps.shape[3] // 4, maps.shape[3] // 4)
        sums = cells.sum((1, 4, 5)).flatten(1).detach().cpu().numpy()
        lost = drops(model, images, targets).detach().cpu().numpy()
        correlate: Any = spearmanr
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConstantInputWarning)  # of a map that is 0 throughout: NaN
            found += [float(correlate(a, b).statistic) for a, b in zip(sums, lost, strict=True)]
    return found
