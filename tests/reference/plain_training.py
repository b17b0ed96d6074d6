"""Fine-tuning as a plain loop over whole batches: loss, gradient, norm, step and average by hand."""

import copy

import pandas as pd
import torch
from torch import nn


def recorded(out, epoch=0):
    """The samples of an epoch in their order, with their cells."""
    return pd.read_parquet(out / "deletions" / f"epoch{epoch:03d}-rank0.parquet")[["index", "cell"]]


def train_plainly(net, data, order, batch, *, lr, momentum=0.9, decay=1e-4, clip=None, ema=None, left_out=()):
    """SGD over one epoch of normalized images whose cell of a 2×2 grid is set to 0.

    Args:
        order: table of index and cell, whole batches in succession.
        left_out: samples that can't be read; the others of their batch count in their place.
    Returns:
        The network after the last step, its average, and the mean loss over the images.
    """
    net = copy.deepcopy(net).train()
    velocity = [torch.zeros_like(weight) for weight in net.parameters()]
    average, losses = None, []
    for start in range(0, len(order), batch):
        images, labels = [], []
        for index, cell in order[start : start + batch].itertuples(index=False):
            if index not in left_out:
                image, label = data[index]
                half = image.shape[-1] // 2
                row, column = divmod(cell, 2)
                if cell >= 0:
                    image = image.clone()
                    image[:, row * half : (row + 1) * half, column * half : (column + 1) * half] = 0
                images.append(image)
                labels.append(label)
        net.zero_grad()
        each = nn.functional.cross_entropy(net(torch.stack(images)), torch.tensor(labels), reduction="none")
        each.mean().backward()
        losses += each.tolist()
        with torch.no_grad():
            norm = sum(float(weight.grad.double().square().sum()) for weight in net.parameters()) ** 0.5
            shorter = min(1.0, clip / norm) if clip else 1.0
            for weight, speed in zip(net.parameters(), velocity, strict=True):
                speed.mul_(momentum).add_(weight.grad * shorter + decay * weight)
                weight.sub_(lr * speed)
        now = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        old = average or now
        share = ema or 0.0
        average = {
            name: share * old[name] + (1 - share) * tensor if tensor.is_floating_point() else tensor
            for name, tensor in now.items()
        }
    return net.state_dict(), average, sum(losses) / len(losses)
