"""Deletion and insertion, held against values found on paper."""

import copy
import inspect
import math

import numpy as np
import pytest
import torch
from torch import nn

from dea import FRACTIONS, deletion_curves, deletion_drops, insertion_scores, pixel_order
from faithfulness.core import InputError
from faithfulness.core.ranking import keyed_permutation
from faithfulness.core.resize import resize_exactly
from tests.reference import dea_slow

LN3 = math.log(3)
"""A logit of ln 3 against 0 is a probability of 3/4; equal logits are one of 1/2."""


class Identity(nn.Module):
    """Each pixel's logits are its channels."""

    def forward(self, images):
        return images


class BoxFilter(nn.Module):
    """Logits (0, mean of the 1×3 window), zeros beyond the border."""

    def forward(self, images):
        mean = nn.functional.avg_pool2d(images, (1, 3), stride=1, padding=(0, 1))
        return torch.cat([torch.zeros_like(mean), mean], dim=1)


class GlobalMean(nn.Module):
    """Logits (0, mean of the whole image) at every pixel."""

    def forward(self, images):
        mean = images.mean(dim=(2, 3), keepdim=True).expand_as(images)
        return torch.cat([torch.zeros_like(mean), mean], dim=1)


def small_network(classes=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, classes, 3, padding=1)).double()


def random_pairs(count=5, size=(6, 7), classes=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, *size, generator=generator, dtype=torch.float64)
    regions = torch.rand(count, *size, generator=generator) < 0.4
    targets = torch.randint(0, classes, (count,), generator=generator)
    maps = torch.randn(count, 1, *size, generator=generator, dtype=torch.float64)
    return images, regions, targets, maps


def two_by_two():
    """Pixels a b / c d: a and b say class 1 with 3/4, c and d class 0. Ranked a, c, b, d."""
    images = torch.tensor([[[[0, 0], [LN3, LN3]], [[LN3, LN3], [0, 0]]]], dtype=torch.float64)
    regions = torch.tensor([[[True, True], [False, False]]])
    maps = torch.tensor([[[[4.0, 2.0], [3.0, -1.0]]]], dtype=torch.float64)
    return images, regions, torch.tensor([1]), maps


def test_identity_network_zeros():
    # 25 %: a goes, s_R falls from 3/4 to (1/2 + 3/4) / 2. 50 %: c goes too, half of the outside changes by 1/4.
    curves = deletion_curves(Identity(), *two_by_two(), fractions=(0.25, 0.5, 1.0), fill="zeros")
    assert curves.target.tolist() == [pytest.approx([0.125, 0.125, 0.25])]
    assert curves.off_target.tolist() == [pytest.approx([0, 0.125, 0.25])]
    tdd, odd = deletion_drops(Identity(), *two_by_two(), fractions=(0.25, 0.5), fill="zeros")
    assert tdd.tolist() == pytest.approx([0.125])
    assert odd.tolist() == pytest.approx([0.0625])


def test_identity_network_mean_is_that_of_the_kept_pixels():
    # Without a the mean of b, c, d is (2/3, 1/3)·ln 3: class 1 gets 1 / (1 + 3^(1/3)) there.
    tdd, odd = deletion_drops(Identity(), *two_by_two(), fractions=(0.25,))
    assert tdd.tolist() == pytest.approx([(0.75 - 1 / (1 + 3 ** (1 / 3))) / 2])
    assert odd.tolist() == [0]


def test_identity_network_insertion():
    # zeros: only a is kept (3/4), b is 1/2. mean: every pixel becomes a.
    zeros = insertion_scores(Identity(), *two_by_two(), fractions=(0.25, 0.5, 1.0), fill="zeros")
    assert zeros.tolist() == [pytest.approx([0.625, 0.625, 0.75])]
    mean = insertion_scores(Identity(), *two_by_two(), fractions=(0.0, 0.25), fill="mean")
    assert mean.tolist() == [pytest.approx([0.5, 0.75])]


def test_box_filter_network():
    # Only pixel 2 is lit; region: pixel 1, which sees it. Without it, pixels 1, 2, 3 fall from 3/4 to 1/2.
    images = torch.tensor([[[[0, 0, 3 * LN3, 0, 0]]]], dtype=torch.float64)
    regions = torch.tensor([[[False, True, False, False, False]]])
    maps = torch.tensor([[[[0.0, 0.0, 1.0, 0.0, 0.0]]]], dtype=torch.float64)
    tdd, odd = deletion_drops(BoxFilter(), images, regions, torch.tensor([1]), maps, (0.2,), "zeros")
    assert tdd.tolist() == pytest.approx([0.25])
    assert odd.tolist() == pytest.approx([2 * 0.25 / 4])
    away = deletion_drops(BoxFilter(), images, regions, torch.tensor([1]), maps.flip(3).roll(2, 3), (0.2,), "zeros")
    assert away[0].tolist() == [0]


def test_global_mean_network_changes_everything_outside_too():
    images = torch.tensor([[[[4 * LN3, 0.0], [0.0, 0.0]]]], dtype=torch.float64)
    regions = torch.tensor([[[False, False], [False, True]]])
    maps = images.clone()
    tdd, odd = deletion_drops(GlobalMean(), images, regions, torch.tensor([1]), maps, (0.25,), "zeros")
    assert tdd.tolist() == pytest.approx([0.25])
    assert odd.tolist() == pytest.approx([0.25])


def test_drop_of_a_class_that_gains_is_negative_and_off_target_is_absolute():
    images, regions, _, maps = two_by_two()
    tdd, odd = deletion_drops(Identity(), images, ~regions, torch.tensor([1]), maps.flip(2), (0.5,), "zeros")
    # c (first) and a go: class 1 on c rises from 1/4 to 1/2; outside, a falls by 1/4.
    assert tdd.tolist() == pytest.approx([-0.125])
    assert odd.tolist() == pytest.approx([0.125])


def test_one_logit_is_a_sigmoid():
    images = torch.tensor([[[[LN3, LN3], [-LN3, 0.0]]]], dtype=torch.float64)
    regions = torch.tensor([[[True, False], [False, False]]])
    maps = torch.tensor([[[[1.0, 0.0], [0.5, 0.0]]]], dtype=torch.float64)
    tdd, odd = deletion_drops(Identity(), images, regions, torch.tensor([0]), maps, (0.5,), "zeros")
    assert tdd.tolist() == pytest.approx([0.25])
    assert odd.tolist() == pytest.approx([0.25 / 3])


@pytest.mark.parametrize("kind", ["zeros", "mean"])
def test_deletion_and_insertion_agree_with_the_slow_restatement(kind):
    images, regions, classes, maps = random_pairs()
    model = small_network()
    fractions = (0.0, 0.05, 0.3, 1.0)
    curves = deletion_curves(model, images, regions, classes, maps, fractions, kind, chunk=3)
    inserted = insertion_scores(model, images, regions, classes, maps, fractions, kind, chunk=4)
    for i in range(len(images)):
        one = (images[i].numpy(), regions[i].numpy(), int(classes[i]), maps[i, 0].numpy(), fractions, kind)
        target, off = dea_slow.drops(model, *one)
        np.testing.assert_allclose(curves.target[i], target, atol=1e-9)
        np.testing.assert_allclose(curves.off_target[i], off, atol=1e-9)
        np.testing.assert_allclose(inserted[i], dea_slow.insertion(model, *one), atol=1e-9)
    np.testing.assert_allclose(FRACTIONS, np.arange(1, 11) / 20)


def test_batched_equals_one_by_one_whatever_the_chunk():
    images, regions, classes, maps = random_pairs()
    model = small_network()
    together = deletion_drops(model, images, regions, classes, maps)
    for chunk in (1, 7):
        for a, b in zip(deletion_drops(model, images, regions, classes, maps, chunk=chunk), together, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    for i in range(len(images)):
        one = slice(i, i + 1)
        alone = deletion_drops(model, images[one], regions[one], classes[one], maps[one])
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a, b[one], rtol=0, atol=1e-12)


def test_a_monotone_change_of_the_map_changes_nothing():
    images, regions, classes, maps = random_pairs()
    model = small_network()
    plain = deletion_drops(model, images, regions, classes, maps)
    for a, b in zip(deletion_drops(model, images, regions, classes, maps.exp() * 3), plain, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_what_the_network_reads_beats_random_and_its_complement():
    """Class 1 is read from a window far from the region; a map of that window is the perfect one."""

    class Window(nn.Module):
        def forward(self, images):
            mean = images[:, :1, 2:5, 2:5].mean(dim=(2, 3), keepdim=True).expand(-1, -1, *images.shape[-2:])
            return torch.cat([torch.zeros_like(mean), 3 * mean], dim=1)

    generator = torch.Generator().manual_seed(0)
    images = 1 + 0.1 * torch.randn(8, 1, 16, 16, generator=generator)
    regions = torch.zeros(8, 16, 16, dtype=torch.bool)
    regions[:, 9:14, 9:14] = True
    perfect = torch.zeros(8, 1, 16, 16)
    perfect[:, :, 2:5, 2:5] = 1
    classes = torch.ones(8, dtype=torch.int64)
    found = {
        name: deletion_drops(Window(), images, regions, classes, maps, fill="zeros")[0]
        for name, maps in (
            ("perfect", perfect),
            ("random", torch.rand(8, 1, 16, 16, generator=generator)),
            ("complement", -perfect),
            ("region", regions[:, None].float()),
        )
    }
    assert (found["perfect"] > found["random"] + 0.2).all()
    assert found["random"].mean() > 0.01
    assert (found["random"] > -1e-6).all()
    assert found["complement"].abs().max() < 1e-6
    assert found["region"].abs().max() < 1e-6


def test_undefined_is_nan_and_nothing_else_is():
    images, regions, classes, maps = random_pairs(count=3)
    regions[0], regions[1] = False, True
    tdd, odd = deletion_drops(small_network(), images, regions, classes, maps)
    assert tdd.isnan().tolist() == [True, False, False]
    assert odd.isnan().tolist() == [False, True, False]
    assert insertion_scores(small_network(), images, regions, classes, maps).isnan().all(dim=1).tolist() == [
        True,
        False,
        False,
    ]


def test_ties_go_in_keyed_order_and_coarse_maps_are_upsampled():
    key = keyed_permutation(6).argsort()
    assert torch.equal(pixel_order(torch.zeros(1, 1, 2, 3), (2, 3))[0], key)
    assert pixel_order(torch.tensor([[[[1.0, 3.0, 2.0]]]]), (1, 3)).tolist() == [[2, 0, 1]]
    found = pixel_order(torch.tensor([[[[0.0, 1.0]]]]), (1, 4), "nearest")[0].tolist()
    assert (sorted(found[2:]), sorted(found[:2])) == ([0, 1], [2, 3])
    levels = torch.randint(0, 3, (2, 1, 64, 64), generator=torch.Generator().manual_seed(0)).float()
    key = keyed_permutation(64 * 64).argsort().numpy()
    order = [np.lexsort((key, -row)) for row in levels.flatten(1).numpy()]
    np.testing.assert_array_equal(pixel_order(levels, (64, 64)).argsort(dim=1), order)
    images, regions, classes, _ = random_pairs(size=(8, 8))
    coarse = torch.randn(5, 1, 4, 4, dtype=torch.float64)
    fine = resize_exactly(coarse, (8, 8), "bilinear")
    a = deletion_drops(small_network(), images, regions, classes, coarse)
    b = deletion_drops(small_network(), images, regions, classes, fine)
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("function", [deletion_curves, insertion_scores])
def test_random_noise_is_one_picture_for_all_fractions(function):
    shown = []

    def model(images):
        shown.append(images)
        return torch.zeros(len(images), 2, *images.shape[-2:])

    images, regions, classes, maps = random_pairs(count=2, classes=2)
    images = images + 10
    function(model, images, regions, classes, maps, (0.2, 0.5, 0.9), "random", chunk=100)
    few, more, most = shown[-1].unflatten(0, (3, 2))
    for a, b in ((few, more), (more, most)):
        both = (a != images) & (b != images)
        assert both.any()
        assert torch.equal(a[both], b[both])
    assert not torch.equal(most[0] - images[0], most[1] - images[1])


def test_the_model_is_left_as_it_was():
    images, regions, classes, maps = random_pairs()
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Conv2d(3, 4, 1)).double().train()
    before = copy.deepcopy(model.state_dict())
    first = deletion_drops(model, images, regions, classes, maps)
    again = deletion_drops(model, images, regions, classes, maps)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": torch.full((5, 1, 6, 7), math.nan)}, "NaN"),
        ({"maps": torch.zeros(5, 2, 6, 7)}, r"\(B, 1, h, w\)"),
        ({"maps": torch.zeros(4, 1, 6, 7)}, r"\(5, C, h, w\)"),
        ({"regions": torch.zeros(5, 7, 6, dtype=torch.bool)}, r"regions \(5, 6, 7\)"),
        ({"regions": torch.zeros(5, 6, 7)}, "bool regions"),
        ({"classes": torch.full((5,), 4)}, "0 … 3"),
        ({"classes": torch.zeros(3, dtype=torch.int64)}, r"int64 classes \(5,\)"),
        ({"fractions": (0.5, 1.5)}, "fractions"),
        ({"fractions": ()}, "fractions"),
        ({"fill": "meen"}, "did you mean mean"),
        ({"model": lambda x: x.mean(dim=(2, 3))}, "at image size"),
        ({"model": lambda x: {"out": x}}, "got dict"),
        ({"upsample": "cubic"}, "cubic"),
    ],
)
@pytest.mark.parametrize("function", [deletion_curves, insertion_scores])
def test_bad_input_is_refused_with_one_line(function, change, message):
    images, regions, classes, maps = random_pairs()
    arguments = {"model": small_network(), "images": images, "regions": regions, "classes": classes, "maps": maps}
    if change.keys() & {"model"}:
        arguments["classes"] = classes.clamp(max=2)
    with pytest.raises(InputError, match=message) as caught:
        inspect.unwrap(function)(**{**arguments, **change})
    assert "\n" not in str(caught.value)
