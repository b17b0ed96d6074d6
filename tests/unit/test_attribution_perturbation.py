"""Occlusion and RISE against plain loops, at the input, at a layer and on tokens."""

import pytest
import torch

from faithfulness.attribution import create_attribution
from faithfulness.core import InputError
from faithfulness.core.keyed import keyed_uniform, make_keys
from tests.reference import plain_perturbation
from tests.reference.tiny_models import tiny_batch, tiny_model


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(b.abs().max()), check_dtype=False)


def parts(layer):
    """A network cut at a layer: images to activations, activations to logits, and the whole."""
    model = tiny_model("plain")
    stem, rest = model.split(layer)
    return model, stem, rest


@pytest.mark.parametrize("layer", ["input", "middle"])
@pytest.mark.parametrize(("kernel", "stride"), [(8, 4), (5, 3), (3, 3), (64, 1), (7, 7)])
@torch.no_grad()
def test_occlusion(layer, kernel, stride):
    model, stem, rest = parts(layer)
    images, targets = tiny_batch(2, side=21)
    images = images[..., :17]  # not square, and no multiple of the stride
    maps = create_attribution("occlusion", model, layer, kernel=kernel, stride=stride, chunk=9)(images, targets)
    for activation, target, ours in zip(stem(images), targets, maps, strict=True):
        expected = plain_perturbation.occlusion(rest, activation, int(target), kernel, stride)
        torch.testing.assert_close(ours[0], expected, rtol=0, atol=2e-6)  # drops are differences of logits near 0.5


def test_occlusion_defaults_as_published():
    at_input, at_layer = (create_attribution("occlusion", tiny_model("plain"), layer) for layer in ("input", "middle"))
    assert (at_input.kernel, at_input.stride) == (16, 8)
    assert (at_layer.kernel, at_layer.stride) == (5, 2)


@torch.no_grad()
@pytest.mark.parametrize(("side", "window"), [(20, (5, 2)), (8, (4, 2)), (4, (2, 2)), (2, (1, 1))])
def test_occlusion_fits_its_default_window_to_a_small_map(side, window):
    model, stem, rest = parts("middle")
    images, targets = tiny_batch(2, side=side)
    activations = stem(images)
    maps = create_attribution("occlusion", model, "middle")(images, targets)
    for activation, target, ours in zip(activations, targets, maps, strict=True):
        expected = plain_perturbation.occlusion(rest, activation, int(target), *window)
        torch.testing.assert_close(ours[0], expected, rtol=0, atol=2e-6)


@torch.no_grad()
def test_occlusion_of_tokens_hides_patches_and_leaves_the_class_token():
    model = tiny_model("vit")
    images, targets = tiny_batch(2)
    stem, rest = split = model.split("middle")
    maps = create_attribution("occlusion(kernel=1, stride=1)", model, "middle")(images, targets)
    tokens = stem(images)
    for patch in range(16):
        hidden = tokens.clone()
        hidden[:, 1 + patch] = 0
        drop = (rest(tokens) - rest(hidden)).gather(1, targets[:, None])[:, 0]
        torch.testing.assert_close(maps.flatten(1)[:, patch], drop, rtol=0, atol=2e-6)
    assert split.to_map(tokens).shape[-2:] == maps.shape[-2:]


@pytest.mark.parametrize("layer", ["input", "middle"])
@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize(("name", "cells"), [("rise", 8), ("rise", 3), ("rise-u", 4)])
@torch.no_grad()
def test_rise(layer, softmax, name, cells):
    model, stem, rest = parts(layer)
    images, targets = tiny_batch(2, side=21)
    images = images[..., :17]
    explain = create_attribution(
        f"{name}(masks=12, probability=0.4, seed=3)", model, layer, softmax=softmax, cells=cells, chunk=5
    )
    maps = explain(images, targets)
    activations = stem(images)
    grids, shifts = explain.draw_grids(torch.arange(12))
    assert grids.shape == (12, cells, cells)
    masks = [plain_perturbation.rise_mask(g, s, 21, 17) for g, s in zip(grids, shifts, strict=True)]
    close(explain.draw_masks(torch.arange(12), 21, 17)[:, 0], torch.stack(masks), 1e-6)
    shape = tuple(activations.shape[1:])
    fill = 2 * keyed_uniform(make_keys(3), shape) - 1 if name == "rise-u" else torch.zeros(shape)
    for activation, target, ours in zip(activations, targets, maps, strict=True):
        expected = plain_perturbation.rise(rest, activation, int(target), masks, fill, softmax)
        defined = expected.isfinite()  # a pixel that no mask keeps has no mean
        assert defined.float().mean() > 0.8
        close(ours[0][defined], expected[defined])
        assert (ours[0][~defined] == 0).all()


@pytest.mark.parametrize("name", ["rise", "rise-u"])
@torch.no_grad()
def test_rise_as_both_benchmarks_have_it(name):
    model = tiny_model("plain")
    images, targets = tiny_batch(2, side=21)
    images = images[..., :17]
    published = {"divide": "expectation", "far_end": False, "mirror": True}
    explain = create_attribution(name, model, masks=14, cells=4, probability=0.3, seed=3, chunk=5, **published)
    maps = explain(images, targets)
    grids, shifts = explain.draw_grids(torch.arange(14))
    corners = [(int(y * 6), int(x * 5)) for y, x in shifts]  # 21 rows in cells of 6, 17 columns in cells of 5
    masks = [plain_perturbation.published_rise_mask(*each, 21, 17) for each in zip(grids, corners, strict=True)]
    close(explain.draw_masks(torch.arange(14), 21, 17)[:, 0], torch.stack(masks), 1e-6)
    fill = 2 * keyed_uniform(make_keys(3), (3, 21, 17)) - 1 if name == "rise-u" else torch.zeros(3, 21, 17)
    for image, target, ours in zip(images, targets, maps, strict=True):
        close(ours[0], plain_perturbation.published_rise(model, image, int(target), masks, fill, 0.3))


def test_the_far_end_of_the_shift_can_be_left_out():
    cells = {"probability": 0.5, "cells": 4}
    with_end, without = (create_attribution("rise", tiny_model("plain"), far_end=far, **cells) for far in (True, False))
    numbers = torch.arange(300)
    _, shifts = with_end.draw_grids(numbers)
    ends = (shifts * 7).long() == 6  # cells of 24 / 4 = 6 rows
    same = (with_end.draw_masks(numbers, 24, 24) == without.draw_masks(numbers, 24, 24)).flatten(1).all(dim=1)
    assert ends.any()
    assert not same[ends.any(dim=1)].any()


@torch.no_grad()
def test_rise_of_tokens_masks_patches_and_leaves_the_class_token():
    model = tiny_model("vit")
    images, targets = tiny_batch(2)
    stem, rest = model.split("middle")
    explain = create_attribution("rise(masks=9, cells=3, probability=0.5)", model, "middle")
    maps = explain(images, targets)
    masks = explain.draw_masks(torch.arange(9), 4, 4)
    total = torch.zeros(2, 1, 4, 4)
    for mask in masks:
        tokens = stem(images)
        tokens[:, 1:] *= mask.flatten()[None, :, None]
        total += rest(tokens).softmax(dim=1).gather(1, targets[:, None])[:, :, None, None] * mask
    close(maps, total / masks.sum(dim=0))


def test_masks_keep_the_asked_share_and_shift_over_a_whole_cell():
    explain = create_attribution("rise", tiny_model("plain"), probability=0.3, cells=4)
    numbers = torch.arange(600)
    masks = explain.draw_masks(numbers, 24, 40)
    assert masks.shape == (600, 1, 24, 40)
    assert 0 <= masks.min() < 0.01
    assert 0.99 < masks.max() <= 1
    assert abs(float(masks.mean()) - 0.3) < 0.01
    _, shifts = explain.draw_grids(numbers)
    assert ((shifts[:, 0] * 7).long().unique() == torch.arange(7)).all()  # 0 … 6 rows, a cell being 6 high
    assert not torch.equal(masks[0], masks[1])
    assert torch.equal(explain.draw_masks(numbers[7:8], 24, 40)[0], masks[7])
    other = create_attribution("rise(seed=1)", tiny_model("plain"), probability=0.3, cells=4)
    assert not torch.equal(other.draw_masks(numbers[:1], 24, 40), masks[:1])


def test_a_model_blind_to_its_input_has_a_flat_rise_map():
    class Blind(torch.nn.Module):
        def forward(self, images):
            return torch.tensor([[1.0, 2.0]]).expand(len(images), 2)

    images, _ = tiny_batch(1, side=20)
    maps = create_attribution("rise(masks=60, softmax=False)", Blind())(images, torch.tensor([1]))
    torch.testing.assert_close(maps, torch.full_like(maps, 2))  # so border pixels count as much as others


@pytest.mark.parametrize(
    "text",
    [
        "rise(divide=other)",
        "rise(masks=0)",
        "rise(cells=0)",
        "rise(probability=0.0)",
        "rise-u(probability=1.5)",
        "occlusion(stride=17)",
    ],
)
def test_impossible_parameters_are_refused(text):
    with pytest.raises(InputError, match="got"):
        create_attribution(text, tiny_model("plain"))


def test_an_unknown_baseline_is_refused():
    images, targets = tiny_batch(1, side=12)
    with pytest.raises(InputError, match="baseline"):
        create_attribution("rise(baseline=blue)", tiny_model("plain"))(images, targets)


def test_rise_runs_where_double_is_the_default_type():
    """As Lightning makes it for `--precision 64-true`."""
    model, (images, targets) = tiny_model("resnet").double(), tiny_batch(1, dtype=torch.float64)
    wanted = create_attribution("rise(masks=8)", model)(images, targets)
    torch.set_default_dtype(torch.float64)
    try:
        found = create_attribution("rise(masks=8)", model)(images, targets)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
