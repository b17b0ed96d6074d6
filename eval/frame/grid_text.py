"""The tables of the grid protocols for the terminal."""

from __future__ import annotations

from typing import Any


def report_accuracy(rows: list[dict[str, Any]]) -> str:
    """Accuracy of every cell's head."""
    from faithfulness.core.tables import format_table
    from faithfulness.report import number

    names = [name for name in ("accuracy", "baseline") if any(name in row for row in rows)]
    lines = [
        (
            f"{row['setting']} {row['scale']}×{row['scale']}",
            "this model" if name == "accuracy" else "baseline",
            number(row[name]),
            f"[{number(row[f'{name}_ci95'][0])}, {number(row[f'{name}_ci95'][1])}]",
            " ".join(number(value, 2) for value in row[f"{name}_per_cell"]),
        )
        for row in rows
        for name in names
    ]
    return format_table(("heads", "", "accuracy", "95% interval", "per cell"), lines, "<<>><") + "\n"


def head_of(summary: dict[str, Any]) -> str:
    """Model and data, for the head of a report."""
    data = summary["data"]
    return f"\n{summary['model']['name']} on grids of {data['name']} ({data['split']})"
