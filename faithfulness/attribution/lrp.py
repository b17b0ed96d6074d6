"""Layer-wise relevance propagation for convolutional networks, residual ones included."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.adaptive_avgmax_pool import FastAdaptiveAvgPool
from timm.layers.blur_pool import BlurPool2d
from timm.layers.drop import DropPath
from timm.models.vgg import ConvMlp
from torch import Tensor, nn

from faithfulness.attribution.base import Attribution, Passes, pull_back, register_attribution, select_logits, upcast
from faithfulness.attribution.lrp_mode import RULES, Composite, RelevanceMode
from faithfulness.attribution.switches import switched
from faithfulness.backbones.networks.bcos import BcosLayer
from faithfulness.core.errors import InputError

SUPPORTED: tuple[type[nn.Module], ...] = (
    *(nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.ReLU, nn.Identity, nn.Flatten, nn.Unflatten),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.ZeroPad2d),
    *(nn.Dropout, nn.Dropout2d, DropPath, BlurPool2d, FastAdaptiveAvgPool),
)
"""Layers of torch and timm that relevance can be carried through, their subclasses included."""


def unsupported_layer(model: nn.Module) -> str | None:
    """The class of the first layer that LRP has no rule for; None if there is none.

    Only layers of torch and timm without parts, and B-cos layers, are judged by their class: all else
    by the functions it calls.
    """
    for module in model.modules():
        library = type(module).__module__.split(".")[0] in ("torch", "timm")
        known = (*SUPPORTED, nn.Sequential, nn.ModuleList)
        if isinstance(module, BcosLayer):
            return type(module).__name__
        if library and not any(True for _ in module.children()) and not isinstance(module, known):
            return type(module).__name__
    return None


def input_box(model: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Normalized values of black and white for each channel, (C,) each; None for an unknown normalization."""
    for module in model.modules():
        config = getattr(module, "data_config", None)
        told = getattr(module, "normalization_told", True)
        if told and isinstance(config, dict) and "mean" in config and "std" in config:
            mean, std = torch.tensor(config["mean"]), torch.tensor(config["std"])
            return -mean / std, (1 - mean) / std
    return None


@register_attribution("lrp", aliases=("layerwise-relevance-propagation",))
class LRP(Attribution):
    """Layer-wise relevance propagation (Bach et al. 2015) of the target logit to a layer's activations.

    Convolutions follow the composite, linear layers LRP-ε, the layer that sees the image LRP-ZB (for
    `zplus` and `gamma`; its box is black to white of the model's normalization, or the range of each
    image's own channel values if that is unknown). Batch normalization is folded into the layer before
    it; additions and averages share by LRP-ε; max pooling passes relevance to the largest value. Biases
    absorb their share: relevance sums to the logit on networks without any, and to the logit less the
    biases' share otherwise.

    Args:
        composite: `epsilon`, `zplus` or `gamma`, the rule of the convolutions.
        gamma: of LRP-γ; 0.25 in Rao et al. 2023.
        epsilon: the stabiliser of all rules, absolute; by default it only keeps divisions by 0 away.
    Raises:
        InputError: an unknown composite; a network with layers other than convolutions, batch
            normalization, ReLU, pooling and linear layers, which is named; logits under the rules that
            aren't the network's own.
    Source: composites of Rao et al. 2023 (TPAMI), section 5.
    """

    paper = "Bach et al. 2015, Rao et al. 2023"
    needs = "a CNN of conv/BN/ReLU/pool/linear"
    logits_only = True

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        *,
        composite: str = "epsilon",
        gamma: float = 0.25,
        epsilon: float = 1e-9,
        **common: Any,
    ):
        super().__init__(model, layer, **common)
        if composite not in RULES:
            raise InputError(f"unknown composite {composite!r}; known: {', '.join(RULES)}")
        if gamma < 0 or epsilon <= 0:
            raise InputError(f"expected gamma ≥ 0 and epsilon > 0, got {gamma} and {epsilon}")
        unsupported = unsupported_layer(self.model)
        if unsupported is not None:
            raise InputError(f"lrp needs {self.needs}, {self.model.name} has {unsupported}")
        self.composite, self.gamma, self.epsilon = composite, gamma, epsilon

    def attribute(self, images: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
        pairs = zip(activations.split(self.chunk), targets.split(self.chunk), strict=True)
        return self.sum_channels(torch.cat([self._relevance(part, indices) for part, indices in pairs]))

    def _relevance(self, activations: Tensor, targets: Tensor) -> Tensor:
        dense = [weight for m in self.model.modules() if isinstance(m, ConvMlp) for weight in m.parameters()]
        composite = Composite(
            self.composite, self.epsilon, self.gamma, input_box(self.model), frozenset(id(weight) for weight in dense)
        )
        mode = RelevanceMode(composite)
        # Checkpointed layers would run again on the way back, outside the mode.
        with torch.enable_grad(), switched(self.model.modules(), "grad_checkpointing", False):
            leaf = mode.start(activations, image=self.layer == "input")
            with mode:
                logits = mode.current(self.split.rest(leaf))
            self._check(logits, activations)
            selected = select_logits(logits, targets)
            (relevance,) = pull_back(selected, [leaf], selected.detach())
        return relevance

    def _check(self, logits: Tensor, activations: Tensor) -> None:
        """Raise InputError unless the logits that relevance starts from are the network's own.

        The rules compute each function's value by the same kernels, so there is hardly a difference to allow.
        """
        with torch.no_grad():
            own = self.split.rest(activations.clone())
        difference, scale = (upcast(logits.detach()) - upcast(own)).abs().amax(), upcast(own).abs().amax()
        if not bool(difference <= max(1e-4, 4 * torch.finfo(own.dtype).eps) * scale):
            raise InputError(
                f"lrp doesn't follow {self.model.name}: its logits differ by {float(difference):.3g} from the "
                "network's own; a function that writes in place into what another name or view still shows does that"
            )

    @property
    def passes(self) -> Passes:
        """One each way, and one forward to check by; on the way back a layer's map runs up to three times more."""
        return Passes(2, 1)
