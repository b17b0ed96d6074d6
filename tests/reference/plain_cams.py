"""The CAM papers' formulas for one image, in plain loops over channels and positions."""

import math

import torch


def feature_maps(features, head, image, target):
    """A (C, h, w), its gradient, and the target logit."""
    maps = features(image[None])[0].detach().requires_grad_(True)
    logit = head(maps[None])[0, target]
    (gradients,) = torch.autograd.grad(logit, maps)
    return maps.detach(), gradients, float(logit.detach())


def weighted_sum(weights, maps):
    cam = torch.zeros_like(maps[0])
    for weight, feature_map in zip(weights, maps, strict=True):
        cam += weight * feature_map
    return cam


def grad_cam(features, head, image, target):
    maps, gradients, _ = feature_maps(features, head, image, target)
    return weighted_sum([float(g.sum()) / g.numel() for g in gradients], maps)


def plus_plus_weights(maps, first, second, third):
    """Σ over positions of α · relu(first), with α = second / (2 second + ΣA third)."""
    weights = []
    for k in range(len(maps)):
        total = float(maps[k].double().sum())
        weight = 0.0
        for g1, g2, g3 in zip(first[k].flatten(), second[k].flatten(), third[k].flatten(), strict=True):
            below = 2 * float(g2) + total * float(g3)
            weight += float(g2) / below * max(float(g1), 0.0) if below else 0.0
        weights.append(weight)
    return weights


def grad_cam_plus_plus(features, head, image, target):
    maps, gradients, logit = feature_maps(features, head, image, target)
    # Y = exp(S): its n-th derivative is exp(S) gⁿ where the second derivatives of S vanish
    powers = [math.exp(logit) * gradients.double() ** n for n in (1, 2, 3)]
    return weighted_sum(plus_plus_weights(maps, *powers), maps)


def smooth_grad_cam_plus_plus(features, head, image, target, noises):
    maps, _, _ = feature_maps(features, head, image, target)
    powers = [torch.zeros_like(maps, dtype=torch.float64) for _ in range(3)]
    for noise in noises:
        _, gradients, _ = feature_maps(features, head, image + noise, target)
        for n in range(3):
            powers[n] += gradients.double() ** (n + 1) / len(noises)
    return weighted_sum(plus_plus_weights(maps, *powers), maps)


def torchcam_plus_plus(features, head, image, target):
    """torchcam's Grad-CAM++: g² is divided in a copy that is thrown away, so the weight is Σ g²·relu(g)."""
    maps, gradients, _ = feature_maps(features, head, image, target)
    return weighted_sum([sum(float(g) ** 2 * max(float(g), 0.0) for g in gs.flatten()) for gs in gradients], maps)


def torchcam_smooth_plus_plus(features, head, image, target, noises):
    """torchcam's Smooth Grad-CAM++: Σ(mean g³ · A) in the denominator, the last sample's own gradient."""
    maps, _, _ = feature_maps(features, head, image, target)
    second, third = torch.zeros_like(maps), torch.zeros_like(maps)
    for noise in noises:
        _, gradients, _ = feature_maps(features, head, image + noise, target)
        second += gradients**2 / len(noises)
        third += gradients**3 / len(noises)
    weights = []
    for k in range(len(maps)):
        total = sum(float(g3) * float(a) for g3, a in zip(third[k].flatten(), maps[k].flatten(), strict=True))
        weights.append(
            sum(
                float(g2) / (2 * float(g2) + total + 1e-8) * max(float(g), 0.0)
                for g2, g in zip(second[k].flatten(), gradients[k].flatten(), strict=True)
            )
        )
    return weighted_sum(weights, maps)


def x_grad_cam(features, head, image, target):
    maps, gradients, _ = feature_maps(features, head, image, target)
    weights = []
    for a, g in zip(maps, gradients, strict=True):
        total = float(a.sum())
        weights.append(
            sum(float(x) * float(y) / total for x, y in zip(a.flatten(), g.flatten(), strict=True)) if total else 0.0
        )
    return weighted_sum(weights, maps)


def layer_cam(features, head, image, target):
    maps, gradients, _ = feature_maps(features, head, image, target)
    cam = torch.zeros_like(maps[0])
    for a, g in zip(maps, gradients, strict=True):
        for row in range(a.shape[0]):
            for col in range(a.shape[1]):
                cam[row, col] += a[row, col] * max(float(g[row, col]), 0.0)
    return cam


def ablation_cam(features, head, image, target):
    maps, _, logit = feature_maps(features, head, image, target)
    weights = []
    for k in range(len(maps)):
        without = maps.clone()
        without[k] = 0
        weights.append((logit - float(head(without[None])[0, target].detach())) / logit)
    return weighted_sum(weights, maps)


def score_cam(features, head, image, target):
    maps, _, _ = feature_maps(features, head, image, target)
    baseline = float(head(features(torch.zeros_like(image)[None]))[0, target].detach())
    scores = []
    for feature_map in maps:
        mask = torch.nn.functional.interpolate(feature_map[None, None], image.shape[-2:], mode="bilinear")[0, 0]
        if mask.max() == mask.min():
            scores.append(None)
            continue
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        scores.append(float(head(features((image * mask)[None]))[0, target].detach()) - baseline)
    total = sum(math.exp(score) for score in scores if score is not None)
    return weighted_sum([0.0 if score is None else math.exp(score) / total for score in scores], maps)


def score_cam_of_classes(features, head, image, target):
    """As in Rao et al.'s code: the weight is the target's softmax probability under the channel's own mask."""
    maps, _, _ = feature_maps(features, head, image, target)
    weights = []
    for feature_map in maps:
        mask = torch.nn.functional.interpolate(feature_map[None, None], image.shape[-2:], mode="bilinear")[0, 0]
        flat = bool(mask.max() == mask.min())  # 0 / 0 in the code
        mask = mask if flat else (mask - mask.min()) / (mask.max() - mask.min())
        logits = head(features((image * mask)[None]))[0].detach().tolist()
        weights.append(0.0 if flat else math.exp(logits[target]) / sum(math.exp(logit) for logit in logits))
    return weighted_sum(weights, maps)
