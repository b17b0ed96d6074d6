"""Which pairs stay and why others go; metric classes over batches; figures that can be looked at."""

import inspect
import math

import numpy as np
import pytest
import torch
from matplotlib import image as pictures

from core import InputError
from dea import DeletionDrops, InsertionScore, OffTargetMass, Stability, deletion_drops, insertion_scores, select_pairs
from dea.figures import plot_curves, plot_examples, plot_scatter
from dea.metrics import off_target_mass, stability

VOID = 255


def painted():
    """Four 4×4 images; classes 1, 2, 3."""
    truth = torch.zeros(4, 4, 4, dtype=torch.int64)
    guess = torch.zeros_like(truth)
    truth[0, :2], guess[0, :1] = 1, 1  # IoU 1/2
    truth[0, 2:, :2], guess[0, 1:, :2] = 2, 2  # annotated 4, predicted 6, IoU 4/6
    truth[1, :1], truth[1, 3, 3] = 3, VOID  # not predicted
    guess[2] = 1  # no target
    truth[3] = VOID
    truth[3, 0, :2], guess[3] = 1, 1  # predicted everywhere; outside the void IoU 1
    return truth, guess


def reasons(pairs):
    return [(d.image, d.class_index, d.reason) for d in pairs.dropped]


def test_pairs_on_paper():
    pairs = select_pairs(*painted())
    assert pairs.image.tolist() == [0, 0]
    assert pairs.classes.tolist() == [1, 2]
    assert pairs.iou.tolist() == pytest.approx([1 / 2, 4 / 6])
    assert pairs.area.tolist() == [4 / 16, 6 / 16]
    assert torch.equal(pairs.regions, torch.stack([painted()[1][0] == 1, painted()[1][0] == 2]))
    assert reasons(pairs) == [
        (1, 3, "class not predicted"),
        (2, None, "no target in the image"),
        (3, 1, "area too large"),
    ]
    assert pairs.counts == {
        "kept": 2,
        "no target in the image": 1,
        "class not predicted": 1,
        "IoU too low": 0,
        "area too small": 0,
        "area too large": 1,
    }


def test_filters_move_the_pairs_and_every_pair_is_accounted_for():
    strict = select_pairs(*painted(), min_iou=0.6, max_area=1.0)
    assert [(int(i), int(c)) for i, c in zip(strict.image, strict.classes, strict=True)] == [(0, 2), (3, 1)]
    assert (0, 1, "IoU too low") in reasons(strict)
    assert strict.iou[1] == 1
    large = select_pairs(*painted(), min_area=0.3)
    assert (0, 1, "area too small") in reasons(large)
    annotated = select_pairs(*painted(), region="annotated")
    assert annotated.area.tolist() == [8 / 16, 4 / 16, 2 / 16]
    assert annotated.regions[2].sum() == 2
    none = select_pairs(*painted(), min_iou=1.0, background=None)
    assert sum(none.counts.values()) == len(none) + len(none.dropped)
    empty = select_pairs(torch.zeros(2, 3, 3, dtype=torch.int64), torch.zeros(2, 3, 3, dtype=torch.int64))
    assert empty.regions.shape == (0, 3, 3)
    assert empty.counts["no target in the image"] == 2
    with_background = select_pairs(*painted(), background=None, void=None, max_area=1.0, min_iou=0.0)
    assert {(0, 0), (1, 0)} <= set(zip(with_background.image.tolist(), with_background.classes.tolist(), strict=True))


def test_bad_masks_are_refused():
    truth, guess = painted()
    plain = inspect.unwrap(select_pairs)
    for given, settings, message in (
        ((truth, guess[:, :2]), {}, "of one size"),
        ((truth.float(), guess), {}, "integer classes"),
        ((truth, guess), {"min_area": 0.5, "max_area": 0.1}, "min_area ≤ max_area"),
        ((truth, guess), {"min_iou": 2.0}, "min_iou"),
        ((truth, guess), {"region": "drawn"}, "'predicted' or 'annotated'"),
    ):
        with pytest.raises(InputError, match=message):
            plain(*given, **settings)


def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 2, 6, 6, generator=generator)
    regions = torch.rand(6, 6, 6, generator=generator) < 0.3
    regions[4] = False
    return images, regions, torch.tensor([0, 1, 0, 1, 0, 1]), torch.randn(6, 1, 6, 6, generator=generator)


def model(images):
    return images


def test_metric_classes_equal_the_functions_whatever_the_batches_and_count_a_repeated_pair_once():
    images, regions, classes, maps = batch()
    tdd, odd = deletion_drops(model, images, regions, classes, maps, (0.1, 0.3), "zeros")
    inserted = insertion_scores(model, images, regions, classes, maps, (0.1, 0.3), "zeros").mean(dim=1)
    mass = off_target_mass(maps, regions)
    drops, insertion, off = (
        DeletionDrops((0.1, 0.3), "zeros"),
        InsertionScore((0.1, 0.3), "zeros"),
        OffTargetMass(),
    )
    for rows in (torch.tensor([3, 1]), torch.tensor([0, 2, 4]), torch.tensor([5, 3])):
        given = (images[rows], regions[rows], classes[rows], maps[rows])
        drops.update(model, *given, indices=rows)
        insertion.update(model, *given, indices=rows)
        off.update(maps[rows], regions[rows], indices=rows)
    found = drops.compute()
    assert float(found["target_deletion_drop"]) == pytest.approx(float(tdd.nanmean()))
    assert float(found["off_target_deletion_drop"]) == pytest.approx(float(odd.mean()))
    assert (int(found["n"]), int(found["target_deletion_drop_undefined"])) == (6, 1)
    assert int(found["off_target_deletion_drop_undefined"]) == 0
    assert float(insertion.compute()["insertion"]) == pytest.approx(float(inserted.nanmean()))
    assert float(off.compute()["off_target_mass"]) == pytest.approx(float(mass.nanmean()))
    indices, values = drops.per_pair()
    assert indices.tolist() == list(range(6))
    torch.testing.assert_close(values, torch.stack([tdd, odd], dim=1), equal_nan=True)
    drops.reset()
    with pytest.warns(UserWarning, match="before the"), pytest.raises(InputError, match="no pairs"):
        drops.compute()


def test_metric_without_indices_keeps_every_pair():
    _, regions, _, maps = batch()
    metric = OffTargetMass()
    for _ in range(2):
        metric.update(maps, regions)
    assert metric.compute()["n"] == 12
    with pytest.raises(InputError, match="6 indices"):
        metric.update(maps, regions, indices=torch.arange(3))


def test_stability_metric():
    images, regions, classes, _ = batch()

    def explain(x, r, c):
        return (x * r[:, None]).sum(dim=1, keepdim=True)

    metric = Stability(["noise", "flip"], seed=3)
    for rows in (slice(0, 4), slice(4, 6)):
        metric.update(explain, images[rows], regions[rows], classes[rows], indices=torch.arange(6)[rows])
    expected = stability(explain, images, regions, classes, perturbations=["noise", "flip"], seed=3)
    found = metric.compute()
    assert found["stability_noise"] == expected["noise"].nanmean()
    assert found["stability_flip_undefined"] == 1
    assert float(found["stability_flip"]) == pytest.approx(1)


def test_figures_are_written_and_hold_what_they_are_given(tmp_path):
    values = np.random.default_rng(0).random((9, 4))
    values[2, 1] = math.nan
    curves = {"dea": values, "gpa": values / 2, "flat": np.full((9, 4), math.nan)}
    plot_curves(curves, (0.1, 0.2, 0.3, 0.4), tmp_path / "curves.png", label="drop")
    points = {"dea": (0.9, 0.3), "random": (0.0, 0.01), "lost": (math.nan, 0.2)}
    plot_scatter(points, tmp_path / "plain.png", x_label="stability")
    plot_scatter(points, tmp_path / "log.png", x_label="seconds per map", log_x=True, intervals={"dea": (0.2, 0.4)})
    images, regions, _, maps = batch()
    sheet = torch.rand(3, 3, 6, 6)
    plot_examples(sheet, regions[:3], {"dea": maps[:3], "flat": 0 * maps[:3, :, ::2, ::2]}, tmp_path / "sheet.png")
    plot_examples(sheet[:1, :1], regions[:1], {"dea": maps[:1]}, tmp_path / "grey.png", names=["scene 0"])
    for name in ("curves", "plain", "log", "sheet", "grey"):
        picture = pictures.imread(tmp_path / f"{name}.png")
        assert picture.shape[0] > 100
        assert picture[..., :3].std() > 0.02
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".png"] * 5
    with pytest.raises(InputError, match=r"\(pairs, 3\)"):
        plot_curves({"dea": values}, (0.1, 0.2, 0.3), tmp_path / "no.png", label="drop")
    with pytest.raises(InputError, match="no examples"):
        plot_examples(images[:0], regions[:0], {}, tmp_path / "no.png")
    assert not (tmp_path / "no.png").exists()
