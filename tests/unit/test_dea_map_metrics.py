"""What is read off maps alone: mass off target and stability, held against values found on paper."""

import inspect
import math

import pytest
import torch
from scipy import stats
from torch import nn

from dea import mean_stability, off_target_mass, stability
from faithfulness.core import InputError
from faithfulness.core.resize import resize_maps


def test_off_target_mass():
    maps = torch.tensor([[[[1.0, -5.0], [3.0, 0.0]]], [[[0.0, -1.0], [-2.0, 0.0]]]])
    regions = torch.tensor([[[True, True], [False, False]]] * 2)
    assert off_target_mass(maps, regions)[0] == 0.75
    assert off_target_mass(maps, regions)[1].isnan()
    torch.testing.assert_close(off_target_mass(3 * maps, regions), off_target_mass(maps, regions), equal_nan=True)


def test_off_target_mass_of_a_coarse_map_counts_shares_of_pixels():
    # The region fills the left coarse position by half and the right one not at all: (1·½ + 3) / 4.
    regions = torch.zeros(1, 2, 4, dtype=torch.bool)
    regions[:, :, 0] = True
    maps = torch.tensor([[[[1.0, 3.0]]]])
    assert off_target_mass(maps, regions).tolist() == [3.5 / 4]
    upsampled = resize_maps(maps, (2, 4), "nearest")
    assert off_target_mass(upsampled, regions).tolist() == [3.5 / 4]


def test_stability_of_equivariant_and_of_blind_maps():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 2, 12, 12, generator=generator)
    regions = torch.zeros(3, 12, 12, dtype=torch.bool)
    regions[:, 2:5, 1:4] = True

    def inside(x, r, c):
        return x.sum(dim=1, keepdim=True) * r[:, None]

    found = stability(inside, images, regions, torch.zeros(3, dtype=torch.int64))
    assert list(found) == ["noise", "brightness", "contrast", "blur", "flip"]
    torch.testing.assert_close(found["flip"], torch.ones(3, dtype=torch.float64))
    assert ((found["noise"] > 0.9) & (found["noise"] < 1)).all()
    assert (found["blur"] < 0.999).all()

    def gray(x, c):
        return x.sum(dim=1, keepdim=True)

    found = stability(gray, images, torch.zeros(3, dtype=torch.int64))
    for name in ("brightness", "contrast", "flip"):
        torch.testing.assert_close(found[name], torch.ones(3, dtype=torch.float64))
    expected = stats.pearsonr(*(m[0].flatten().numpy() for m in (gray(images, 0), _blurred(images).sum(1, True))))
    assert float(found["blur"][0]) == pytest.approx(expected.statistic, abs=1e-6)

    ramp = torch.arange(12.0).expand(3, 1, 12, 12)
    found = stability(lambda x, c: ramp, images, torch.zeros(3), perturbations=["flip", "noise"])
    torch.testing.assert_close(found["flip"], -torch.ones(3, dtype=torch.float64))
    assert (found["noise"] == 1).all()

    flat = stability(lambda x, c: torch.ones(3, 1, 12, 12), images, torch.zeros(3))
    assert all(values.isnan().all() for values in flat.values())
    mixed = mean_stability({"a": torch.tensor([0.5, math.nan]), "b": torch.tensor([1.0, math.nan])})
    assert mixed[0] == 0.75
    assert mixed[1].isnan()


def _blurred(images):
    """5×5 Gaussian blur with σ 1 and mirrored borders, written out."""
    weights = torch.exp(-0.5 * torch.arange(-2.0, 3.0) ** 2)
    weights /= weights.sum()
    kernel = (weights[:, None] * weights)[None, None].expand(images.shape[1], 1, 5, 5)
    padded = nn.functional.pad(images, (2, 2, 2, 2), mode="reflect")
    return nn.functional.conv2d(padded, kernel, groups=images.shape[1])


def test_noise_of_stability_depends_on_seed_and_image_alone():
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def explain(x, c):
        return x.square().sum(dim=1, keepdim=True)

    together = stability(explain, images, torch.zeros(4), perturbations=["noise"])["noise"]
    alone = [stability(explain, x[None], torch.zeros(1), perturbations=["noise"])["noise"][0] for x in images]
    torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=0)
    assert (stability(explain, images, torch.zeros(4), perturbations=["noise"], seed=1)["noise"] != together).all()


def test_bad_input_of_the_others_is_refused():
    maps, regions = torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool)
    with pytest.raises(InputError, match="bool regions"):
        inspect.unwrap(off_target_mass)(maps, regions.float())
    with pytest.raises(InputError, match="NaN"):
        off_target_mass(maps / 0, regions)
    images = torch.randn(2, 3, 8, 8)
    with pytest.raises(InputError, match="did you mean noise"):
        stability(lambda x: x, images, perturbations=["nose"])
    with pytest.raises(InputError, match="NaN"):
        stability(lambda x: x / 0, images)
