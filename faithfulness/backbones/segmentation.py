"""Segmentation networks that can be cut at named layers: torchvision's, and an FCN on any timm backbone.

A segmenter maps images (B, C, H, W) to logits (B, K, H, W). Its cuts end at the *coarse* logits
(B, K, h, w), before the last bilinear upsampling: what is left of the network then doesn't depend on
the image's size, and a mean over a region is still exact (see `SegmentationTarget`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.data.config import resolve_data_config
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights
from torchvision.models.segmentation import LRASPP

from faithfulness.backbones.backbone import evaluating
from faithfulness.backbones.segmenter import Segmenter
from faithfulness.backbones.split import Layout, Split, Step, flatten_steps, run_steps
from faithfulness.backbones.timm_models import TimmBackbone, create_backbone
from faithfulness.core.errors import InputError, unknown_name
from faithfulness.core.resize import resize_maps

SKIP_STRIDE = 8
"""The coarsest stride of the earlier map that an FCN looks at, where timm's feature maps are all there is."""


class TorchvisionSegmenter(Segmenter):
    """One of torchvision's segmentation models, without its auxiliary head.

    Middle is the first map at 1/8 of the image, final the last map of the backbone. LRASPP reads two
    maps of its backbone, so its final layer is where both have come together: the low branch and the
    upsampled high branch side by side, before the 1×1 classifiers.
    """

    def __init__(self, name: str, model: nn.Module, num_classes: int):
        super().__init__()
        self.name = name
        self.model = model
        self.num_classes = num_classes
        self.data_config = {
            "input_size": (3, 520, 520),
            "interpolation": "bilinear",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "crop_pct": 1.0,
        }

    @property
    def layout(self) -> Layout:
        """Steps and head; the last step of LRASPP is named "fuse"."""
        backbone, classifier = self.model.get_submodule("backbone"), self.model.get_submodule("classifier")
        children = [(f"backbone.{name}", child) for name, child in backbone.named_children()]
        if isinstance(self.model, LRASPP):
            return _lraspp_layout(children, backbone, classifier)
        steps = [step for path, child in children for step in flatten_steps(path, child)]
        *inner, last = flatten_steps("classifier", classifier)
        return Layout((*steps, *inner), last.run, {"middle": "backbone.layer2", "final": "backbone.layer4"})


def _lraspp_layout(children: list[tuple[str, nn.Module]], backbone: Any, classifier: Any) -> Layout:
    low = next(name for name, role in backbone.return_layers.items() if role == "low")
    cut = [path for path, _ in children].index(f"backbone.{low}") + 1
    steps = tuple(Step(path, child) for path, child in children)
    channels = classifier.low_classifier.in_channels

    def fuse(low_map: Tensor) -> Tensor:
        high = run_steps(steps[cut:], low_map)
        return join_maps(low_map, classifier.cbr(high) * classifier.scale(high))

    def head(fused: Tensor) -> Tensor:
        return classifier.low_classifier(fused[:, :channels]) + classifier.high_classifier(fused[:, channels:])

    return Layout((*steps[:cut], Step("fuse", fuse)), head, {"middle": steps[cut - 1].path, "final": "fuse"})


class FcnSegmenter(Segmenter):
    """A 1×1 classifier on the last map of a backbone and on its middle layer (stride 8 in most).

    Both maps stand side by side at the middle layer's resolution, which is the final layer: one 1×1
    convolution over them equals the sum of one on each (the skip of FCN; Long et al. 2015). `skip`
    names another layer for the earlier map, which then is the layer "middle".
    A family without a layout lends the last of timm's feature maps and the coarsest of stride 8 or
    less, and offers the layers "input" and "final" only.
    """

    def __init__(
        self, name: str, encoder: nn.Module, num_classes: int, data_config: dict[str, Any], skip: str | None = None
    ):
        super().__init__()
        self.name = f"fcn_{name}"
        self.encoder = encoder
        self.skip = skip
        self.num_classes = num_classes
        self.data_config = data_config
        self.classifier: nn.Module = nn.Identity()
        with evaluating(encoder):
            channels = self.coarse(torch.zeros(1, *data_config["input_size"])).shape[1]
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def set_input_size(self, side: int) -> None:
        if isinstance(self.encoder, TimmBackbone):
            self.encoder.set_input_size(side)
        super().set_input_size(side)

    @property
    def layout(self) -> Layout:
        """The backbone's steps as far as the earlier map, then "fuse"."""
        inner: Layout | None = getattr(self.encoder, "layout", None)
        if inner is None:
            if self.skip:
                raise InputError(f"{self.name} has no layers to choose from, so it can't skip from {self.skip!r}")
            return Layout((Step("fuse", self._fuse_features),), self.classifier, {"final": "fuse"})
        skip = self.skip or inner.taps["middle"]
        cut = inner.cut(skip)
        if cut is None:
            raise unknown_name(f"layer of {self.name} to skip from", skip, [step.path for step in inner.steps])
        before, after = inner.steps[:cut], inner.steps[cut:]

        def fuse(early: Tensor) -> Tensor:
            # Later steps may write into their input.
            return join_maps(to_map(early), to_map(run_steps(after, early.clone())))

        def to_map(activations: Tensor) -> Tensor:
            return activations if activations.dim() == 4 else inner.to_map(activations)

        taps = {"middle": skip, "final": "fuse"}
        return Layout((*before, Step("fuse", fuse)), self.classifier, taps, to_map, inner.spread, inner.upsample)

    def _fuse_features(self, images: Tensor) -> Tensor:
        info = self.encoder.feature_info
        maps = [
            x if x.shape[1] == channels else x.movedim(-1, 1)
            for x, channels in zip(self.encoder(images), info.channels(), strict=True)  # type: ignore[operator]
        ]
        early = max((i for i, stride in enumerate(info.reduction()) if stride <= SKIP_STRIDE), default=0)  # type: ignore[operator]
        return join_maps(maps[early], maps[-1])

    def split(self, layer: str = "input") -> Split:
        """As every segmenter; after "fuse" the activations are maps, whatever the backbone's are."""
        found = super().split(layer)
        if layer in ("final", "fuse"):
            return Split(layer, found.stem, found.rest)
        return found


def join_maps(early: Tensor, late: Tensor) -> Tensor:
    """Two maps side by side, (B, C, h, w) and (B, D, h', w') -> (B, C + D, h, w)."""
    return torch.cat([early, resize_maps(late, (early.shape[-2], early.shape[-1]))], dim=1)


TORCHVISION = {
    "deeplabv3_resnet50": ("classifier.4",),
    "fcn_resnet50": ("classifier.4",),
    "lraspp_mobilenet_v3_large": ("classifier.low_classifier", "classifier.high_classifier"),
}
"""torchvision's model names and their last convolutions."""


def create_segmenter(
    name: str,
    num_classes: int | None = None,
    *,
    pretrained: bool = False,
    weights: Mapping[str, Tensor] | None = None,
    input_size: int | None = None,
    skip: str | None = None,
    **timm_arguments: Any,
) -> Segmenter:
    """A segmentation network by name: `create_segmenter("resnet10t", num_classes=11)`.

    Args:
        name: `deeplabv3_resnet50`, `fcn_resnet50` or `lraspp_mobilenet_v3_large` (torchvision), or any
            timm model, which then gets a small FCN head.
        num_classes: logits per pixel, the background included; for torchvision's models the count
            of the weights, or 21 (VOC), if None. Another count than the weights' gets a new last layer.
        pretrained: torchvision's COCO weights with VOC's classes, or timm's weights of the backbone.
        weights: a torchvision model's state dict; its auxiliary head is left out.
        input_size: side of the square images in pixels that the data should have.
        skip: layer of the timm backbone whose map the head sees besides the last one, e.g. "layer1".
        timm_arguments: passed on to `timm.create_model`.
    Raises:
        InputError: unknown name, no class count, weights that can't be had or don't fit.
    """
    if name in TORCHVISION:
        refused = [*(["skip"] if skip else []), *timm_arguments]
        if refused:
            raise InputError(f"{name} takes no further arguments, got {', '.join(refused)}")
        if pretrained and weights is not None:
            raise InputError("give either pretrained=True or weights")
        model = _torchvision_segmenter(name, num_classes, _published_weights(name) if pretrained else weights)
        if input_size:
            model.data_config["input_size"] = (3, input_size, input_size)
        model.architecture = name
        return model
    if ":" not in name and not timm.is_model(name.split(".")[0]):
        raise unknown_name("segmentation model", name, [*TORCHVISION, *timm.list_models()])
    if num_classes is None:
        raise InputError(f"an FCN on {name} needs num_classes, the background included")
    if weights is not None:
        raise InputError(f"weights are those of {', '.join(TORCHVISION)}; {name} is a timm backbone")
    encoder, config = _timm_encoder(name, pretrained, input_size, timm_arguments)
    segmenter = FcnSegmenter(name, encoder, num_classes, config, skip)
    segmenter.architecture, segmenter.arguments = name, timm_arguments | ({"skip": skip} if skip else {})
    return segmenter


def _timm_encoder(
    name: str, pretrained: bool, input_size: int | None, arguments: dict[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """A backbone with a layout, or timm's list of feature maps for a family without one."""
    backbone = create_backbone(name, num_classes=0, pretrained=pretrained, input_size=input_size, **arguments)
    if backbone.layout is not None:
        return backbone, backbone.data_config
    try:
        features = timm.create_model(name, features_only=True, pretrained=pretrained, **arguments)
    except (RuntimeError, TypeError, ValueError, AssertionError, AttributeError) as error:
        raise InputError(f"timm gives no feature maps of {name}, so it can't be a segmenter: {error}") from error
    wanted = {"input_size": (3, input_size, input_size)} if input_size else {}
    return features, resolve_data_config(wanted, model=backbone.model)


def _published_weights(name: str) -> dict[str, Tensor]:
    """The state dict that torchvision published, from the network or its cache."""
    published = get_model_weights(name).DEFAULT  # type: ignore[attr-defined]
    try:
        return published.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"no pretrained weights for {name}; is there a network? else download {published.url} and give it as "
            f"--model FILE --arch {name}: {reason}"
        ) from error


def _torchvision_segmenter(
    name: str, num_classes: int | None, state: Mapping[str, Tensor] | None
) -> TorchvisionSegmenter:
    last_layers = TORCHVISION[name]
    known = num_classes or 21
    if state is not None:
        state = {key: value for key, value in state.items() if not key.startswith("aux_classifier.")}
        key = f"{last_layers[0]}.weight"
        if key not in state:
            raise InputError(f"these are not weights of {name}: {key} is missing")
        known = len(state[key])
    model = get_model(name, weights=None, weights_backbone=None, num_classes=known, aux_loss=False)
    if state is not None:
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise InputError(f"these are not weights of {name}: {lines[min(1, len(lines) - 1)]}") from error
    if num_classes not in (None, known):
        for path in last_layers:
            parent, _, attribute = path.rpartition(".")
            last: Any = model.get_submodule(path)
            setattr(model.get_submodule(parent), attribute, nn.Conv2d(last.in_channels, num_classes, 1))
    return TorchvisionSegmenter(name, model, num_classes or known)
