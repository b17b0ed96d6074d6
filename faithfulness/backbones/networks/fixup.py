"""ResNets without batch normalization as published: with Fixup's scalar biases and scales, and without any bias.

A Fixup ResNet (Zhang et al. 2019) has, in place of each normalization, one number that is added before and one
after a convolution, and one number that scales each residual branch. An X-ResNet (Hesse et al. 2021, Fast Axiomatic
Attribution) is the same network without all of these and without the bias of its last layer: f(αx) = αf(x) for
α ≥ 0. Both shortcuts are bare convolutions. Names and shapes of the parameters are those of the published weights.
"""

from __future__ import annotations

from typing import Any

from timm.layers.classifier import create_classifier
from torch import Tensor, nn, ones, zeros

from faithfulness.backbones.networks.variants import Variant, register_variants
from faithfulness.backbones.split import Layout, Step, flatten_steps
from faithfulness.backbones.timm_models import register_layout

BIASES = ("bias1a", "bias1b", "bias2a", "bias2b", "bias3a", "bias3b")
"""Of a block: before (a) and after (b) each of its three convolutions."""


class FixupBottleneck(nn.Module):
    """A bottleneck block with a number added before and after each convolution; with neither if `bias=False`.

    The shortcut's convolution sees what the first one sees.
    """

    expansion = 4
    bias1a: nn.Parameter | None
    bias1b: nn.Parameter | None
    bias2a: nn.Parameter | None
    bias2b: nn.Parameter | None
    bias3a: nn.Parameter | None
    bias3b: nn.Parameter | None

    def __init__(self, inputs: int, planes: int, stride: int = 1, bias: bool = True):
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride != 1 or inputs != outputs else None
        )
        for name in BIASES:
            self.register_parameter(name, nn.Parameter(zeros(1)) if bias else None)
        self.scale = nn.Parameter(ones(1)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, H, W) -> (B, 4·planes, h, w)."""
        shifted = shift(x, self.bias1a)
        branch = self.relu(shift(self.conv1(shifted), self.bias1b))
        branch = self.relu(shift(self.conv2(shift(branch, self.bias2a)), self.bias2b))
        branch = self.conv3(shift(branch, self.bias3a))
        if self.scale is not None:
            branch = branch * self.scale
        shortcut = x if self.downsample is None else self.downsample(shifted)
        return self.relu(shift(branch, self.bias3b) + shortcut)


def shift(x: Tensor, bias: Tensor | None) -> Tensor:
    """x plus a number, or x itself where there is none."""
    return x if bias is None else x + bias


class FixupResNet(nn.Module):
    """A ResNet of bottleneck blocks by Fixup, with logits (B, classes) of images (B, 3, H, W).

    Args:
        layers: blocks of each stage.
        planes: bottleneck width of each stage; a stage has four times as many channels.
        bias: Fixup's numbers and the last layer's bias; False for an X-ResNet.
        zero_init_last: start with residual branches and logits of 0, as published. A network that starts so is
            linear in its input before it is trained.
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        bias: bool = True,
        zero_init_last: bool = True,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ):
        super().__init__()
        self.num_classes, self.drop_rate, self.grad_checkpointing = num_classes, drop_rate, False
        self.bias, self.zero_init_last = bias, zero_init_last
        self.conv1 = nn.Conv2d(in_chans, planes[0], 7, 2, 3, bias=False)
        self.bias1 = nn.Parameter(zeros(1)) if bias else None
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels, stages, self.feature_info = planes[0], [], []
        for i, (blocks, width) in enumerate(zip(layers, planes, strict=True)):
            stage = []
            for block in range(blocks):
                stage.append(FixupBottleneck(channels, width, 2 if i and not block else 1, bias))
                channels = width * FixupBottleneck.expansion
            stages.append(nn.Sequential(*stage))
            self.feature_info.append({"num_chs": channels, "reduction": 4 * 2**i, "module": f"layer{i + 1}"})
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.num_features = self.head_hidden_size = channels
        self.bias2 = nn.Parameter(zeros(1)) if bias else None
        self._start(sum(layers))
        self.reset_classifier(num_classes, global_pool)

    def _start(self, blocks: int) -> None:
        """The published start: two layers of each branch scaled by the fourth root of 1/blocks, the last one 0."""
        for block in self.modules():
            if not isinstance(block, FixupBottleneck):
                continue
            for module in block.children():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            for conv in (block.conv1, block.conv2):
                conv.weight.data.mul_(blocks**-0.25)
            block.conv3.weight.data.mul_(0.0 if self.zero_init_last else blocks**-0.25)

    def shift_stem(self, x: Tensor) -> Tensor:
        """The stem's features (B, C, h, w) plus its bias."""
        return shift(x, self.bias1)

    def forward_features(self, x: Tensor) -> Tensor:
        """Features (B, C, h, w)."""
        x = self.maxpool(self.relu(self.shift_stem(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, classes) of features: their mean plus a number, then a linear layer."""
        x = nn.functional.dropout(shift(self.global_pool(x), self.bias2), self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        """A new last layer; moved to where the features are."""
        self.num_classes = num_classes
        made: Any = create_classifier(self.num_features, num_classes, pool_type=global_pool)
        self.global_pool, self.fc = made
        if isinstance(self.fc, nn.Linear):
            if self.zero_init_last:
                nn.init.zeros_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)
            if not self.bias:
                self.fc.register_parameter("bias", None)
        self.fc.to(self.conv1.weight)


@register_layout(FixupResNet)
def _layout(model: FixupResNet) -> Layout:
    names = ("relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    shifted = [Step("bias1", model.shift_stem)] if model.bias else []
    rest = [step for name in names for step in flatten_steps(name, model.get_submodule(name))]
    steps = (Step("conv1", model.conv1), *shifted, *rest)
    return Layout(steps, model.forward_head, {"middle": "layer2", "final": "layer4"})


_SMALL = {"layers": (1, 1, 1, 1), "planes": (12, 24, 48, 96), "zero_init_last": False}

register_variants(
    FixupResNet,
    __name__,
    {
        "fixup_resnet50": Variant(),
        "x_resnet50": Variant({"bias": False}),
        "fixup_resnet14_small": Variant(_SMALL, 64),
        "x_resnet14_small": Variant({**_SMALL, "bias": False}, 64),
    },
)
