"""The published networks run by hand from their weights: state dict with published names and images -> logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, batch_norm, conv2d, gelu, group_norm, layer_norm, max_pool2d

State = dict[str, Tensor]


def blocks_of(state: State) -> list[tuple[int, int]]:
    """Stage and number of every block, in order."""
    return sorted({(int(name[5]), int(name.split(".")[1])) for name in state if name.startswith("layer")})


def normalized(state: State, name: str, x: Tensor) -> Tensor:
    mean, var, weight, bias = (state[f"{name}.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias"))
    return batch_norm(x, mean, var, weight, bias)


def bagnet(state: State, x: Tensor) -> Tensor:
    x = conv2d(conv2d(x, state["conv1.weight"]), state["conv2.weight"])
    x = normalized(state, "bn1", x).relu()
    for stage, block in blocks_of(state):
        at, stride = f"layer{stage}.{block}", 2 if stage < 4 and block == 0 else 1
        branch = normalized(state, f"{at}.bn1", conv2d(x, state[f"{at}.conv1.weight"])).relu()
        branch = normalized(state, f"{at}.bn2", conv2d(branch, state[f"{at}.conv2.weight"], stride=stride)).relu()
        branch = normalized(state, f"{at}.bn3", conv2d(branch, state[f"{at}.conv3.weight"]))
        if block == 0:
            x = normalized(state, f"{at}.downsample.1", conv2d(x, state[f"{at}.downsample.0.weight"], stride=stride))
        surplus = x.shape[-1] - branch.shape[-1]
        x = (branch + (x[:, :, :-surplus, :-surplus] if surplus else x)).relu()
    return x.mean(dim=(2, 3)) @ state["fc.weight"].T + state["fc.bias"]


def fixup(state: State, x: Tensor) -> Tensor:
    """Fixup's ResNet; with every number 0, and scales 1, where the state has none: X-ResNet."""

    def number(name: str, without: float = 0.0) -> Tensor | float:
        return state.get(name, without)

    x = max_pool2d((conv2d(x, state["conv1.weight"], stride=2, padding=3) + number("bias1")).relu(), 3, 2, 1)
    for stage, block in blocks_of(state):
        at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
        inner = conv2d(x + number(f"{at}.bias1a"), state[f"{at}.conv1.weight"])
        inner = (inner + number(f"{at}.bias1b")).relu() + number(f"{at}.bias2a")
        inner = conv2d(inner, state[f"{at}.conv2.weight"], stride=stride, padding=1)
        inner = (inner + number(f"{at}.bias2b")).relu() + number(f"{at}.bias3a")
        inner = conv2d(inner, state[f"{at}.conv3.weight"]) * number(f"{at}.scale", 1.0) + number(f"{at}.bias3b")
        if block == 0:
            x = conv2d(x + number(f"{at}.bias1a"), state[f"{at}.downsample.weight"], stride=stride)
        x = (inner + x).relu()
    return (x.mean(dim=(2, 3)) + number("bias2")) @ state["fc.weight"].T + number("fc.bias")


def vgg(state: State, x: Tensor, side: int) -> Tensor:
    """torchvision's without normalization, of images whose last map has that side."""
    places = sorted(int(name.split(".")[1]) for name in state if name.startswith("features") and "weight" in name)
    for place, following in zip(places, [*places[1:], places[-1] + 3], strict=True):
        x = conv2d(x, state[f"features.{place}.weight"], state.get(f"features.{place}.bias"), padding=1).relu()
        x = max_pool2d(x, 2) if following == place + 3 else x
    assert x.shape[-1] == side
    x = x.flatten(1)
    for place in (0, 3, 6):
        x = x @ state[f"classifier.{place}.weight"].T + state.get(f"classifier.{place}.bias", 0.0)
        x = x.relu() if place < 6 else x
    return x


def vit(state: State, x: Tensor, heads: int) -> Tensor:
    def dense(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        return layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    patches = conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16)
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
    x = x + state["pos_embed"]
    for i in range(1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks"))):
        at = f"blocks.{i}"
        q, k, v = dense(f"{at}.attn.qkv", norm(f"{at}.norm1", x)).chunk(3, dim=-1)
        x = x + dense(f"{at}.attn.proj", attend(q, k, v, heads))
        x = x + dense(f"{at}.mlp.fc2", gelu(dense(f"{at}.mlp.fc1", norm(f"{at}.norm2", x))))
    return dense("head", norm("norm", x)[:, 0])


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention head by head; each takes its share of the channels in order."""
    parts = zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True)
    return torch.cat([(a @ b.mT / math.sqrt(a.shape[-1])).softmax(-1) @ c for a, b, c in parts], dim=-1)


def bcos_convolution(weight: Tensor, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    unit = weight / weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    out = conv2d(x, unit, stride=stride, padding=padding)
    ones = torch.ones_like(unit[:1])
    length = (conv2d(x**2, ones, stride=stride, padding=padding) + 1e-6).sqrt()
    return (out / length).abs() * out


def bcos_resnet(state: State, x: Tensor) -> Tensor:
    """Of images in [0, 1]; all names as in the IDSDS code."""

    def norm(name: str, x: Tensor) -> Tensor:
        scale = state[f"{name}.weight"] / (state[f"{name}.running_var"] + 1e-5).sqrt()
        return x * scale.view(-1, 1, 1)

    x = norm("bn1", bcos_convolution(state["conv1.weight"], torch.cat([x, 1 - x], dim=1), 2, 3))
    x = avg_pool2d(x, 3, 2, 1)
    for stage, block in blocks_of(state):
        at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
        branch = norm(f"{at}.bn1", bcos_convolution(state[f"{at}.conv1.weight"], x))
        branch = norm(f"{at}.bn2", bcos_convolution(state[f"{at}.conv2.weight"], branch, stride, 1))
        branch = norm(f"{at}.bn3", bcos_convolution(state[f"{at}.conv3.weight"], branch))
        if block == 0:
            x = norm(f"{at}.downsample.1", bcos_convolution(state[f"{at}.downsample.0.weight"], x, stride))
        x = branch + x
    logits = bcos_convolution(state["fc.weight"], x).mean(dim=(2, 3))
    return logits + math.log(1 / (logits.shape[1] - 1))


def bcos_dense(weight: Tensor, x: Tensor) -> Tensor:
    out = x @ (weight / weight.norm(dim=1, keepdim=True)).T
    return out.abs() / (x.norm(dim=-1, keepdim=True) + 1e-12) * out


def bcos_vit(state: State, x: Tensor, heads: int, side: int) -> Tensor:
    """Of images in [0, 1]; `side` of a patch, of what the stem gives where there is one."""

    def norm(name: str, x: Tensor) -> Tensor:
        return layer_norm(x, x.shape[-1:], state[f"{name}.weight"], None, 1e-5)

    x = torch.cat([x, 1 - x], dim=1)
    place = 0
    while (weight := state.get(f"to_patch_embedding.conv_stem.{place}.linear.weight")) is not None:
        x = bcos_convolution(weight, x, 2 if weight.shape[0] > weight.shape[1] else 1, 1)
        x = group_norm(x, 1, state[f"to_patch_embedding.conv_stem.{place + 1}.weight"], None)
        place += 3
    rows, cols = x.shape[2] // side, x.shape[3] // side
    corners = [(i * side, j * side) for i in range(rows) for j in range(cols)]
    patches = [x[:, :, i : i + side, j : j + side].permute(0, 2, 3, 1).flatten(1) for i, j in corners]
    x = bcos_dense(state["to_patch_embedding.linear.linear.weight"], torch.stack(patches, dim=1))
    quarter = x.shape[-1] // 4
    waves = 1 / 10_000 ** (torch.arange(quarter) / (quarter - 1))
    places = [torch.cat([(j * waves).sin(), (j * waves).cos(), (i * waves).sin(), (i * waves).cos()])
              for i in range(rows) for j in range(cols)]  # fmt: skip
    x = x + torch.stack(places)
    for i in range(1 + max(int(name.split(".")[1][8:]) for name in state if name.startswith("transformer"))):
        attn, net = f"transformer.encoder_{i}.attn", f"transformer.encoder_{i}.ff.net"
        q, k, v = (norm(f"{attn}.norm", x) @ state[f"{attn}.to_qkv.weight"].T).chunk(3, dim=-1)
        x = bcos_dense(state[f"{attn}.to_out.linear.weight"], attend(q, k, v, heads)) + x
        inner = bcos_dense(state[f"{net}.linear1.linear.weight"], norm(f"{net}.norm", x))
        x = bcos_dense(state[f"{net}.linear2.linear.weight"], inner) + x
    logits = bcos_dense(state["linear_head.linear.linear.weight"], norm("linear_head.norm", x.mean(dim=1)))
    return logits + math.log(1 / (logits.shape[1] - 1))
