"""Occlusion and RISE for one image, one window or mask at a time."""

import math

import torch
from skimage.transform import resize


def occlusion(model, image, target, kernel, stride):
    _, height, width = image.shape
    total, count = torch.zeros(height, width), torch.zeros(height, width)
    whole = float(model(image[None])[0, target])
    top = 0
    while True:
        left = 0
        while True:
            hidden = image.clone()
            hidden[:, top : top + kernel, left : left + kernel] = 0
            total[top : top + kernel, left : left + kernel] += whole - float(model(hidden[None])[0, target])
            count[top : top + kernel, left : left + kernel] += 1
            if left + kernel >= width:
                break
            left += stride
        if top + kernel >= height:
            break
        top += stride
    return total / count


def rise_mask(grid, shift, height, width):
    """Section 3.2 of the paper: h × w cells, brought to (h+1)·C_H × (w+1)·C_W bilinearly, cut at random."""
    cells = len(grid)
    cell = math.ceil(height / cells), math.ceil(width / cells)
    large = torch.nn.functional.interpolate(
        grid[None, None], ((cells + 1) * cell[0], (cells + 1) * cell[1]), mode="bilinear", align_corners=False
    )[0, 0]
    top, left = (int(float(s) * (c + 1)) for s, c in zip(shift, cell, strict=True))
    return large[top : top + height, left : left + width]


def published_rise_mask(grid, corner, height, width):
    """The paper's code: skimage's `resize` with mode `reflect`, cut at a corner in 0 … cell − 1."""
    cells = len(grid)
    cell = math.ceil(height / cells), math.ceil(width / cells)
    large = resize(
        grid.numpy(), ((cells + 1) * cell[0], (cells + 1) * cell[1]), order=1, mode="reflect", anti_aliasing=False
    )
    return torch.from_numpy(large)[corner[0] : corner[0] + height, corner[1] : corner[1] + width]


def published_rise(model, image, target, masks, fill, probability):
    """Σ of score × mask, divided by the number of masks and the probability that a cell is kept."""
    total = torch.zeros_like(image[0])
    for mask in masks:
        logits = model((image * mask + fill * (1 - mask))[None])[0]
        total += torch.exp(logits[target]) / torch.exp(logits).sum() * mask
    return total / len(masks) / probability


def rise(model, image, target, masks, fill, softmax):
    total, covered = torch.zeros(image.shape[-2:]), torch.zeros(image.shape[-2:])
    for mask in masks:
        logits = model((image * mask + fill * (1 - mask))[None])[0]
        score = float(logits.softmax(0)[target] if softmax else logits[target])
        total += score * mask
        covered += mask
    return total / covered
