"""Small networks for the tests, and the published networks of `published_*.npz`."""

from pathlib import Path

import numpy as np
import timm
import torch
from timm.models.vgg import VGG
from torch import nn

from faithfulness.backbones import Backbone, TimmBackbone, create_backbone

HERE = Path(__file__).parent


def published_idsds():
    """The network of `published_idsds.npz`, and its arrays."""
    arrays = np.load(HERE / "published_idsds.npz")
    features = nn.Sequential(nn.Conv2d(3, 12, 5, 2, 2), nn.ReLU(), nn.Conv2d(12, 20, 3, 2, 1), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(320, 7))
    for module, name in ((features[0], "conv1"), (features[2], "conv2"), (head[2], "fc")):
        module.load_state_dict({key: torch.from_numpy(arrays[f"weights/{name}.{key}"]) for key in ("weight", "bias")})
    return Backbone(features, head).eval(), arrays


def small_resnet(classes=5, **arguments):
    """A narrow ResNet-10 for 64 px, its residual branches not initialized to zero."""
    torch.manual_seed(0)
    shape = {"channels": (16, 24, 32, 48), "stem_width": 8, "zero_init_last": False}
    return create_backbone("resnet10t", classes, input_size=64, **(shape | arguments)).eval()


def small_vit(classes=5):
    """timm's smallest ViT at 64 px."""
    torch.manual_seed(0)
    return create_backbone("test_vit", classes, input_size=64).eval()


def small_convnext(classes=5):
    """timm's smallest ConvNeXt."""
    torch.manual_seed(0)
    return create_backbone("test_convnext", classes, input_size=64).eval()


def small_vgg(classes=5):
    """VGG-11's plan with few channels, for 64 px."""
    torch.manual_seed(0)
    model = VGG([8, "M", 8, "M", 8, 8, "M", 16, 16, "M", 16, 16, "M"], num_classes=classes, mlp_ratio=0.01)
    model.pretrained_cfg = dict(timm.get_pretrained_cfg("vgg11").to_dict(), input_size=(3, 64, 64))
    return TimmBackbone(model).eval()


def plain_cnn(classes=5, bias=True):
    """Two convolutions and a linear layer on the mean over positions."""
    torch.manual_seed(0)
    features = nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1, bias=bias), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1, bias=bias), nn.ReLU()
    )
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, classes, bias=bias))
    return Backbone(features, head, taps={"middle": "1", "final": "3"}).eval()
