"""ResNets without batch normalization, and without any bias; VGGs without any bias.

A ReLU network without biases is homogeneous: f(αx) = αf(x) for α ≥ 0, so that integrated gradients from
a zero baseline and input × gradient are the same map (Hesse et al. 2021, Fast Axiomatic Attribution).
Without normalization, residual branches start scaled by a learned factor of 1/√blocks, so that
activations neither grow nor fade with depth; the published networks use Fixup, see `fixup`.
"""

from __future__ import annotations

from typing import Any

from timm.layers.classifier import ClassifierHead
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vgg import VGG, ConvMlp
from torch import Tensor, full, nn, zeros

from faithfulness.backbones.networks.variants import Variant, register_variants


def without_bias(module: nn.Module) -> None:
    """Take the biases of all convolutions and linear layers away."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.bias = None  # type: ignore[assignment]


class BranchScale(nn.Module):
    """A learned factor on a residual branch."""

    def __init__(self, start: float):
        super().__init__()
        self.weight = nn.Parameter(full((1,), start))

    def forward(self, x: Tensor) -> Tensor:
        """x times the factor."""
        return x * self.weight


class NormFreeResNet(ResNet):
    """A timm ResNet whose convolutions stand alone: no batch normalization, and no biases if `bias=False`."""

    def __init__(self, *args: Any, bias: bool = True, zero_init_last: bool = False, **arguments: Any):
        super().__init__(*args, norm_layer=nn.Identity, zero_init_last=False, **arguments)
        self.bias = bias
        blocks = [module for module in self.modules() if isinstance(module, (BasicBlock, Bottleneck))]
        for block in blocks:
            scale = BranchScale(0.0 if zero_init_last else len(blocks) ** -0.5)
            setattr(block, "bn3" if isinstance(block, Bottleneck) else "bn2", scale)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                module.bias = nn.Parameter(zeros(module.out_channels)) if bias else None
        if not bias:
            without_bias(self)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer, without a bias where the network has none."""
        super().reset_classifier(num_classes, global_pool)
        if not self.bias:
            without_bias(self.fc)


class SmallHeadVGG(VGG):
    """A VGG with a head of any size, without biases if `bias=False`; all else is timm's VGG.

    Args:
        cfg: widths of the convolutions, "M" for a pooling layer.
        head_size: kernel of the first fully connected layer, the side of the last feature map.
        hidden: width of the fully connected layers.
    """

    def __init__(
        self,
        cfg: tuple[int | str, ...],
        head_size: int = 7,
        hidden: int = 4096,
        bias: bool = True,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ):
        nn.Module.__init__(self)  # timm's own makes a head of fixed size, a hundred million weights
        self.num_classes, self.in_chans, self.drop_rate, self.bias = num_classes, in_chans, drop_rate, bias
        self.grad_checkpointing, self.use_norm = False, False
        layers: list[nn.Module] = []
        channels = in_chans
        for width in cfg:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
        self.features = nn.Sequential(*layers)
        self.num_features, self.head_hidden_size = channels, hidden
        self.pre_logits = ConvMlp(channels, hidden, head_size, drop_rate=drop_rate)
        self.head = ClassifierHead(hidden, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        if not bias:
            without_bias(self)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer, without a bias where the network has none."""
        super().reset_classifier(num_classes, global_pool)
        if not self.bias:
            without_bias(self.head)


_VGG16 = (*(64, 64, "M", 128, 128, "M", 256, 256, 256, "M"), *(512, 512, 512, "M", 512, 512, 512, "M"))
_X_VGG16 = Variant({"cfg": _VGG16, "bias": False}, 224, "features.0", "head.fc")
_VGG8 = (16, "M", 32, "M", 64, "M", 96, "M", 96, "M")
_RESNET50 = {"block": Bottleneck, "layers": (3, 4, 6, 3)}
_RESNET10 = {
    "block": BasicBlock,
    "layers": (1, 1, 1, 1),
    "channels": (16, 32, 96, 192),
    "stem_width": 8,
    "stem_type": "deep_tiered",
    "avg_down": True,
}

register_variants(
    NormFreeResNet,
    __name__,
    {
        "resnet50_nobn": Variant(_RESNET50),
        "resnet50_nobn_nobias": Variant({**_RESNET50, "bias": False}),
        "resnet10_nobn_small": Variant(_RESNET10, 64, "conv1.0"),
        "resnet10_nobn_nobias_small": Variant({**_RESNET10, "bias": False}, 64, "conv1.0"),
    },
)
register_variants(
    SmallHeadVGG,
    __name__,
    {
        "vgg16_nobias": _X_VGG16,
        "x_vgg16": _X_VGG16,  # as the published weights call it
        "vgg8_small": Variant({"cfg": _VGG8, "head_size": 2, "hidden": 256}, 64, "features.0", "head.fc"),
        "vgg8_nobias_small": Variant(
            {"cfg": _VGG8, "head_size": 2, "hidden": 256, "bias": False}, 64, "features.0", "head.fc"
        ),
    },
)
