"""Leaderboards as LaTeX."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from faithfulness.report.tables import number, short_labels

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "×": r"$\times$",
    "\x1a": "{}",
    "·": r"$\cdot$",
    "…": r"\ldots{}",
    **{sign: f"\\{sign}" for sign in "&%$#_"},
    **{sign: f"{{{sign}}}" for sign in "[]*"},  # behind \\, they would be read as its arguments
}
_PAIRS = re.compile("([-`'?!,])(?=[-`',])")
"""Two signs that TeX would make another one of."""
HEAD = r"% \input this file; it needs no package, but XeLaTeX or LuaLaTeX for names beyond Latin letters"


def escape_latex(text: str) -> str:
    r"""Text that LaTeX sets as it stands, on one line; what can't be printed is left out.

    >>> print(escape_latex("ig_u|abs 50%"))
    ig\_u\textbar{}abs 50\%
    """
    line = _PAIRS.sub("\\1\x1a", "".join(filter(str.isprintable, " ".join(text.split()))))
    return "".join(_SPECIAL.get(letter, letter) for letter in line)


def latex_tables(matrices: Iterable[Any]) -> str:
    """A `table` per metric, methods × models: mean, interval in small, letters raised; the best of a model in bold.

    Plain LaTeX that needs no package; names with letters beyond Latin need XeLaTeX or LuaLaTeX, and a font.

    Args:
        matrices: with column, higher_is_better, subjects and standings, as the leaderboard has them.
    """
    matrices = list(matrices)
    short = short_labels(standing.label for matrix in matrices for standing in matrix.standings)
    return "\n\n".join([HEAD, *(_table(matrix, short) for matrix in matrices)]) + "\n"


def _table(matrix: Any, short: Mapping[str, str]) -> str:
    direction = "higher" if matrix.higher_is_better else "lower"
    lines = [
        r"\begin{table}",
        rf"\caption{{{escape_latex(matrix.column.title)} ({escape_latex(matrix.column.kind)}; {direction} is better): "
        r"mean, 95\,\% interval, and the letters that methods share which the data can't separate.}",
        r"\begin{tabular}{l" + "r" * (len(matrix.subjects) + 1) + "}",
        r"\hline",
        " & ".join(["method", *map(escape_latex, matrix.subjects), "mean rank"]) + r" \\",
        r"\hline",
    ]
    for standing in matrix.standings:
        cells = [_cell(cell) for cell in standing.cells]
        name = escape_latex(short[standing.label])
        lines.append(" & ".join([name, *cells, number(standing.mean_rank, 1).replace("–", "--")]) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}", r"\end{table}"])


def _cell(cell: Any) -> str:
    if cell is None or not math.isfinite(cell.mean):
        return "--"
    mean, low, high = (f"{value:.3f}".replace("-", "$-$") for value in (cell.mean, cell.low, cell.high))
    mean = rf"\textbf{{{mean}}}" if cell.rank == 1 else mean
    interval = f" {{\\tiny [{low}, {high}]}}" if math.isfinite(cell.low) else ""
    return f"{mean}{interval}" + (rf"\,\textsuperscript{{{cell.letters}}}" if cell.letters else "")
