"""The tables beside a report's page, for programs and papers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from eval.frame.board import Board, Column
from eval.frame.sources import Source


def leaderboard_rows(board: Board, sources: Sequence[Source]) -> list[dict[str, Any]]:
    """A row per number: what it is of, how sure it is, the summary and the command that it is from."""
    by_letter = {source.letter: source for source in sources}
    return [
        {
            **{"model": row.subject, "data": row.data, "attribution": row.attribution, "layer": row.layer},
            **{"protocol": column.kind, "metric": column.metric, "setting": column.setting, "scale": column.scale},
            **{"mean": cell.mean, "low": cell.low, "high": cell.high, "n": cell.n, "n_undefined": cell.n_undefined},
            **{"higher_is_better": board.directions[column], "rank": cell.rank, "of": cell.of},
            **{"letters": cell.letters, "not_told_apart_from": " ".join(cell.tied)},
            **{"summary": by_letter[cell.source].where, "command": by_letter[cell.source].command},
        }
        for row in board.rows
        for column, cell in row.cells.items()
    ]


def leaderboard_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The same as a table."""
    return pd.DataFrame(rows).astype({"scale": "Int64"}) if rows else pd.DataFrame()


def results_table(board: Board) -> pd.DataFrame:
    """A row per model and method, in the manner of timm's results: what it is, its scores, what it costs.

    The best by the first metric comes first.
    """
    rows, names = [], names_of(board.columns)
    for row in board.rows:
        summary = row.result.summary
        entry: dict[str, Any] = {
            **{"model": row.subject, "attribution": row.attribution, "layer": row.layer},
            **{"data": summary["data"]["name"], "split": summary["data"]["split"]},
            "img_size": _side(summary["settings"].get("input_size")),
        }
        for column in board.columns:
            cell = row.cells.get(column)
            parts = {
                "": "mean",
                "_low": "low",
                "_high": "high",
                "_n": "n",
                "_undefined": "n_undefined",
                "_rank": "rank",
            }
            entry |= {names[column] + end: getattr(cell, name) if cell else math.nan for end, name in parts.items()}
        entry |= {"ms_per_value": 1000 * row.seconds, "passes": row.passes}
        model = summary["model"]
        entry |= {name: model.get(name) for name in ("accuracy", "architecture", "sha256")}
        rows.append(entry)
    table = pd.DataFrame(rows)
    if not rows:
        return table
    first = board.columns[0]
    counts = {column: "Int64" for column in map(str, table) if column.endswith(("_n", "_undefined", "_rank"))}
    return table.astype(counts).sort_values(
        names[first], ascending=not board.directions[first], kind="stable", na_position="last"
    )


def names_of(columns: Sequence[Column]) -> dict[Column, str]:
    """Column -> a name that no other one has."""
    found: dict[Column, str] = {}
    for column in columns:
        taken = [name for name in found.values() if re.fullmatch(rf"{re.escape(column.name)}(_[0-9]+)?", name)]
        found[column] = column.name + (f"_{len(taken) + 1}" if taken else "")
    return found


def _side(size: Any) -> Any:
    """Pixels a side, or HEIGHTxWIDTH."""
    if not isinstance(size, list) or len(size) != 2:
        return size
    return size[0] if size[0] == size[1] else f"{size[0]}x{size[1]}"
