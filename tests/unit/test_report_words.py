"""Pictures say what is to be known for reading them: winners, colors, classes, chance, what is missing."""

import numpy as np
import pytest
import torch

from difull import aggregate
from faithfulness import InputError, report
from tests.reference.pictures import FIGURES, GRID, kept, many, maps_and_scores


def test_the_winner_of_each_pair_is_marked():
    """A mark points at the winner's name, and its color says the same."""
    figure = FIGURES["winners"]()
    axes, texts = figure.axes[0], [text.get_text() for text in figure.axes[0].texts]
    assert texts == [".010\n▾", ".010\n◂"]
    (above,), (below,) = (
        [patch for patch in axes.patches if patch.get_xy() == xy] for xy in ((0.5, -0.5), (-0.5, 0.5))
    )
    handles = figure.legends[0].get_patches()
    assert above.get_facecolor() == handles[1].get_facecolor() != handles[0].get_facecolor()
    assert below.get_facecolor() == handles[0].get_facecolor()
    key = [text.get_text() for text in figure.legends[0].get_texts()]
    assert key == ["◂ the row's method is better", "▾ the column's is", "no difference shown at 5 %"]
    with pytest.raises(InputError, match=r"expected winners \(2, 2\), got \(1, 1\)"):
        report.test_matrix(["a", "b"], np.ones((2, 2)), better=[[1]])


def test_many_methods_stand_in_blocks():
    """28 maps in a row would be 35 inches wide."""
    figure = many()
    assert figure.get_figwidth() < 14
    assert [axes.get_title() for axes in figure.axes if axes.get_title() == "image"] == ["image"] * 3
    titles = [axes.get_title() for axes in figure.axes if axes.get_title() not in ("", "image")]
    assert titles == [f"m{i}" for i in range(28)]
    names = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    said = figure.legends[0].get_title().get_text().replace("\n", " ")
    assert "the first 3 of 6 images; with at most 10 methods all are shown" in said
    assert names == ["#0\nclass seven", "#1\nclass seven", "#2\nclass seven"] * 3


def test_a_map_lies_over_its_image():
    """Where nothing is attributed the image shows, gray and pale; and the more is, the less."""
    figure = FIGURES["examples"]()
    axes = next(axes for axes in figure.axes if axes.get_title() == "ixg")
    below, above = axes.images
    assert below.get_array().shape == (8, 8)
    assert below.get_array().min() >= 0.6
    values, alpha = np.abs(above.get_array()), above.get_alpha()
    assert (np.diff(alpha.ravel()[np.argsort(values, axis=None)]) >= 0).all()
    assert alpha[values.argmax() // 8, values.argmax() % 8] == pytest.approx(0.85)


def test_an_image_says_what_it_is_taken_for():
    def texts(**given):
        figure = report.examples([entry | given for entry in kept(["ixg"], 1)], ["ixg"], GRID)
        return figure.axes[0].get_ylabel(), figure.axes[0].yaxis.label.get_color()

    assert texts(predicted="seven") == ("#0\nclass seven\npredicted seven", "#262626")
    assert texts(predicted="one") == ("#0\nclass seven\npredicted one ✗", "#B30000")
    named = texts(name="cat", label=None, predicted="one", explained="two")
    assert named == ("cat\npredicted one\nexplained: two", "#262626")


def test_sums_have_the_colors_of_their_map():
    """Also where no sum is negative: one scale is stated for both."""
    entries = [entry | {"sums": np.arange(4.0)} for entry in kept(["ixg"], 1)]
    figure = report.examples(entries, ["ixg"], GRID)
    assert [axes.images[-1].cmap.name for axes in figure.axes[1:4]] == ["RdBu_r"] * 3
    said = figure.legends[0].get_title().get_text().replace("\n", " ")
    assert "a method's maps and sums have the same colors, and each a scale of its own" in said


def test_the_key_is_true_of_controls():
    def notes(*methods):
        return report.examples(kept(methods, 1), methods, GRID).legends[0].get_title().get_text()

    assert "of no class: edge, random" in notes("ixg", "edge", "random").replace("\n", " ")
    assert "controls" not in notes("ixg")


def test_aggregates_say_what_is_to_be_known():
    maps, scores = maps_and_scores(20)

    def notes(layer, name="gradcam"):
        return report.aggregate_figure({name: aggregate(maps, scores)}, 0, 2, layer=layer).get_supxlabel()

    found = notes("input").replace("\n", " ")
    assert "L, localization score: positive attribution inside the framed cell / in the whole grid" in found
    assert "no map in 0–2 %, 98–100 %: of 20 grids that is less than one; with 50 each holds some" in found
    assert "CAMs are close to 0 at the input" in found
    assert "CAMs" not in notes("final")
    assert "CAMs" not in notes("input", "ixg")
    whole = report.aggregate_figure({"ixg": aggregate(*maps_and_scores(100))}, 0, 2)
    assert "no map" not in whole.get_supxlabel()
    assert "mean positive\nattribution" in [axes.get_ylabel() for axes in whole.axes]


def test_examples_of_grids_name_the_class_of_the_framed_cell():
    maps, scores = maps_and_scores(100)
    result = aggregate(maps, scores, examples=1)
    places = [place for part in result.examples for place in part]
    images = {place: torch.rand(3, 8, 8) for place in places}
    classes = {place: f"kind {place}" for place in places}
    figure = report.examples_figure(result, images, dict(enumerate(maps)), 1, 2, classes=classes)
    found = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel().startswith("class")]
    assert found == [f"class kind {place}" for place in places]


def test_chance_stands_beside_scores():
    heat = report.heat_map_figure(np.zeros((1, 2)), ["ixg"], [("s", "a"), ("s", "b")], chance=[0.75, None]).axes[0]
    assert [text.get_text() for text in heat.texts[:4]] == ["0.00", "0.00", "0.75", "–"]
    assert [text.get_text() for text in heat.get_yticklabels()] == ["ixg", "a uniform map (chance)"]
    panels = {"input": {"ixg": np.ones(3)}, "final": {"ixg": np.ones(3)}, "none": {"ixg": np.empty(0)}}
    boxes = report.box_figure(panels, {"input": 0.75, "final": 0.5})
    assert [axes.get_title() for axes in boxes.axes] == ["input\n(chance 0.75)", "final\n(chance 0.5)", "none"]
    assert [0.75, 0.75] in [list(line.get_xdata()) for line in boxes.axes[0].lines]
    assert [text.get_text() for text in boxes.axes[2].texts] == ["no values"]


def test_influence_has_a_legend():
    figure = FIGURES["influence_figure"]()
    key = [text.get_text() for text in figure.legends[0].get_texts()]
    assert key == ["can reach the head", "can't, whatever is there", "the head's cell"]
    image = figure.axes[0].images[0]
    shown = [tuple(image.cmap(image.norm(value))) for value in (1, 0)]
    assert [patch.get_facecolor() for patch in figure.legends[0].get_patches()[:2]] == shown


def test_equal_points_are_named_together_and_the_scored_range_is_shaded():
    points = {"gpa": (2.0, 0.1), "a/b.py:mine": (2.0, 0.1), "dea": (9.0, 0.3)}
    axes = report.plot_scatter(points, x_label="passes").axes[0]
    assert {note.get_text() for note in axes.texts} == {"gpa = b.py:mine", "dea"}
    curve = report.plot_curves({"dea": np.ones((2, 3))}, (0.0, 0.1, 1.0), label="y", scored=(0.05, 0.2)).axes[0]
    (band,) = curve.patches
    assert (band.get_x(), band.get_width()) == (5, 15)
