"""B-cos vision transformers as published with B-cos v2 (Böhle et al. 2024), with and without a convolutional stem.

A plain vision transformer (Beyer et al. 2022: fixed sine and cosine positions, the mean over tokens) whose linear
layers are B-cos layers, without activation functions and biases; only queries, keys and values are linear. In front,
four to six B-cos convolutions (`vitc`), or patches of 16 pixels (`simple_vit`). Normalization centers, unlike in the
B-cos ResNets. Between the blocks stands a map (B, D, h, w), a position for each token. Names and shapes of the
parameters are those of the published weights, which stand in a sequence before the logit bias.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from faithfulness.backbones.networks.bcos import MEAN, STD, BcosConv2d, BcosLayer, log_odds, six_channels
from faithfulness.backbones.networks.variants import Variant, register_variants
from faithfulness.backbones.split import Layout, Step, flatten_steps
from faithfulness.backbones.timm_models import register_layout

TEMPERATURE = 10_000
"""Of the positions: wave lengths run from 2π to so many times that."""


class UnitLinear(nn.Linear):
    """A linear layer whose weight vectors have length 1."""

    def forward(self, input: Tensor) -> Tensor:
        """Scalar products of vectors with unit vectors."""
        return functional.linear(input, self.weight / torch.linalg.vector_norm(self.weight, dim=1, keepdim=True))


class BcosLinear(BcosLayer):
    """A B-cos layer with B = 2 and without bias: (…, inputs) -> (…, outputs)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.linear = UnitLinear(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """|cos(x, w)| · ŵᵀx."""
        product = self.linear(x)
        factor = product.abs() / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + 1e-12)
        return product * (factor.detach() if self.explaining else factor)


class CenteredNorm(BcosLayer):
    """Normalization that centers and scales, without bias: of a token, or of a whole map in the stem (`map`)."""

    def __init__(self, channels: int, map: bool = False):
        super().__init__()
        self.weight, self.map = nn.Parameter(torch.ones(channels)), map

    def forward(self, x: Tensor) -> Tensor:
        """(x − mean) · weight / σ over the last dimension, or over all but the first."""
        dims = tuple(range(1, x.dim())) if self.map else (-1,)
        var, mean = torch.var_mean(x, dim=dims, unbiased=False, keepdim=True)
        weight = self.weight.view(-1, 1, 1) if self.map else self.weight
        return (x - mean) * ((var.detach() if self.explaining else var) + 1e-5).rsqrt() * weight


class BcosAttention(BcosLayer):
    """Attention among tokens (B, N, D), a linear map of them by weights that depend on them."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.norm = heads, CenteredNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = BcosLinear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D) -> (B, N, D)."""
        q, k, v = self.to_qkv(self.norm(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.explaining:
            q, k = q.detach(), k.detach()
        attention = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        return self.to_out((attention @ v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two B-cos layers, one after the other."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        layers = {
            "norm": CenteredNorm(width),
            "linear1": BcosLinear(width, hidden),
            "linear2": BcosLinear(hidden, width),
        }
        self.net = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D) -> (B, N, D)."""
        return self.net(x)


class BcosEncoder(nn.Module):
    """A block of attention and two layers, both beside a shortcut."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.attn, self.ff = BcosAttention(width, heads), FeedForward(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """A map of tokens (B, D, h, w) -> (B, D, h, w)."""
        tokens = x.flatten(2).transpose(1, 2)
        tokens = self.attn(tokens) + tokens
        tokens = self.ff(tokens) + tokens
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:])


def positions(tokens: Tensor) -> Tensor:
    """Sines and cosines of the places in a map (B, h, w, D), a multiple of 4: (h, w, D)."""
    height, width, channels = tokens.shape[1:]
    waves = TEMPERATURE ** -(torch.arange(channels // 4, device=tokens.device) / (channels // 4 - 1))
    rows, cols = (torch.arange(side, device=tokens.device)[:, None] * waves for side in (height, width))
    rows = rows[:, None].expand(height, width, -1)
    cols = cols[None].expand(height, width, -1)
    return torch.cat([cols.sin(), cols.cos(), rows.sin(), rows.cos()], dim=2).to(tokens.dtype)


class BcosViT(nn.Module):
    """A B-cos vision transformer with logits (B, classes) of normalized images (B, 3, H, W).

    Args:
        width: channels of a token; depth: blocks; heads: of attention; hidden: of the two layers of a block.
        stem: channels of the convolutions in front, of stride 2 where there are more than before; none, for patches.
        patch: side of a patch in pixels of what the stem gives.
    """

    pretrained_cfg: ClassVar[Any] = {"mean": MEAN, "std": STD}
    training_loss: ClassVar[str] = "binary_cross_entropy"

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        stem: tuple[int, ...] = (),
        patch: int = 16,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ):
        super().__init__()
        self.patch, self.drop_rate, self.grad_checkpointing = patch, drop_rate, False
        parts, channels, reduction = OrderedDict[str, nn.Module](), 2 * in_chans, patch
        if stem:
            layers: list[nn.Module] = []
            for outputs in stem:
                stride = 2 if outputs > channels else 1
                layers += [BcosConv2d(channels, outputs, 3, stride, 1), CenteredNorm(outputs, map=True), nn.Identity()]
                channels, reduction = outputs, reduction * stride
            parts["conv_stem"] = nn.Sequential(*layers)
        parts["linear"] = BcosLinear(channels * patch**2, width)
        self.to_patch_embedding = nn.ModuleDict(parts)
        blocks = {f"encoder_{i}": BcosEncoder(width, heads, hidden) for i in range(depth)}
        self.transformer = nn.Sequential(OrderedDict(blocks))
        self.linear_head = nn.ModuleDict({"norm": CenteredNorm(width)})
        self.num_features = self.head_hidden_size = width
        self.feature_info = [
            {"num_chs": width, "reduction": reduction, "module": f"transformer.{name}"} for name in blocks
        ]
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer, moved to where the features are, and the logit bias of that many classes."""
        self.num_classes, self.logit_bias = num_classes, log_odds(num_classes)
        last = BcosLinear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.linear_head["linear"] = last.to(self.linear_head["norm"].weight)  # type: ignore[arg-type]

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.linear_head["linear"]

    def encode(self, images: Tensor) -> Tensor:
        """[x, 1 − x] in (B, 6, H, W) of normalized images, x in [0, 1] by the model's own mean and std."""
        return six_channels(images, self.pretrained_cfg)

    def embed_patches(self, x: Tensor) -> Tensor:
        """Tokens with their positions (B, D, h, w) of what the stem gives, or of the encoded images (B, C, H, W)."""
        side = self.patch
        x = x.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # B, C, h, side, w, side
        tokens = self.to_patch_embedding["linear"](x.permute(0, 2, 4, 3, 5, 1).flatten(3))
        return (tokens + positions(tokens)).permute(0, 3, 1, 2)

    def forward_features(self, x: Tensor) -> Tensor:
        """Features (B, D, h, w) of images."""
        x = self.encode(x)
        if "conv_stem" in self.to_patch_embedding:
            x = self.to_patch_embedding["conv_stem"](x)
        return self.transformer(self.embed_patches(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, classes) of features: their mean, normalized, by a B-cos layer, plus the logit bias."""
        x = self.linear_head["norm"](x.mean(dim=(2, 3)))
        if pre_logits or not self.num_classes:
            return x
        return self.linear_head["linear"](functional.dropout(x, self.drop_rate, self.training)) + self.logit_bias

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.forward_head(self.forward_features(x))


@register_layout(BcosViT)
def _layout(model: BcosViT) -> Layout:
    """Layer "encode" is the image in six channels, "embed" the tokens with their positions."""
    parts, last = model.to_patch_embedding, len(model.transformer) - 1
    stem = flatten_steps("conv_stem", parts["conv_stem"]) if "conv_stem" in parts else []
    blocks = flatten_steps("transformer", model.transformer)
    taps = {"middle": f"transformer.encoder_{max(0, (last + 1) // 2 - 1)}", "final": f"transformer.encoder_{last}"}
    steps = (Step("encode", model.encode), *stem, Step("embed", model.embed_patches), *blocks)
    return Layout(steps, model.forward_head, taps, upsample="nearest")


def _variants() -> dict[str, Variant]:
    """The published ones, of four sizes, and a small one for images of 64 pixels."""
    found: dict[str, dict[str, Any]] = {"bcos_vitc_small": _size(64, 3, 4, 128) | {"stem": (16, 32, 64), "patch": 1}}
    deep = (64, 128, 128, 256, 256, 512)
    for name, width, depth, heads, stem in (
        ("ti", 192, 12, 3, (24, 48, 96, 192)),
        ("s", 384, 12, 6, (48, 96, 192, 384)),
        ("b", 768, 12, 12, deep),
        ("l", 1024, 14, 16, deep),
    ):
        found[f"bcos_simple_vit_{name}_patch16_224"] = _size(width, depth, heads, 4 * width)
        found[f"bcos_vitc_{name}_patch1_14"] = _size(width, depth - 1, heads, 4 * width) | {"stem": stem, "patch": 1}
    return {
        name: Variant(
            arguments,
            64 if name.endswith("small") else 224,
            "to_patch_embedding.conv_stem.0.linear" if "stem" in arguments else "to_patch_embedding.linear.linear",
            "linear_head.linear.linear",
            mean=MEAN,
            std=STD,
        )
        for name, arguments in found.items()
    }


def _size(width: int, depth: int, heads: int, hidden: int) -> dict[str, Any]:
    return {"width": width, "depth": depth, "heads": heads, "hidden": hidden}


register_variants(BcosViT, __name__, _variants())
