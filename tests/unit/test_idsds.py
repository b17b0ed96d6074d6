import itertools

import numpy as np
import pytest
import torch

from faithfulness.attribution import create_attribution
from faithfulness.core import InputError, PatchGrid
from faithfulness.core.ranking import is_constant, keyed_permutation
from idsds import (
    domain_evidence,
    incremental_deletion,
    output_drops,
    rank_correlation,
)
from idsds.evidence import PROBE_IMAGES, probe_images, separability
from tests.reference.networks import plain_cnn, published_idsds, small_resnet
from tests.reference.plain_idsds import plain_cell_sums, plain_drops, plain_incremental, plain_scores

METHODS = {"ixg": "ixg", "ixg_abs": "ixg|abs", "ig50": "ig(steps=50)"}


@pytest.fixture(scope="module")
def published():
    model, arrays = published_idsds()
    return model, arrays, torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["targets"])


def published_maps(published, name):
    model, arrays, images, targets = published
    if name == "given":
        return torch.from_numpy(arrays["given_attribution"])
    return create_attribution(METHODS[name], model)(images, targets)


def test_drops_of_the_probability_are_those_of_a_network_with_softmax(published):
    model, arrays, images, targets = published
    drops = output_drops(model, images, targets, PatchGrid(4, 4), output="probability", chunk=37)
    expected = plain_drops(torch.nn.Sequential(model, torch.nn.Softmax(dim=1)), images, targets, 4, 4)
    np.testing.assert_allclose(drops.numpy(), expected, rtol=0, atol=1e-6)
    assert not np.allclose(drops.numpy(), arrays["grid4/drops"][..., 0], atol=1e-3)
    with pytest.raises(InputError, match="logit or probability, got 'softmax'"):
        output_drops(model, images, targets, PatchGrid(4, 4), output="softmax")


@pytest.mark.parametrize("cells", [4, 8])
def test_drops_equal_the_published(published, cells):
    model, arrays, images, targets = published
    drops = output_drops(model, images, targets, PatchGrid(cells, cells), chunk=37)
    np.testing.assert_allclose(drops.numpy(), arrays[f"grid{cells}/drops"][..., 0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [*METHODS, "given"])
@pytest.mark.parametrize("cells", [4, 8])
def test_scores_equal_the_published(published, cells, name):
    model, arrays, images, targets = published
    grid = PatchGrid(cells, cells)
    sums = grid.sum(published_maps(published, name))
    # The published sums are float32: of values up to 44 they keep 3e-6, of the exact sum they miss 6e-6.
    published_sums = arrays[f"grid{cells}/{name}/patch_sums"]
    atol = max(1e-6, 1.5e-7 * float(np.abs(published_sums).max()))
    np.testing.assert_allclose(sums.numpy(), published_sums, rtol=0, atol=atol)
    rho = rank_correlation(output_drops(model, images, targets, grid), sums)
    np.testing.assert_allclose(rho.numpy(), arrays[f"grid{cells}/{name}/rho"], rtol=0, atol=1e-9)
    assert float(rho.mean()) == pytest.approx(float(arrays[f"grid{cells}/{name}/mean"]), abs=1e-9)


@pytest.mark.parametrize("order", ["ascending", "descending"])
@pytest.mark.parametrize("name", [*METHODS, "given"])
def test_incremental_deletion_equals_the_published(published, name, order):
    model, arrays, images, targets = published
    curve = incremental_deletion(model, images, targets, published_maps(published, name), order=order)
    assert curve.shape == (8, 32)
    assert float(curve.double().mean()) == pytest.approx(float(arrays[f"incremental/{order}/{name}"]), abs=1e-6)


def test_drops_sums_and_scores_equal_plain_loops():
    model = plain_cnn().double()
    images, targets = torch.randn(3, 3, 16, 24).double(), torch.tensor([0, 4, 2])
    maps = torch.randn(3, 2, 16, 24).double()
    maps[1] = 0.0
    grid = PatchGrid(4, 3)
    drops, sums = output_drops(model, images, targets, grid, chunk=5), grid.sum(maps)
    np.testing.assert_allclose(drops.numpy(), plain_drops(model, images, targets, 4, 3), rtol=0, atol=1e-9)
    np.testing.assert_allclose(sums.numpy(), plain_cell_sums(maps, 4, 3), rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        rank_correlation(drops, sums).numpy(), plain_scores(drops.numpy(), sums.numpy()), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_incremental_deletion_equals_plain_loop_with_ties(order):
    model = plain_cnn().double()
    images, targets = torch.randn(2, 3, 8, 8).double(), torch.tensor([1, 3])
    maps = torch.randint(-2, 3, (2, 1, 8, 8)).double()
    curve = incremental_deletion(model, images, targets, maps, steps=7, order=order, chunk=1)
    for b in range(2):
        ties = keyed_permutation(64).argsort().numpy()
        plain = plain_incremental(model, images[b], targets[b], maps[b, 0].numpy(), 7, order == "descending", ties)
        np.testing.assert_allclose(curve[b].numpy(), plain, rtol=0, atol=1e-6)


def test_reattribution_with_a_constant_explanation_is_plain_incremental_deletion():
    model = plain_cnn()
    images, targets, maps = torch.randn(2, 3, 8, 8), torch.tensor([1, 3]), torch.randn(2, 1, 8, 8)
    fixed = incremental_deletion(model, images, targets, maps, steps=6)
    again = incremental_deletion(model, images, targets, explain=lambda x, t: maps, steps=6)
    torch.testing.assert_close(fixed, again, rtol=0, atol=0)
    explain = create_attribution("ixg", model)
    moving = incremental_deletion(model, images, targets, explain=explain, steps=6)
    assert not torch.allclose(moving, incremental_deletion(model, images, targets, explain(images, targets), steps=6))


@pytest.mark.parametrize("fill", ["zeros", "random"])
def test_a_deleted_pixel_stays_as_it_is_at_every_later_step(fill):
    shown = []

    def model(images):
        shown.append(images)
        return torch.zeros(len(images), 5)

    images = torch.rand(3, 3, 8, 8) + 2
    incremental_deletion(model, images, torch.tensor([0, 1, 2]), torch.randn(3, 1, 8, 8), steps=6, fill=fill)
    assert len(shown) == 6
    for before, after in itertools.pairwise(shown):
        gone = before != images
        assert torch.equal(before[gone], after[gone])
        assert (after != images).sum() > gone.sum()
    if fill == "random":
        fills = [shown[-1][i][(shown[-1][i] != images[i])] for i in range(3)]
        assert all(part.std() > 0.4 for part in fills)
        assert not torch.equal(fills[0], fills[1])


def test_incremental_deletion_wants_maps_or_a_method():
    model, images, targets = plain_cnn(), torch.randn(1, 3, 8, 8), torch.tensor([0])
    with pytest.raises(InputError, match="either maps or explain"):
        incremental_deletion(model, images, targets)
    with pytest.raises(InputError, match="ascending or descending"):
        incremental_deletion(model, images, targets, images, order="upwards")


def test_occlusion_with_the_same_cells_is_the_definition():
    model, images, targets = small_resnet(), torch.randn(6, 3, 64, 64), torch.tensor([0, 1, 2, 3, 4, 0])
    maps = create_attribution("occlusion(kernel=16, stride=16)", model)(images, targets)
    rho = rank_correlation(output_drops(model, images, targets, PatchGrid()), PatchGrid().sum(maps, (64, 64)))
    assert (rho > 0.999).all()


def test_no_gradients_are_tracked(published):
    model, _, images, targets = published
    assert not output_drops(model, images, targets, PatchGrid()).requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [
        (torch.zeros(3, 64, 64), torch.tensor([0]), "expected float images"),
        (torch.zeros(2, 3, 64, 64), torch.tensor([0]), "expected int64 targets"),
        (torch.zeros(1, 3, 64, 64), torch.tensor([7]), "must lie in 0 … 4"),
        (torch.zeros(1, 3, 62, 64), torch.tensor([0]), "does not divide"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_refused(images, targets, message):
    with pytest.raises(InputError, match=message):
        output_drops(plain_cnn(), images, targets, PatchGrid())


def test_evidence_by_hand():
    whole, labels = torch.tensor([0, 1, 1, 1]), torch.tensor([0, 1, 1, 0])
    deleted = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 0]])
    found = domain_evidence(whole, deleted, labels)
    assert (found.accuracy, found.accuracy_deleted, found.agreement) == (0.75, 0.875, 0.625)
    assert found.accuracy_per_cell == [1.0, 0.75]
    assert np.isnan(found.separability)
    assert (found.n, found.n_probe) == (4, 0)


def test_the_probe_is_given_the_same_few_of_many_images():
    few, many = probe_images(50_000, seed=3), probe_images(1024, seed=3)
    assert len(few) == PROBE_IMAGES
    assert len(set(few.tolist())) == PROBE_IMAGES
    assert abs(float(few.double().mean()) / 25_000 - 1) < 0.05  # from all over the data
    assert many.tolist() == list(range(1024))
    assert not torch.equal(few, probe_images(50_000, seed=4))
    torch.manual_seed(0)
    whole = torch.zeros(600, dtype=torch.int64)
    features = torch.randn(100, 4)
    found = domain_evidence(whole, whole[:, None], whole, features, features + 3)
    assert (found.n, found.n_probe) == (600, 100)
    assert found.separability > 0.8


def test_probe_finds_a_shift_and_nothing_where_there_is_none():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 8))
    assert separability(features, features + 1.0) > 0.8
    assert separability(features, features + 0.01 * rng.normal(size=features.shape)) == pytest.approx(0.5, abs=0.1)


def test_noise_is_told_from_drops_by_the_logits_scale():
    """Drops of logits near 1000 that differ by float32's rounding alone are constant, once the scale is told."""
    noise = torch.tensor([[0.0, 6e-5, 0.0, 6e-5], [1.0, 2.0, 3.0, 4.0]])
    assert is_constant(noise, torch.full((2,), 1000.0)).tolist() == [True, False]
    assert not is_constant(noise).any()
