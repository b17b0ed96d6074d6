"""Is a segmentation map faithful? Deletion, insertion, mass off target, stability: pure functions.

Definitions after Sakib et al. 2026 (2603.22624); `dea/README.md` says what is this suite's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from dea.perturbations import PERTURBATIONS
from faithfulness.attribution import frozen
from faithfulness.backbones import check_pairs
from faithfulness.core.checks import check_count, check_images, check_maps, check_targets, check_tensor, kind_of
from faithfulness.core.deletion import fill_pixels
from faithfulness.core.errors import InputError, unknown_name
from faithfulness.core.keyed import content_keys
from faithfulness.core.ranking import is_constant, ranked_positions
from faithfulness.core.resize import resize_exactly
from faithfulness.core.statistics import pearson_rows

FRACTIONS = tuple(percent / 100 for percent in range(5, 51, 5))
"""The protocol's shares of deleted pixels: 5, 10, …, 50 %."""

Model = Callable[[Tensor], Tensor]


class DeletionCurves(NamedTuple):
    """Per pair and share of pixels: `target` and `off_target`, (B, len(fractions)), float64."""

    target: Tensor
    off_target: Tensor


def deletion_drops(
    model: Model,
    images: Float[Tensor, "b c height width"],
    regions: Bool[Tensor, "b height width"],
    classes: Int[Tensor, " b"],
    maps: Float[Tensor, "b 1 h w"],
    fractions: Sequence[float] = (0.05, 0.1),
    fill: str = "mean",
    *,
    upsample: str = "bilinear",
    chunk: int = 16,
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Target and off-target deletion drop (TDD, ODD) of each (image, region, class) pair: (B,), (B,).

    For each fraction q the q·H·W pixels with the most attribution are filled: x_q. With p the softmax
    of the logits, s_R the mean of p[class] over the region R, and ŷ the class predicted on the whole
    image, pixel by pixel:

        TDD = mean over q of s_R(x) − s_R(x_q)                                         higher is better
        ODD = mean over q of the mean, over the pixels outside R, of |p[ŷ](x) − p[ŷ](x_q)|  lower is better

    Args:
        model: images (B, C, H, W) -> logits (B, K, H, W). A single class (K = 1) is read as a sigmoid.
        regions: bool, at image size. classes: int64, 0 … K - 1.
        maps: signed attribution, at any size; brought to image size by `upsample`. Pixels with equal
            attribution go in a keyed order.
        fractions: shares of pixels in [0, 1]; q·H·W is rounded half up.
        fill: as everywhere in the suite: `mean` (the image's mean color over the kept pixels),
            `zeros` (the data set's mean color, for normalized images), `random` (one picture of
            noise per image for all fractions), `blur` (leaks).
        chunk: the most images that one forward pass takes.
    Returns:
        TDD in [-1, 1], NaN where R is empty; ODD in [0, 1], NaN where R is the whole image. float64.
    Raises:
        InputError: shapes that don't fit, NaN in maps, fractions outside [0, 1], an unknown fill.
    Source: after Sakib et al. 2026; the formula is this suite's own.

    >>> import torch
    >>> from dea import deletion_drops
    >>> images = torch.tensor([[[[0.0, 0.0], [2.0, 2.0]], [[2.0, 2.0], [0.0, 0.0]]]])
    >>> regions = torch.tensor([[[True, True], [False, False]]])  # the upper row, of class 1
    >>> maps = images[:, 1:]  # the evidence for class 1; a model whose logits are the channels of the image
    >>> tdd, odd = deletion_drops(lambda x: x, images, regions, torch.tensor([1]), maps, (0.5,), fill="zeros")
    >>> tdd, odd  # half the pixels are the upper row: sigmoid(2) falls to 1/2 there, and nothing changes below
    (tensor([0.3808], dtype=torch.float64), tensor([0.], dtype=torch.float64))
    """
    curves = deletion_curves(model, images, regions, classes, maps, fractions, fill, upsample=upsample, chunk=chunk)
    return curves.target.mean(dim=1), curves.off_target.mean(dim=1)


def deletion_curves(
    model: Model,
    images: Float[Tensor, "b c height width"],
    regions: Bool[Tensor, "b height width"],
    classes: Int[Tensor, " b"],
    maps: Float[Tensor, "b 1 h w"],
    fractions: Sequence[float] = FRACTIONS,
    fill: str = "mean",
    *,
    upsample: str = "bilinear",
    chunk: int = 16,
) -> DeletionCurves:
    """The drops of `deletion_drops` before their mean over the fractions: (B, Q) each."""
    masks = _top_masks(images, regions, classes, maps, fractions, upsample)
    with _evaluating(model):
        whole = _read_whole(model, images, regions, classes, chunk)
        keys = content_keys(images)
        outside = ~regions
        target = torch.empty(len(images), len(fractions), dtype=torch.float64, device=images.device)
        off = torch.empty_like(target)
        for image, step in _pairs(len(images), len(fractions), chunk, images.device):
            filled = fill_pixels(images[image], masks(image, step), fill, keys[image])
            probabilities = class_probabilities(model, filled)
            of_class, of_predicted = (
                _pick(probabilities, wanted) for wanted in (classes[image, None, None], whole.predicted[image])
            )
            target[image, step] = whole.score[image] - _mean_over(of_class, regions[image])
            change = (whole.probability[image] - of_predicted).abs()
            off[image, step] = _mean_over(change, outside[image])
    return DeletionCurves(target, off)


def insertion_scores(
    model: Model,
    images: Float[Tensor, "b c height width"],
    regions: Bool[Tensor, "b height width"],
    classes: Int[Tensor, " b"],
    maps: Float[Tensor, "b 1 h w"],
    fractions: Sequence[float] = FRACTIONS,
    fill: str = "mean",
    *,
    upsample: str = "bilinear",
    chunk: int = 16,
) -> Float[Tensor, "b q"]:
    """s_R of images of which only the most attributed pixels are kept, the rest filled: (B, Q).

    Its mean over the fractions is the insertion score: in [0, 1], higher is better, NaN where the
    region is empty. Arguments as in `deletion_drops`; this metric is the suite's own.
    """
    masks = _top_masks(images, regions, classes, maps, fractions, upsample)
    keys = content_keys(images)
    scores = torch.empty(len(images), len(fractions), dtype=torch.float64, device=images.device)
    with _evaluating(model):
        for image, step in _pairs(len(images), len(fractions), chunk, images.device):
            filled = fill_pixels(images[image], ~masks(image, step), fill, keys[image])
            probabilities = class_probabilities(model, filled)
            check_targets(classes, probabilities.shape[1])
            scores[image, step] = _mean_over(_pick(probabilities, classes[image, None, None]), regions[image])
    return scores


def off_target_mass(maps: Float[Tensor, "b 1 h w"], regions: Bool[Tensor, "b height width"]) -> Float[Tensor, " b"]:
    """Share of positive attribution outside the region: (B,) in [0, 1], lower is better, float64.

    A map coarser than the region is scored at its own resolution: a position counts as outside by
    the share of its pixels that lie outside, so nothing is smeared over the border. NaN where a map
    has no positive attribution. This metric is the suite's own.

    >>> import torch
    >>> from dea import off_target_mass
    >>> maps = torch.tensor([[[[1.0, -5.0], [3.0, 0.0]]]])
    >>> off_target_mass(maps, torch.tensor([[[True, True], [False, False]]]))
    tensor([0.7500], dtype=torch.float64)
    """
    check_tensor("maps", maps, "(B, 1, h, w)", 4)
    fits = isinstance(regions, Tensor) and regions.dim() == 3 and len(regions) == len(maps)
    if not fits or regions.dtype != torch.bool:
        raise InputError(f"expected bool regions ({len(maps)}, H, W), got {kind_of(regions)}")
    positive = check_maps(maps, regions, "the attribution").double().clamp(min=0)
    outside = adaptive_avg_pool2d((~regions).double()[:, None], (maps.shape[-2], maps.shape[-1]))
    return (positive * outside).sum(dim=(1, 2, 3)) / positive.sum(dim=(1, 2, 3))


def stability(
    explain: Callable[..., Tensor],
    images: Float[Tensor, "b c height width"],
    *targets: Tensor,
    perturbations: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[str, Float[Tensor, " b"]]:
    """Pearson correlation of each map with the map of the perturbed image, per perturbation: (B,) each.

    `stability(explain, images, classes)` for a classifier, `stability(explain, images, regions,
    classes)` for segmentation: what comes after the images is handed on to `explain`, and for `flip`
    what has the shape of an image, (B, H, W), is flipped with it. A flipped image's map is flipped
    back before it is compared.

    Args:
        explain: (images, *targets) -> maps (B, C, h, w).
        perturbations: some of `noise`, `brightness`, `contrast`, `blur`, `flip`; all by default.
        seed: of the noise, which depends on the seed and the image alone.
    Returns:
        Values in [-1, 1], float64, higher is better; NaN where one of the two maps is constant.
    Raises:
        InputError: unknown perturbation; maps that are not finite (B, C, h, w).

    >>> import torch
    >>> from dea import stability
    >>> def explain(images, classes):
    ...     return images.sum(dim=1, keepdim=True)
    >>> images = torch.arange(48.0).view(1, 3, 4, 4)
    >>> found = stability(explain, images, torch.tensor([0]), perturbations=["brightness", "flip"])
    >>> {name: round(float(correlation), 4) for name, correlation in found.items()}
    {'brightness': 1.0, 'flip': 1.0}
    """
    check_images(images)
    names = list(PERTURBATIONS) if perturbations is None else list(perturbations)
    for name in names:
        if name not in PERTURBATIONS:
            raise unknown_name("perturbation", name, PERTURBATIONS)
    maps = check_maps(explain(images, *targets), images)
    found = {}
    for name in names:
        perturbed = PERTURBATIONS[name](images, seed)
        flips = name == "flip"
        given = [t.flip(-1) if flips and t.dim() == 3 else t for t in targets]
        other = check_maps(explain(perturbed, *given), images)
        other = (other.flip(-1) if flips else other).flatten(1)
        flat = is_constant(maps.flatten(1)) | is_constant(other)
        found[name] = pearson_rows(maps.flatten(1), other).masked_fill(flat, torch.nan)
    return found


def class_probabilities(model: Model, images: Tensor) -> Float[Tensor, "b k h w"]:
    """Per-pixel probabilities of a segmentation model, float32 or wider; one logit is a sigmoid."""
    logits = model(images)
    if not isinstance(logits, Tensor):
        raise InputError(f"the model must give logits (B, K, H, W), got {type(logits).__name__}")
    if logits.dim() != 4 or len(logits) != len(images) or logits.shape[-2:] != images.shape[-2:]:
        raise InputError(
            f"the model must give logits (B, K, H, W) at image size, ({len(images)}, K, {images.shape[-2]}, "
            f"{images.shape[-1]}), got {tuple(logits.shape)}"
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)


def pixel_order(
    maps: Float[Tensor, "b 1 h w"], size: tuple[int, int], upsample: str = "bilinear"
) -> Int[Tensor, "b n"]:
    """Rank of each pixel, 0 = most attributed, (B, H·W); ties go in a keyed order (`faithfulness.core.ranking`)."""
    order = ranked_positions(resize_exactly(maps, size, upsample).flatten(1), descending=True)
    steps = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, steps)


class _Whole(NamedTuple):
    """What the model says of the whole images."""

    score: Tensor  # (B,) s_R
    predicted: Tensor  # (B, H, W) class of each pixel
    probability: Tensor  # (B, H, W) its probability


def _read_whole(model: Model, images: Tensor, regions: Tensor, classes: Tensor, chunk: int) -> _Whole:
    pieces = []
    for part in torch.arange(len(images), device=images.device).split(check_count("chunk", chunk)):
        probabilities = class_probabilities(model, images[part])
        check_targets(classes[part], probabilities.shape[1])
        probability, predicted = probabilities.max(dim=1)
        score = _mean_over(_pick(probabilities, classes[part, None, None]), regions[part])
        pieces.append((score, predicted, probability))
    return _Whole(*(torch.cat(values) for values in zip(*pieces, strict=True)))


def _pick(probabilities: Tensor, classes: Tensor) -> Tensor:
    """(B, K, H, W) and classes (B, H, W) or (B, 1, 1) -> (B, H, W)."""
    index = classes.expand(len(probabilities), *probabilities.shape[-2:])
    return probabilities.gather(1, index[:, None]).squeeze(1)


def _mean_over(values: Tensor, regions: Tensor) -> Tensor:
    """Mean of (B, H, W) over bool (B, H, W), float64 (B,); NaN for an empty region."""
    return values.double().masked_fill(~regions, 0).sum(dim=(1, 2)) / regions.sum(dim=(1, 2))


def _pairs(images: int, steps: int, chunk: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """All (image, step) pairs in sub-batches."""
    check_count("chunk", chunk)
    flat = torch.arange(images * steps, device=device)
    return [(part % images, part // images) for part in flat.split(chunk) if len(part)]


def _top_masks(
    images: Tensor, regions: Tensor, classes: Tensor, maps: Tensor, fractions: Sequence[float], upsample: str
) -> Callable[[Tensor, Tensor], Tensor]:
    """After checking all input: (image, step) indices -> the most attributed pixels, bool (n, 1, H, W)."""
    check_images(images)
    check_pairs(regions, classes)
    maps = check_maps(maps, images)
    size = (images.shape[-2], images.shape[-1])
    if tuple(regions.shape) != (len(images), *size):
        raise InputError(f"expected regions {(len(images), *size)} like the images, got {tuple(regions.shape)}")
    if maps.shape[1] != 1:
        raise InputError(f"expected maps (B, 1, h, w), got {tuple(maps.shape)}")
    known = isinstance(fractions, Sequence) and all(isinstance(q, Real) for q in fractions)
    if not known or not len(fractions) or not all(0 <= q <= 1 for q in fractions):
        raise InputError(f"fractions must be numbers in [0, 1], at least one, got {fractions!r}")
    rank = pixel_order(maps, size, upsample).view(len(images), 1, *size)
    counts = torch.tensor([int(q * size[0] * size[1] + 0.5) for q in fractions], device=images.device)
    return lambda image, step: rank[image] < counts[step, None, None, None]


@contextlib.contextmanager
def _evaluating(model: Model):
    """Evaluation mode without gradients; the model is left as it was."""
    with torch.no_grad(), frozen(model) if isinstance(model, nn.Module) else contextlib.nullcontext():
        yield


def mean_stability(correlations: Mapping[str, Tensor]) -> Float[Tensor, " b"]:
    """Mean over the perturbations that are defined, (B,); NaN where none is."""
    return torch.stack(list(correlations.values())).nanmean(dim=0)
