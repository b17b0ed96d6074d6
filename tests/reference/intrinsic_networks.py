"""The small networks that are explainable by their make, and what the tests ask them about."""

import torch
from torch import nn

from faithfulness.backbones import create_backbone

BAGNETS = ["bagnet9_small", "bagnet17_small", "bagnet33_small"]
PLAIN = ["resnet10_nobn_small", "resnet10_nobn_nobias_small", "vgg8_small", "vgg8_nobias_small"]
PLAIN += ["fixup_resnet14_small", "x_resnet14_small"]


def make_backbone(name: str, dtype: torch.dtype = torch.float32, **arguments):
    """A network whose normalization has seen data and whose biases aren't 0."""
    torch.manual_seed(0)
    backbone = create_backbone(name, num_classes=5, **arguments)
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in norms:
        module.momentum = 1.0
    backbone.train()(make_batch()[0])
    for module in backbone.modules():
        if getattr(module, "bias", None) is not None and isinstance(module.bias, nn.Parameter):
            nn.init.normal_(module.bias, std=0.1)
    return backbone.eval().to(dtype)


def make_batch(count: int = 3, size: int = 64, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, size, size, generator=generator).to(dtype), torch.tensor([4, 0, 2, 2, 1])[:count]


def target_logits(backbone, images, targets):
    with torch.no_grad():
        return backbone(images).gather(1, targets[:, None]).squeeze(1)
