import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate

from faithfulness.core import FILLS, LEAKING_FILLS, WHOLE, DeletionSpec, InputError, PatchGrid, delete_cells
from tests.reference.plain_idsds import plain_cell_sums, plain_delete

GRID = PatchGrid(4, 4)


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 4), cols=st.integers(1, 4), channels=st.integers(1, 3), seed=st.integers(0, 99))
def test_sum_equals_pixelwise_loop(rows, cols, channels, seed):
    maps = torch.randn(2, channels, rows * 3, cols * 2, generator=torch.Generator().manual_seed(seed)).double()
    sums = PatchGrid(rows, cols).sum(maps)
    np.testing.assert_allclose(sums.numpy(), plain_cell_sums(maps, rows, cols), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("unchecked")
def test_sum_refuses_what_the_grid_does_not_divide():
    with pytest.raises(InputError, match="4×4 grid does not divide 10×12"):
        GRID.sum(torch.zeros(1, 1, 10, 12))


def test_any_precision_is_summed_in_float64():
    maps = torch.full((1, 1, 64, 64), 0.1).bfloat16()
    assert GRID.sum(maps).dtype == torch.float64
    torch.testing.assert_close(GRID.sum(maps), GRID.sum(maps.float()))


def test_zeros_equal_the_plain_loop():
    images = torch.randn(16, 3, 16, 16)
    deleted = delete_cells(images, torch.arange(16), GRID)
    for cell in range(16):
        assert torch.equal(deleted[cell], plain_delete(images[cell], cell, 4, 4))


def test_whole_images_stay_whole():
    images = torch.randn(3, 3, 16, 16)
    assert torch.equal(delete_cells(images, torch.full((3,), WHOLE), GRID), images)


@pytest.mark.parametrize("fill", sorted(FILLS))
def test_only_the_cell_changes_and_the_same_way_each_time(fill):
    images = torch.rand(4, 3, 64, 64)
    cells = torch.tensor([0, 5, 10, WHOLE])
    mask = GRID.mask(cells, 64, 64).expand_as(images)
    once, again = delete_cells(images, cells, GRID, fill), delete_cells(images, cells, GRID, fill)
    assert torch.equal(once, again)
    assert torch.equal(once[~mask], images[~mask])
    assert not torch.isclose(once[mask], images[mask]).all()
    alone = torch.cat([delete_cells(images[i : i + 1], cells[i : i + 1], GRID, fill) for i in range(4)])
    torch.testing.assert_close(alone, once, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("fill", sorted(set(FILLS) - LEAKING_FILLS))
def test_what_was_deleted_does_not_matter(fill):
    images = torch.rand(2, 3, 64, 64)
    cells, keys = torch.tensor([3, 9]), torch.tensor([1, 2])
    poisoned = torch.where(GRID.mask(cells, 64, 64), torch.nan, images)
    assert torch.equal(delete_cells(poisoned, cells, GRID, fill, keys), delete_cells(images, cells, GRID, fill, keys))


@pytest.mark.parametrize("fill", sorted(LEAKING_FILLS))
def test_blur_leaks(fill):
    images = torch.rand(1, 3, 64, 64)
    poisoned = torch.where(GRID.mask(torch.tensor([3]), 64, 64), torch.nan, images)
    assert delete_cells(poisoned, torch.tensor([3]), GRID, fill).isnan().any()


def test_the_published_blur_is_wider_and_zero_beyond_the_border():
    images = torch.randn(2, 3, 40, 56, dtype=torch.float64)
    cells = torch.tensor([0, 6])
    kernel = np.array(
        [[np.exp(-(((y - 25) / 82) ** 2)) * np.exp(-(((x - 25) / 82) ** 2)) for x in range(51)] for y in range(51)]
    )
    deleted = delete_cells(images, cells, GRID, "blur-published")
    for image, cell, ours in zip(images, cells.tolist(), deleted, strict=True):
        top, left = cell // 4 * 10, cell % 4 * 14
        for channel in range(3):
            blurred = correlate(image[channel].numpy(), kernel / kernel.sum(), mode="constant", cval=0)
            expected = image[channel].numpy().copy()
            expected[top : top + 10, left : left + 14] = blurred[top : top + 10, left : left + 14]
            np.testing.assert_allclose(ours[channel].numpy(), expected, rtol=0, atol=1e-12)
    spec = DeletionSpec(GRID, "blur-published")
    assert DeletionSpec.from_dict(spec.to_dict()).fill == "blur-published"


def test_mean_fill_is_the_mean_of_the_kept_pixels():
    images = torch.rand(1, 3, 16, 16).double()
    kept = ~GRID.mask(torch.tensor([6]), 16, 16)[0, 0]
    deleted = delete_cells(images, torch.tensor([6]), GRID, "mean")[0, :, ~kept]
    torch.testing.assert_close(deleted, images[0][:, kept].mean(dim=1, keepdim=True).expand_as(deleted))


@pytest.mark.parametrize(
    ("cells", "fill", "message"),
    [
        ([16], "zeros", "must lie in -1 … 15"),
        ([-2], "zeros", "must lie in"),
        ([0, 1], "zeros", "expected images"),
        ([0], "zeroes", "did you mean zeros"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_deletion_is_refused(cells, fill, message):
    with pytest.raises(InputError, match=message):
        delete_cells(torch.zeros(1, 3, 16, 16), torch.tensor(cells), GRID, fill)


def test_sampled_cells_are_uniform_and_half_of_the_images_stay_whole():
    cells = DeletionSpec().sample_cells(0, 3, torch.arange(32000))
    counts = torch.bincount(cells + 1, minlength=17).double()
    assert abs(counts[0] / 32000 - 0.5) < 4 * (0.25 / 32000) ** 0.5
    expected = 32000 / 32
    assert (abs(counts[1:] - expected) < 4.5 * expected**0.5).all()


def test_sampled_cells_depend_on_seed_epoch_and_index_alone():
    spec, indices = DeletionSpec(), torch.arange(256)
    cells = spec.sample_cells(1, 2, indices)
    shuffled = torch.randperm(256)
    assert torch.equal(spec.sample_cells(1, 2, indices[shuffled]), cells[shuffled])
    for other in (spec.sample_cells(2, 2, indices), spec.sample_cells(1, 3, indices)):
        assert (other != cells).float().mean() > 0.5


def test_spec_survives_its_dictionary():
    spec = DeletionSpec(PatchGrid(2, 8), "mean", 0.25)
    assert DeletionSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(InputError, match="not a deletion spec"):
        DeletionSpec.from_dict({"grid": [4]})
    with pytest.raises(InputError, match=r"probability must lie in \[0, 1\]"):
        DeletionSpec(probability=1.5)
