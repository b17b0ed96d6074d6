"""Gradients in half precision keep their small values, and methods rarely wait for the device."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from faithfulness.attribution import create_attribution, select_logits
from faithfulness.attribution.chunks import pair_chunks, point_chunks
from faithfulness.backbones import Backbone
from faithfulness.core import InputError
from tests.reference.tiny_models import tiny_batch, tiny_model


class Faint(nn.Module):
    """A network whose gradients become as small as `factor` on the way, and the logits not."""

    def __init__(self, factor):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.factor = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), factor

    def forward(self, images):
        features = self.conv(images).relu().mean(dim=(2, 3))
        return self.fc(self.factor * features)


def half(dtype):
    try:
        with torch.autocast("cpu", dtype):
            nn.functional.conv2d(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))
            nn.Linear(2, 2)(torch.zeros(1, 2, requires_grad=True)).sum().backward()
    except RuntimeError as error:
        pytest.skip(str(error))
    return torch.autocast("cpu", dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("factor", [1e-4, 1e-2, 1.0, 1e3])
def test_small_gradients_survive_half_precision(dtype, factor):
    images, targets = tiny_batch()
    model = Faint(factor).eval()
    for name in ("grad", "ixg", "ig(steps=3)", "ixg-sg(samples=2)", "gb", "lrp"):
        expected = create_attribution(name, model)(images, targets)
        with half(dtype):
            maps = create_attribution(name, model)(images, targets)
        assert maps.dtype == torch.float32
        error = (maps - expected).norm() / expected.norm()  # a ReLU at its kink is on in one, off in the other
        assert error < 0.06, f"{name} is off by {error:.2g}"
        small = (expected != 0) & (expected.abs() > 1e-3 * expected.abs().max())
        assert (maps[small] != 0).float().mean() > 0.99


@pytest.mark.parametrize("name", ["chefer", "gradcam-attention"])
def test_small_gradients_of_attention_survive_half_precision(name):
    images, targets = tiny_batch()
    model = tiny_model("vit")
    with torch.no_grad():
        for layer in (model.model.blocks[-1].attn.proj, model.model.head):
            layer.weight.mul_(1e-3)
    expected = create_attribution(name, model)(images, targets)
    with half(torch.float16):
        maps = create_attribution(name, model)(images, targets)
    assert (maps - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("name", ["edge", "random"])
def test_a_control_is_the_same_in_any_precision(name):
    images, targets = tiny_batch()
    for layer in ("input", "final"):
        control = create_attribution(name, tiny_model("resnet"), layer)
        expected = control(images, targets)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(control(images, targets), expected)


def test_an_image_with_large_gradients_does_not_change_its_neighbors():
    class Steep(nn.Module):
        def forward(self, images):
            half = images.half()
            return (half * half * half).float().mean(dim=(2, 3)) * 1e2

    images = torch.ones(2, 3, 4, 4)
    images[1] = 30
    targets = torch.tensor([0, 1])
    model = Backbone(nn.Sequential(nn.Identity()), Steep())
    model.half()
    explain = create_attribution("grad", model)
    maps = explain(images, targets)
    assert maps.isfinite().all()
    for i in range(2):
        assert torch.equal(explain(images[i : i + 1], targets[i : i + 1]), maps[i : i + 1])
    assert torch.allclose(maps[:, 0, 0, 0], 3 * images[:, 0, 0, 0] ** 2 * 1e2 / 16, rtol=2e-3)


class Waits(TorchDispatchMode):
    """Counts the operations that wait for the device: their result, or its size, is needed on the host."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        waits = ("_local_scalar_dense", "unique", "nonzero", "is_nonzero", "equal.default", "masked_select")
        self.count += any(word in name for word in waits)
        if "index.Tensor" in name:  # by a mask: how many it picks isn't known before
            self.count += any(index is not None and index.dtype == torch.bool for index in args[1])
        return func(*args, **(kwargs or {}))


METHODS = [
    *("grad", "ixg", "ig(steps=6)", "sg(samples=6)", "ig-sg(samples=2, steps=3)", "gradcam", "gradcampp"),
    *("sg-campp(samples=6)", "rise(masks=12)", "rise-u(masks=12)", "scorecam", "occlusion(kernel=32, stride=16)"),
]


@pytest.mark.parametrize("text", METHODS)
def test_a_method_does_not_wait_for_every_sub_batch(text):
    model, (images, targets) = tiny_model("resnet"), tiny_batch()
    counts = []
    for chunk in (2, 1000):
        explain = create_attribution(text, model, chunk=chunk)
        with Waits() as waits:
            explain(images, targets)
        counts.append(waits.count)
    assert counts[0] == counts[1] <= 2


def test_a_wrong_target_is_still_refused_before_it_is_used():
    model, (images, targets) = tiny_model("resnet"), tiny_batch()
    for wrong in (-1, 5):
        targets[1] = wrong
        with pytest.raises(InputError, match=r"targets must lie in 0 … 4"):
            create_attribution("ixg", model, chunk=1)(images, targets)
        with pytest.raises(InputError, match=r"targets must lie in 0 … 4"):
            select_logits(torch.zeros(3, 5), targets)
    targets[1] = 2
    assert create_attribution("ixg", model)(images, targets).isfinite().all()


@pytest.mark.parametrize(("images", "points", "chunk"), [(3, 7, 4), (5, 2, 100), (1, 9, 2), (4, 3, 1)])
def test_points_of_a_sub_batch_are_those_of_its_pairs(images, points, chunk):
    both = zip(
        point_chunks(images, points, chunk, torch.device("cpu")),
        pair_chunks(images, points, chunk, torch.device("cpu")),
        strict=True,
    )
    pairs = []
    for (image, those), (again, point) in both:
        numbers, index = torch.unique(point, return_inverse=True)
        assert torch.equal(image, again)
        assert torch.equal(those.numbers, numbers)
        assert torch.equal(those.index, index)
        pairs += zip(point.tolist(), image.tolist(), strict=True)
    assert pairs == [(point, image) for point in range(points) for image in range(images)]
