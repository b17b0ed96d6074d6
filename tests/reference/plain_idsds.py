"""IDSDS, one image and one cell at a time, as the paper says it (Hesse et al. 2024)."""

import numpy as np
import torch
from scipy.stats import spearmanr


def plain_delete(image, cell, rows, cols, value=0.0):
    """A copy of image (C, H, W) with one cell set to a value."""
    image = image.clone()
    height, width = image.shape[1] // rows, image.shape[2] // cols
    top, left = (cell // cols) * height, (cell % cols) * width
    image[:, top : top + height, left : left + width] = value
    return image


def plain_drops(model, images, targets, rows, cols):
    """Logit drops (B, rows·cols), one forward pass per image and cell."""
    drops = np.zeros((len(images), rows * cols))
    with torch.no_grad():
        for b, (image, target) in enumerate(zip(images, targets, strict=True)):
            whole = model(image[None])[0, target]
            for cell in range(rows * cols):
                drops[b, cell] = whole - model(plain_delete(image, cell, rows, cols)[None])[0, target]
    return drops


def plain_cell_sums(maps, rows, cols):
    """Attribution per cell (B, rows·cols), summed pixel by pixel."""
    batch, _, height, width = maps.shape
    sums = np.zeros((batch, rows * cols))
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                cell = (y * rows // height) * cols + x * cols // width
                sums[b, cell] += float(maps[b, :, y, x].double().sum())
    return sums


def plain_scores(drops, sums):
    """Spearman per image by SciPy; NaN for constant rows."""
    return np.array(
        [
            np.nan if np.ptp(d) == 0 or np.ptp(s) == 0 else spearmanr(d, s).statistic
            for d, s in zip(drops, sums, strict=True)
        ]
    )


def plain_incremental(model, image, target, values, steps, descending, ties):
    """Probabilities (steps,) of one image while its pixels, ordered by values (H, W), then `ties`, are zeroed."""
    order = np.lexsort((ties, -values.ravel() if descending else values.ravel()))
    probabilities = []
    for alpha in np.linspace(0, 1, steps, endpoint=False):
        shown = image.clone()
        for pixel in order[: int(alpha * len(order))]:
            shown[:, pixel // values.shape[1], pixel % values.shape[1]] = 0
        with torch.no_grad():
            probabilities.append(float(model(shown[None]).softmax(1)[0, target]))
    return np.array(probabilities)
