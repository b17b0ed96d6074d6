"""Small changes of an image that should leave its explanation as it is.

The paper names the five kinds; their strengths are this suite's own, in units of normalized images
(a standard deviation of the data set is 1).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from faithfulness.core.errors import InputError
from faithfulness.core.keyed import content_keys, keyed_normal, make_keys

NOISE, BRIGHTNESS, CONTRAST = 0.1, 0.2, 0.8
BLUR_KERNEL, BLUR_SIGMA = 5, 1.0


def add_noise(images: Tensor, seed: int) -> Tensor:
    """Gaussian noise of standard deviation 0.1, drawn from (seed, image)."""
    keys = make_keys(seed, content_keys(images))
    return images + NOISE * keyed_normal(keys, tuple(images.shape[1:])).to(images.dtype)


def brighten(images: Tensor, seed: int) -> Tensor:
    """0.2 brighter in every channel."""
    return images + BRIGHTNESS


def lower_contrast(images: Tensor, seed: int) -> Tensor:
    """Each channel drawn 20 % closer to its mean over the image."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return mean + CONTRAST * (images - mean)


def blur(images: Tensor, seed: int) -> Tensor:
    """Gaussian blur, kernel 5, σ 1 pixel."""
    if min(images.shape[-2:]) <= BLUR_KERNEL // 2:
        raise InputError(f"blur needs images over {BLUR_KERNEL // 2} px, got {tuple(images.shape[-2:])}")
    return gaussian_blur(images, [BLUR_KERNEL, BLUR_KERNEL], [BLUR_SIGMA, BLUR_SIGMA])


def flip(images: Tensor, seed: int) -> Tensor:
    """Left and right swapped."""
    return images.flip(-1)


PERTURBATIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "noise": add_noise,
    "brightness": brighten,
    "contrast": lower_contrast,
    "blur": blur,
    "flip": flip,
}
"""Name -> perturb(images (B, C, H, W), seed) -> same shape."""
