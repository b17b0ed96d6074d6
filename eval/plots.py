"""Pictures of a run: ranking, distributions, tests, evidence, examples. Drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from core.grid import PatchGrid
from core.results import Score

BLUE, GREY, RED = "#2c6fbb", "#8a8a8a", "#c0392b"
CONTROLS = ("random", "edge")


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, bbox_inches="tight")


def score_labels(scores: Sequence[Score]) -> list[str]:
    """Names for the methods: with the layer, unless it is the input."""
    return [score.attribution if score.layer == "input" else f"{score.attribution}@{score.layer}" for score in scores]


def _color(label: str) -> str:
    return GREY if label.partition("@")[0] in CONTROLS else BLUE


def ranking(path: Path, scores: Sequence[Score], labels: Sequence[str], metric: str) -> None:
    """Mean and 95% interval per method, best on top; the band is the `edge` control's interval."""
    figure = Figure(figsize=(7, 0.9 + 0.34 * len(scores)))
    axes = figure.subplots()
    for row, (score, label) in enumerate(zip(scores, labels, strict=True)):
        low, high = score.ci95
        axes.plot([low, high], [row, row], color=_color(label), linewidth=5, alpha=0.35, solid_capstyle="butt")
        axes.plot(score.mean, row, "o", color=_color(label), markersize=6)
        axes.annotate(f"{score.mean:.3f}", (high, row), (6, 0), textcoords="offset points", va="center", fontsize=8)
    edge = next((score for score in scores if score.attribution == "edge"), None)
    if edge is not None:
        axes.axvspan(*edge.ci95, color=GREY, alpha=0.2, linewidth=0, label="edge: explains contours, not the model")
        axes.legend(loc="lower right", fontsize=8, frameon=False)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(f"{metric}, mean and 95% bootstrap interval, n = {max(score.n for score in scores)}")
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def distributions(path: Path, columns: Mapping[str, NDArray[np.floating]], metric: str) -> None:
    """The per-image values of each method: median, quartiles, and all of them behind."""
    figure = Figure(figsize=(7, 0.9 + 0.4 * len(columns)))
    axes = figure.subplots()
    rows = np.arange(len(columns))
    noise = np.random.default_rng(0)
    for row, (label, values) in enumerate(columns.items()):
        axes.plot(
            values, row + noise.uniform(-0.28, 0.28, len(values)), ".", color=_color(label), alpha=0.18, markersize=3
        )
    boxes = axes.boxplot(
        list(columns.values()), positions=rows, orientation="horizontal", widths=0.5, showfliers=False, whis=(5, 95)
    )
    for part in (*boxes["medians"], *boxes["boxes"], *boxes["whiskers"], *boxes["caps"]):
        part.set_color("black")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(rows, list(columns))
    axes.invert_yaxis()
    axes.set_xlabel(f"{metric} per image (box: quartiles; whiskers: 5 to 95%)")
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def test_matrix(path: Path, names: Sequence[str], p_values: NDArray[np.floating]) -> None:
    """Corrected p-values of all pairs; a pale cell is a difference that the data don't show."""
    side = 1.6 + 0.5 * len(names)
    figure = Figure(figsize=(side + 1.2, side))
    axes = figure.subplots()
    image = axes.imshow(np.log10(np.maximum(p_values, 1e-4)), cmap="Blues_r", vmin=-4, vmax=0)
    for row, column in np.ndindex(*p_values.shape):
        p = p_values[row, column]
        if np.isfinite(p):
            text = "<.001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 1 else "1"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if p < 0.01 else "black")
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    bar = figure.colorbar(image, ax=axes, ticks=[-4, -3, -2, np.log10(0.05), 0], fraction=0.04)
    bar.ax.set_yticklabels(["≤ .0001", ".001", ".01", ".05", "1"])
    bar.set_label("p, Wilcoxon signed-rank, Holm-corrected")
    save(figure, path)


def evidence(path: Path, found: Mapping[str, Mapping[str, Any]], grid: PatchGrid) -> None:
    """Accuracy with each cell deleted, per model, on one colour scale."""
    figure = Figure(figsize=(3.6 * len(found), 3.6))
    low = min(min(entry["accuracy_per_cell"]) for entry in found.values())
    for axes, (name, entry) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        cells = np.array(entry["accuracy_per_cell"]).reshape(grid.rows, grid.cols)
        axes.imshow(cells, cmap="viridis", vmin=low, vmax=1)
        for row, column in np.ndindex(*cells.shape):
            dark = cells[row, column] < (low + 1) / 2
            axes.text(
                column,
                row,
                f"{cells[row, column]:.2f}",
                ha="center",
                va="center",
                color="white" if dark else "black",
                fontsize=8,
            )
        title = "this model" if name == "model" else f"{entry.get('name', name)} (baseline)"
        axes.set_title(
            f"{title}\nwhole {entry['accuracy']:.3f}, one cell deleted {entry['accuracy_deleted']:.3f}\n"
            f"probe AUROC {entry['separability']:.2f}",
            fontsize=9,
        )
        axes.set_xticks([])
        axes.set_yticks([])
    figure.supxlabel("accuracy with that cell deleted", fontsize=9)
    save(figure, path)


def examples(path: Path, kept: Sequence[Mapping[str, Any]], labels: Sequence[str], grid: PatchGrid) -> None:
    """Images in rows; the true drops, then for each method its map over the image and its cell sums."""
    indices = sorted({entry["index"] for entry in kept})
    by_key = {(entry["index"], entry["method"]): entry for entry in kept}
    shown = [label for label in labels if (indices[0], label) in by_key]
    figure = Figure(figsize=(1.5 * (len(shown) + 2), 3.1 * len(indices)))
    table = figure.subplots(2 * len(indices), len(shown) + 1, squeeze=False)
    for row, index in enumerate(indices):
        first = by_key[index, shown[0]]
        picture = first["image"].transpose(1, 2, 0)
        picture = (picture - picture.min()) / max(np.ptp(picture), 1e-9)
        table[2 * row, 0].imshow(picture)
        table[2 * row, 0].set_ylabel(f"#{index}\n{first['label']}", fontsize=8)
        _draw_cells(table[2 * row + 1, 0], first["drops"], grid, "true drops")
        for column, label in enumerate(shown, start=1):
            entry = by_key[index, label]
            _draw_map(table[2 * row, column], entry["map"], label)
            correlation = _spearman(entry["sums"], entry["drops"])
            _draw_cells(table[2 * row + 1, column], entry["sums"], grid, f"ρ = {correlation:.2f}")
    for axes in table.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    figure.tight_layout(pad=0.4)
    save(figure, path)


def _spearman(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    from scipy.stats import rankdata

    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def _draw_map(axes: Any, values: NDArray[np.floating], title: str) -> None:
    reach = max(float(np.quantile(np.abs(values), 0.995)), 1e-12)
    axes.imshow(values, cmap="RdBu_r", vmin=-reach, vmax=reach)
    axes.set_title(title, fontsize=8)


def _draw_cells(axes: Any, values: NDArray[np.floating], grid: PatchGrid, title: str) -> None:
    reach = max(float(np.abs(values).max()), 1e-12)
    axes.imshow(values.reshape(grid.rows, grid.cols), cmap="RdBu_r", vmin=-reach, vmax=reach)
    axes.set_title(title, fontsize=8)
