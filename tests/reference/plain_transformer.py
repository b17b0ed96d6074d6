"""Attention relevance of one image, with the transformer's blocks run by hand.

For timm's VisionTransformer: queries, keys and values are read off the weights, head by head, so that
the attention is made here and not seen through a hook. Everything is one image, (tokens, width).
"""

from __future__ import annotations

import torch
from torch import Tensor


def run_by_hand(model, image: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
    """Logits (classes,) of an image (3, H, W), and the attention (N, N) of each block and head."""
    tokens = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))[0]
    attention = []
    for block in model.blocks:
        heads, x = [], block.norm1(tokens)
        width = block.attn.head_dim
        q_weight, k_weight, v_weight = block.attn.qkv.weight.chunk(3)
        q_bias, k_bias, v_bias = block.attn.qkv.bias.chunk(3)
        outputs = []
        for h in range(block.attn.num_heads):
            rows = slice(h * width, (h + 1) * width)
            q, k, v = x @ q_weight[rows].T, x @ k_weight[rows].T, x @ v_weight[rows].T
            scores = (q + q_bias[rows]) @ (k + k_bias[rows]).T / width**0.5
            heads.append(torch.exp(scores) / torch.exp(scores).sum(dim=1, keepdim=True))
            outputs.append(heads[-1] @ (v + v_bias[rows]))
        tokens = tokens + block.ls1(block.attn.proj(torch.cat(outputs, dim=1)))
        tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))
        attention.append(heads)
    return model.forward_head(model.norm(tokens)[None])[0], attention


def read_map(model, relevance: Tensor) -> Tensor:
    """The map (h, w) that a pooled token or the class token sees."""
    prefix = model.num_prefix_tokens
    if model.global_pool == "token":
        row = relevance[0, prefix:]
    else:
        row = torch.stack([relevance[i, prefix:] for i in range(prefix, len(relevance))]).mean(dim=0)
    height, width = model.patch_embed.grid_size
    return torch.stack([row[i * width : (i + 1) * width] for i in range(height)])


def plain_rollout(model, image: Tensor, fusion: str = "mean", discard: float = 0.0, residual: float = 0.5) -> Tensor:
    """Abnar and Zuidema 2020: the product of mixed attention matrices, (h, w)."""
    with torch.no_grad():
        _, attention = run_by_hand(model, image)
    result = None
    for heads in attention:
        stack = torch.stack(heads)
        fused = {"mean": stack.mean(0), "max": stack.max(0).values, "min": stack.min(0).values}[fusion].clone()
        order = sorted((float(value), i) for i, value in enumerate(fused.flatten()))
        for _, i in order[: int(len(order) * discard)]:
            fused[i // len(fused), i % len(fused)] = 0
        mixed = (1 - residual) * fused + residual * torch.eye(len(fused), dtype=fused.dtype)
        for row in mixed:
            row /= row.sum()
        result = mixed if result is None else mixed @ result
    return read_map(model, result)


def plain_chefer(model, image: Tensor, target: int) -> Tensor:
    """Chefer et al. 2021: R ← R + E[(∇A ⊙ A)⁺] R from the unit matrix, which is left out at the end, (h, w)."""
    with torch.enable_grad():
        logits, attention = run_by_hand(model, image.requires_grad_(True))
        gradients = iter(torch.autograd.grad(logits[target], [head for heads in attention for head in heads]))
    size = len(attention[0][0])
    unit = torch.eye(size, dtype=image.dtype)
    relevance = unit.clone()
    for heads in attention:
        weighted = torch.zeros(size, size, dtype=image.dtype)
        for head in heads:
            weighted += (next(gradients) * head.detach()).clamp(min=0) / len(heads)
        relevance = relevance + weighted @ relevance
    return read_map(model, relevance - unit)
