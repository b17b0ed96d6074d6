"""The DEA protocol restated slowly, image by image and pixel by pixel, in NumPy where it can be."""

import numpy as np
import torch
from torch.nn.functional import interpolate


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=0))
    return powers / powers.sum(axis=0)


def probabilities(model, image):
    with torch.no_grad():
        return softmax(model(torch.as_tensor(image)[None])[0].double().numpy())


def fill(image, mask, kind):
    """`image` (C, H, W) with the pixels of `mask` (H, W) replaced."""
    filled = image.copy()
    for c in range(len(image)):
        kept = [image[c, y, x] for y, x in np.ndindex(*mask.shape) if not mask[y, x]]
        filled[c][mask] = 0 if kind == "zeros" or not kept else np.mean(kept)
    return filled


def top_pixels(values, fraction):
    """Mask of the most attributed pixels, for maps without ties."""
    height, width = values.shape
    assert len(np.unique(values)) == values.size
    positions = sorted(((y, x) for y in range(height) for x in range(width)), key=lambda p: -values[p])
    mask = np.zeros((height, width), dtype=bool)
    for position in positions[: int(np.floor(fraction * height * width + 0.5))]:
        mask[position] = True
    return mask


def drops(model, image, region, c, values, fractions, kind):
    """(target, off-target) drop per fraction, for one image (C, H, W) and one map (H, W)."""
    whole = probabilities(model, image)
    predicted = whole.argmax(axis=0)
    found = []
    for fraction in fractions:
        after = probabilities(model, fill(image, top_pixels(values, fraction), kind))
        target = np.mean([whole[c, y, x] - after[c, y, x] for y, x in np.argwhere(region)])
        off = np.mean(
            [abs(whole[k, y, x] - after[k, y, x]) for y, x in np.argwhere(~region) for k in [predicted[y, x]]]
        )
        found.append((target, off))
    return np.array(found).T


def insertion(model, image, region, c, values, fractions, kind):
    """s_R per fraction when only the most attributed pixels are kept."""
    return np.array(
        [
            probabilities(model, fill(image, ~top_pixels(values, fraction), kind))[c][region].mean()
            for fraction in fractions
        ]
    )


def region_logit(model, image, region, c):
    """Mean logit of class c over the region, at image size."""
    return model(image[None])[0, c][region].mean()


def intervention(score, image, grid):
    """Scaled positive drop of `score(image)` per cell of a grid that divides the image, (H, W)."""
    height, width = image.shape[-2] // grid, image.shape[-1] // grid
    drop = torch.zeros(image.shape[-2:])
    with torch.no_grad():
        for row in range(grid):
            for col in range(grid):
                cell = (slice(row * height, (row + 1) * height), slice(col * width, (col + 1) * width))
                without = image.clone()
                without[:, cell[0], cell[1]] = 0
                drop[cell] = max(0.0, float(score(image) - score(without)))
    return drop / drop.max() if drop.max() > 0 else drop


def gradient_evidence(kind, features, score_of_features, image):
    """GPA or EGA map of one image at `features`, ReLU'd, not scaled: (h, w)."""
    activations = features(image[None]).detach().requires_grad_(True)
    (gradients,) = torch.autograd.grad(score_of_features(activations), activations)
    total = torch.zeros(activations.shape[-2:])
    for channel in range(activations.shape[1]):
        weight = gradients[0, channel].mean() if kind == "gpa" else gradients[0, channel]
        total += weight * activations[0, channel].detach()
    return total.clamp(min=0)


def dual_evidence(gradients, drops, weight):
    """The fusion of a gradient map (h, w) with an intervention map (H, W)."""
    g = interpolate(gradients[None, None], size=drops.shape, mode="bilinear", align_corners=False)[0, 0]
    g = g / g.max() if g.max() > 0 else g
    fused = drops + weight * (1 - (g - drops).abs()) * g
    return fused / fused.max() if fused.max() > 0 else fused
