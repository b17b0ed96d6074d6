"""Small networks for the grid protocols, and slow versions of what they compute."""

from fractions import Fraction
from functools import cache
from itertools import combinations

import numpy as np
import torch
from timm.models.vgg import VGG
from torch import nn

from faithfulness.backbones import Backbone, TimmBackbone, create_backbone

CELL = 64
SIDE = 32
"""Pixels of a small grid's side."""


def tiny_resnet(**arguments):
    torch.manual_seed(0)
    small = {"channels": (16, 24, 32, 48), "stem_width": 8, "zero_init_last": False}
    return create_backbone("resnet10t", 5, input_size=CELL, **small, **arguments).eval()


def tiny_vgg(size=CELL, pools=5):
    torch.manual_seed(0)
    widths = (8, 12, 16, 16, 20)[:pools]
    model = VGG([part for width in widths for part in (width, "M")], num_classes=5, mlp_ratio=0.02)
    model.pretrained_cfg = {"architecture": "tiny_vgg", "input_size": (3, size, size)}
    for module in model.modules():
        if isinstance(module, nn.Conv2d):  # timm's own start lets the last logits fade
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return TimmBackbone(model.eval(), size)


def tiny_convnext():
    torch.manual_seed(0)
    return create_backbone("test_convnext", 5, input_size=CELL, depths=(1, 1, 1, 1)).eval()


def tiny_vit(**arguments):
    torch.manual_seed(0)
    small = {"img_size": CELL, "depth": 3, "embed_dim": 48}
    return create_backbone("vit_tiny_patch16_224", 5, input_size=CELL, **{**small, **arguments}).eval()


MODELS = {"resnet": tiny_resnet, "vgg": tiny_vgg, "convnext": tiny_convnext, "vit": tiny_vit}


def plain_cnn(middle=None, classes=5):
    """Kernels 3, 5, 3 with strides 1, 2, 1, and a pooling head."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 6, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(6, 8, 5, 2, 2),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 1, 1),
        nn.ReLU(),
    ]
    if middle is not None:
        layers.insert(4, middle)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
    return Backbone(nn.Sequential(*layers), head, {"middle": "3"}).eval()


def published_cnn(file):
    """The network of `published_difull.npz`."""
    features = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, padding=1),
        nn.ReLU(),
    )
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 6))
    weights = {name.split("/")[1]: torch.from_numpy(file[name]) for name in file.files if name.startswith("weights/")}
    with torch.no_grad():
        for index in (0, 2, 4):
            features[index].weight.copy_(weights[f"layers.{index}.weight"])
            features[index].bias.copy_(weights[f"layers.{index}.bias"])
        head[2].weight.copy_(weights["fc.weight"])
        head[2].bias.copy_(weights["fc.bias"])
    return Backbone(features, head, {"middle": "3", "final": "5"}).eval()


@cache
def random_grids(count=2, side=SIDE):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2))


def grid_side(name):
    """The transformer has cells of 64 px only; the others are quicker on less."""
    return 128 if name == "vit" else 64


def slow_cell_shares(values, scale):
    """Positive mass of each cell, in whole numbers of area: every pixel is cut into scale × scale parts."""
    positive = np.maximum(np.asarray(values, dtype=np.float64), 0)
    fine = np.kron(positive, np.ones((scale, scale)))
    height, width = (side // scale for side in fine.shape)
    cells = [
        fine[i * height : (i + 1) * height, j * width : (j + 1) * width].sum()
        for i in range(scale)
        for j in range(scale)
    ]
    return np.array(cells) / scale**2


def receptive_field_1d(first, last, size, layers):
    """First and last input of outputs first … last through (kernel, stride, padding) layers, by hand."""
    for kernel, stride, padding in reversed(layers):
        first, last = first * stride - padding, last * stride - padding + kernel - 1
    return max(first, 0), min(last, size - 1)


def count_grids(labels, scale, kind):
    """How many ordered grids there are, by listing them all."""
    cells = scale**2

    def allowed(grid):
        classes = [labels[i] for i in grid]
        if kind == "distinct":
            return len(set(classes)) == cells
        return classes[0] == classes[-1] and len(set(classes[:-1])) == cells - 1

    def extend(grid):
        if len(grid) == cells:
            return int(allowed(grid))
        return sum(extend((*grid, i)) for i in range(len(labels)) if i not in grid)

    return extend(())


def most_grids_at_once(sizes, cells, kind):
    """The most grids without a common image, by trying every choice of classes for one grid after another."""
    found = 0
    classes = [number for number, size in enumerate(sizes) if size > 0]
    if kind == "distinct":
        choices = [dict.fromkeys(chosen, 1) for chosen in combinations(classes, cells)]
    else:
        choices = [
            {**dict.fromkeys(chosen, 1), corner: 2}
            for corner in classes
            if sizes[corner] > 1
            for chosen in combinations([number for number in classes if number != corner], cells - 2)
        ]
    for choice in choices:
        left = tuple(size - choice.get(number, 0) for number, size in enumerate(sizes))
        found = max(found, 1 + _most_left(tuple(sorted(left)), cells, kind))
    return found


@cache
def _most_left(sizes, cells, kind):
    return most_grids_at_once(sizes, cells, kind)


def mutual_information(a, b):
    """In bits, straight from its definition."""
    pairs = list(zip(a, b, strict=True))
    total = Fraction(len(pairs))
    result = 0.0
    for x, y in set(pairs):
        joint = pairs.count((x, y)) / total
        apart = Fraction(list(a).count(x), len(pairs)) * Fraction(list(b).count(y), len(pairs))
        result += float(joint) * np.log2(float(joint / apart))
    return result
