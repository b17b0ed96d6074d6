"""Small random networks of each family, at 64 px, five classes; made the same on every call."""

import timm
import torch
from timm.models.vgg import VGG

from faithfulness.backbones import Backbone, TimmBackbone, create_backbone, create_segmenter
from faithfulness.data import normalize, open_segmentation_data

FAMILIES = ("resnet", "vgg", "convnext", "vit")
SIDE, CLASSES = 64, 5


def tiny_model(family):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _BUILDERS[family]().eval()
        if family != "bias-free":
            for parameter in model.parameters():
                if parameter.dim() == 1:  # biases and norms as of a trained network, not 0 and 1
                    parameter.data += 0.1 * torch.randn_like(parameter)
                elif family in ("convnext", "vit"):  # timm's start is so small that the image hardly matters
                    parameter.data = torch.randn_like(parameter) / parameter[0].numel() ** 0.5
        return model


def tiny_batch(images=3, side=SIDE, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(images, 3, side, side, generator=generator).to(dtype), torch.tensor([0, 3, 1, 4, 2])[:images]


def _resnet():
    sizes = {"channels": (8, 12, 16, 24), "stem_width": 8, "zero_init_last": False}
    return create_backbone("resnet10t", CLASSES, input_size=SIDE, **sizes)


def _vgg():
    model = VGG([6, "M", 8, "M", 12, "M", 12, 12, "M"], num_classes=CLASSES, mlp_ratio=0.002)
    model.pretrained_cfg = timm.models.PretrainedCfg(input_size=(3, SIDE, SIDE)).to_dict()
    return TimmBackbone(model)


def _convnext():
    sizes = {"dims": (8, 12, 16, 24), "depths": (1, 1, 2, 1), "ls_init_value": 1.0}
    return create_backbone("test_convnext", CLASSES, input_size=SIDE, **sizes)


def _vit():
    return create_backbone("test_vit", CLASSES, input_size=SIDE, embed_dim=24, depth=3, num_heads=3)


def _plain_cnn(bias=True):
    features = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, padding=1, bias=bias),
        torch.nn.ReLU(inplace=True),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(6, 8, 3, padding=1, bias=bias),
        torch.nn.ReLU(inplace=True),
    )
    head = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, CLASSES, bias=bias)
    )
    return Backbone(features, head, {"middle": "1"})


_BUILDERS = {
    "resnet": _resnet,
    "vgg": _vgg,
    "convnext": _convnext,
    "vit": _vit,
    "plain": _plain_cnn,
    "bias-free": lambda: _plain_cnn(bias=False),
}


def tiny_segmenter():
    """An untrained segmentation network at 32 px for the digits, whose 11 classes all win somewhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        shape = {"channels": [8, 8, 16, 16], "stem_width": 8, "skip": "layer1", "zero_init_last": False}
        model = create_segmenter("resnet10t", 11, input_size=32, **shape).eval()
    data = open_segmentation_data("digits", size=32, count=8)
    images = normalize(torch.stack([data.image(index) for index in range(8)]), model.data_config)
    with torch.no_grad():
        dense = model(images)
        model.classifier.weight /= dense.std()
        model.classifier.bias -= dense.mean(dim=(0, 2, 3)) / dense.std()
    return model
