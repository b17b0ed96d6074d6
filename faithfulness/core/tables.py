"""Tables as plain text, for terminals and files."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import zip_longest

WIDTH = 100
"""Columns that a wide table keeps to."""


def format_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    align: str | None = None,
    notes: Sequence[str] | None = None,
) -> str:
    r"""Columns as wide as their content; a cell may have several lines.

    Args:
        align: `<` or `>` for each column; by default only the first is left-aligned.
        notes: text under each row, over all columns; none where it is empty.

    >>> print(format_table(("method", "mean"), [("ixg", "0.31"), ("rise\n(8×8)", "0.5")], notes=["", "  slow"]))
    method  mean
    ------  ----
    ixg     0.31
    rise     0.5
    (8×8)
      slow
    """
    align = align or "<" + ">" * (len(header) - 1)
    lines = [[cell.splitlines() or [""] for cell in row] for row in (header, *rows)]
    widths = [max(len(line) for row in lines for line in row[column]) for column in range(len(header))]

    def laid_out(row: list[list[str]]) -> list[str]:
        tiers = zip_longest(*row, fillvalue="")
        return [
            "  ".join(f"{text:{side}{width}}" for text, width, side in zip(tier, widths, align, strict=True)).rstrip()
            for tier in tiers
        ]

    text = [*laid_out(lines[0]), "  ".join("-" * width for width in widths)]
    for row, note in zip(lines[1:], notes or [""] * len(rows), strict=True):
        text += [*laid_out(row), *note.splitlines()]
    return "\n".join(text)


def wrap(text: str, width: int, indent: str = "") -> str:
    """The text in lines of at most `width`, every one indented; a word that is longer is cut."""
    lines = textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join(line.rstrip() for line in lines)
