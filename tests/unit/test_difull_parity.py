"""Against outputs of the published code: `tests/reference/published_difull.npz`."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from difull import DiFull, DiPart, GridPG, aggregate, compose_grid, localization_score
from difull.aggregation import sort_by_score
from faithfulness.attribution import ATTRIBUTIONS, create_attribution
from tests.reference.grids import published_cnn

GRID_SETTINGS = {"GridPG": GridPG, "DiFull": DiFull, "DiPart": DiPart}
METHODS = {
    "Grad": "grad",
    "GB": "gb",
    "IxG": "ixg",
    "IntGrad": "ig(steps=20)",
    "GradCam": "gradcam",
    "GradCamPlusPlus": "gradcampp",
    "LayerCam": "layercam",
}
REGISTERED = {name: text for name, text in METHODS.items() if text.partition("(")[0] in ATTRIBUTIONS}


@cache
def published():
    return np.load(Path(__file__).parents[1] / "reference" / "published_difull.npz")


@cache
def network():
    return published_cnn(published())


def tensor(name):
    return torch.from_numpy(published()[name])


def assert_near(found, expected, relative=1e-4):
    """Near relative to the largest value of each map or row."""
    size = expected.abs().flatten(1).amax(dim=1).view(-1, *[1] * (expected.dim() - 1))
    assert ((found - expected).abs() <= relative * size).all(), ((found - expected).abs() / size).max()


def heads_of(name, scale):
    return range(scale**2) if name == "GridPG" else (0, scale**2 - 1)


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("name", GRID_SETTINGS)
def test_logits_of_every_cell(name, scale):
    setting, images = GRID_SETTINGS[name](network(), scale), tensor(f"scale{scale}/images")
    keys = [key for key in published().files if key.startswith(f"scale{scale}/{name}/cell")]
    assert len(keys) == (1 if name == "GridPG" else scale**2)
    with torch.no_grad():
        together = setting.heads(images)
        for key in keys:
            cell = int(key.split("/")[2].removeprefix("cell"))
            assert_near(setting(images, cell), tensor(key), 1e-5)
            assert_near(together[:, cell], tensor(key), 1e-5)


def test_no_published_method_is_missed():
    published_names = {key.split("/")[2] for key in published().files if key.endswith("/localization")}
    assert published_names == set(METHODS)
    assert {"Grad", "IxG", "IntGrad", "GradCam"} <= set(REGISTERED)


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("layer", ["Input", "Middle", "Final"])
@pytest.mark.parametrize("method", REGISTERED)
@pytest.mark.parametrize("name", GRID_SETTINGS)
def test_attributions(name, method, layer, scale):
    images, labels = tensor(f"scale{scale}/images"), tensor(f"scale{scale}/labels")
    expected = tensor(f"scale{scale}/{name}/{method}/{layer}/attributions")
    setting = GRID_SETTINGS[name](network(), scale)
    for head, cell in enumerate(heads_of(name, scale)):
        targets = labels[:, cell]
        maps = create_attribution(REGISTERED[method], setting, layer=layer.lower(), cell=cell)(images, targets)
        if method == "GradCamPlusPlus":  # published with its factor exp(logit) for each image
            logits = setting(images, cell).gather(1, targets[:, None])
            maps = maps * logits.exp()[..., None, None]
        assert_near(maps, expected[:, head])


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("layer", ["Input", "Middle", "Final"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", GRID_SETTINGS)
def test_localization_with_bilinear_upsampling(name, method, layer, scale):
    path = f"scale{scale}/{name}/{method}/{layer}"
    maps, expected = tensor(f"{path}/attributions"), tensor(f"{path}/localization")
    cells = list(heads_of(name, scale))
    size = tuple(tensor(f"scale{scale}/images").shape[-2:])
    found = torch.cat([localization_score(maps[:, i], cell, scale, "bilinear", size) for i, cell in enumerate(cells)])
    assert torch.allclose(found.float(), expected, rtol=1e-5, atol=1e-6)
    each = torch.tensor(cells).repeat_interleave(len(maps))
    assert torch.equal(localization_score(maps.transpose(0, 1).flatten(0, 1), each, scale, "bilinear", size), found)


def test_aggregate_scores_order_and_bins():
    maps, scores = tensor("aggatt/attributions")[:, 0], tensor("aggatt/scores")
    found = localization_score(maps, 0, 2, "bilinear", (48, 48))
    assert torch.allclose(found.float(), scores, rtol=1e-5)
    assert np.array_equal(sort_by_score(found), published()["aggatt/order"])
    result = aggregate(maps, scores, size=(48, 48))
    assert np.array_equal(result.order, published()["aggatt/order"])
    assert result.counts == tuple(published()["aggatt/bin_counts"])
    truncation = tensor("aggatt/bin_sizes_used") / tensor("aggatt/bin_counts")
    assert truncation.min() < 1
    assert_near(result.means, tensor("aggatt/bin_means") * truncation.float()[:, None, None, None], 1e-6)


@pytest.mark.parametrize("scale", [2, 3])
def test_published_grids_compose_from_their_cells(scale):
    images = tensor(f"scale{scale}/images")
    cells = [images[:, :, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16] for i in range(scale) for j in range(scale)]
    assert torch.equal(compose_grid(torch.stack(cells, dim=1), scale), images)
