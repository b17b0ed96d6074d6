"""What may matter to a head: by construction, and as measured block after block."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from difull.cells import check_cell, check_divides
from difull.direct_convolutions import direct_convolutions
from difull.locality import receptive_field
from difull.settings import DiPart, GridPG, GridSetting
from faithfulness.backbones.split import Transform, identity
from faithfulness.core.errors import InputError
from faithfulness.core.leakage import EXTREME, gradient_of_logits, seeded


def receptive_region(
    setting: GridSetting, images: Float[Tensor, "b c h w"], cell: int = 0
) -> tuple[Bool[Tensor, "h w"], tuple[str, ...]]:
    """The pixels that may matter to a head by construction, (H, W), and what breaks that construction.

    DiFull, and GridPG for want of any other claim: the cell. DiPart: the receptive field of the
    head's part, from the extent of each step's kernel on a canvas of its own; with what is not local, by name.
    """
    check_divides(images.shape, setting.scale, "a grid of images")
    row, col = divmod(check_cell(cell, setting.scale), setting.scale)
    height, width = (side // setting.scale for side in images.shape[-2:])
    rows, cols = (row * height, (row + 1) * height - 1), (col * width, (col + 1) * width - 1)
    found: tuple[str, ...] = ()
    if isinstance(setting, GridPG):
        found = ("GridPG's one head reads the whole grid",)
    elif isinstance(setting, DiPart):
        layout, _ = setting._cut("input")
        if layout.to_map is identity:
            with direct_convolutions(setting), torch.no_grad():
                features = layout.features(images[:1].clone())
                tall, wide = (side // setting.scale for side in features.shape[-2:])
                part_rows, part_cols = (row * tall, (row + 1) * tall - 1), (col * wide, (col + 1) * wide - 1)
                field = receptive_field(layout.steps, images[:1], part_rows, part_cols)
            rows, cols = field.rows, field.cols
            found = tuple(f"{names} reads the whole map" for names in by_kind(field.not_local))
        else:
            found = (f"the tokens of {setting.name} read each other across the whole grid",)
    region = torch.zeros(images.shape[-2:], dtype=torch.bool, device=images.device)
    region[rows[0] : rows[1] + 1, cols[0] : cols[1] + 1] = True
    return region, found


def by_kind(modules: Iterable[tuple[str, str]]) -> list[str]:
    """(path, kind) of modules as one text per kind, with the first few paths."""
    kinds: dict[str, list[str]] = {}
    for path, kind in modules:
        kinds.setdefault(kind, []).append(path)
    return [
        f"{kind} ({', '.join(paths[:3])}{f' and {len(paths) - 3} more' if len(paths) > 3 else ''})"
        for kind, paths in kinds.items()
    ]


def influence_map(
    setting: GridSetting,
    images: Float[Tensor, "b c h w"],
    cell: int = 0,
    block: int = 8,
    *,
    layer: str = "input",
    chunk: int = 64,
) -> Bool[Tensor, "y x"]:
    """Which blocks of pixels can reach a head: (H/block, W/block) bool, over all of `images`.

    Block after block is tainted with NaN, and the gradient is looked at as well, so an operation that
    swallows NaN doesn't hide. An attention mask counts as passing, since it multiplies by 0.

    Args:
        images: (B, C, scale·h, scale·w); one or two grids will do.
        block: side in pixels of the input, or of the map at `layer`.
        chunk: the most grids that one pass takes.
    Raises:
        InputError: blocks that don't divide the map.

    >>> import torch
    >>> from difull import DiFull, influence_map
    >>> from faithfulness import create_backbone
    >>> setting = DiFull(create_backbone("test_resnet", num_classes=3, input_size=64).eval(), scale=2)
    >>> grids = torch.rand(1, 3, 128, 128)
    >>> influence_map(setting, grids, cell=1, block=64)
    tensor([[False,  True],
            [False, False]])
    """
    split = setting.split(layer, cell)
    with direct_convolutions(setting), torch.no_grad():
        activations = seeded(split.stem, images.clone())
        height, width = split.to_map(activations).shape[-2:]
        if block < 1 or height % block or width % block:
            raise InputError(f"blocks of {block} don't divide the {height}×{width} map at {layer!r}")
        rows, cols = height // block, width // block
        reached = torch.zeros(rows * cols, dtype=torch.bool, device=images.device)
        # In training mode the images of a batch may reach each other, so each block has its own pass.
        together = 1 if any(module.training for module in setting.backbone.modules()) else max(1, chunk // len(images))
        for blocks in torch.arange(rows * cols, device=images.device).split(together):
            marks = torch.zeros(len(blocks), rows * cols, dtype=images.dtype, device=images.device)
            marks.scatter_(1, blocks[:, None], 1)
            fine = marks.unflatten(1, (1, rows, cols)).repeat_interleave(block, 2).repeat_interleave(block, 3)
            weights = split.spread(1 - fine).repeat_interleave(len(images), 0)
            repeated = activations.repeat(len(blocks), *[1] * (activations.dim() - 1))
            broken = _broken(split.rest, repeated, weights == 0)
            reached[blocks] |= broken.unflatten(0, (len(blocks), len(images))).any(dim=1)
        reached = reached.unflatten(0, (rows, cols))
        moved = split.to_map(gradient_of_logits(split.rest, activations)).ne(0).flatten(0, 1).any(dim=0)
        return reached | moved.unflatten(0, (rows, block)).unflatten(2, (cols, block)).any(dim=3).any(dim=1)


def _broken(run: Transform, activations: Tensor, marked: Tensor) -> Tensor:
    """The rows (N,) whose logits NaN at the marked places reaches; extremes, for a network that refuses NaN."""
    try:
        return ~torch.isfinite(seeded(run, activations.masked_fill(marked, torch.nan))).flatten(1).all(dim=1)
    except Exception:
        clean = seeded(run, activations)
        changed = [seeded(run, activations.masked_fill(marked, sign * EXTREME)) != clean for sign in (1, -1)]
        return (changed[0] | changed[1]).flatten(1).any(dim=1)
