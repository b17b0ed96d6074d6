"""BagNets: ResNets whose logits are a mean over small patches, seen one by one (Brendel and Bethge 2019).

Almost all convolutions are 1×1, so that a feature sees 9, 17 or 33 pixels; nothing is padded. Names and
shapes of the parameters are those of the published weights.
"""

from __future__ import annotations

from typing import Any

from timm.layers.classifier import create_classifier
from torch import Tensor, nn

from faithfulness.backbones.networks.variants import Variant, register_variants, stage_layout
from faithfulness.backbones.split import Layout
from faithfulness.backbones.timm_models import register_layout

STRIDES = (2, 2, 2, 1)
MOMENTUM = 0.001
"""Of batch normalization's running statistics, as published: for trainings of many thousand steps."""


class BagNetBottleneck(nn.Module):
    """A bottleneck block whose middle convolution is 1×1 or an unpadded 3×3.

    The shortcut is cut at the right and the bottom to the branch's size, as in the published weights.
    """

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, kernel: int, bn_momentum: float = MOMENTUM):
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes, momentum=bn_momentum)
        self.conv2 = nn.Conv2d(planes, planes, kernel, stride, bias=False)
        self.bn2 = nn.BatchNorm2d(planes, momentum=bn_momentum)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs, momentum=bn_momentum)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs, momentum=bn_momentum))

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, H, W) -> (B, 4·planes, h, w)."""
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = self.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(branch + shortcut[:, :, : branch.shape[2], : branch.shape[3]])


class BagNet(nn.Module):
    """A BagNet with logits (B, classes) of images (B, 3, H, W).

    Args:
        kernels: middle kernel of the first block of each stage, 1 or 3: how far a feature sees.
        layers: blocks of each stage.
        planes: bottleneck width of each stage; a stage has four times as many channels.
        bn_momentum: of batch normalization's running statistics.
    Attributes:
        receptive_field, stride: of the last features in pixels; position p sees pixels
            stride·p … stride·p + receptive_field − 1.
    """

    def __init__(
        self,
        kernels: tuple[int, ...] = (3, 3, 3, 3),
        layers: tuple[int, ...] = (3, 4, 6, 3),
        planes: tuple[int, ...] = (64, 128, 256, 512),
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        bn_momentum: float = MOMENTUM,
    ):
        super().__init__()
        self.num_classes, self.drop_rate, self.grad_checkpointing = num_classes, drop_rate, False
        self.conv1 = nn.Conv2d(in_chans, planes[0], 1, bias=False)
        self.conv2 = nn.Conv2d(planes[0], planes[0], 3, bias=False)
        self.bn1 = nn.BatchNorm2d(planes[0], momentum=bn_momentum)
        self.relu = nn.ReLU(inplace=True)
        self.receptive_field, self.stride, channels = 3, 1, planes[0]
        stages, self.feature_info = [], []
        for i, (kernel, blocks, width, stride) in enumerate(zip(kernels, layers, planes, STRIDES, strict=True), 1):
            stage = []
            for block in range(blocks):
                form = (stride, kernel) if block == 0 else (1, 1)
                stage.append(BagNetBottleneck(channels, width, *form, bn_momentum))
                channels = width * BagNetBottleneck.expansion
            stages.append(nn.Sequential(*stage))
            self.receptive_field += (kernel - 1) * self.stride
            self.stride *= stride
            self.feature_info.append({"num_chs": channels, "reduction": self.stride, "module": f"layer{i}"})
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.num_features = self.head_hidden_size = channels
        self.reset_classifier(num_classes, global_pool)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x: Tensor) -> Tensor:
        """Features (B, C, h, w), one position for each patch."""
        x = self.relu(self.bn1(self.conv2(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, classes) of features: the mean over positions, then a linear layer."""
        x = nn.functional.dropout(self.global_pool(x), self.drop_rate, self.training)
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
        self.fc.to(self.conv1.weight)


@register_layout(BagNet)
def _layout(model: BagNet) -> Layout:
    return stage_layout(model, "conv1", "conv2", "bn1", "relu", "layer1", "layer2", "layer3", "layer4")


_KERNELS = {9: (3, 3, 1, 1), 17: (3, 3, 3, 1), 33: (3, 3, 3, 3)}
_SMALL = {"layers": (1, 1, 1, 1), "planes": (16, 32, 64, 128), "bn_momentum": 0.1}
"""Trained for few steps, in which the published momentum leaves the statistics at their beginning."""

register_variants(
    BagNet,
    __name__,
    {f"bagnet{field}": Variant({"kernels": kernels}) for field, kernels in _KERNELS.items()}
    | {f"bagnet{field}_small": Variant({"kernels": kernels, **_SMALL}, 64) for field, kernels in _KERNELS.items()},
)
