"""IDSDS as pure tensor functions: drops of deleted cells, rank correlation, incremental deletion."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from faithfulness.core.checks import check_count, check_images, check_maps, check_outputs, check_targets, check_tensor
from faithfulness.core.deletion import delete_cells, fill_pixels
from faithfulness.core.errors import InputError
from faithfulness.core.grid import PatchGrid
from faithfulness.core.keyed import content_keys
from faithfulness.core.ranking import ranked_positions
from faithfulness.core.resize import resize_exactly
from faithfulness.core.statistics import spearman_rows

MOST_STEPS = 1_000_000
"""Of incremental deletion; more than an image has pixels."""


def deleted_logits(
    model: nn.Module | Callable[[Tensor], Tensor],
    images: Float[Tensor, "b c h w"],
    grid: PatchGrid,
    fill: str = "zeros",
    *,
    chunk: int = 256,
) -> Float[Tensor, "b k classes"]:
    """Logits of each image without each cell: (B, cells, classes), at most `chunk` images a pass.

    The model runs as it is: put it into evaluation mode first.
    """
    check_images(images)
    check_count("chunk", chunk)
    if not isinstance(grid, PatchGrid):
        raise InputError(f"expected a PatchGrid, got {grid!r}")
    grid.check(*images.shape[-2:])
    pairs = torch.arange(len(images) * grid.cells, device=images.device)
    with torch.no_grad():
        pieces = [
            model(delete_cells(images[part // grid.cells], part % grid.cells, grid, fill))
            for part in pairs.split(chunk)
        ]
    return torch.cat(pieces).unflatten(0, (len(images), grid.cells))


def output_drops(
    model: nn.Module | Callable[[Tensor], Tensor],
    images: Float[Tensor, "b c h w"],
    targets: Int[Tensor, " b"],
    grid: PatchGrid,
    fill: str = "zeros",
    *,
    output: str = "logit",
    chunk: int = 256,
) -> Float[Tensor, "b k"]:
    """What each deleted cell costs: f(x) − f(x without cell), (B, cells), row-major; f is the logit.

    Args:
        model: images -> logits (B, classes), in evaluation mode; runs without gradients.
        images: normalized images (B, C, H, W) that the grid divides.
        targets: (B,) class indices, the ground truth in the published protocol.
        fill: `zeros`, `mean`, `random`, `blur` or `blur-published`; see `faithfulness.core.delete_cells`.
        output: f is the target's `logit`, or its `probability` after the softmax (the published design study).
        chunk: the most images in one forward pass.
    Source: Hesse et al. 2024, section 3.

    >>> import torch
    >>> from faithfulness import PatchGrid
    >>> from idsds import output_drops
    >>> def model(images):  # two logits: the sum of the pixels, and the largest
    ...     return torch.stack([images.sum(dim=(1, 2, 3)), images.amax(dim=(1, 2, 3))], dim=1)
    >>> images = torch.arange(16.0).view(1, 1, 4, 4)
    >>> output_drops(model, images, torch.tensor([0]), PatchGrid(2, 2))
    tensor([[10., 18., 42., 50.]])
    >>> output_drops(model, images, torch.tensor([1]), PatchGrid(2, 2))
    tensor([[0., 0., 0., 2.]])
    """
    check_images(images, targets)
    with torch.no_grad():
        whole = torch.cat([check_outputs(model(part), part) for part in images.split(check_count("chunk", chunk))])
    check_targets(targets, whole.shape[1])
    deleted = deleted_logits(model, images, grid, fill, chunk=chunk)
    return drops_of(outputs_of(whole, output), outputs_of(deleted, output), targets)


def outputs_of(logits: Float[Tensor, "*b classes"], output: str) -> Float[Tensor, "*b classes"]:
    """Logits (…, classes) as they are (`logit`), or as probabilities, float32 at least (`probability`)."""
    if output not in ("logit", "probability"):
        raise InputError(f"output is logit or probability, got {output!r}")
    return logits if output == "logit" else logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=-1)


def drops_of(
    whole: Float[Tensor, "b classes"], deleted: Float[Tensor, "b k classes"], targets: Int[Tensor, " b"]
) -> Float[Tensor, "b k"]:
    """Drops (B, cells) of the targets from outputs that are known already."""
    columns = targets[:, None, None].expand(-1, deleted.shape[1], 1)
    return whole.gather(1, targets[:, None]) - deleted.gather(2, columns).squeeze(2)


def drop_scale(
    whole: Float[Tensor, "b classes"], deleted: Float[Tensor, "b k classes"], targets: Int[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """The largest of the target logits that `drops_of` subtracts, (B,): the rounding of a drop is theirs."""
    columns = targets[:, None, None].expand(-1, deleted.shape[1], 1)
    logits = torch.cat([whole.gather(1, targets[:, None]), deleted.gather(2, columns).squeeze(2)], dim=1)
    return logits.abs().amax(dim=1)


def rank_correlation(
    drops: Float[Tensor, "b k"], sums: Float[Tensor, "b k"], scale: Float[Tensor, " b"] | None = None
) -> Float[Tensor, " b"]:
    """Spearman correlation per image with average ranks: (B, cells) twice -> (B,) float64 in [-1, 1].

    Values closer than some 1e-6 of the row's largest magnitude are equal. NaN where either row is
    constant or not finite: a constant ranks nothing.

    Args:
        scale: (B,) magnitude that the drops are rounded by instead, the logits' (`drop_scale`).
    Source: Hesse et al. 2024, section 3; the rounding is this suite's own (`faithfulness.core.ranking`).

    >>> import torch
    >>> from idsds import rank_correlation
    >>> drops = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]])
    >>> rank_correlation(drops, torch.tensor([[10.0, 20.0, 40.0, 30.0], [7.0, 7.0, 7.0, 7.0]]))
    tensor([0.8000,    nan], dtype=torch.float64)
    """
    for name, values in (("drops", drops), ("sums", sums)):
        check_tensor(name, values, "(B, cells)", 2)
    if drops.shape != sums.shape or not drops.shape[1]:
        raise InputError(f"expected two (B, cells), got {tuple(drops.shape)} and {tuple(sums.shape)}")
    return spearman_rows(drops, sums, scale)


def incremental_deletion(
    model: nn.Module | Callable[[Tensor], Tensor],
    images: Float[Tensor, "b c h w"],
    targets: Int[Tensor, " b"],
    maps: Float[Tensor, "b m x y"] | None = None,
    *,
    explain: Callable[[Tensor, Tensor], Tensor] | None = None,
    steps: int = 32,
    order: str = "ascending",
    fill: str = "zeros",
    upsample: str = "bilinear",
    chunk: int = 256,
) -> Float[Tensor, "b s"]:
    """Target probability while pixels are deleted step by step: (B, steps) in [0, 1].

    Step s deletes the share s / steps of the pixels (of `linspace(0, 1, steps, endpoint=False)`),
    least attributed first (`ascending`; a faithful map keeps the probability high) or most
    attributed first (`descending`; low). Pixels of equal attribution go in a keyed order. The
    `random` fill is one picture of noise per image, the same at every step: a deleted pixel stays as
    it is. It is keyed by a hash of the whole image, from which no network reads what was deleted.

    Args:
        maps: attribution (B, C, h, w), upsampled to the images.
        explain: given instead of `maps`, re-attributes the partly deleted image at every step.
    Source: Hesse et al. 2024, appendix; after Samek et al. 2017.

    >>> import torch
    >>> from idsds import incremental_deletion
    >>> def model(images):  # the first logit is the sum of the pixels, the other 0
    ...     return torch.nn.functional.pad(images.sum(dim=(2, 3)), (0, 1))
    >>> images, targets = torch.tensor([[[[3.0, 1.0], [0.0, -1.0]]]]), torch.tensor([0])
    >>> incremental_deletion(model, images, targets, images, steps=4, order="descending")
    tensor([[0.9526, 0.5000, 0.2689, 0.2689]])
    """
    check_images(images, targets)
    if order not in ("ascending", "descending"):
        raise InputError(f"order is ascending or descending, got {order!r}")
    if (maps is None) == (explain is None):
        raise InputError("incremental deletion needs either maps or explain")
    pixels = images.shape[-2] * images.shape[-1]
    check_count("steps", steps, MOST_STEPS)
    check_count("chunk", chunk)
    keys = content_keys(images)
    deleted = torch.zeros(len(images), 1, *images.shape[-2:], dtype=torch.bool, device=images.device)
    ranked = None
    probabilities = []
    for step in range(steps):
        current = fill_pixels(images, deleted, fill, keys) if step else images
        probabilities.append(_target_probabilities(model, current, targets, chunk))
        if ranked is None or explain is not None:
            found = check_maps(maps if explain is None else explain(current, targets), images)
            sizes = resize_exactly(
                found.double().sum(dim=1, keepdim=True), (images.shape[-2], images.shape[-1]), upsample
            )
            ranked = _removal_order(sizes.flatten(1), deleted.flatten(1), order == "descending")
        count = (step + 1) * pixels // steps
        deleted = torch.zeros_like(deleted.flatten(1)).scatter_(1, ranked[:, :count], True).view_as(deleted)
    return torch.stack(probabilities, dim=1)


def _target_probabilities(
    model: nn.Module | Callable[[Tensor], Tensor], images: Tensor, targets: Tensor, chunk: int
) -> Tensor:
    """The targets' probabilities (B,), float32 at least."""
    with torch.no_grad():
        logits = torch.cat([check_outputs(model(part), part) for part in images.split(chunk)])
    check_targets(targets, logits.shape[1])
    return outputs_of(logits, "probability").gather(1, targets[:, None]).squeeze(1)


def _removal_order(values: Tensor, deleted: Tensor, descending: bool) -> Tensor:
    """Pixel indices (B, H·W) in the order of removal; what is deleted already stays in front."""
    ordered = ranked_positions(values, descending=descending)
    already = deleted.gather(1, ordered)
    return ordered.gather(1, (~already).to(torch.uint8).argsort(dim=1, stable=True))
