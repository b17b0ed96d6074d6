"""One style for every picture: fonts, sizes, color maps, and a look of its own for every method."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass, replace
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import Any, ParamSpec
from zlib import crc32

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter
from numpy.typing import NDArray

from faithfulness.core.errors import InputError
from faithfulness.core.files import atomic_file
from faithfulness.report.tables import short_label, short_labels

DPI, SCREEN = 150, 100
"""Dots per inch of files, and of what a notebook shows."""
SMALL, NORMAL, LARGE = 7, 8, 10
"""Sizes of letters in points: numbers inside pictures, labels, titles."""
SCORES = "viridis"
"""For scores of which more is better: bright is good."""
FAULTS = "magma"
"""For scores of which less is better: bright is bad; another map than `SCORES`, lest one reads it as good."""
MAPS = "inferno"
"""For attribution that is nowhere negative: dark is none, bright is most."""
SIGNED = "RdBu_r"
"""For signed attribution and for correlations: red for, blue against, white none (ColorBrewer, safe for all)."""
WINNERS = "PuOr"
"""For which of two is better: orange one, purple the other; neither good nor bad (ColorBrewer, safe for all)."""
INK, PALE, LINE = "#262626", "#B8B8B8", "#7F7F7F"
"""Drawn things that stand for no method."""

LineStyle = str | tuple[int, tuple[int, ...]]
P = ParamSpec("P")

FAMILIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "gradients": (
        ("#0072B2", "#00355B"),
        ("ixg", "grad", "ig", "gb", "sg", "ixg-sg", "ig-u", "ig-sg", "ig-sg-sq", "s-ixg", "s-ig", "lrp"),
    ),
    "CAMs": (
        ("#D55E00",),
        ("gradcam", "gradcampp", "layercam", "xgradcam", "sg-campp", "ablationcam", "scorecam"),
    ),
    "perturbation": (("#009E73",), ("occlusion", "rise", "rise-u")),
    "transformer": (("#CC79A7",), ("rollout", "chefer", "cheferlrp", "gradcam-attention")),
    "intrinsic": (("#56B4E9",), ("bcos", "bagnet")),
    "segmentation": (("#E69F00", "#5B3400"), ("dea", "gpa", "ega", "region")),
    "controls": (("#606060",), ("random", "edge")),
}
"""Family -> its colors and its methods.

The first color of each is Okabe and Ito's (Color Universal Design, 2008), of the controls a gray; the
families whose methods are most often drawn together have a dark shade besides. A method's place in its
family decides its color, marker and line: add new ones at the end. A method that stands in no family
is drawn in black, so nothing has to be added.
"""
OTHER, OTHER_COLOR = "other", "#000000"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "p", ">", "*", "d")
LINES: tuple[LineStyle, ...] = ("-", "--", "-.", ":")
VARIANTS: dict[str, LineStyle] = {
    "@middle": (0, (7, 1)),
    "@final": (0, (2, 1)),
    "|abs": (0, (5, 1, 1, 1)),
    "|relu": (0, (7, 1, 1, 1, 1, 1)),
}
"""Lines of the commonest variants of a method, which may stand beside it."""
_OTHER_VARIANTS: tuple[LineStyle, ...] = (
    (0, (10, 3)),
    (0, (9, 2, 2, 2)),
    (0, (1, 3)),
    (0, (3, 1, 3, 4)),
    (0, (6, 1, 2, 1)),
)
_PLACES = {name: (family, place) for family, (_, members) in FAMILIES.items() for place, name in enumerate(members)}
_BASE = re.compile(r"[(|@]|\+smooth\(| · ")
_RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # matplotlib brings it, so that a picture looks alike everywhere
    "font.size": NORMAL,
    "axes.titlesize": NORMAL + 1,
    "axes.labelsize": NORMAL,
    "xtick.labelsize": NORMAL,
    "ytick.labelsize": NORMAL,
    "legend.fontsize": NORMAL,
    "legend.frameon": False,
    "figure.titlesize": LARGE,
    "figure.dpi": DPI,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "lines.linewidth": 1.5,
    "image.interpolation": "nearest",
    "pdf.fonttype": 42,
    "svg.hashsalt": "faithfulness",
    "text.parse_math": False,  # a name with dollars is a name
}


@dataclass(frozen=True)
class Style:
    """How a method is drawn, in every picture."""

    color: str
    marker: str
    linestyle: LineStyle


def method_family(label: str) -> str:
    """The family of a method: a key of `FAMILIES`, or `other`."""
    return _PLACES.get(_split(label)[0], (OTHER, 0))[0]


def method_style(label: str) -> Style:
    """The look of a method, which depends on its label alone.

    The color is one of its family's, the marker its own. Parameters, modifiers and layers change the line.
    A method of no family is black, with a marker and a line that its name decides.
    """
    base, rest = _split(label)
    family, place = _PLACES.get(base, (OTHER, crc32(base.encode())))
    shift = 2 * list(FAMILIES).index(family) if family != OTHER else 0  # so that families begin with other shapes
    colors = FAMILIES[family][0] if family != OTHER else (OTHER_COLOR,)
    marker = MARKERS[(place + shift) % len(MARKERS)]
    line = LINES[(place + place // len(MARKERS)) % len(LINES)]
    if rest:
        line = VARIANTS.get(rest) or _OTHER_VARIANTS[crc32(rest.encode()) % len(_OTHER_VARIANTS)]
    return Style(colors[place % len(colors)], marker, line)


def method_styles(labels: Iterable[str]) -> dict[str, Style]:
    """The looks of methods that are told apart by nothing else; of those that look alike, all but the first get
    another marker."""
    found: dict[str, Style] = {}
    for label in labels:
        look = method_style(label)
        first = MARKERS.index(look.marker)
        others = (replace(look, marker=MARKERS[(first + step) % len(MARKERS)]) for step in range(len(MARKERS)))
        found[label] = next((other for other in others if other not in found.values()), look)
    return found


def _split(label: str) -> tuple[str, str]:
    """The name of a method, and what follows it: parameters, modifiers, layer."""
    label = short_label(label)
    found = _BASE.search(label)
    return (label, "") if found is None else (label[: found.start()], label[found.start() :])


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """A figure function that draws in this style whatever the caller's own settings of matplotlib are."""

    @wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.style.context(["default", _RC]):
            return draw(*args, **kwargs)

    return wrapped


class Picture(Figure):
    """A figure that a notebook shows by itself."""

    def _repr_png_(self) -> bytes:
        with BytesIO() as stream, matplotlib.style.context(["default", _RC]):
            self.savefig(stream, format="png", dpi=SCREEN)
            return stream.getvalue()


def new_figure(width: float | int, height: float | int, title: str = "") -> Figure:
    """A figure of `width` × `height` inches, plus what its title takes, that needs no display."""
    lines = textwrap.wrap(title, max(20, int(width * 72 / (0.58 * LARGE))))
    figure = Picture(figsize=(width, height + 0.2 * len(lines)), layout="constrained")
    FigureCanvasAgg(figure)
    if lines:
        figure.suptitle("\n".join(lines))
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure, whole or not at all, as its suffix says: .png, .pdf or .svg; .png is added where there is none.

    Returns the path. Raises InputError for another suffix. The same figure gives the same bytes.
    """
    path = Path(path)
    path = path if path.suffix else path.with_name(f"{path.name}.png")
    kind = path.suffix[1:].lower()
    undated: dict[str, dict[str, Any]] = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
    if kind not in undated:
        raise InputError(f"expected a picture named .png, .pdf or .svg, got {path.name}")
    with atomic_file(path) as temporary, matplotlib.style.context(["default", _RC]):
        figure.savefig(temporary, format=kind, dpi=DPI, metadata=undated[kind])
    return path


def as_array(values: Any) -> NDArray[Any]:
    """An array of an array, list or tensor of any type on any device."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values  # numpy has no bfloat16
    return np.asarray(values)


def need(items: Sized, what: str) -> None:
    """Raise InputError where there is nothing to draw."""
    if not len(items):
        raise InputError(f"a figure needs {what}, got none")


def wrap_label(label: str, width: int) -> str:
    """A label on lines of about `width` letters, broken behind marks, else anywhere."""
    lines = [""]
    for part in re.findall(r"[^(),|@+/:_ -]+[(),|@+/:_ -]*|[(),|@+/:_ -]+", label):
        if len(lines[-1]) + len(part.rstrip()) > width and lines[-1]:
            lines.append("")
        lines[-1] += part
        while len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return "\n".join(line.rstrip() for line in lines)


def text_inches(labels: Iterable[str], size: float = NORMAL) -> float:
    """About how wide the longest line of some labels is."""
    longest = max((len(line) for label in labels for line in label.splitlines()), default=0)
    return 0.6 * size / 72 * longest


def text_color(color: Any) -> str:
    """Black or white, whichever is read more easily on a color (RGBA in [0, 1])."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3])
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else "white"  # equal contrast (WCAG)


def bare(axes: Axes) -> None:
    """No ticks, no outline."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def plain_log(axes: Axes) -> None:
    """A logarithmic horizontal axis whose numbers are no formulas."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(LogFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False))


def name_rows(axes: Axes, labels: Iterable[str]) -> None:
    """Methods as rows from top to bottom, at heights 0, 1, …; labels as of `row_labels`."""
    names = list(labels)
    axes.set_yticks(range(len(names)), names, linespacing=1)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def row_labels(labels: Iterable[str]) -> list[str]:
    """Labels of methods that stand beside rows, as short as tells them apart; long ones on two lines."""
    labels = list(labels)
    short = short_labels(labels)
    return [wrap_label(short[label], 36) for label in labels]


def note_below(figure: Figure, *lines: str) -> None:
    """Sentences under everything, of a figure without a legend there; empty ones are left out."""
    figure.supxlabel(wrap_lines(figure, lines), fontsize=SMALL)


def wrap_lines(figure: Figure, lines: Iterable[str], size: float | int = SMALL) -> str:
    """Sentences in lines as wide as the figure."""
    letters = int(figure.get_figwidth() * 72 / (0.58 * size))
    return "\n".join(part for line in lines for part in textwrap.wrap(line, letters))


def legend_below(figure: Figure, handles: Sequence[Any], *lines: str) -> None:
    """A legend under everything, in as many columns as the figure's width allows, and sentences above it.

    A handle may be a tuple of lines, drawn side by side, of which the first is named.
    """
    labels = [(handle[0] if isinstance(handle, tuple) else handle).get_label() for handle in handles]
    width, columns = figure.get_figwidth(), len(labels)
    while columns > 1 and columns * 0.5 + sum(text_inches(labels[i::columns]) for i in range(columns)) > width:
        columns -= 1
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=columns,
        handlelength=1.6,
        columnspacing=1.2,
        title=wrap_lines(figure, lines) or None,
        title_fontproperties={"size": SMALL},
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
    )


def family_handles(labels: Iterable[str]) -> list[tuple[Line2D, ...]]:
    """An entry of a legend for each family among some methods, in a fixed order."""
    present = {method_family(label) for label in labels}
    colors = {family: colors for family, (colors, _) in FAMILIES.items()} | {OTHER: (OTHER_COLOR,)}
    return [
        tuple(Line2D([], [], color=color, marker="o", linestyle="none", label=family) for color in colors[family])
        for family in colors
        if family in present
    ]
