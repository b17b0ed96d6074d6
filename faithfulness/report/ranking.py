"""Which method is best, and whether the data can tell: ranking, tests, and evidence for the deletion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import ArrayLike

from faithfulness.core.errors import InputError
from faithfulness.core.grid import PatchGrid
from faithfulness.report.style import (
    INK,
    LINE,
    NORMAL,
    PALE,
    SCORES,
    SMALL,
    WINNERS,
    as_array,
    bare,
    family_handles,
    legend_below,
    method_style,
    name_rows,
    need,
    new_figure,
    note_below,
    row_labels,
    styled,
    text_color,
    text_inches,
    wrap_label,
    wrap_lines,
)
from faithfulness.report.tables import method_label, metric_name, number

CONTROL = "edge"
SHADE = 0.3
"""How far from the middle of the colors a winner lies."""
ROW_WINS, COLUMN_WINS = "◂", "▾"
"""They point at the winner's name: rows are named on the left, columns below."""


@styled
def ranking(scores: Sequence[Mapping[str, Any]], labels: Sequence[str] | None = None, title: str = "") -> Figure:
    """Mean and 95 % interval per method, in the order given; the band is the `edge` control's interval.

    Args:
        scores: rows of one metric, as in `summary.json`: attribution, layer, metric, mean, ci95, n,
            higher_is_better. An undefined mean is None or NaN.
        labels: what each row is called; by default its attribution, with the layer unless that is the input.
        title: model and data.
    Raises:
        InputError: no rows, rows of several metrics, another number of labels.
    """
    need(scores, "scores")
    metrics = list(dict.fromkeys(score["metric"] for score in scores))
    if len(metrics) > 1:
        raise InputError(f"expected scores of one metric, got {', '.join(metrics)}")
    labels = labels or [method_label(score["attribution"], score["layer"]) for score in scores]
    if len(labels) != len(scores):
        raise InputError(f"expected {len(scores)} labels, got {len(labels)}")
    names = row_labels(labels)
    figure = new_figure(5 + text_inches(names), 1.25 + 0.24 * len(scores), title)
    axes = figure.subplots()
    for row, (score, label) in enumerate(zip(scores, labels, strict=True)):
        look, (mean, low, high) = method_style(label), _defined(score)
        if math.isnan(mean):
            axes.text(0.5, row, "undefined", transform=axes.get_yaxis_transform(), ha="center", va="center", color=INK)
            continue
        axes.plot([low, high], [row, row], color=look.color, linewidth=5, alpha=0.35, solid_capstyle="butt")
        axes.plot(mean, row, marker=look.marker, color=look.color, markersize=5.5)
        axes.annotate(f"{mean:.3f}", (max(high, mean), row), (6, 0), textcoords="offset points", va="center")
    handles: list[Any] = family_handles(labels)
    control = next((_defined(score) for score in scores if score["attribution"] == CONTROL), (math.nan,))
    if not math.isnan(control[0]):
        axes.axvspan(*control[1:], color=PALE, alpha=0.5, linewidth=0, zorder=0)
        handles.append(Patch(color=PALE, alpha=0.5, label="as edge, which explains contours, not the model"))
    legend_below(figure, handles)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.margins(x=0.1)
    name_rows(axes, names)
    counts = {score["n"] for score in scores}
    shown = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    axes.set_xlabel(f"{metric_name(metrics[0], scores[0]['higher_is_better'])}: mean, 95 % interval, n = {shown}")
    return figure


def _defined(score: Mapping[str, Any]) -> tuple[float, float, float]:
    """Mean and ends of the interval; NaN where there is no mean, the mean where there is no interval."""
    mean, low, high = (math.nan if value is None else float(value) for value in (score["mean"], *score["ci95"]))
    return mean, mean if math.isnan(low) else low, mean if math.isnan(high) else high


@styled
def test_matrix(  # it draws tests, and is none
    names: Sequence[str],
    p_values: ArrayLike,
    title: str = "",  # noqa: PT028
    *,
    better: ArrayLike | None = None,  # noqa: PT028
) -> Figure:
    """Corrected p-values of all pairs of methods, and who wins; a white cell is a difference that the data don't show.

    Args:
        p_values: (methods, methods); NaN or None where there is none.
        better: (methods, methods), 1 where the row's method is the better one, -1 the column's, 0 neither; without
            it, no winner is marked.
        title: metric, model and data.
    """
    values = np.asarray(p_values, dtype=float)
    need(names, "methods")
    if values.shape != (len(names), len(names)):
        raise InputError(f"expected p-values ({len(names)}, {len(names)}), got {values.shape}")
    wins = np.zeros(values.shape) if better is None else np.asarray(better, dtype=float)
    if wins.shape != values.shape:
        raise InputError(f"expected winners {values.shape}, got {wins.shape}")
    labels = row_labels(names)
    side, margin = 0.38 * len(names), text_inches(labels)
    figure = new_figure(max(side + margin + 0.6, 4.2), side + 0.87 * margin + 1.1, title)
    axes = figure.subplots()
    colors = mpl.colormaps[WINNERS]
    for row, column in np.argwhere(np.isfinite(values)):
        p, win = values[row, column], wins[row, column]
        color = colors(0.5 + SHADE * win)
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=color, edgecolor="white", linewidth=0.8))
        text = "<.001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 0.9995 else "1"
        text += f"\n{ROW_WINS if win > 0 else COLUMN_WINS}" if win else ""
        axes.text(column, row, text, ha="center", va="center", fontsize=SMALL - 1, color=text_color(color))
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), aspect="equal")
    axes.set_xticks(range(len(names)), labels, rotation=60, ha="right", rotation_mode="anchor", linespacing=1)
    axes.set_yticks(range(len(names)), labels, linespacing=1)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    handles = [
        Patch(facecolor=colors(0.5 + SHADE), label=f"{ROW_WINS} the row's method is better"),
        Patch(facecolor=colors(0.5 - SHADE), label=f"{COLUMN_WINS} the column's is"),
        Patch(facecolor=colors(0.5), edgecolor=LINE, label="no difference shown at 5 %"),
    ]
    about = "numbers: p, Wilcoxon signed-rank, Holm-corrected"
    if better is None:
        note_below(figure, about)
    else:
        legend_below(figure, handles, about)
    return figure


test_matrix.__test__ = False  # type: ignore[attr-defined]  # pytest goes by the name


@styled
def evidence(found: Mapping[str, Mapping[str, Any]], grid: PatchGrid, title: str = "") -> Figure:
    """Accuracy with each cell deleted, a panel per model, on one color scale.

    Args:
        found: `model` and perhaps `baseline` -> accuracy, accuracy_deleted, separability,
            accuracy_per_cell (rows·cols, row-major), perhaps name; as in `summary.json`.
    """
    need(found, "models")
    figure = new_figure(3.3 * len(found), 4.0, title)
    panels = {name: as_array(entry["accuracy_per_cell"]).astype(float) for name, entry in found.items()}
    norm = Normalize(min(np.nanmin(values) for values in panels.values()), 1)
    colors = mpl.colormaps[SCORES]
    for axes, (name, entry) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        cells = panels[name].reshape(grid.rows, grid.cols)
        axes.imshow(np.ma.masked_invalid(cells), cmap=colors, norm=norm)
        for (row, column), value in np.ndenumerate(cells):
            color = text_color(colors(norm(value)))
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=color)
        who = "this model" if name == "model" else wrap_label(f"baseline {entry.get('name', '')}", 38)
        axes.set_title(
            f"{who}\nwhole {entry['accuracy']:.3f}, one cell deleted {entry['accuracy_deleted']:.3f}\n"
            f"probe AUROC {number(entry['separability'], 2)}"
        )
        bare(axes)
    about = "numbers: accuracy with that cell deleted (higher is better)"
    probe = "probe AUROC: how well the features tell whole from deleted images (0.5 is in-domain)"
    figure.supxlabel(wrap_lines(figure, [about, probe], NORMAL), fontsize=NORMAL)
    return figure
