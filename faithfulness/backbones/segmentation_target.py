"""A segmentation network seen through regions: "mean logit of class c over region R" as a logit."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import interpolate

from faithfulness.backbones.backbone import Explainable, as_explainable
from faithfulness.backbones.split import Split
from faithfulness.core.checks import kind_of
from faithfulness.core.errors import InputError


class SegmentationTarget(Explainable):
    """Makes every attribution method explain (image, region, class) pairs of a segmentation network.

        model = SegmentationTarget(segmenter)
        explain = create_attribution("ixg", model, layer="final")
        maps = explain(images, model.aim(regions, classes))     # one image, region and class per pair

    With P pairs the logits are (B, K·P): column k·P + p is the mean, over the region of pair p, of
    the logits of class k. `aim` returns each pair's own column, so a method may take any rows of
    (images, targets), in any order and number, and each keeps its region. What a column costs is a
    dot product with the coarse logits; no image passes the network more than once.

    The mean is over the logits at image size: bilinear upsampling is linear, so the region's weights
    are brought to the coarse logits by its adjoint, and the score is exact.

    Args:
        model: a `Segmenter`, or any network whose logits are (B, K, h, w).
        regions, classes: see `aim`; may be given later.
    """

    def __init__(
        self,
        model: nn.Module,
        regions: Bool[Tensor, "p height width"] | None = None,
        classes: Int[Tensor, " p"] | None = None,
    ):
        super().__init__()
        self.model = as_explainable(model)
        self.name = self.model.name if isinstance(self.model, Explainable) else type(model).__name__
        self._regions: Tensor | None = None
        self._weights: dict[tuple[int, int], Tensor] = {}
        if regions is not None and classes is not None:
            self.targets = self.aim(regions, classes)

    @property
    def layers(self) -> list[str]:
        """The names that `split` takes: the network's own."""
        return self.model.layers

    def aim(self, regions: Bool[Tensor, "p height width"], classes: Int[Tensor, " p"]) -> Int[Tensor, " p"]:
        """Explain these pairs from now on; returns the targets (P,) to pass with the P images.

        Args:
            regions: bool (P, H, W) at image size, none of them empty.
            classes: int64 (P,).
        Raises:
            InputError: an empty region, a class below 0, shapes that don't fit.
        """
        check_pairs(regions, classes)
        empty = (~regions.flatten(1).any(dim=1)).nonzero().flatten().tolist()
        if empty:
            raise InputError(f"a region needs at least one pixel; empty: {empty} of {len(regions)} pairs")
        if len(classes) and int(classes.min()) < 0:
            raise InputError(f"classes must be at least 0, got {int(classes.min())}")
        self._regions, self._weights = regions, {}
        self.targets = classes * len(regions) + torch.arange(len(regions), device=classes.device)
        return self.targets

    def split(self, layer: str = "input") -> Split:
        """The network's own cut, with the pairs' logits behind it; later calls of `aim` are followed."""
        cut = self.model.split(layer)

        def rest(activations: Tensor) -> Tensor:
            return self.pair_logits(cut.rest(activations))

        return Split(layer, cut.stem, rest, cut.to_map, cut.spread, cut.upsample, self.class_softmax)

    def forward(self, images: Float[Tensor, "b c height width"]) -> Float[Tensor, "b columns"]:
        """Logits (B, K·P) of images (B, C, H, W)."""
        return self.pair_logits(self.model.split("input").rest(images))

    def pair_logits(self, dense: Float[Tensor, "b k h w"]) -> Float[Tensor, "b columns"]:
        """Dense logits, coarse or at image size -> region means (B, K·P), class by class."""
        if dense.dim() != 4:
            raise InputError(f"a segmentation network gives logits (B, K, h, w), got {tuple(dense.shape)}")
        weights = self.region_weights(dense.shape[-2], dense.shape[-1]).to(dense)
        return (dense.flatten(2) @ weights.flatten(1).T).flatten(1)

    def class_softmax(self, logits: Float[Tensor, "b columns"]) -> Float[Tensor, "b columns"]:
        """Softmax over the classes of each region: (B, K·P) -> (B, K·P)."""
        return logits.unflatten(1, (-1, len(self._aimed()))).softmax(dim=1).flatten(1)

    def region_weights(self, height: int, width: int) -> Float[Tensor, "p h w"]:
        """What each coarse logit weighs in its pair's region mean: (P, height, width), sums of 1."""
        regions = self._aimed()
        size = (regions.shape[-2], regions.shape[-1])
        if (height, width) not in self._weights:
            mean = regions.double() / regions.sum(dim=(1, 2), keepdim=True)
            if size != (height, width):
                with torch.enable_grad():
                    leaf = mean.new_zeros(len(mean), 1, height, width, requires_grad=True)
                    dense = interpolate(leaf, size=size, mode="bilinear", align_corners=False)
                    (mean,) = torch.autograd.grad(dense, leaf, mean[:, None])
                mean = mean[:, 0]
            self._weights[height, width] = mean
        return self._weights[height, width]

    def _aimed(self) -> Tensor:
        if self._regions is None:
            raise InputError("no regions to explain yet; call aim(regions, classes) first")
        return self._regions


def check_pairs(regions: Tensor, classes: Tensor) -> None:
    """Regions must be bool (P, H, W) and classes int64 (P,)."""
    if not isinstance(regions, Tensor) or regions.dim() != 3 or regions.dtype != torch.bool:
        raise InputError(f"expected bool regions (P, H, W), got {kind_of(regions)}")
    if not isinstance(classes, Tensor) or classes.shape != regions.shape[:1] or classes.dtype != torch.int64:
        raise InputError(f"expected int64 classes ({len(regions)},), got {kind_of(classes)}")
