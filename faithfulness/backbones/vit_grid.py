"""A vision transformer on a grid of its images, without a change to the model.

Position embeddings are resampled to the larger token grid. Either one set of prefix tokens (class
and registers) reads the whole grid, or every cell has its own, which reads that cell's patches.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import cast

import torch
from einops import rearrange
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from faithfulness.backbones.split import Layout, Step
from faithfulness.core.errors import InputError


def vit_on_grid(model: VisionTransformer, layout: Layout, scale: int, per_cell: bool) -> Layout:
    """The layout of `model` for images of scale × scale times its own size.

    Args:
        layout: the model's layout for single images.
        per_cell: False: one set of prefix tokens, tokens are (B, prefix + all patches, D). True: the
            tokens lie cell by cell, (B, scale²·(prefix + patches of a cell), D). All patches attend
            to all patches; prefix tokens and patches attend to each other within their cell only.
            With scale 1 both are the model itself.
    Raises:
        InputError: an embedding that can't be resampled from outside (a subclass with its own).
    """
    if (
        type(model)._pos_embed is not VisionTransformer._pos_embed
        or type(model.patch_embed).forward is not PatchEmbed.forward
        or model.pos_embed is None
    ):
        raise InputError(f"the position embeddings of {type(model).__name__} can't be resampled to a grid of images")
    embed = partial(_embed_grid, model, scale=scale, per_cell=per_cell)
    first, *others = layout.steps
    steps = (Step(first.path, embed), *others)
    if per_cell:
        if model.num_prefix_tokens:
            steps = tuple(_masked(step, model, scale) if step.path.startswith("blocks.") else step for step in steps)
        return replace(layout, steps=steps)
    grid = tuple(side * scale for side in model.patch_embed.grid_size)
    return replace(layout, steps=steps, to_map=partial(layout.to_map, grid=grid))  # type: ignore[call-arg]


def _embed_grid(model: VisionTransformer, images: Tensor, scale: int, per_cell: bool) -> Tensor:
    rows, cols = model.patch_embed.grid_size
    height, width = (side * scale for side in model.patch_embed.img_size)
    if tuple(images.shape[-2:]) != (height, width):
        raise InputError(
            f"expected a {scale}×{scale} grid of {height}×{width} px for a transformer with images of "
            f"{height // scale}×{width // scale}, got {tuple(images.shape[-2:])}"
        )
    patches = model.patch_embed.norm(rearrange(model.patch_embed.proj(images), "b d r c -> b (r c) d"))
    prefix = [token.expand(len(images), -1, -1) for token in (model.cls_token, model.reg_token) if token is not None]
    embedded = 0 if model.no_embed_class else model.num_prefix_tokens
    positions = resample_abs_pos_embed(
        cast(Tensor, model.pos_embed), [rows * scale, cols * scale], [rows, cols], num_prefix_tokens=embedded
    )
    patches = patches + positions[:, embedded:]
    if per_cell:
        cells = rearrange(patches, "b (i r j c) d -> b (i j) (r c) d", i=scale, j=scale, r=rows)
    else:
        cells = patches.unsqueeze(1)
    if prefix:
        tokens = torch.cat(prefix, dim=1)
        tokens = tokens + positions[:, :embedded] if embedded else tokens
        cells = torch.cat([tokens.unsqueeze(1).expand(-1, cells.shape[1], -1, -1), cells], dim=2)
    return model.norm_pre(model.pos_drop(cells.flatten(1, 2)))


def _masked(step: Step, model: VisionTransformer, scale: int) -> Step:
    block, prefix = step.run, model.num_prefix_tokens

    def run(tokens: Tensor) -> Tensor:
        return block(tokens, attn_mask=cell_mask(tokens, prefix, scale * scale))  # type: ignore[call-arg]

    return Step(step.path, run)


def cell_mask(tokens: Tensor, prefix: int, cells: int) -> Tensor:
    """The additive attention mask (N, N) of `cells` blocks of tokens: -inf where one can't be read.

    Prefix tokens and patches of different cells don't read each other; patches read all patches.
    """
    index = torch.arange(tokens.shape[1], device=tokens.device)
    size = tokens.shape[1] // cells
    cell, is_prefix = index // size, index % size < prefix
    hidden = (cell[:, None] != cell) & (is_prefix[:, None] | is_prefix)
    return torch.zeros(hidden.shape, dtype=tokens.dtype, device=tokens.device).masked_fill(hidden, -torch.inf)
