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


def plain_rollout(
    model, image: Tensor, fusion: str = "mean", discard: float = 0.0, residual: float = 0.5, start: int = 0
) -> Tensor:
    """Abnar and Zuidema 2020: the product of mixed attention matrices, (h, w)."""
    with torch.no_grad():
        _, attention = run_by_hand(model, image)
    result = None
    for heads in attention[start:]:
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


def plain_grad_cam_on_attention(model, image: Tensor, target: int) -> Tensor:
    """Chefer et al., CVPR 2021, baseline GradCAM: class token's last attention, each head by its mean gradient."""
    with torch.enable_grad():
        logits, attention = run_by_hand(model, image.requires_grad_(True))
        gradients = torch.autograd.grad(logits[target], attention[-1])
    prefix = model.num_prefix_tokens
    first = list(range(prefix, len(attention[-1][0]))) if model.global_pool == "avg" else [0]
    relevance = torch.zeros_like(attention[-1][0]).detach()
    for gradient, head in zip(gradients, attention[-1], strict=True):
        weight = sum(float(gradient[row, prefix:].sum()) for row in first) / (len(first) * (len(head) - prefix))
        relevance += weight * head.detach() / len(attention[-1])
    return read_map(model, relevance).clamp(min=0)


def divide(a: Tensor, b: Tensor) -> Tensor:
    """a / b as the published code divides."""
    below = b.clamp(min=1e-9) + b.clamp(max=1e-9)
    return a / (below + (below == 0) * 1e-9) * (b != 0)


def share(inputs: list[Tensor], run, relevance: Tensor) -> list[Tensor]:
    """Each input times the gradient of run(inputs), which is seeded with relevance / run(inputs)."""
    leaves = [x.detach().requires_grad_(True) for x in inputs]
    with torch.enable_grad():
        out = run(*leaves)
        gradients = torch.autograd.grad(out, leaves, divide(relevance, out.detach()))
    return [(x * g).detach() for x, g in zip(leaves, gradients, strict=True)]


def share_of_layer(layer, x: Tensor, relevance: Tensor) -> Tensor:
    """LRP with α = 1, β = 0: each output's positive contributions, one output at a time."""
    result = torch.zeros_like(x)
    for j, row in enumerate(layer.weight.detach()):
        positive = (x * row).clamp(min=0)
        result += positive * divide(relevance[..., j], positive.sum(dim=-1))[..., None]
    return result


def share_of_sum(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """a + b: each branch is brought to its part |Σ| of the whole relevance."""
    a, b = share([a, b], torch.add, relevance)
    both = a.sum().abs() + b.sum().abs()
    parts = [divide(branch.sum().abs(), both) * relevance.sum() for branch in (a, b)]
    return a * divide(parts[0], a.sum()), b * divide(parts[1], b.sum())


def plain_chefer_lrp(model, image: Tensor, target: int, start: int = 1) -> Tensor:
    """Chefer et al., CVPR 2021: relevance of the attention × its gradient, rolled out from block `start`, (h, w)."""
    tokens = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))[0].detach().requires_grad_(True)
    records, x = [], tokens
    with torch.enable_grad():
        for block in model.blocks:
            attn, record = block.attn, {"in": x}
            record["normed"] = block.norm1(x)
            q, k, v = attn.qkv(record["normed"]).unflatten(1, (3, attn.num_heads, -1)).permute(1, 2, 0, 3)
            q, k = attn.q_norm(q), attn.k_norm(k)
            attention = (q @ k.transpose(1, 2) / attn.head_dim**0.5).softmax(dim=-1)
            mixed = (attention @ v).transpose(0, 1).flatten(1)
            record |= {"q": q, "k": k, "v": v, "attention": attention, "mixed": mixed}
            record["branch"] = block.ls1(attn.proj(mixed))
            record["middle"] = x + record["branch"]
            record["narrow"] = block.norm2(record["middle"])
            record["wide"] = block.mlp.act(block.mlp.fc1(record["narrow"]))
            record["change"] = block.ls2(block.mlp.fc2(record["wide"]))
            x = record["middle"] + record["change"]
            records.append(record)
        last = model.norm(x)
        pool = (lambda y: y[0]) if model.global_pool == "token" else lambda y: y[model.num_prefix_tokens :].mean(0)
        read = model.fc_norm(pool(last))
        logits = model.head(read)
        gradients = torch.autograd.grad(logits[target], [record["attention"] for record in records])
    records = [{name: value.detach() for name, value in record.items()} for record in records]
    relevance = torch.zeros_like(logits).detach()
    relevance[target] = 1
    (relevance,) = share([last], pool, share_of_layer(model.head, read.detach(), relevance))
    of_attention = []
    for block, record in zip(reversed(model.blocks), reversed(records), strict=True):
        direct, branch = share_of_sum(record["middle"], record["change"], relevance)
        branch = share_of_layer(block.mlp.fc1, record["narrow"], share_of_layer(block.mlp.fc2, record["wide"], branch))
        middle = record["middle"] * (divide(direct, record["middle"]) + divide(branch, record["middle"]))
        direct, branch = share_of_sum(record["in"], record["branch"], middle)
        branch = share_of_layer(block.attn.proj, record["mixed"], branch)
        branch = branch.unflatten(1, (block.attn.num_heads, -1)).transpose(0, 1)
        own, of_v = (part / 2 for part in share([record["attention"], record["v"]], torch.matmul, branch))
        of_attention.insert(0, own)
        of_q, of_k = share([record["q"], record["k"]], lambda q, k: q @ k.transpose(1, 2), own)
        of_qkv = torch.stack([of_q / 2, of_k / 2, of_v]).permute(2, 0, 1, 3).flatten(1)
        branch = share_of_layer(block.attn.qkv, record["normed"], of_qkv)
        relevance = record["in"] * (divide(direct, record["in"]) + divide(branch, record["in"]))
    unit = torch.eye(len(tokens), dtype=tokens.dtype)
    joint = unit
    for gradient, own in list(zip(gradients, of_attention, strict=True))[start:]:
        joint = (unit + (gradient * own).clamp(min=0).mean(dim=0)) @ joint
    return read_map(model, joint - unit)
