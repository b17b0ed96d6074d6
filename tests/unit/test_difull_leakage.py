"""The proof that nothing leaks: clean settings pass, every leaky one is caught and named."""

import json
import re
from functools import cache

import pytest
import torch
from torch import nn

from attribution import create_attribution
from backbones import PlainModel, create_backbone
from core import FILLS, LEAKING_FILLS, DeletionSpec, InputError, PatchGrid
from core.deletion_leakage import _test
from difull import (
    DiFull,
    DiPart,
    GridPG,
    deletion_leakage,
    impossible_attribution,
    influence_map,
    leakage_proof,
    mask_leakage,
    possible_region,
)
from difull.laboratory import laboratory
from difull.locality import measure_reach
from tests.reference.grids import (
    MODELS,
    mutual_information,
    plain_cnn,
    receptive_field_1d,
    tiny_vit,
)

KERNELS = [(3, 1, 1), (5, 2, 2), (3, 1, 1)]
SIDE = 32


@cache
def grids(count=2, side=SIDE):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2))


def grid_side(name):
    """The transformer has cells of 64 px only; the others are quicker on less."""
    return 128 if name == "vit" else 64


def region_by_hand(cell, side=SIDE, kernels=KERNELS):
    """The receptive field of a 2×2 grid's cell as a bool map."""
    part = side // 4
    spans = [receptive_field_1d(i * part, (i + 1) * part - 1, side, kernels) for i in divmod(cell, 2)]
    region = torch.zeros(side, side, dtype=torch.bool)
    region[spans[0][0] : spans[0][1] + 1, spans[1][0] : spans[1][1] + 1] = True
    return region


class SqueezeExcite(nn.Module):
    def __init__(self, channels=8):
        super().__init__()
        self.gate = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return x * self.gate(x.mean(dim=(2, 3), keepdim=True)).sigmoid()


class PoolsWholeGrid(DiPart):
    def head_part(self, features, cell):
        return features


class PeeksInDiFull(DiFull):
    def forward(self, images, cell=0):
        return self.split("input", cell).rest(images)

    def split(self, layer="input", cell=0):
        split, other = super().split(layer, cell), super().split(layer, (cell + 1) % 4)
        return type(split)(
            layer, split.stem, lambda x: split.rest(x) + 1e-6 * other.rest(x), split.to_map, split.spread
        )


class SwallowsNaN(nn.Module):
    """Reads the whole map, but turns NaN into 0: only derivative and intervention can tell."""

    def forward(self, x):
        return x + x.nan_to_num(nan=0).mean(dim=(2, 3), keepdim=True)


class Steps(nn.Module):
    """Reads the whole map without a derivative: only taint and intervention can tell."""

    def forward(self, x):
        return x + (x.mean(dim=(2, 3), keepdim=True) > 1) + 0 * x.mean(dim=(2, 3), keepdim=True).detach()


@pytest.mark.parametrize("cell", range(4))
@pytest.mark.parametrize("block", [1, 4])
def test_influence_in_dipart_is_the_receptive_field_by_hand(cell, block):
    found = influence_map(DiPart(plain_cnn(), 2), grids(1), cell, block)
    by_hand = region_by_hand(cell).unflatten(0, (-1, block)).unflatten(2, (-1, block)).any(dim=3).any(dim=1)
    assert torch.equal(found, by_hand)


@pytest.mark.parametrize("name", MODELS)
def test_influence_in_difull_is_the_cell(name):
    side = grid_side(name)
    found = influence_map(DiFull(MODELS[name](), 2), grids(1, side), 2, block=side // 4)
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[2:, :2] = True
    assert torch.equal(found, expected)


@pytest.mark.parametrize("setting", [GridPG, DiPart])
def test_influence_of_a_transformer_is_everything(setting):
    assert influence_map(setting(tiny_vit(depth=2), 2), grids(1, 128), 1, block=32).all()


def test_influence_at_a_layer_and_on_tokens():
    part = influence_map(DiPart(plain_cnn(), 2), grids(1), 0, block=1, layer="middle")
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[:9, :9] = True  # the part's 8 and what the last 3×3 kernel adds
    assert torch.equal(part, expected)
    tokens = influence_map(DiFull(tiny_vit(), 2), grids(1, 128), 3, block=2, layer="middle")
    assert tokens.shape == (4, 4)
    assert tokens.nonzero().tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]


def test_influence_sees_what_swallows_nan():
    swallow = influence_map(DiPart(plain_cnn(SwallowsNaN()), 2), grids(1), 0, block=8)
    assert swallow.all()
    assert not influence_map(DiPart(plain_cnn(), 2), grids(1), 0, block=8).all()


def test_influence_in_training_mode_keeps_the_blocks_apart():
    backbone = plain_cnn(nn.BatchNorm2d(8)).train()
    assert influence_map(DiPart(backbone, 2), grids(1), 0, block=8).all()
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[:2, :2] = True
    assert torch.equal(influence_map(DiFull(backbone, 2), grids(1), 0, block=8), expected)


def test_influence_refuses_blocks_that_dont_fit():
    with pytest.raises(InputError, match="blocks of 5 don't divide the 32×32 map"):
        influence_map(DiPart(plain_cnn(), 2), grids(1), block=5)


@pytest.mark.parametrize("cell", range(4))
def test_possible_region_is_the_receptive_field_by_hand(cell):
    region, found = possible_region(DiPart(plain_cnn(), 2), grids(), cell)
    assert torch.equal(region, region_by_hand(cell))
    assert not found


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Conv2d(2, 2, 3, padding=1), (1, 1, 1)),
        (nn.Conv2d(2, 2, 3, 2, 1), (2, 1, 1)),
        (nn.Conv2d(2, 2, 7, 4, 3), (4, 3, 3)),
        (nn.Conv2d(2, 2, 3, padding=4, dilation=4), (1, 4, 4)),
        (nn.Conv2d(2, 2, 4, 4), (4, 0, 3)),
        (nn.Conv2d(2, 2, 5), (1, 0, 4)),
        (nn.Conv2d(2, 2, 31, padding=15), (1, 15, 15)),
        (nn.Conv2d(2, 2, 5, padding=60, dilation=30), (1, 60, 60)),
        (nn.MaxPool2d(3, 2, 1), (2, 1, 1)),
        (nn.ReLU(), (1, 0, 0)),
        (nn.BatchNorm2d(2).eval(), (1, 0, 0)),
        (nn.Upsample(scale_factor=2), (0.5, 0, 0)),
        (nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2)), (1, 1, 1)),
        (nn.Sequential(nn.MaxPool2d(4), nn.Upsample(scale_factor=2)), (2, 2, 3)),
    ],
)
@pytest.mark.parametrize("size", [9, 12])
def test_reach_of_a_step(module, expected, size):
    with laboratory(module):
        reaches = measure_reach(module, torch.randn(1, 2, size, size))
    for reach in reaches:
        assert (reach.stride, reach.before, reach.after) == expected


class RunningSum(nn.Module):
    """Each column reads all to its left, or all to its right."""

    def __init__(self, backwards):
        super().__init__()
        self.backwards = backwards

    def forward(self, x):
        return x.flip(3).cumsum(3).flip(3) if self.backwards else x.cumsum(3)


@pytest.mark.parametrize(
    "module",
    [
        SqueezeExcite(2),
        nn.GroupNorm(1, 2),
        nn.BatchNorm2d(2),
        nn.AdaptiveAvgPool2d(1),
        RunningSum(False),
        RunningSum(True),
        SwallowsNaN(),
    ],
)
def test_what_is_not_local_reaches_across_every_canvas(module):
    with laboratory(module):
        assert measure_reach(module, torch.randn(1, 2, 9, 9)) is None


@pytest.mark.parametrize("cell", [0, 3])
@pytest.mark.parametrize("setting", [DiFull, DiPart])
def test_a_clean_cnn_passes_with_something_impossible(setting, cell):
    proof = leakage_proof(setting(plain_cnn(), 2), grids(), cell)
    assert proof.passed, proof.report
    assert proof.taint
    assert proof.derivative
    assert proof.intervention
    assert not proof.found
    assert proof.numbers["share_that_may_matter"] < 0.5
    assert "nothing leaks" in proof.report
    assert json.loads(json.dumps(proof.to_dict()))["passed"] is True


@pytest.mark.parametrize("name", MODELS)
def test_difull_passes_for_every_family(name):
    proof = leakage_proof(DiFull(MODELS[name](), 2), grids(1, grid_side(name)), 1)
    assert proof.passed, proof.report
    assert proof.numbers["share_that_may_matter"] == 0.25


@pytest.mark.parametrize("name", ["resnet", "vgg"])
def test_dipart_passes_for_networks_of_local_steps(name):
    proof = leakage_proof(DiPart(MODELS[name](), 2), grids(1, 64), 3)
    assert proof.passed, proof.report


LEAKS = {
    "pooled over the whole grid": (lambda: PoolsWholeGrid(plain_cnn(), 2), r"more than its part: cells 1, 2, 3"),
    "another cell's head mixed in": (lambda: PeeksInDiFull(plain_cnn(), 2), r"more than its part: cell 1$"),
    "squeeze-and-excitation": (lambda: DiPart(plain_cnn(SqueezeExcite()), 2), r"SqueezeExcite \(4\) reads the whole"),
    "group normalisation": (lambda: DiPart(plain_cnn(nn.GroupNorm(2, 8)), 2), r"GroupNorm \(4\)"),
    "batch statistics in DiPart": (
        lambda: DiPart(plain_cnn(nn.BatchNorm2d(8)).train(), 2),
        r"BatchNorm2d in training mode \(4\)",
    ),
    "batch statistics in DiFull": (
        lambda: DiFull(plain_cnn(nn.BatchNorm2d(8)).train(), 2),
        r"images of a batch reach each other, through BatchNorm2d in training mode \(features\.4\)",
    ),
    "one head over the grid": (lambda: GridPG(plain_cnn(), 2), r"GridPG's one head reads the whole grid"),
    "attention": (lambda: DiPart(tiny_vit(depth=2), 2), r"tokens of \w+ read each other"),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_leaks_are_caught_by_all_three_statements_and_named(leak):
    build, name = LEAKS[leak]
    setting = build()
    proof = leakage_proof(setting, grids(2, 128 if leak == "attention" else SIDE), 0)
    assert not proof.passed
    assert (proof.taint, proof.derivative, proof.intervention) == (False, False, False), proof.report
    assert "LEAKS" in proof.report
    assert any(re.search(name, finding) for finding in proof.found), proof.found


@pytest.mark.parametrize("setting", [DiFull, DiPart])
def test_batch_statistics_are_caught_with_a_single_grid(setting):
    assert not leakage_proof(setting(plain_cnn(nn.BatchNorm2d(8)).train(), 2), grids(1, 16)).passed
    assert leakage_proof(setting(plain_cnn(nn.BatchNorm2d(8)).eval(), 2), grids(1, 16)).passed


def test_the_statements_stand_in_for_each_other():
    swallows = leakage_proof(DiPart(plain_cnn(SwallowsNaN()), 2), grids())
    assert swallows.numbers["tainted_logits"] == 0
    assert (swallows.taint, swallows.derivative, swallows.intervention) == (False, False, False)
    assert swallows.found == ("SwallowsNaN (4) reads the whole map",)
    steps = leakage_proof(DiPart(plain_cnn(Steps()), 2), grids())
    assert steps.derivative
    assert not steps.taint
    assert not steps.intervention


def test_squeeze_and_excitation_is_caught_although_the_field_covers_the_grid():
    clean = leakage_proof(DiPart(plain_cnn(), 2), grids(1, 8), 0)
    leaky = leakage_proof(DiPart(plain_cnn(SqueezeExcite()), 2), grids(1, 8), 0)
    assert clean.numbers["share_that_may_matter"] == 1
    assert clean.passed
    assert "nothing is impossible here" in clean.report
    assert (leaky.taint, leaky.derivative, leaky.intervention) == (False, True, True)
    assert "SqueezeExcite (4) reads the whole map" in leaky.report


def test_a_plain_model_has_its_proof_at_the_input():
    plain = PlainModel(create_backbone("test_resnet", 5).model.eval())
    assert leakage_proof(DiFull(plain, 2), grids(1, 64)).passed


def test_the_model_is_left_as_it_was():
    backbone = plain_cnn(nn.Sequential(nn.BatchNorm2d(8), nn.Dropout(0.2))).train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    flags = (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled)
    generator = torch.get_rng_state()
    leakage_proof(DiPart(backbone, 2), grids())
    possible_region(DiPart(backbone, 2), grids())
    influence_map(DiPart(backbone, 2), grids(1))
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in backbone.parameters())
    assert all(module.training for module in backbone.modules())
    assert not any(module._forward_pre_hooks for module in backbone.modules())
    assert (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled) == flags
    assert torch.equal(torch.get_rng_state(), generator)


def test_dropout_is_not_mistaken_for_a_leak():
    assert leakage_proof(DiPart(plain_cnn(nn.Dropout(0.5)).train(), 2), grids()).passed


def test_the_same_proof_gives_the_same_numbers_whatever_was_drawn_before():
    setting = GridPG(plain_cnn(nn.Dropout(0.5)).train(), 2)
    first = leakage_proof(setting, grids()).numbers
    torch.rand(3)
    assert leakage_proof(setting, grids()).numbers == first


def test_measured_influence_and_gradient_attribution_agree():
    setting = DiPart(plain_cnn(), 2)
    possible = influence_map(setting, grids(1), 3, block=1)
    maps = create_attribution("ixg", setting, cell=3)(grids(), torch.tensor([0, 1]))
    assert impossible_attribution(maps, 3, 2, possible=possible).tolist() == [0, 0]
    assert (impossible_attribution(maps, 3, 2) > 0.01).all()


@pytest.mark.parametrize("grid", [PatchGrid(), PatchGrid(2, 3)])
@pytest.mark.parametrize("fill", FILLS)
def test_fills_but_blur_carry_nothing_of_the_deleted_pixels(fill, grid):
    proof = deletion_leakage(fill, grid)
    leaks = fill in LEAKING_FILLS
    assert proof.passed != leaks, proof.report
    assert (proof.taint, proof.derivative, proof.intervention) == (not leaks,) * 3
    assert proof.found == ((f"fill {fill!r} reads the deleted pixels",) if leaks else ())


def test_a_fill_that_reads_one_deleted_pixel_is_caught(monkeypatch):
    monkeypatch.setitem(FILLS._entries, "zeros", lambda images, mask, keys: 1e-3 * images[:, :, :1, :1])
    assert not deletion_leakage("zeros").passed


def test_mutual_information_by_definition():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 4, (60,), generator=generator).numpy() for _ in range(2))
    bits, by_chance, p = _test(a, b, 999, 0)
    assert bits == pytest.approx(mutual_information(a.tolist(), b.tolist()))
    assert by_chance == pytest.approx(9 / (2 * 60 * 0.6931), rel=0.2)  # (rows-1)(cols-1) / 2N nats
    assert 0.01 < p < 1
    assert _test(a, a, 999, 0)[2] == 1 / 1000
    assert _test(a, 0 * b, 999, 0) == (0, 0, 1)


def sample(count=1000):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (count,), generator=generator)
    brightness = torch.rand(count, 16, generator=generator)
    return labels, brightness, torch.randint(0, 16, (count,), generator=generator)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_suites_own_choice_of_patch_tells_nothing(seed):
    labels, brightness, _ = sample()
    cells = DeletionSpec().sample_cells(seed, 0, torch.arange(len(labels)))
    result = mask_leakage(cells, labels, brightness, permutations=399, level=0.01)
    assert result.passed, result.report
    assert "within sampling noise" in result.report


def test_masks_drawn_from_label_or_brightness_are_found_and_named():
    labels, brightness, free = sample()
    masks = {
        "label": torch.where(torch.arange(len(free)) % 3 == 0, labels, free),
        "brightest cell": brightness.argmax(dim=1),
        "darkest cell": torch.where(torch.arange(len(free)) % 2 == 0, brightness.argmin(dim=1), free),
        "brightness of the image": torch.where(brightness.mean(dim=1) > 0.5, free, -1),
    }
    for name, cells in masks.items():
        result = mask_leakage(cells, labels, brightness, permutations=399, level=0.01)
        assert not result.passed
        assert name in result.found, result.report
        assert f"{name}: " in result.report
    alone = mask_leakage(masks["label"], labels)
    assert alone.found == ("label",)
    assert json.loads(json.dumps(alone.to_dict()))["passed"] is False


def test_mask_leakage_needs_permutations_enough_for_its_level():
    labels, _, cells = sample(20)
    with pytest.raises(InputError, match="needs at least 999 permutations"):
        mask_leakage(cells, labels, permutations=998)
    assert mask_leakage(cells, labels, permutations=999).p_values["label"] >= 0.001
