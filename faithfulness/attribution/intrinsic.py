"""Maps that intrinsically explainable networks give by themselves: BagNet's evidence, B-cos's weights."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from faithfulness.attribution.base import Attribution, Passes, gradient, register_attribution, select_logits
from faithfulness.attribution.chunks import pair_chunks
from faithfulness.attribution.switches import switched
from faithfulness.backbones.networks.bagnet import BagNet
from faithfulness.backbones.networks.bcos import BcosLayer, BcosResNet
from faithfulness.backbones.networks.bcos_vit import BcosViT
from faithfulness.backbones.timm_models import TimmBackbone
from faithfulness.core.errors import InputError


class Intrinsic(Attribution):
    """Base: a method that only networks with a certain kind of part have."""

    part: type[nn.Module]
    logits_only = True

    def __init__(self, model: nn.Module, layer: str | None = None, *, cell: int | None = None, **common: Any):
        if isinstance(model, (BagNet, BcosResNet, BcosViT)):
            model = TimmBackbone(model)
        super().__init__(model, layer, cell=cell, **common)
        self.parts = [module for module in self.model.modules() if isinstance(module, self.part)]
        if not self.parts:
            raise InputError(f"this map needs {self.needs}, got {getattr(self.model, 'name', type(model).__name__)}")
        self.cell = cell

    def cut(self, layer: str) -> Any:
        """The network cut at another layer, for the same cell's head."""
        return self.cut_model(layer, self.cell)

    def attribute(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        triples = zip(images.split(self.chunk), activations.split(self.chunk), targets.split(self.chunk), strict=True)
        return torch.cat([self.explain(*triple) for triple in triples])

    def explain(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        """The maps of a sub-batch."""
        raise NotImplementedError


@register_attribution("bagnet")
class BagNetEvidence(Intrinsic):
    """BagNet's class evidence at each position (Brendel and Bethge 2019); it sums to the logit.

    Position p of the last features gives (wᵀa_p + b) / positions: the bias is shared out evenly, in a
    grid setting over the positions that the cell's head sees.

    Args:
        place: where a position's evidence lies in the map. `center`: spread over the stride × stride
            pixels in the middle of its receptive field, (B, 1, H, W) at the size of the image; `field`:
            over the whole receptive field; `position`: one value for each, (B, 1, h, w); `dense`: a
            pixel's value is the logit of the patch around it, of the image padded with zeros, for
            every pixel (B, 1, H, W): the heat map of Brendel and Bethge that Hesse et al. 2024 score,
            which doesn't sum to the logit. A grid setting, whose positions are not those of one image,
            always gives `position`.
    Raises:
        InputError: a network that is no BagNet, an unknown place, a layer other than the input.
    """

    paper = "Brendel and Bethge 2019"
    needs = "a BagNet"
    part = BagNet

    def __init__(self, model: nn.Module, layer: str | None = None, *, place: str = "center", **common: Any):
        super().__init__(model, layer, **common)
        if self.layer != "input":
            raise InputError(f"a BagNet's evidence exists at layer 'input' only, got {self.layer!r}")
        if place not in ("center", "field", "position", "dense"):
            raise InputError(f"unknown place {place!r}; known: center, field, position, dense")
        self.place, self.final = place, self.cut("final")

    def explain(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        if self.place == "dense" and self.cell is None:
            return self._dense(images, targets)
        with torch.no_grad():
            features = self.final.stem(images)
            logits = select_logits(self.final.rest(features), targets)
        weights = gradient(self.final.rest, features, targets)
        evidence = (features * weights).sum(dim=1, keepdim=True)
        seen = (weights != 0).any(dim=1, keepdim=True)
        seen = seen | ~seen.any(dim=(2, 3), keepdim=True)
        bias = logits - evidence.sum(dim=(1, 2, 3))
        evidence = evidence + seen * (bias / seen.sum(dim=(1, 2, 3))).view(-1, 1, 1, 1)
        return self._spread(evidence, images)

    def _dense(self, images: Tensor, targets: Tensor) -> Tensor:
        """The logit of the patch around each pixel (B, 1, H, W).

        The network runs on every shift of the padded image by less than its stride; the positions of a shift
        are every stride-th patch.
        """
        network = cast(BagNet, self.parts[0])
        field, stride, (height, width) = network.receptive_field, network.stride, images.shape[-2:]
        rows, cols = math.ceil(height / stride), math.ceil(width / stride)
        before = (field - 1) // 2
        right, bottom = (count * stride - 1 + field - before - side for count, side in ((cols, width), (rows, height)))
        padded = nn.functional.pad(images, (before, right, before, bottom))
        with torch.no_grad():
            blank = torch.zeros_like(self.final.stem(padded[:, :, :field, :field]))
            bias = select_logits(self.final.rest(blank), targets)[:, None, None]
        weights = gradient(self.final.rest, blank, targets)
        result = weights.new_zeros(len(images), rows, stride, cols, stride)
        for image, shift in pair_chunks(len(images), stride**2, self.chunk, images.device):
            tops, lefts = shift // stride, shift % stride
            size = ((rows - 1) * stride + field, (cols - 1) * stride + field)
            corners = zip(image.tolist(), tops.tolist(), lefts.tolist(), strict=True)
            crops = torch.stack([padded[i, :, y : y + size[0], x : x + size[1]] for i, y, x in corners])
            with torch.no_grad():
                features = self.final.stem(crops)
            evidence = (features * weights[image]).sum(dim=1) + bias[image]
            result[image, :, tops, :, lefts] = evidence.to(result.dtype)
        return result.flatten(3).flatten(1, 2)[:, None, :height, :width]

    def _spread(self, evidence: Tensor, images: Tensor) -> Tensor:
        """Evidence of positions -> evidence of pixels, where the positions are those of one whole image."""
        network = cast(BagNet, self.parts[0])
        field, stride = network.receptive_field, network.stride
        expected = tuple((size - field) // stride + 1 for size in images.shape[-2:])
        if self.place == "position" or self.cell is not None or tuple(evidence.shape[-2:]) != expected:
            return evidence
        start, side = (0, field) if self.place == "field" else ((field - stride) // 2, stride)
        kernel = evidence.new_full((1, 1, side, side), side**-2)
        pixels = nn.functional.conv_transpose2d(evidence, kernel, stride=stride)
        right, bottom = (images.shape[i] - start - pixels.shape[i] for i in (-1, -2))
        return nn.functional.pad(pixels, (start, right, start, bottom))

    @property
    def passes(self) -> Passes:
        """One forward, or one per shift of `dense`; the gradient of the last layer costs next to nothing."""
        stride = cast(BagNet, self.parts[0]).stride
        return Passes(stride**2 if self.place == "dense" and self.cell is None else 1, 0)


@register_attribution("bcos", aliases=("B-cos",))
class BcosContributions(Intrinsic):
    """Contributions of a B-cos network's dynamic linear map, W(x)·x (Böhle et al. 2024, section 3).

    At the input they are those of the six channels [x, 1 − x], summed; at another layer those of its
    activations. They sum to the logit less its constant bias, which is −log(classes − 1); not in a vision transformer,
    where the positions of the tokens have a share.

    Raises:
        InputError: a network without B-cos layers.
    """

    paper = "Böhle et al. 2024"
    needs = "a B-cos network"
    part = BcosLayer

    def __init__(self, model: nn.Module, layer: str | None = None, **common: Any):
        super().__init__(model, layer, **common)
        self.inner = self.cut("encode") if self.layer == "input" else self.split

    def explain(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        if self.layer == "input":
            with torch.no_grad():
                activations = self.inner.stem(images)
        with switched(self.parts, "explaining", True):
            weights = gradient(self.inner.rest, activations, targets)
        return self.inner.to_map(activations * weights).sum(dim=1, keepdim=True)

    @property
    def passes(self) -> Passes:
        return Passes(1, 1)
