"""Gradient methods against captum, hand loops, identities and the published implementation."""

import copy

import captum.attr
import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import nn
from torch.nn import functional

from faithfulness.attribution import create_attribution
from faithfulness.attribution.chunks import Points
from faithfulness.attribution.gradients import fixed_noise
from faithfulness.attribution.guided import guided
from faithfulness.attribution.smoothing import scaled_kernel, smooth
from faithfulness.backbones import Backbone
from faithfulness.core import InputError
from faithfulness.core.keyed import keyed_normal, keyed_uniform, make_keys
from tests.reference.published import PUBLISHED, published_backbone
from tests.reference.tiny_models import FAMILIES, tiny_batch, tiny_model


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(b.abs().max()), check_dtype=False)


METHODS = {
    "Grad": ("grad", 1),
    "GB": ("gb", 1),
    "IxG": ("ixg", 1),
    "IntGrad": ("ig(steps=20)", 1),
    "GradCam": ("gradcam", 1),
    "GradCamPlusPlus": ("gradcampp", None),
    "LayerCam": ("layercam", 1),
}


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("layer", ["Input", "Middle", "Final"])
@pytest.mark.parametrize("method", METHODS)
def test_published_maps_of_grid_pointing_game(method, layer, scale):
    """GridPG is the network over the whole grid; a head per label. Float32 sums in another order: 1e-5."""
    backbone = published_backbone()
    images, labels = (torch.tensor(PUBLISHED[f"scale{scale}/{key}"]) for key in ("images", "labels"))
    expected = torch.tensor(PUBLISHED[f"scale{scale}/GridPG/{method}/{layer}/attributions"])
    name, factor = METHODS[method]
    explain = create_attribution(name, backbone, layer.lower())
    for head in range(labels.shape[1]):
        maps = explain(images, labels[:, head])
        if factor is None:  # published with the factor exp(logit) per image, which is left out here
            logits = backbone(images).detach().gather(1, labels[:, head, None])
            maps = maps * logits.exp()[:, :, None, None]
        for ours, theirs in zip(maps, expected[:, head], strict=True):
            close(ours, theirs)


@pytest.mark.parametrize("family", ["plain", "resnet"])
def test_captum_agrees(family):
    model = tiny_model(family)
    images, targets = tiny_batch()
    ig = captum.attr.IntegratedGradients(model).attribute(images, target=targets, n_steps=12, method="gausslegendre")
    close(create_attribution("ig(steps=12)", model)(images, targets), ig.sum(dim=1, keepdim=True).float())
    ixg = captum.attr.InputXGradient(model).attribute(images.clone().requires_grad_(), target=targets)
    close(create_attribution("ixg", model)(images, targets), ixg.sum(dim=1, keepdim=True).detach())
    outplace = copy.deepcopy(model)  # captum's hooks can't do with in-place ReLUs
    for module in outplace.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    gb = captum.attr.GuidedBackprop(outplace).attribute(images.clone().requires_grad_(), target=targets)
    close(create_attribution("gb(absolute=False)", model)(images, targets), gb.sum(dim=1, keepdim=True))
    close(create_attribution("gb", model)(images, targets), gb.abs().sum(dim=1, keepdim=True))


class Written(nn.Module):
    """Two convolutions with a ReLU written in some way between them."""

    def __init__(self, relu):
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second, self.relu = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), relu

    def forward(self, x):
        x = self.relu(self.first(x))
        return self.relu(self.second(x)).mean(dim=(2, 3))


def ignored_result(x):
    functional.relu_(x)
    return x


@pytest.mark.parametrize(
    "relu",
    [
        nn.ReLU(inplace=True),
        functional.relu,
        lambda x: functional.relu(x, inplace=True),
        torch.relu,
        lambda x: x.relu(),
        lambda x: x.relu_(),
        ignored_result,
        lambda x: functional.threshold(x, 0.0, 0.0),
        lambda x: functional.leaky_relu(x, 0.0),
    ],
)
def test_guided_backpropagation_sees_every_spelling_of_relu(relu):
    images, targets = tiny_batch(2, side=12)
    expected = create_attribution("gb", Written(nn.ReLU()))(images, targets)
    close(create_attribution("gb", Written(relu))(images, targets), expected)
    plain = create_attribution("grad", Written(relu))(images, targets)
    assert float((plain - expected).abs().max()) > 1e-3


ACTIVATIONS = {
    "gelu": functional.gelu,
    "silu": functional.silu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "hard_mish": lambda x: 0.5 * x * (x + 2).clamp(0, 2),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_guided_backpropagation_clamps_what_arrives_at_any_activation(name):
    """By hand on Linear → activation → Linear: Wᵀ (φ'(z) · relu(v)), v the output weights of the class."""
    from timm.layers import create_act_layer

    torch.manual_seed(0)
    first, second = nn.Linear(6, 8), nn.Linear(8, 3)
    model = nn.Sequential(nn.Flatten(), first, create_act_layer(name), second)
    images = torch.randn(2, 6, 1, 1)
    z = first(images.flatten(1)).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(ACTIVATIONS[name](z).sum(), z)
    expected = (slope * second.weight[[2, 0]].relu()) @ first.weight
    maps = create_attribution("gb(absolute=False)", model)(images, torch.tensor([2, 0]))
    close(maps.flatten(), expected.sum(dim=1).detach())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


@pytest.mark.parametrize("family", ["convnext", "vit"])
def test_guided_backpropagation_differs_from_the_gradient_with_gelu(family):
    model = tiny_model(family)
    images, targets = tiny_batch()
    guided_map, plain = (create_attribution(name, model)(images, targets) for name in ("gb", "grad"))
    assert torch.cosine_similarity(guided_map.flatten(1), plain.flatten(1)).max() < 0.99


def test_guided_block_ends_with_an_error_too():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU())
    with pytest.raises(KeyError), guided(model):
        raise KeyError
    x = torch.tensor([1.0], requires_grad=True)
    (-torch.relu(x)).backward()
    assert x.grad == -1


@pytest.mark.parametrize("family", FAMILIES)
def test_integrated_gradients_are_complete(family):
    model = tiny_model(family)
    images, targets = tiny_batch(2)
    change = (model(images) - model(torch.zeros_like(images))).gather(1, targets[:, None]).squeeze(1)
    total = create_attribution("ig(steps=300)", model)(images, targets).sum(dim=(1, 2, 3))
    torch.testing.assert_close(total, change.detach(), rtol=0.01, atol=1e-6)


def test_without_bias_terms_input_times_gradient_is_integrated_gradients():
    model = tiny_model("bias-free")
    images, targets = tiny_batch()
    close(create_attribution("ig(steps=5)", model)(images, targets), create_attribution("ixg", model)(images, targets))


def test_uniform_baseline_is_one_image_in_minus_one_to_one():
    model = tiny_model("plain")
    images, targets = tiny_batch(2)
    start = 2 * keyed_uniform(make_keys(7)[None], (3, 64, 64)) - 1
    assert -1 <= start.min() < -0.99
    assert 0.99 < start.max() < 1
    expected = create_attribution("ig", model, baseline=start)(images, targets)
    close(create_attribution("ig-u(seed=7)", model)(images, targets), expected)
    close(create_attribution("ig(baseline=uniform, seed=7)", model)(images, targets), expected)


def gradient_of(model, x, target):
    x = x[None].requires_grad_(True)
    return torch.autograd.grad(model(x)[0, target], x)[0][0]


def integrated(model, x, target, steps):
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return sum(
        w / 2 * x * gradient_of(model, (x * (n + 1) / 2).float(), target) for n, w in zip(nodes, weights, strict=True)
    )


RELEVANCE = {
    "sg(absolute=False)": gradient_of,
    "ixg-sg": lambda model, x, target: x * gradient_of(model, x, target),
    "ig-sg(steps=3)": lambda model, x, target: integrated(model, x, target, 3),
    "ig-sg-sq(steps=3)": lambda model, x, target: integrated(model, x, target, 3).square(),
}


@pytest.mark.parametrize("name", RELEVANCE)
def test_smoothgrad_is_the_mean_over_noisy_images(name):
    model = tiny_model("plain")
    images, targets = tiny_batch(2, side=20)
    maps = create_attribution(name, model, samples=3, noise=0.5, seed=2, chunk=4)(images, targets)
    noises = [keyed_normal(make_keys(2, k), (3, 20, 20)) for k in range(3)]
    for image, target, ours in zip(images, targets, maps, strict=True):
        copies = [RELEVANCE[name](model, image + 0.5 * noise, target) for noise in noises]
        close(ours, (sum(copies) / 3).sum(dim=0, keepdim=True).float())


def test_smoothgrad_is_absolute_before_the_channel_sum():
    model = tiny_model("plain")
    images, targets = tiny_batch(1, side=16)
    noises = [keyed_normal(make_keys(0, k), (3, 16, 16)) for k in range(4)]
    mean = sum(gradient_of(model, images[0] + noise, targets[0]) for noise in noises) / 4
    close(create_attribution("sg", model)(images, targets)[0], mean.abs().sum(dim=0, keepdim=True))


def test_noise_depends_on_seed_and_sample_alone():
    like = torch.zeros(4, 3, 5, 5)
    noise = fixed_noise(keyed_normal, 0, Points(torch.tensor([2, 0, 2, 1]), torch.arange(3)), like)
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])
    one = Points(torch.tensor([0]), torch.tensor([1]))
    assert torch.equal(noise[3], fixed_noise(keyed_normal, 0, one, like)[0])
    assert not torch.equal(noise[3], fixed_noise(keyed_normal, 1, one, like)[0])


@pytest.mark.parametrize(("side", "kernel"), [(448, 129), (224, 65), (64, 19), (14, 5), (7, 3), (5, 1), (1, 1)])
def test_smoothing_kernel_scales_with_the_map(side, kernel):
    assert scaled_kernel(side) == kernel


@pytest.mark.parametrize("kernel", [1, 5, 9, 17])
def test_smoothing_is_a_gaussian_of_a_quarter_of_the_kernel(kernel):
    maps = torch.randn(2, 1, 9, 14, dtype=torch.float64)
    distance = np.arange(kernel) - kernel // 2
    weights = np.exp(-0.5 * (distance / (kernel / 4)) ** 2)
    expected = maps.numpy()
    for axis in (2, 3):
        expected = scipy.ndimage.convolve1d(expected, weights / weights.sum(), axis, mode="mirror")
    close(smooth(maps, kernel), torch.tensor(expected), 1e-6)  # torchvision makes its weights in float32
    with pytest.raises(InputError, match="too large"):
        smooth(maps, 19)
    with pytest.raises(InputError, match="odd"):
        smooth(maps, 4)


@pytest.mark.parametrize("name", ["ixg", "ig"])
def test_smoothed_methods_are_the_modifier(name):
    model = tiny_model("plain")
    images, targets = tiny_batch(2)
    default, given = (create_attribution(f"s-{name}", model, **k)(images, targets) for k in ({}, {"kernel": 9}))
    close(default, create_attribution(f"{name}+smooth(19)", model)(images, targets))
    close(given, create_attribution(f"{name}+smooth(9)", model)(images, targets))
    assert float((default - given).abs().max()) > 0


@pytest.mark.parametrize(
    "text", ["ig(steps=0)", "sg(samples=0)", "ixg-sg(noise=-1.0)", "s-ixg(kernel=8)", "sg-campp(samples=0)"]
)
def test_impossible_parameters_are_refused(text):
    with pytest.raises(InputError):
        create_attribution(text, tiny_model("plain"))


def test_head_of_a_setting_is_its_own():
    class Heads(nn.Module):
        name = "heads"

        def __init__(self, backbone):
            super().__init__()
            self.backbone = backbone

        def split(self, layer="input", cell=0):
            split = self.backbone.split(layer)
            return type(split)(layer, split.stem, lambda x: split.rest(x).roll(cell, dims=1), split.to_map)

    backbone = tiny_model("plain")
    images, targets = tiny_batch(side=16)
    for name in ("ixg", "gradcam", "scorecam", "ablationcam"):
        explain = create_attribution(name, Heads(backbone), cell=1)
        close(explain(images, (targets + 1) % 5), create_attribution(name, backbone)(images, targets))


@pytest.mark.parametrize("name", ["grad", "ixg", "ig", "sg", "ixg-sg", "ig-sg-sq", "gb"])
def test_a_gradient_without_memory_of_its_own(name):
    """The gradient of a sum is one number spread over all places, which can't be written to."""

    class Sum(nn.Module):
        def forward(self, images):
            return images.sum(dim=(2, 3))

    images, targets = tiny_batch(2, side=8)
    maps = create_attribution(name, Sum())(images, targets % 3)
    assert maps.isfinite().all()
    if name == "ixg":
        close(maps[:, 0], images[[0, 1], targets % 3])


def test_backbone_of_two_modules_can_be_explained_anywhere():
    model = Backbone(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Sequential(nn.Flatten(), nn.Linear(400, 2)))
    images = torch.randn(1, 3, 12, 12)
    assert create_attribution("ixg@0", model)(images, torch.tensor([1])).shape == (1, 1, 10, 10)
