"""Which pairs stay and why others go."""

import inspect

import pytest
import torch

from dea import select_pairs
from faithfulness.core import InputError

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
