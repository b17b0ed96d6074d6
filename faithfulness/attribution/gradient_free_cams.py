"""Class activation maps without gradients: feature maps weighted by what the model does with them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from faithfulness.attribution.base import Passes, register_attribution, select_logits, upcast
from faithfulness.attribution.cams import CAM
from faithfulness.attribution.chunks import pair_chunks
from faithfulness.core.errors import InputError
from faithfulness.core.resize import resize_maps


@register_attribution("ablationcam", aliases=("Ablation-CAM",))
class AblationCAM(CAM):
    """Ablation-CAM (Desai and Ramaswamy 2020): a channel weighs what the logit loses without it.

    The weight is (y − y_k) / |y|; the paper divides by y, which would turn the map of a negative
    logit upside down. With tokens, a channel is that of all patch tokens.
    """

    paper = "Desai and Ramaswamy 2020"
    needs = "forward passes, a feature map"
    passes_in_words = ("channels + 1", "0")

    def __init__(self, model: nn.Module, layer: str | None = None, **common: Any):
        super().__init__(model, layer, **common)
        self._channels: int | None = None

    def weights(self, images: Tensor, activations: Tensor, targets: Tensor, maps: Tensor) -> Tensor:
        places = self.channel_places(activations)
        self._channels = len(places)
        whole = self.scores(activations, targets)
        group = max(1, min(len(activations), self.chunk // len(places)))
        parts = zip(activations.split(group), targets.split(group), strict=True)
        ablated = torch.cat([self.ablate(part, indices, places) for part, indices in parts])
        tiny = torch.finfo(whole.dtype).tiny
        return ((whole[:, None] - ablated) / whole.abs().clamp(min=tiny)[:, None])[:, :, None, None]

    def ablate(self, activations: Tensor, targets: Tensor, places: Tensor) -> Tensor:
        """The target logits (b, C) of b activations without each channel."""
        calls = math.ceil(len(places) / max(1, self.chunk // len(activations)))
        size = math.ceil(len(places) / calls)
        # One buffer for all sub-batches: a copy for each would cost more than a small head's own pass.
        # It is contiguous, so `places`, which count the activations in order, hold for its rows.
        buffer = activations.repeat(size, *[1] * (activations.dim() - 1))
        logits = []
        for channels in places.split(size):
            rows = buffer[: len(channels) * len(activations)]
            flat, hidden = rows.view(len(rows), -1), channels.repeat_interleave(len(activations), dim=0)
            kept = flat.gather(1, hidden)
            flat.scatter_(1, hidden, 0)
            logits.append(self.scores(rows, targets.repeat(len(channels))).view(len(channels), -1))
            flat.scatter_(1, hidden, kept)
        return torch.cat(logits).T

    def channel_places(self, activations: Tensor) -> Tensor:
        """Where the channels of the map lie in flattened activations: (C, h·w) indices."""
        first = activations[:1]
        numbers = torch.arange(first.numel(), device=first.device, dtype=torch.float64)
        places = self.split.to_map(numbers.view(first.shape))[0].flatten(1).long()
        expected = self.split.to_map(first)[0].flatten(1)
        if places.max() >= len(numbers) or not torch.equal(first.flatten()[places], expected):
            raise InputError(f"ablationcam can't tell the channels of {self.model.name} at layer {self.layer!r}")
        return places

    @property
    def passes(self) -> Passes:
        return Passes(math.nan if self._channels is None else self._channels + 1, 0)


@register_attribution("scorecam", aliases=("Score-CAM",))
class ScoreCAM(CAM):
    """Score-CAM (Wang et al. 2020, algorithm 1): a channel weighs what the image keeps under its mask.

    The mask is the feature map, brought to image size (bilinear) and scaled to [0, 1], as the paper
    has it; it multiplies the image, and the softmax of the target logits over the channels are the
    weights. Channels without contrast make no mask and get the weight 0.

    Args:
        weighting: `channels`, the softmax over the channels of the paper, or `classes`: each channel by
            its own softmax over the classes, the target's probability under its mask (the code of Rao et
            al. 2022).
    """

    paper = "Wang et al. 2020"
    needs = "forward passes, a feature map"
    from_images = True
    passes_in_words = ("channels", "0")

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        *,
        cell: int | None = None,
        weighting: str = "channels",
        **common: Any,
    ):
        super().__init__(model, layer, cell=cell, **common)
        if weighting not in ("channels", "classes"):
            raise InputError(f"unknown weighting {weighting!r}; known: channels, classes")
        self.weighting = weighting
        self._whole = self.cut_model("input", cell)
        self._channels: int | None = None

    def weights(self, images: Tensor, activations: Tensor, targets: Tensor, maps: Tensor) -> Tensor:
        batch, self._channels = maps.shape[:2]
        size = (images.shape[-2], images.shape[-1])
        of_classes = self.weighting == "classes"
        scores = maps.new_full((batch, self._channels), -torch.inf)
        for image, channel in pair_chunks(batch, self._channels, self.chunk, maps.device):
            masks = resize_maps(maps[image, channel].unsqueeze(1), size, "bilinear")
            low, high = masks.amin(dim=(2, 3), keepdim=True), masks.amax(dim=(2, 3), keepdim=True)
            masks = (masks - low) / torch.where(high == low, 1, high - low)
            with torch.no_grad():
                outputs = upcast(self._whole.rest(images[image] * masks.to(images.dtype)))
                kept = select_logits(self._whole.softmax(outputs) if of_classes else outputs, targets[image])
            scores[image, channel] = torch.where((high == low).flatten(), -torch.inf, kept).to(scores.dtype)
        weights = scores.clamp(min=0) if of_classes else scores.softmax(dim=1).nan_to_num(0)
        return weights[:, :, None, None]

    @property
    def passes(self) -> Passes:
        return Passes(math.nan if self._channels is None else self._channels, 0)
