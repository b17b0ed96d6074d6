"""Each way to leak is caught, by proof or by test; what is clean passes; and the words fit."""

import copy
import json
from functools import partial

import pytest
import torch
from torch import nn

import difull.trials
from difull import DiFull, DiPart, GridPG, leakage_proof
from difull.interventions import chosen_contents, quantize, random_contents
from difull.leakage import leakage_proofs
from difull.structure import trace_structure
from faithfulness.backbones import create_backbone
from tests.reference.grids import MODELS, plain_cnn
from tests.reference.leaky_settings import (
    CLEAN,
    LEAKY,
    CountsInAnArray,
    LeaksInForward,
    LeaksInTheThirdHead,
    LeaksPastTensors,
    Memo,
    RareTrigger,
    ReadsUnwritten,
)

# Checking the types of what is called that often takes longer than the calls.
pytestmark = pytest.mark.usefixtures("unchecked")


def grids(side=32, count=2):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", LEAKY)
def test_a_leak_is_caught(name):
    proof = leakage_proof(LEAKY[name](), grids(), tries=60 if "rare" in name else 10)
    assert not proof.passed, proof.report
    assert proof.verdict == "leaks"
    assert proof.structure is False
    assert proof.found
    assert "LEAKS" in proof.report
    if "rare" not in name and "memo" not in name:
        assert not proof.intervention


def test_a_memo_is_caught_by_intervention_on_fresh_copies():
    proof = leakage_proof(Memo(plain_cnn(), 2), grids(), tries=1)
    assert not proof.intervention
    assert any("an earlier call has seen" in finding for finding in proof.found)


def test_what_goes_past_tensors_is_not_called_proven():
    proof = leakage_proof(LeaksPastTensors(plain_cnn(), 2), grids(), tries=1)
    assert proof.structure is not True
    assert proof.verdict == "leaks"
    assert any("reads a storage past its tensors" in note for note in proof.notes)


@pytest.mark.parametrize("layer", [ReadsUnwritten, CountsInAnArray])
def test_memory_of_another_kind_is_not_called_proven(layer):
    structure = trace_structure(DiFull(plain_cnn(layer()), 2), grids())
    assert structure.holds is not True


def test_other_seeds_try_other_contents(monkeypatch):
    tried, draw = [], difull.trials.random_contents

    def record(*arguments):
        tried.append(draw(*arguments))
        return tried[-1]

    monkeypatch.setattr(difull.trials, "random_contents", record)
    for seed in (0, 0, 1):
        assert leakage_proof(DiPart(plain_cnn(), 2), grids(), 0, tries=5, seed=seed).passed
    assert torch.equal(tried[0], tried[1])
    assert not torch.equal(tried[0], tried[2])


def test_a_leak_in_another_head_is_told_of_whatever_cell_is_asked_for():
    proof = leakage_proof(LeaksInTheThirdHead(plain_cnn(), 2), grids(), 0, tries=1)
    assert proof.intervention
    assert proof.structure is False
    assert any("head of cell 2 is computed from cells 0, 1, 3" in finding for finding in proof.found)


def test_what_a_rare_trigger_escapes_is_said_in_numbers():
    proof = leakage_proof(RareTrigger(plain_cnn(), 2), grids(), 0, tries=150)
    assert proof.intervention
    assert not proof.passed
    clean = leakage_proof(DiPart(plain_cnn(), 2), grids(), 0, tries=150)
    assert clean.numbers["random_contents_tried"] == 150
    assert clean.numbers["smallest_rate_caught"] == pytest.approx(1 - 0.05 ** (1 / 150), rel=0.02)
    assert clean.numbers["contents_tried"] >= 150 + 18
    assert "2.0% of such" in clean.report


@pytest.mark.parametrize("name", CLEAN)
def test_what_is_clean_passes(name):
    setting = CLEAN[name]()
    proof = leakage_proof(setting, grids(), tries=30)
    assert proof.passed, proof.report
    if "refuses NaN" in name:
        assert proof.taint is None
        assert "taint can't be told" in proof.report
        assert proof.verdict == "tested"
    else:
        assert proof.taint is True
        assert proof.verdict == ("proven" if isinstance(setting, DiFull) else "tested")


@pytest.mark.parametrize("name", MODELS)
def test_the_word_proof_is_kept_for_difull(name):
    """That it is said of DiFull: `test_difull_passes_for_every_family`."""
    images = grids(128 if name == "vit" else 64, 1)
    assert trace_structure(DiPart(MODELS[name](), 2), images).holds is None
    assert trace_structure(GridPG(MODELS[name](), 2), images).holds is None


def test_difull_in_training_mode_is_tested_only():
    proof = leakage_proof(DiFull(plain_cnn(nn.Dropout(0.5)).train(), 2), grids(), 0, tries=1)
    assert proof.passed
    assert proof.structure is None
    assert proof.verdict == "tested"
    statistics = trace_structure(DiFull(plain_cnn(nn.BatchNorm2d(8)).train(), 2), grids())
    assert statistics.holds is None
    assert any("training mode" in note for note in statistics.notes)


class LooksAtItsCell(nn.Module):
    """Values leave the graph; whether they steer the code, no trace can tell."""

    def forward(self, x):
        x.mean().item()
        return x


class Counts(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x


class ReadsAnOldTensor(nn.Module):
    def __init__(self):
        super().__init__()
        self.__dict__["old"] = torch.ones(1)

    def forward(self, x):
        return x + self.old


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (LooksAtItsCell(), "decides by values"),
        (Counts(), "calls changes from call to call"),
        (ReadsAnOldTensor(), "neither parameter nor buffer"),
    ],
)
def test_what_a_trace_cant_vouch_for_is_tested_not_proven(module, why):
    proof = leakage_proof(DiFull(plain_cnn(module), 2), grids(), 0, tries=1)
    assert proof.structure is None
    assert (proof.passed, proof.verdict) == (True, "tested")
    assert why in proof.report
    assert "tested, not proven" in proof.report


class Aliases(DiFull):
    """Hands on a view of its cell, and reads the rest of its memory through it."""

    def forward(self, images, cell=0):
        part = images[..., :16, :16]
        all_of_it = part.as_strided(images.shape, images.stride(), 0)
        return super().forward(images, cell) + 0 * all_of_it.mean(dim=(1, 2, 3))[:, None]


def test_memory_reached_through_a_view_is_followed():
    structure = trace_structure(Aliases(plain_cnn(), 2), grids())
    assert structure.holds is False
    assert "in forward, the head of cell 0 is computed from cells 1, 2, 3" in structure.found


class WritesIntoActivations(DiFull):
    """The head of cell 1 reads all cells; that of cell 0 makes what they share a constant first."""

    def _rest(self, inner, view, cell, activations):
        if inner.layer != "input" and cell == 0:
            activations.zero_()
        if inner.layer != "input" and cell == 1:
            return self._run(inner.rest, activations)
        return super()._rest(inner, view, cell, activations)


def another_split(setting, layer="input", cell=0):
    """As DiFull's, but that the head of cell 1 sees its neighbor at a layer inside."""
    return OWN_SPLIT(setting, layer, 2 if (layer, cell) == ("middle", 1) else cell)


OWN_SPLIT = DiFull.split


@pytest.mark.parametrize("where", ["subclass", "class", "instance"])
def test_a_split_that_is_not_its_own_is_traced_cell_by_cell(monkeypatch, where):
    setting = DiFull(plain_cnn(), 2)
    if where == "subclass":
        setting = WritesIntoActivations(plain_cnn(), 2)
    elif where == "class":
        monkeypatch.setattr(DiFull, "split", another_split)
    else:
        setting.split = partial(another_split, setting)
    structure = trace_structure(setting, grids())
    assert structure.holds is False
    assert any("split at middle, the head of cell 1 is computed from" in found for found in structure.found)


def test_neither_trace_nor_tests_leave_anything_behind():
    setting = Memo(plain_cnn(), 2)
    leakage_proof(setting, grids(), 0, tries=1)
    assert setting.first is None
    backbone = create_backbone("test_resnet", 5).eval()
    before = copy.deepcopy(backbone.state_dict())
    trace_structure(DiFull(backbone, 2), grids(64))
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    assert backbone.layout is not None


def test_all_heads_one_by_one_and_together_agree():
    setting = LeaksInForward(plain_cnn(), 2)
    apart = leakage_proofs(setting, grids(), tries=1)
    together = leakage_proof(setting, grids(), tries=1)
    assert len(apart) == 4
    assert "every head" in together.subject
    assert set(together.found) == {finding for proof in apart for finding in proof.found}
    assert json.loads(json.dumps(together.to_dict()))["verdict"] == "leaks"


def test_contents_are_of_all_kinds_and_keyed():
    images = grids(32, 3)
    chosen = chosen_contents(images)
    flat = {float(each.mean()) for each in chosen if each.std() == 0}
    assert {0.25, -0.25, 1.0, -1.0, 3.0, -3.0, 0.0} <= flat
    numbers = torch.arange(40)
    contents = random_contents(images, numbers)
    assert torch.equal(contents[7:9], random_contents(images, numbers[7:9]))
    assert len({each.sum().item() for each in contents}) == 40
    assert len(quantize(torch.linspace(-3, 3, 10_000)).unique()) == 256
    assert sum(bool(torch.equal(quantize(each), each)) for each in contents) >= 15
