"""The proof that nothing leaks: clean settings pass, every leaky one is caught and named."""

import json
import re

import pytest
import torch
from torch import nn

from difull import DiFull, DiPart, GridPG, influence_map, leakage_proof, receptive_region
from faithfulness.backbones import InputOnlyModel, create_backbone
from tests.reference.grids import MODELS, SIDE, grid_side, plain_cnn, random_grids, tiny_vit
from tests.reference.leaky_settings import SqueezeExcite, SwallowsNaN

# Checking the types of what is called that often takes longer than the calls.
pytestmark = pytest.mark.usefixtures("unchecked")


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


class Steps(nn.Module):
    """Reads the whole map without a derivative: only taint and intervention can tell."""

    def forward(self, x):
        return x + (x.mean(dim=(2, 3), keepdim=True) > 1) + 0 * x.mean(dim=(2, 3), keepdim=True).detach()


@pytest.mark.parametrize("cell", [0, 3])
@pytest.mark.parametrize("setting", [DiFull, DiPart])
def test_a_clean_cnn_passes_with_something_impossible(setting, cell):
    proof = leakage_proof(setting(plain_cnn(), 2), random_grids(), cell)
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
    proof = leakage_proof(DiFull(MODELS[name]().eval(), 2), random_grids(1, grid_side(name)), 1)
    assert proof.passed, proof.report
    assert proof.structure is True
    assert proof.numbers["share_that_may_matter"] == 0.25


@pytest.mark.parametrize("name", ["resnet", "vgg"])
def test_dipart_passes_for_networks_of_local_steps(name):
    proof = leakage_proof(DiPart(MODELS[name](), 2), random_grids(1, 64), 3)
    assert proof.passed, proof.report


LEAKS = {
    "pooled over the whole grid": (lambda: PoolsWholeGrid(plain_cnn(), 2), r"more than its part: cells 1, 2, 3"),
    "another cell's head mixed in": (lambda: PeeksInDiFull(plain_cnn(), 2), r"more than its part: cell 1$"),
    "squeeze-and-excitation": (lambda: DiPart(plain_cnn(SqueezeExcite()), 2), r"SqueezeExcite \(4\) reads the whole"),
    "group normalization": (lambda: DiPart(plain_cnn(nn.GroupNorm(2, 8)), 2), r"GroupNorm \(4\)"),
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
    proof = leakage_proof(setting, random_grids(2, 128 if leak == "attention" else SIDE), 0)
    assert not proof.passed
    assert (proof.taint, proof.derivative, proof.intervention) == (False, False, False), proof.report
    assert "LEAKS" in proof.report
    assert any(re.search(name, finding) for finding in proof.found), proof.found


@pytest.mark.parametrize("setting", [DiFull, DiPart])
def test_batch_statistics_are_caught_with_a_single_grid(setting):
    assert not leakage_proof(setting(plain_cnn(nn.BatchNorm2d(8)).train(), 2), random_grids(1, 16)).passed
    assert leakage_proof(setting(plain_cnn(nn.BatchNorm2d(8)).eval(), 2), random_grids(1, 16)).passed


def test_the_statements_stand_in_for_each_other():
    swallows = leakage_proof(DiPart(plain_cnn(SwallowsNaN()), 2), random_grids())
    assert swallows.numbers["tainted_logits"] == 0
    assert (swallows.taint, swallows.derivative, swallows.intervention) == (False, False, False)
    assert swallows.found == ("SwallowsNaN (4) reads the whole map",)
    steps = leakage_proof(DiPart(plain_cnn(Steps()), 2), random_grids())
    assert steps.derivative
    assert not steps.taint
    assert not steps.intervention


def test_squeeze_and_excitation_is_caught_although_the_field_covers_the_grid():
    clean = leakage_proof(DiPart(plain_cnn(), 2), random_grids(1, 8), 0)
    leaky = leakage_proof(DiPart(plain_cnn(SqueezeExcite()), 2), random_grids(1, 8), 0)
    assert clean.numbers["share_that_may_matter"] == 1
    assert clean.passed
    assert "nothing is impossible here" in clean.report
    assert (leaky.taint, leaky.derivative, leaky.intervention) == (False, True, True)
    assert "SqueezeExcite (4) reads the whole map" in leaky.report


def test_a_plain_model_has_its_proof_at_the_input():
    plain = InputOnlyModel(create_backbone("test_resnet", 5).model.eval())
    assert leakage_proof(DiFull(plain, 2), random_grids(1, 64)).passed


def test_the_model_is_left_as_it_was():
    backbone = plain_cnn(nn.Sequential(nn.BatchNorm2d(8), nn.Dropout(0.2))).train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    flags = (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled)
    generator = torch.get_rng_state()
    leakage_proof(DiPart(backbone, 2), random_grids())
    receptive_region(DiPart(backbone, 2), random_grids())
    influence_map(DiPart(backbone, 2), random_grids(1))
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in backbone.parameters())
    assert all(module.training for module in backbone.modules())
    assert not any(module._forward_pre_hooks for module in backbone.modules())
    assert (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled) == flags
    assert torch.equal(torch.get_rng_state(), generator)


def test_dropout_is_not_mistaken_for_a_leak():
    assert leakage_proof(DiPart(plain_cnn(nn.Dropout(0.5)).train(), 2), random_grids()).passed


def test_the_same_proof_gives_the_same_numbers_whatever_was_drawn_before():
    setting = GridPG(plain_cnn(nn.Dropout(0.5)).train(), 2)
    first = leakage_proof(setting, random_grids()).numbers
    torch.rand(3)
    assert leakage_proof(setting, random_grids()).numbers == first
