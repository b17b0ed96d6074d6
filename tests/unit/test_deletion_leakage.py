"""Deletion leaks neither the deleted pixels nor, by its choice of patch, the label."""

import json

import pytest
import torch

from faithfulness.core import FILLS, LEAKING_FILLS, DeletionSpec, InputError, PatchGrid
from faithfulness.core.deletion_leakage import _test, deletion_leakage, mask_leakage
from tests.reference.grids import mutual_information


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
