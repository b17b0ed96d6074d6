"""B-cos ResNets: networks that are, for each image, one linear map of it (Böhle et al. 2022 and 2024).

A B-cos layer gives |cos(x, w)|^(B−1) · ŵᵀx: linear in x, with weights that depend on x. The layers align
with what they see, so that the linear map is an explanation. As in B-cos v2 there is no activation
function, normalization neither centers nor shifts, and the image comes in six channels [x, 1 − x], x in
[0, 1] (mean 0, standard deviation 1), so that a pixel filled with `zeros` is [0, 0, 0, 1, 1, 1]: black.
Names and shapes of the parameters are those of the published weights.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from faithfulness.backbones.networks.variants import Variant, register_variants, stage_layout
from faithfulness.backbones.split import Layout, Step
from faithfulness.backbones.timm_models import register_layout

MEAN, STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


class UnitConv2d(nn.Conv2d):
    """A convolution whose weight vectors have length 1."""

    def forward(self, input: Tensor) -> Tensor:
        """Scalar products of patches with unit vectors."""
        weight = self.weight / torch.linalg.vector_norm(self.weight, dim=(1, 2, 3), keepdim=True)
        return self._conv_forward(input, weight, None)


class BcosLayer(nn.Module):
    """A layer that is a linear map of its input, by weights that depend on the input.

    While `explaining`, these weights are constants to autograd, so that the gradient is the dynamic linear map itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.explaining = False


class BcosConv2d(BcosLayer):
    """A B-cos convolution without bias: (B, C, H, W) -> (B, outputs, h, w), with the factor |cos|^(B−1)."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, padding: int = 0, b: float = 2.0):
        super().__init__()
        self.linear = UnitConv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.b = b

    def forward(self, x: Tensor) -> Tensor:
        """|cos(x, w)|^(B−1) · ŵᵀx for each patch x."""
        product = self.linear(x)
        if self.b == 1:
            return product
        kernel, stride, padding = self.linear.kernel_size, self.linear.stride, self.linear.padding
        squares = functional.avg_pool2d(x.square().sum(dim=1, keepdim=True), kernel, stride, padding)  # type: ignore[arg-type]
        length = (squares * math.prod(kernel) + 1e-6).sqrt()
        cosine = product.abs() / length
        factor = cosine if self.b == 2 else (cosine + 1e-6).pow(self.b - 1)
        return product * (factor.detach() if self.explaining else factor)


class BatchNormUncentered2d(nn.BatchNorm2d):
    """Batch normalization that divides by the standard deviation, and neither centers nor shifts."""

    def __init__(self, channels: int):
        super().__init__(channels)
        self.bias = None

    def forward(self, input: Tensor) -> Tensor:
        """x · weight / σ, σ of the batch in training and the running one else."""
        var = self.running_var
        if self.training or var is None:
            exact = torch.promote_types(input.dtype, torch.float32)
            var = input.to(exact).var(dim=(0, 2, 3), unbiased=False)
            if self.running_var is not None and self.num_batches_tracked is not None:
                with torch.no_grad():
                    self.running_var.lerp_(var.detach().to(self.running_var.dtype), self.momentum or 0.1)
                    self.num_batches_tracked.add_(1)
        return input * (self.weight * (var + self.eps).rsqrt()).view(-1, 1, 1)


def six_channels(images: Tensor, config: Any) -> Tensor:
    """[x, 1 − x] in (B, 6, H, W) of images that are normalized by the mean and std of a config, x in [0, 1]."""
    mean, std = (images.new_tensor(config[key]).view(-1, 1, 1) for key in ("mean", "std"))
    x = images * std + mean
    return torch.cat([x, 1 - x], dim=1)


def log_odds(classes: int) -> float:
    """Of one class among so many: the logit bias with which training by binary cross entropy starts."""
    return -math.log(classes - 1) if classes > 1 else 0.0


class BcosBlock(nn.Module):
    """A residual block of B-cos convolutions: two 3×3, or 1×1, 3×3 and 1×1 with four times the channels."""

    def __init__(self, inputs: int, planes: int, stride: int, bottleneck: bool):
        super().__init__()
        outputs = planes * (4 if bottleneck else 1)
        if bottleneck:
            shapes = [(inputs, planes, 1, 1), (planes, planes, 3, stride), (planes, outputs, 1, 1)]
        else:
            shapes = [(inputs, planes, 3, stride), (planes, planes, 3, 1)]
        self.depth = len(shapes)
        for i, (before, after, kernel, step) in enumerate(shapes, 1):
            setattr(self, f"conv{i}", BcosConv2d(before, after, kernel, step, kernel // 2))
            setattr(self, f"bn{i}", BatchNormUncentered2d(after))
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(BcosConv2d(inputs, outputs, 1, stride), BatchNormUncentered2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C, H, W) -> (B, outputs, h, w)."""
        branch = x
        for i in range(1, self.depth + 1):
            branch = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(branch))
        return branch + (x if self.downsample is None else self.downsample(x))


class BcosResNet(nn.Module):
    """A B-cos ResNet with logits (B, classes) of normalized images (B, 3, H, W).

    Args:
        layers: blocks of each stage.
        bottleneck: blocks of ResNet-50 rather than ResNet-18.
        width: channels of the first stage.
        small: a 3×3 stem without pooling, for images of 64 pixels.
        temperature: divides the logits.
        logit_bias: added to each logit; the log-odds of 1/classes if None, so that training with binary
            cross entropy starts at the base rate.
    """

    pretrained_cfg: ClassVar[Any] = {"mean": MEAN, "std": STD}
    training_loss: ClassVar[str] = "binary_cross_entropy"

    def __init__(
        self,
        layers: tuple[int, ...],
        bottleneck: bool = False,
        width: int = 64,
        small: bool = False,
        temperature: float = 1.0,
        logit_bias: float | None = None,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
    ):
        super().__init__()
        self.temperature, self.fixed_bias, self.drop_rate, self.grad_checkpointing = (
            temperature,
            logit_bias,
            drop_rate,
            False,
        )
        self.conv1 = BcosConv2d(2 * in_chans, width, 3 if small else 7, 2, 1 if small else 3)
        self.bn1 = BatchNormUncentered2d(width)
        self.pool = nn.Identity() if small else nn.AvgPool2d(3, 2, 1)
        channels, stages, self.feature_info = width, [], []
        for i, blocks in enumerate(layers):
            stage, planes = [], width * 2**i
            for block in range(blocks):
                stage.append(BcosBlock(channels, planes, 2 if i and not block else 1, bottleneck))
                channels = planes * (4 if bottleneck else 1)
            stages.append(nn.Sequential(*stage))
            reduction = (2 if small else 4) * 2**i
            self.feature_info.append({"num_chs": channels, "reduction": reduction, "module": f"layer{i + 1}"})
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.num_features = self.head_hidden_size = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer, moved to where the features are, and the logit bias of that many classes."""
        self.num_classes = num_classes
        self.fc = BcosConv2d(self.num_features, num_classes) if num_classes else nn.Identity()
        self.fc.to(self.conv1.linear.weight)
        self.logit_bias = log_odds(num_classes) if self.fixed_bias is None else self.fixed_bias

    def get_classifier(self) -> nn.Module:
        """The last layer, a 1×1 convolution before pooling."""
        return self.fc

    def encode(self, images: Tensor) -> Tensor:
        """[x, 1 − x] in (B, 6, H, W) of normalized images, x in [0, 1] by the model's own mean and std."""
        return six_channels(images, self.pretrained_cfg)

    def forward_features(self, x: Tensor) -> Tensor:
        """Features (B, C, h, w) of images."""
        x = self.pool(self.bn1(self.conv1(self.encode(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, classes) of features: class evidence at each position, then its mean."""
        if pre_logits or not self.num_classes:
            return x.mean(dim=(2, 3))
        x = functional.dropout(x, self.drop_rate, self.training)
        return self.fc(x).mean(dim=(2, 3)) / self.temperature + self.logit_bias

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.forward_head(self.forward_features(x))


@register_layout(BcosResNet)
def _layout(model: BcosResNet) -> Layout:
    """Layer "encode" is the image in six channels, where the contributions of pixels are read."""
    layout = stage_layout(model, "conv1", "bn1", "pool", "layer1", "layer2", "layer3", "layer4")
    return Layout((Step("encode", model.encode), *layout.steps), layout.head, layout.taps)


register_variants(
    BcosResNet,
    __name__,
    {
        name: Variant(arguments, size, "conv1.linear", "fc.linear", mean=MEAN, std=STD)
        for name, arguments, size in (
            ("bcos_resnet18", {"layers": (2, 2, 2, 2)}, 224),
            ("bcos_resnet50", {"layers": (3, 4, 6, 3), "bottleneck": True}, 224),
            ("bcos_resnet10_small", {"layers": (1, 1, 1, 1), "width": 16, "small": True}, 64),
        )
    },
)
