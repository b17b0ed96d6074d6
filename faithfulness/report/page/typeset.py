"""Leaderboards as LaTeX."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from faithfulness.report.tables import number, short_label

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
    **{sign: f"\\{sign}" for sign in "&%$#_"},
}


def escape_latex(text: str) -> str:
    r"""Text that LaTeX sets as it stands, on one line.

    >>> print(escape_latex("ig_u|abs 50%"))
    ig\_u\textbar{}abs 50\%
    """
    return "".join(_SPECIAL.get(letter, letter) for letter in " ".join(text.split()))


def latex_tables(matrices: Iterable[Any]) -> str:
    """A `table` per metric, methods × models: mean, interval in small, letters raised; the best of a model in bold.

    Args:
        matrices: with column, higher_is_better, subjects and standings, as the leaderboard has them.
    """
    return "\n\n".join(map(_table, matrices)) + "\n"


def _table(matrix: Any) -> str:
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
        name = escape_latex(short_label(standing.label))
        lines.append(" & ".join([name, *cells, number(standing.mean_rank, 1)]) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}", r"\end{table}"])


def _cell(cell: Any) -> str:
    if cell is None or not math.isfinite(cell.mean):
        return "--"
    mean, low, high = (f"{value:.3f}".replace("-", "$-$") for value in (cell.mean, cell.low, cell.high))
    mean = rf"\textbf{{{mean}}}" if cell.rank == 1 else mean
    interval = f" {{\\tiny [{low}, {high}]}}" if math.isfinite(cell.low) else ""
    return f"{mean}{interval}" + (rf"\,\textsuperscript{{{cell.letters}}}" if cell.letters else "")
