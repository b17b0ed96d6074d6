"""A finished evaluation: its summary, its scores and per-image values as tables, and a picture of them."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from faithfulness.core.errors import InputError
from faithfulness.core.files import jsonable
from faithfulness.core.results import SCHEMA, environment

if TYPE_CHECKING:
    from eval.frame.protocol import Outcome
    from eval.frame.run import Run
    from faithfulness.report.style import Figure


@dataclass(repr=False)
class Result:
    """What an evaluation found.

    Attributes:
        summary: the content of `summary.json`.
        per_image: a row per image, attribution, layer and metric; None where the protocol has no such table.
        path: the folder that holds it all; None if nothing was written.
    """

    summary: dict[str, Any]
    per_image: pd.DataFrame | None
    path: Path | None

    @cached_property
    def scores(self) -> pd.DataFrame:
        """A row per attribution, layer and metric, best first: mean, low and high end of the 95% interval, n, …"""
        rows = [{**score, "low": score["ci95"][0], "high": score["ci95"][1]} for score in self.summary["scores"]]
        first = ["attribution", "layer", "metric", "mean", "low", "high", "n", "n_undefined"]
        table = pd.DataFrame(rows, columns=None if rows else first)
        return table[[*first, *(column for column in table if column not in (*first, "ci95"))]]

    def plot(self, metric: str | None = None) -> Figure:
        """Means and intervals of a metric, the first one by default.

        Raises InputError for a metric that this result doesn't have, or where it has none.
        """
        from faithfulness.report import method_label, ranking

        scores = self.summary["scores"]
        known = list(dict.fromkeys(score["metric"] for score in scores))
        if not known:
            raise InputError(f"{self.summary['protocol']} has no scores to plot")
        metric = metric or known[0]
        if metric not in known:
            raise InputError(f"{self.summary['protocol']} has no metric {metric!r}; it has {', '.join(known)}")
        rows = [score for score in scores if score["metric"] == metric]
        places = [f" · {row['setting']} {row['scale']}×{row['scale']}" if "setting" in row else "" for row in rows]
        labels = [
            method_label(row["attribution"], row["layer"]) + place for place, row in zip(places, rows, strict=True)
        ]
        return ranking(rows, labels, title=title_of(self.summary))

    def __repr__(self) -> str:
        """One line: what was scored, on what, and where it lies."""
        where = f", in {self.path}" if self.path else ""
        return f"<{self.summary['protocol']}: {title_of(self.summary)}, {len(self.summary['scores'])} scores{where}>"

    def __str__(self) -> str:
        """The table that the command prints."""
        module = importlib.import_module(f"eval.{self.summary['protocol']}")
        return module.COMMAND.report(self.summary)


def title_of(summary: dict[str, Any]) -> str:
    """Model and data, for the head of pictures."""
    return f"{summary['model']['name']} on {summary['data']['name']} ({summary['data']['split']})"


def load_results(folder: str | Path) -> Result:
    """A run's result, read from its folder: `load_results("runs/idsds/checkpoint").scores`.

    Raises InputError for a folder that holds no evaluation.
    """
    folder = Path(folder).expanduser()
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        if not isinstance(summary["scores"], list) or not all(isinstance(row, dict) for row in summary["scores"]):
            raise ValueError("scores are no list of rows")
        if summary["schema"] != SCHEMA:
            raise InputError(f"{folder} has schema {summary['schema']}, expected {SCHEMA}")
        table = folder / "per_image.parquet"
        return Result(summary, pd.read_parquet(table) if table.exists() else None, folder)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{folder} holds no evaluation (no summary.json of this suite that can be read)") from error


def summary_of(
    protocol: str, run: Run[Any], outcome: Outcome, line: str | None, made: Mapping[str, set[int]]
) -> dict[str, Any]:
    """The content of `summary.json`, in the suite's schema.

    `made` is with what the parts were computed; several values of one thing, as after going on elsewhere, are a list.
    """
    found = {name: min(values) if len(values) == 1 else sorted(values) for name, values in made.items()}
    return jsonable(
        {
            "schema": SCHEMA,
            "protocol": protocol,
            "command": line,
            "model": run.checkpoint.describe() | outcome.model,
            "data": run.describe_data() | outcome.data,
            "settings": outcome.settings | run.describe_settings() | found,
            "scores": [score.to_dict() for score in outcome.scores],
            **outcome.sections,
            "environment": environment(),
            "files": [],
        }
    )
