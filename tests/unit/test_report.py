"""Pictures hold what they are given, are drawn whatever is missing, and cover nothing."""

import math
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from difull import aggregate
from faithfulness import InputError, report
from faithfulness.report.maps import frame_region, is_signed, show_image
from tests.reference.pictures import FIGURES, GRID, draw_curves, kept, maps_and_scores, pairs, rows


def test_importing_the_room_costs_nothing():
    heavy = "('matplotlib', 'torch', 'numpy', 'pandas')"
    code = f"import sys, faithfulness.report; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_its_title_needs_no_display_and_is_whole(name, tmp_path):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    assert isinstance(figure.canvas, FigureCanvasAgg)
    assert figure.get_suptitle() == "t"
    assert mpl.rcParams["font.size"] == mpl.rcParamsDefault["font.size"]  # the user's own settings are as they were
    assert report.save_figure(figure, tmp_path / f"{name}.png").stat().st_size > 1000
    renderer = figure.canvas.get_renderer()
    edges = figure.bbox
    for artist in [*figure.axes, *figure.legends, *figure.texts]:
        box = artist.get_tightbbox(renderer)
        if box is not None:
            assert box.x0 >= edges.x0 - 1 and box.y0 >= edges.y0 - 1, (artist, box)  # noqa: PT018
            assert box.x1 <= edges.x1 + 1 and box.y1 <= edges.y1 + 1, (artist, box)  # noqa: PT018


def test_no_figure_goes_through_pyplot():
    """Which would look for a display, and keep every figure."""
    assert [file.name for file in Path(report.__file__).parent.glob("*.py") if "pyplot" in file.read_text()] == []


def test_differences_say_which_are_shown_and_what_would_go_unseen():
    first, second = (figure := FIGURES["difference_figure"]()).axes
    assert first.get_xlabel() == "difference in IDSDS (higher is better)\nmean, 95 % interval, n = 9"
    assert [text.get_text() for text in second.texts] == ["undefined"]
    (band,) = first.patches
    assert (band.get_x(), band.get_width()) == (-0.15, pytest.approx(0.3))
    mark = first.lines[-1]
    assert mark.get_markerfacecolor() == mark.get_color()
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().y1 < first.xaxis.label.get_window_extent().y0


def test_a_ranking_says_which_way_is_better_and_its_legend_covers_no_row():
    axes = (figure := FIGURES["ranking"]()).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()][:2] == ["ixg", "edge"]
    assert axes.get_xlabel() == "IDSDS (higher is better): mean, 95 % interval, n = 9"
    assert "0.800" in [text.get_text() for text in axes.texts]
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().y1 < axes.get_window_extent().y0
    lower = report.ranking(rows(("ixg", "input"), metric="off_target_mass", higher=False), ["own name"]).axes[0]
    assert lower.get_xlabel().startswith("off-target mass (lower is better)")
    assert lower.get_yticklabels()[0].get_text() == "own name"


def test_a_ranking_of_nothing_defined_and_refusals():
    lost = rows(("ixg", "input"))[0] | {"mean": None, "ci95": [None, None]}
    assert "undefined" in [text.get_text() for text in report.ranking([lost]).axes[0].texts]
    with pytest.raises(InputError, match="of one metric, got idsds, stability"):
        report.ranking(rows(("a", "input")) + rows(("a", "input"), metric="stability"))
    with pytest.raises(InputError, match="expected 1 labels, got 2"):
        report.ranking(rows(("a", "input")), ["a", "b"])


def test_a_method_has_its_color_in_every_picture():
    own = report.method_style("gradcam")
    ranking = report.ranking(rows(("edge", "input"), ("gradcam", "input"))).axes[0]
    curve = report.plot_curves({"ixg": np.eye(2), "gradcam": np.ones((2, 2))}, (0.1, 0.2), label="y").axes[0]
    scatter = report.plot_scatter({"gradcam": (1.0, 1.0)}, x_label="x").axes[0]
    boxes = report.box_figure({"a": {"ixg": np.ones(3), "gradcam": np.ones(3)}}).axes[0]
    values = report.distributions({"gradcam": np.ones(3)}, "idsds").axes[0]
    for axes in (ranking, curve, scatter, boxes, values):
        looks = {(to_hex(line.get_color()).upper(), line.get_marker()) for line in axes.lines}
        assert (own.color, own.marker) in looks


def test_the_matrix_names_p_values():
    axes = FIGURES["test_matrix"]().axes[0]
    assert [text.get_text() for text in axes.texts] == [".010", "<.001"]
    with pytest.raises(InputError, match=r"p-values \(1, 1\), got \(2, 2\)"):
        report.test_matrix(["a"], np.ones((2, 2)))


def test_evidence_has_one_scale():
    panels = FIGURES["evidence"]().axes
    assert {axes.images[0].norm.vmin for axes in panels} == {0.1}
    assert [axes.get_title().splitlines()[0] for axes in panels] == ["this model", "baseline m"]


def test_a_map_that_is_nowhere_negative_is_not_solid_red():
    figure = FIGURES["examples"]()
    by_title = {axes.get_title(): axes.images[-1] for axes in figure.axes if axes.get_title()}
    assert by_title["ixg"].cmap.name == "RdBu_r"
    assert by_title["ixg"].norm.vmin == -by_title["ixg"].norm.vmax
    assert (by_title["gradcam"].cmap.name, by_title["gradcam"].norm.vmin) == ("inferno", 0)
    assert by_title["gradcam"].get_extent() == [-0.5, 7.5, 7.5, -0.5]  # over the image, in its own pixels
    assert [axes.get_xlabel() for axes in figure.axes[4:8]] == ["true drops", "ρ = 1.00", "ρ = 1.00", "ρ = –"]
    key = [text.get_text() for text in figure.legends[0].get_texts()]
    assert key == ["red: for the class", "blue: against", "dark to bright: for the class"]


def test_maps_of_one_method_share_their_colors():
    assert is_signed([torch.ones(2, 2), -torch.ones(2, 2)])
    assert is_signed(torch.tensor([[1.0, math.nan], [-0.5, 0]], dtype=torch.bfloat16))
    assert not is_signed([np.array([1.0, -1e-9]), np.zeros(2), np.full(2, np.nan)])


def test_images_are_shown_as_they_look():
    config = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1)}
    image = torch.rand(3, 4, 5)
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    assert np.allclose(report.visible((image - mean) / std, config), image, atol=1e-6)
    axes = Figure().subplots()
    show_image(axes, 10 * image - 3)
    assert (axes.images[0].get_array().min(), axes.images[0].get_array().max()) == (0, 1)
    with pytest.raises(InputError, match=r"expected an image .* got \(4, 5\)"):
        show_image(axes, image[0])


def test_a_region_is_outlined_along_its_pixels():
    axes = Figure().subplots()
    region = torch.zeros(3, 4, dtype=torch.bool)
    region[1, 1:3] = True
    frame_region(axes, region)
    segments = {tuple(map(tuple, segment.tolist())) for segment in axes.collections[1].get_segments()}
    assert segments == {
        *[((x - 0.5, y), (x + 0.5, y)) for x in (1, 2) for y in (0.5, 1.5)],
        *[((x, 0.5), (x, 1.5)) for x in (0.5, 2.5)],
    }


def test_aggregate_figure_has_one_color_scale_per_method_and_frames_the_cell():
    maps, scores = maps_and_scores()
    methods = {"ixg": aggregate(maps, scores), "gradcam": aggregate(50 * maps[:, :, :3, :3], scores)}
    panels = [
        axes for axes in report.aggregate_figure(methods, cell=2, scale=2).axes if axes.get_label() != "<colorbar>"
    ]
    assert len(panels) == 12
    ends = [axes.images[0].norm.vmax for axes in panels]
    assert len(set(ends[:6])) == len(set(ends[6:])) == 1
    assert ends[6] > 10 * ends[0]
    assert all(axes.images[0].norm.vmin == 0 for axes in panels)
    (frame,) = [patch for patch in panels[0].patches if isinstance(patch, Rectangle)]
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((-0.5, 1.5), 2, 2)
    assert panels[0].get_title() == "0–2 %"
    assert panels[5].get_xlabel().endswith("n = 2")
    with pytest.raises(InputError, match="2×2 grid must lie in 0 … 3, got 4"):
        report.aggregate_figure(methods, cell=4, scale=2)


def test_heat_map_names_every_setting_once_and_every_value():
    columns = [(setting, layer) for setting in ("GridPG", "DiFull") for layer in ("input", "final")]
    figure = report.heat_map_figure(np.array([[0.25, 0.5, 1.0, np.nan]]), ["ixg"], columns)
    texts = figure.axes[0].texts
    assert [text.get_text() for text in texts] == ["0.25", "0.50", "1.00", "–", "GridPG", "DiFull"]
    assert [texts[i].get_position()[0] for i in (4, 5)] == [0.5, 2.5]
    assert figure.get_supxlabel() == "localization score (higher is better)"


def test_heat_map_colors_say_what_a_score_means():
    def cmap(**given):
        image = report.heat_map_figure(np.zeros((1, 1)), ["ixg"], [("s", "l")], **given).axes[0].images[0]
        return image.cmap.name, image.norm.vmin

    assert cmap() == ("viridis", 0)
    assert cmap(label="impossible attribution", higher_is_better=False) == ("magma", 0)
    assert cmap(label="Spearman", limits=(-1.0, 1.0)) == ("RdBu_r", -1)


def test_equal_curves_are_named_together():
    axes = draw_curves().axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["dea", "gpa = gradcam", "flat: undefined"]
    assert len(axes.lines) == len(axes.collections) == 2


def test_points_are_named_where_nothing_is_covered():
    generator = np.random.default_rng(0)
    points = {f"method{i}": tuple(generator.random(2)) for i in range(15)} | {"lost": (math.nan, 0.2)}
    figure = report.plot_scatter(points, x_label="stability")
    axes = figure.axes[0]
    assert axes.get_xlabel() == "stability\nundefined: lost"
    figure.draw_without_rendering()
    for note in axes.texts:
        note.arrow_patch.set_visible(False)
    boxes = [note.get_window_extent() for note in axes.texts]
    assert len(boxes) == 15
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    free = report.plot_scatter({"random": (0.0, 0.1), "ixg": (2.0, 0.5)}, x_label="passes", log_x=True).axes[0]
    assert {note.get_text() for note in free.texts} == {"random (0)", "ixg"}


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: report.ranking([]), "a figure needs scores"),
        (lambda: report.distributions({}, "idsds"), "a figure needs methods"),
        (lambda: report.test_matrix([], []), "a figure needs methods"),
        (lambda: report.examples([], ["a"], GRID), "a figure needs examples"),
        (lambda: report.examples(kept(["ixg"]), ["a"], GRID), "a figure needs methods that examples"),
        (lambda: report.plot_examples(*[part[:0] for part in pairs()[:2]], {}), "no examples"),
        (lambda: report.aggregate_figure({}, 0, 2), "a figure needs methods"),
        (lambda: report.box_figure({}), "a figure needs panels"),
        (lambda: report.influence_figure({}, 0, 2), "a figure needs influence maps"),
        (lambda: report.plot_curves({}, (0.1,), label="y"), "a figure needs curves"),
        (lambda: report.plot_curves({"dea": np.zeros((2, 4))}, (0.1,), label="y"), r"\(pairs, 1\), got \(2, 4\)"),
        (lambda: report.heat_map_figure(np.zeros((2, 1)), ["a"], [("s", "l")] * 2), r"expected values \(1, 2\)"),
    ],
)
def test_figures_refuse_nothing_to_draw(draw, message):
    with pytest.raises(InputError, match=message):
        draw()
