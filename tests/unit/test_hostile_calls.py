"""Calls from Python with what can't be used: an InputError says what was expected, shape checks or not."""

import warnings

import pytest
import torch
from torch import nn

from dea import deletion_drops, off_target_mass
from difull import DiFull, leakage_proof, localization_score
from faithfulness import DeletionSpec, PatchGrid, create_attribution, create_backbone, delete_cells
from faithfulness.core import InputError
from idsds import incremental_deletion, output_drops, rank_correlation
from tests.reference.networks import plain_cnn

NAN = float("nan")
GRID = PatchGrid(4, 4)
IMAGES, TARGETS = torch.randn(2, 3, 16, 16), torch.tensor([0, 1])
MAPS, ROWS = torch.randn(2, 1, 16, 16), torch.randn(2, 16)
REGIONS = torch.zeros(2, 16, 16, dtype=torch.bool)
REGIONS[:, :4] = True
NET, DENSE = plain_cnn().eval(), nn.Conv2d(3, 4, 3, padding=1)
SETTING, GRIDS = DiFull(NET, scale=2), torch.randn(1, 3, 32, 32)


def explain(images=IMAGES, targets=TARGETS, name="ixg", model=NET, **keywords):
    return create_attribution(name, model, **keywords)(images, targets)


def drops(**changed):
    given = {"regions": REGIONS, "classes": TARGETS, "maps": MAPS, **changed}
    return deletion_drops(changed.pop("model", DENSE), IMAGES, **{k: v for k, v in given.items() if k != "model"})


CALLS = {
    "chunk 0": (lambda: explain(chunk=0), "chunk"),
    "chunk 2.5": (lambda: explain(chunk=2.5), "a whole number"),
    "layer 3": (lambda: explain(layer=3), "a name as the layer"),
    "name 3": (lambda: explain(name=3), "a name as the attribution"),
    "no model": (lambda: explain(model=None), "nn.Module"),
    "a function as model": (lambda: explain(model=lambda x: x), "nn.Module"),
    "cell of a plain network": (lambda: explain(cell=0), "setting with cells"),
    "cell 9": (lambda: explain(model=SETTING, cell=9), "cell"),
    "cell 1.5": (lambda: explain(model=SETTING, cell=1.5), "cell"),
    "array": (lambda: explain(IMAGES.numpy()), "ndarray"),
    "list": (lambda: explain([1]), "list"),
    "nothing": (lambda: explain(None), "None"),
    "whole images": (lambda: explain(IMAGES.byte()), "uint8"),
    "one image": (lambda: explain(IMAGES[0], torch.tensor([0, 1, 2])), "(3, 16, 16)"),
    "five dimensions": (lambda: explain(IMAGES[None], TARGETS[:1]), "(1, 2, 3, 16, 16)"),
    "double": (lambda: explain(IMAGES.double()), "float64"),
    "gray": (lambda: explain(IMAGES[:, :1]), "(2, 1, 16, 16)"),
    "meta images": (lambda: explain(IMAGES.to("meta"), TARGETS.to("meta")), "meta"),
    "meta targets": (lambda: explain(targets=TARGETS.to("meta")), "one device"),
    "array of targets": (lambda: explain(targets=TARGETS.numpy()), "ndarray"),
    "float targets": (lambda: explain(targets=TARGETS.float()), "float32"),
    "one target": (lambda: explain(targets=1), "int"),
    "list of targets": (lambda: explain(targets=[0, 1]), "list"),
    "no targets": (lambda: explain(targets=None), "None"),
    "fewer targets": (lambda: explain(targets=TARGETS[:1]), "(1,)"),
    "targets too high": (lambda: explain(targets=TARGETS + 9), "0 … 4"),
    "targets below 0": (lambda: explain(targets=TARGETS - 5), "0 … 4"),
    "grid 0": (lambda: PatchGrid(0, 4), "0×4"),
    "grid of text": (lambda: PatchGrid("4", "4"), "'4'"),
    "grid of floats": (lambda: PatchGrid(4.0, 4.0), "whole numbers"),
    "grid of NaN": (lambda: PatchGrid(NAN, 4), "whole numbers"),
    "huge grid": (lambda: PatchGrid(10**30, 4), "fewer than"),
    "grid of a word": (lambda: PatchGrid.of("44"), "'44'"),
    "grid of three": (lambda: PatchGrid.of([4, 4, 4]), "[4, 4, 4]"),
    "sum of an array": (lambda: GRID.sum(MAPS.numpy()), "ndarray"),
    "sum of complex": (lambda: GRID.sum(MAPS + 0j), "complex"),
    "sum of one size": (lambda: GRID.sum(MAPS, size=3), "height and width"),
    "cells too high": (lambda: delete_cells(IMAGES, TARGETS + 99, GRID), "-1 … 15"),
    "float cells": (lambda: delete_cells(IMAGES, TARGETS.float(), GRID), "float32"),
    "truths as cells": (lambda: delete_cells(IMAGES, TARGETS.bool(), GRID), "bool"),
    "list of cells": (lambda: delete_cells(IMAGES, [0, 1], GRID), "list"),
    "array to delete from": (lambda: delete_cells(IMAGES.numpy(), TARGETS, GRID), "ndarray"),
    "number as grid": (lambda: delete_cells(IMAGES, TARGETS, 4), "PatchGrid"),
    "number as fill": (lambda: delete_cells(IMAGES, TARGETS, GRID, fill=3), "name of a fill"),
    "number as keys": (lambda: delete_cells(IMAGES, TARGETS, GRID, keys=3), "keys"),
    "spec of a number": (lambda: DeletionSpec(4), "PatchGrid"),
    "probability NaN": (lambda: DeletionSpec(GRID, probability=NAN), "[0, 1]"),
    "probability as text": (lambda: DeletionSpec(GRID, probability="x"), "[0, 1]"),
    "other shapes": (lambda: rank_correlation(ROWS, ROWS[:, :5]), "(2, 5)"),
    "no cells": (lambda: rank_correlation(ROWS[:, :0], ROWS[:, :0]), "(2, 0)"),
    "array of drops": (lambda: rank_correlation(ROWS.numpy(), ROWS), "ndarray"),
    "complex drops": (lambda: rank_correlation(ROWS + 0j, ROWS), "complex"),
    "no drops": (lambda: rank_correlation(None, ROWS), "None"),
    "drops on 4": (lambda: output_drops(NET, IMAGES, TARGETS, 4), "PatchGrid"),
    "a model that gives None": (lambda: output_drops(lambda x: None, IMAGES, TARGETS, GRID), "None"),
    "a model that gives a dict": (lambda: output_drops(lambda x: {}, IMAGES, TARGETS, GRID), "dict"),
    "a model that gives images": (lambda: output_drops(lambda x: x, IMAGES, TARGETS, GRID), "(2, 3, 16, 16)"),
    "drops by 0": (lambda: output_drops(NET, IMAGES, TARGETS, GRID, chunk=0), "chunk"),
    **{
        f"{steps} steps": (lambda steps=steps: incremental_deletion(NET, IMAGES, TARGETS, MAPS, steps=steps), "steps")
        for steps in (0, -1, 2.5, "4", True, 10**9)
    },
    "order x": (lambda: incremental_deletion(NET, IMAGES, TARGETS, MAPS, order="x"), "ascending"),
    "deletion by 0": (lambda: incremental_deletion(NET, IMAGES, TARGETS, MAPS, chunk=0), "chunk"),
    "NaN maps": (lambda: incremental_deletion(NET, IMAGES, TARGETS, MAPS * NAN), "NaN"),
    "scale 0": (lambda: DiFull(NET, scale=0), "0"),
    "scale 2.5": (lambda: DiFull(NET, scale=2.5), "2.5"),
    "a setting of nothing": (lambda: DiFull(None), "nn.Module"),
    "head -1": (lambda: SETTING(GRIDS, cell=-1), "-1"),
    "head 4": (lambda: SETTING(GRIDS, cell=4), "4"),
    "negative scale": (lambda: localization_score(MAPS, cell=0, scale=-2), "-2"),
    "cell beyond": (lambda: localization_score(MAPS, cell=9, scale=2), "9"),
    "NaN map": (lambda: localization_score(MAPS * NAN, cell=0, scale=2), "NaN"),
    "size 3": (lambda: localization_score(MAPS, cell=0, scale=2, size=3, upsample="bilinear"), "size"),
    "proof of a network": (lambda: leakage_proof(NET, GRIDS, cell=0), "DiFull"),
    "proof of an array": (lambda: leakage_proof(SETTING, GRIDS.numpy(), cell=0), "ndarray"),
    "regions of another size": (lambda: drops(regions=REGIONS[:, :8]), "(2, 8, 16)"),
    "float regions": (lambda: drops(regions=REGIONS.float()), "float32"),
    "array of regions": (lambda: drops(regions=REGIONS.numpy()), "ndarray"),
    "no fractions": (lambda: drops(fractions=()), "at least one"),
    "fraction NaN": (lambda: drops(fractions=(NAN,)), "[0, 1]"),
    "one fraction": (lambda: drops(fractions=0.1), "0.1"),
    "fraction as text": (lambda: drops(fractions=("a",)), "'a'"),
    "dense by 0": (lambda: drops(chunk=0), "chunk"),
    "no regions": (lambda: off_target_mass(MAPS, None), "None"),
    "timm by number": (lambda: create_backbone(3), "timm model"),
    "fewer classes than none": (lambda: create_backbone("test_resnet", -1), "num_classes"),
    "classes as text": (lambda: create_backbone("test_resnet", "x"), "num_classes"),
    "size 0": (lambda: create_backbone("test_resnet", 5, input_size=0), "input_size"),
    "no channels": (lambda: create_backbone("test_resnet", 5, in_chans=0), "in_chans"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_refused_with_what_was_expected_and_what_came(unchecked, name):
    call, says = CALLS[name]
    with pytest.raises(InputError) as error:
        call()
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["ixg", "ig(steps=3)", "rise(masks=4)"])
def test_no_images_have_no_maps(name):
    assert explain(IMAGES[:0], TARGETS[:0], name).shape == (0, 1, 16, 16)


def test_a_block_around_a_call_changes_no_map():
    expected = explain(name="ig(steps=3)")
    with torch.no_grad():
        assert torch.equal(explain(name="ig(steps=3)"), expected)
    with torch.inference_mode(), pytest.raises(InputError, match="inference_mode"):
        explain(name="ig(steps=3)")
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(explain(name="ig(steps=3)"), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_network_in_training_mode_is_told_and_left_in_it():
    net = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(768, 5))
    with pytest.warns(UserWarning, match="training mode"):
        maps = explain(model=net)
    assert net.training
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(explain(model=net.eval()), maps)
