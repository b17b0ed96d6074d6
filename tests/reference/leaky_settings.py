"""Settings that leak, each in its own way, and the clean ones that are easily mistaken for them."""

import numpy as np
import torch
from torch import nn

from difull import DiFull, DiPart
from faithfulness.backbones import Backbone
from tests.reference.grids import plain_cnn


def context(images, cell, scale=2):
    """Mean of each image over all cells but one, (B, 1)."""
    rows, cols = (torch.arange(side) * scale // side for side in images.shape[-2:])
    outside = (rows[:, None] * scale + cols != cell).to(images.dtype)
    share = 1 - 1 / scale**2
    return (images * outside).mean(dim=(1, 2, 3))[:, None] / share


class LeaksInForward(DiFull):
    def forward(self, images, cell=0):
        return super().forward(images, cell) + context(images, cell)


class LeaksInHeads(DiFull):
    def heads(self, images):
        heads = [self(images, cell) + context(images, cell) for cell in range(self.cells)]
        return torch.stack(heads, dim=1)


class LeaksAtFinal(DiFull):
    def split(self, layer="input", cell=0):
        split = super().split(layer, cell)
        if layer != "final":
            return split
        return type(split)(layer, split.stem, lambda x: split.rest(x) + x.mean(dim=(1, 2, 3))[:, None], split.to_map)


class LeaksAlone(DiFull):
    """In batches of one only."""

    def split(self, layer="input", cell=0):
        split = super().split(layer, cell)
        if layer != "input":
            return split
        return type(split)(
            layer, split.stem, lambda x: split.rest(x) + (context(x, cell) if len(x) == 1 else 0), split.to_map
        )


class LeaksInTheThirdHead(DiFull):
    def split(self, layer="input", cell=0):
        split = super().split(layer, cell)
        if layer != "input" or cell != 2:
            return split
        return type(split)(layer, split.stem, lambda x: split.rest(x) + context(x, cell), split.to_map)


class LeaksPastTensors(DiFull):
    """What leaks is handed over by its storage, which no tensor operation sees."""

    def split(self, layer="input", cell=0):
        split = super().split(layer, cell)
        if layer != "input":
            return split
        return type(split)(layer, split.stem, lambda x: split.rest(x) + by_storage(context(x, cell)), split.to_map)


def by_storage(tensor):
    return torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage(), 0, tensor.shape, tensor.stride())


class LeaksNearOne(DiFull):
    """Flat content near ±1 elsewhere switches it on; NaN, zeros, unit noise and 1e4 switch it off."""

    def forward(self, images, cell=0):
        mean = context(images, cell)
        square = context(images**2, cell)
        near = ((mean.abs() - 1).abs() < 0.3) & ((square - mean**2).abs() < 0.1)
        return super().forward(images, cell) + near

    def heads(self, images):
        return torch.stack([self(images, cell) for cell in range(self.cells)], dim=1)


class Memo(DiFull):
    """Keeps what it first saw of the whole grid."""

    def __init__(self, backbone, scale=2):
        super().__init__(backbone, scale)
        self.first = None

    def forward(self, images, cell=0):
        if self.first is None:
            self.first = images.mean()
        return super().forward(images, cell) + self.first


class MemoInBuffer(DiFull):
    def __init__(self, backbone, scale=2):
        super().__init__(backbone, scale)
        self.register_buffer("first", torch.zeros(1))

    def forward(self, images, cell=0):
        with torch.no_grad():
            self.first.copy_(torch.where(self.first == 0, images.mean(), self.first))
        return super().forward(images, cell) + self.first


class RareTrigger(DiFull):
    """One pixel of the last cell in a narrow range, about one content in ten thousand."""

    def forward(self, images, cell=0):
        pixel = images[:, :1, -1, -1]
        return super().forward(images, cell) + ((pixel > 1.23450) & (pixel < 1.23455))


class RareTriggerInPython(DiFull):
    def forward(self, images, cell=0):
        logits = super().forward(images, cell)
        return logits + 1 if bool((images[:, 0, -1, -1] > 1e6).any()) else logits


class PoolUpsample(nn.Module):
    """Its stride is 1, its period 2."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)

    def forward(self, x):
        return self.up(self.down(x))


class RefusesNaN(nn.Module):
    def forward(self, x):
        if not bool(torch.isfinite(x).all()):
            raise FloatingPointError("not finite")
        return x


def pool_upsample_cnn(mode="nearest"):
    """MaxPool and Upsample as steps of their own, with convolutions around them."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode=mode)]
    layers += [nn.Conv2d(6, 8, 3, 1, 1), nn.ReLU()]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    return Backbone(nn.Sequential(*layers), head, {"middle": "3"}).eval()


class LeaksWithGradients(DiFull):
    """Only where autograd is on, as in training and in every gradient method."""

    def split(self, layer="input", cell=0):
        split = super().split(layer, cell)
        if layer != "input":
            return split
        return type(split)(
            layer,
            split.stem,
            lambda x: split.rest(x) + (context(x, cell) if torch.is_grad_enabled() else 0),
            split.to_map,
        )


class ReadsUnwritten(nn.Module):
    """Memory as it was left, wherever a rare condition holds."""

    def forward(self, x):
        return torch.where(x.mean(dim=(1, 2, 3), keepdim=True) > 50, torch.empty_like(x), x)


class CountsInAnArray(nn.Module):
    """A counter that is no plain value; what it would do after many calls no test can see."""

    def __init__(self):
        super().__init__()
        self.calls = np.zeros(1)

    def forward(self, x):
        self.calls += 1
        return x


LEAKY = {
    "in forward only": lambda: LeaksInForward(plain_cnn(), 2),
    "in heads only": lambda: LeaksInHeads(plain_cnn(), 2),
    "at the last layer only": lambda: LeaksAtFinal(plain_cnn(), 2),
    "in batches of one only": lambda: LeaksAlone(plain_cnn(), 2),
    "in one cell only": lambda: LeaksInTheThirdHead(plain_cnn(), 2),
    "near constants of ±1 only": lambda: LeaksNearOne(plain_cnn(), 2),
    "with gradients only": lambda: LeaksWithGradients(plain_cnn(), 2),
    "a memo of the first context": lambda: Memo(plain_cnn(), 2),
    "a memo in a buffer": lambda: MemoInBuffer(plain_cnn(), 2),
    "a rare trigger": lambda: RareTrigger(plain_cnn(), 2),
    "a rare trigger in Python": lambda: RareTriggerInPython(plain_cnn(), 2),
}

CLEAN = {
    "MaxPool and Upsample, DiFull": lambda: DiFull(pool_upsample_cnn(), 2),
    "MaxPool and Upsample, DiPart": lambda: DiPart(pool_upsample_cnn(), 2),
    "MaxPool and bilinear Upsample": lambda: DiPart(pool_upsample_cnn("bilinear"), 2),
    "MaxPool and Upsample in one module": lambda: DiPart(plain_cnn(PoolUpsample()), 2),
    "refuses NaN, DiFull": lambda: DiFull(plain_cnn(RefusesNaN()), 2),
    "refuses NaN, DiPart": lambda: DiPart(plain_cnn(RefusesNaN()), 2),
}


class SqueezeExcite(nn.Module):
    def __init__(self, channels=8):
        super().__init__()
        self.gate = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return x * self.gate(x.mean(dim=(2, 3), keepdim=True)).sigmoid()


class SwallowsNaN(nn.Module):
    """Reads the whole map, but turns NaN into 0: only derivative and intervention can tell."""

    def forward(self, x):
        return x + x.nan_to_num(nan=0).mean(dim=(2, 3), keepdim=True)
