"""Small vision transformers whose tokens come from a few convolutions, so that they learn from little data.

A stack of 3×3 convolutions in place of the patch embedding (Xiao et al. 2021, Early Convolutions Help
Transformers See Better); everything behind it is timm's vision transformer.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from faithfulness.backbones.networks.variants import Variant, register_variants


class ConvStem(PatchEmbed):
    """Tokens of stride `patch_size`, a power of two: a convolution per halving, twice as wide each time."""

    def __init__(
        self, img_size: int, patch_size: int = 8, in_chans: int = 3, embed_dim: int = 64, **arguments: Any
    ) -> None:
        super().__init__(img_size, patch_size, in_chans, embed_dim, **arguments)
        halvings = patch_size.bit_length() - 1
        if patch_size != 1 << halvings or embed_dim % patch_size:
            raise ValueError(f"a patch of {patch_size} px is no power of two, or doesn't divide {embed_dim} channels")
        widths = [in_chans, *(embed_dim >> left for left in reversed(range(halvings)))]
        self.proj: nn.Module = nn.Sequential()
        for inputs, outputs in pairwise(widths):
            self.proj.append(nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False))
            self.proj.extend([nn.BatchNorm2d(outputs), nn.ReLU()])


class ConvVit(VisionTransformer):
    """timm's vision transformer on a `ConvStem`."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(embed_layer=ConvStem, **arguments)


_SMALL = {"img_size": 64, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 4, "mlp_ratio": 3}

register_variants(
    ConvVit,
    __name__,
    {
        "vit_conv_small": Variant(
            {**_SMALL, "class_token": False, "global_pool": "avg"}, 64, "patch_embed.proj.0", "head", fixed=True
        )
    },
)
