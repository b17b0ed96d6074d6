"""What a user's own file holds: networks and data sets, by `own_code.py:function`."""

import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from faithfulness.backbones import Backbone

SIDE = 16


class Net(nn.Module):
    """A plain network, which says nothing of its images."""

    def __init__(self, num_classes=3, width=4):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.head(self.drop(self.body(images).mean(dim=(2, 3))))


class Dense(nn.Module):
    """A segmentation network that answers as torchvision's do."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.conv = nn.Conv2d(3, num_classes, 3, 2, 1)

    def forward(self, images):
        return {"out": self.conv(images)}


class Pictures(Dataset):
    """Noise whose label is the brightest channel: a PIL image, uint8 pixels or normalized floats."""

    def __init__(self, kind="pixels", count=24, seed=0, side=SIDE):
        self.kind, self.count, self.seed, self.side = kind, count, seed, side

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(self.seed * 1000 + index)
        pixels = torch.randint(0, 128, (3, self.side, self.side), generator=generator, dtype=torch.uint8)
        label = index % 3
        pixels[label] += 100
        if self.kind == "pil":
            return Image.fromarray(pixels.permute(1, 2, 0).numpy()), label
        return (pixels.float() / 50 - 2 if self.kind == "float" else pixels), label


class Scenes(Pictures):
    """The same pictures with a mask: the label on the left half, void on the last column."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        mask = torch.zeros(self.side, self.side, dtype=torch.int64)
        mask[:, : self.side // 2] = label
        mask[:, -1] = 255
        return image, mask


def make(num_classes, width=4):
    return Net(num_classes, width)


def fixed():
    return Net()


def bright():
    """A network with layers that tells the brightest channel for certain."""
    features = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 3, 1, bias=False), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3, bias=False))
    for layer, gain in ((features[0], 1), (features[2], 1), (head[2], 40)):
        layer.weight.data = gain * torch.eye(3).reshape(layer.weight.shape)
    return Backbone(features, head, {"middle": "1", "final": "3"}, name="bright")


def dense(num_classes):
    return Dense(num_classes)


def pictures(split):
    return Pictures(seed=("train", "val").index(split))


def floats(split):
    return Pictures("float", seed=("train", "val").index(split))


def scenes(split):
    return Scenes(seed=("train", "val").index(split))


def one_for_both():
    return Pictures()


def three():
    return 3
