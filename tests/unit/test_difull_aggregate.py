"""AggAtt's sorting, bins and means, and what the figures show."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.patches import Rectangle

from core import InputError
from difull import aggregate
from difull.aggregate import EDGES, cut_bins, sort_by_score
from difull.figures import (
    aggregate_figure,
    box_figure,
    examples_figure,
    heat_map_figure,
    influence_figure,
    save_figure,
)


def maps_and_scores(count=100, side=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, side, side, generator=generator), torch.rand(count, generator=generator)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 500))
def test_every_map_is_in_exactly_one_bin(count):
    bins = cut_bins(count)
    assert [i for part in bins for i in range(part.start, part.stop)] == list(range(count))
    for part, (low, high) in zip(bins, pairwise(EDGES), strict=True):
        assert abs((part.stop - part.start) - (high - low) * count) <= 1


def test_ties_put_more_attribution_inside_first():
    scores = np.array([0.5, 1.0, 0.5, 1.0, 0.5])
    inside = np.array([1.0, 2.0, 3.0, 4.0, 3.0])
    assert sort_by_score(scores, inside).tolist() == [3, 1, 2, 4, 0]
    assert sort_by_score(scores).tolist() == [1, 3, 0, 2, 4]
    by_hand = sorted(range(5), key=lambda i: (-scores[i], -inside[i], i))
    assert sort_by_score(torch.from_numpy(scores), torch.from_numpy(inside)).tolist() == by_hand


def test_bins_average_the_positive_parts_of_their_own_maps():
    maps, scores = maps_and_scores(60)
    result = aggregate(maps, scores, examples=2)
    ranked = sorted(range(60), key=lambda i: -scores[i])
    start = 0
    for mean, count, examples in zip(result.means, result.counts, result.examples, strict=True):
        chosen = ranked[start : start + count]
        assert torch.allclose(mean, maps[chosen].clamp(min=0).mean(dim=0))
        assert set(examples) <= set(chosen)
        if count > 10:
            assert all(abs(chosen.index(index) - count / 2) <= 2 for index in examples)
        start += count
    assert start == 60


def test_an_empty_bin_has_no_mean():
    result = aggregate(*maps_and_scores(10))
    assert result.counts == (0, 1, 4, 5, 0, 0)
    assert result.means[0].isnan().all()
    assert result.means[1:4].isfinite().all()
    assert result.examples[0] == ()


def test_aggregate_refusals():
    maps, scores = maps_and_scores(5)
    with pytest.raises(InputError, match="expected as many scores as maps"):
        aggregate(maps, scores[:4].numpy())
    with pytest.raises(InputError, match=r"without NaN, got .* with 1 NaN"):
        aggregate(maps, torch.tensor([0.1, torch.nan, 0, 0, 0]))
    with pytest.raises(InputError, match="must rise from 0 to 1"):
        aggregate(maps, scores, edges=(0.0, 0.5, 0.4, 1.0))
    with pytest.raises(InputError, match="as many inside sums"):
        aggregate(maps, scores, scores[:2].numpy())


def images_of(axis):
    return [image for image in axis.get_images() if not image.axes.get_label().startswith("<colorbar")]


def test_aggregate_figure_has_one_colour_scale_per_method_and_frames_the_cell(tmp_path):
    maps, scores = maps_and_scores()
    rows = {"ixg": aggregate(maps, scores), "gradcam": aggregate(50 * maps[:, :, :3, :3], scores)}
    figure = aggregate_figure(rows, cell=2, scale=2)
    panels = [axis for axis in figure.axes if images_of(axis)]
    assert len(panels) == 12
    ends = [axis.get_images()[0].norm.vmax for axis in panels]
    assert len(set(ends[:6])) == len(set(ends[6:])) == 1
    assert ends[6] > 10 * ends[0]
    assert all(axis.get_images()[0].norm.vmin == 0 for axis in panels)
    (frame,) = [patch for patch in panels[0].patches if isinstance(patch, Rectangle)]
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((-0.5, 1.5), 2, 2)
    assert panels[0].get_title() == "0–2 %"
    assert panels[5].get_xlabel().endswith("n = 2")
    save_figure(figure, tmp_path / "plots" / "aggatt.png", dpi=50)
    assert (tmp_path / "plots" / "aggatt.png").read_bytes().startswith(b"\x89PNG")


def test_figures_are_drawn_whatever_is_missing(tmp_path):
    maps, scores = maps_and_scores(10)
    few = aggregate(maps, 0 * scores, examples=2)
    chosen = [index for part in few.examples for index in part]
    drawn = {
        "bins": aggregate_figure({"none": aggregate(0 * maps, 0 * scores)}, 0, 3),
        "examples": examples_figure(few, {i: torch.rand(3, 8, 8) for i in chosen}, dict(enumerate(maps)), 1, 2),
        "heat": heat_map_figure(
            np.array([[0.2, np.nan], [1, 0]]), ["a", "b"], [("DiFull", "input"), ("GridPG", "input")]
        ),
        "boxes": box_figure({"input": {"a": np.array([0.1, np.nan, 0.4])}, "final": {"b": np.array([])}}, chance=0.25),
        "influence": influence_figure({"DiFull": np.eye(4, dtype=bool)}, 0, 2),
    }
    for name, figure in drawn.items():
        save_figure(figure, tmp_path / f"{name}.png", dpi=40)
        assert (tmp_path / f"{name}.png").stat().st_size > 1000


def test_heat_map_names_every_setting_once_and_every_value():
    columns = [(setting, layer) for setting in ("GridPG", "DiFull") for layer in ("input", "final")]
    axis = heat_map_figure(np.array([[0.25, 0.5, 1.0, np.nan]]), ["ixg"], columns).axes[0]
    texts = [text.get_text() for text in axis.texts]
    assert texts == ["0.25", "0.50", "1.00", "–", "GridPG", "DiFull"]
    assert [axis.texts[i].get_position()[0] for i in (4, 5)] == [0.5, 2.5]


def test_figures_refuse_nothing_to_draw():
    for draw in (lambda: aggregate_figure({}, 0, 2), lambda: box_figure({}), lambda: influence_figure({}, 0, 2)):
        with pytest.raises(InputError, match="a figure needs"):
            draw()
    with pytest.raises(InputError, match=r"expected values \(1, 2\)"):
        heat_map_figure(np.zeros((2, 1)), ["a"], [("s", "l")] * 2)
