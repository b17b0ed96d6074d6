"""What a report holds: the page's content, and the files beside it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eval.frame.agreement import with_accuracy
from eval.frame.board import LEVEL, Matrix, board_of, data_key, matrices_of, subjects_of
from eval.frame.comparable import Compared, read_all
from eval.frame.comparing import described
from eval.frame.report_files import leaderboard_rows, leaderboard_table, results_table
from eval.frame.result import Result
from eval.frame.sources import PICTURES, TESTS, Picture, Source, evidence_rows, leakage_rows, sheets_of, source_of
from faithfulness.core.errors import InputError
from faithfulness.core.files import write_json
from faithfulness.core.results import environment
from faithfulness.report import accuracy_figure, method_label, metric_name, page, save_figure

FILES = {
    "results.csv": "a row per model and method",
    "leaderboard.csv": "a row per number, with its summary and command",
    "leaderboard.tex": "tables for LaTeX",
    "report.json": "all of it",
}
ACCURACY_OF = ("idsds", "idsds (single)")
"""Kinds of results that are drawn against the models' accuracy."""
Write = Callable[[Path], object]


def find_results(given: Sequence[Path]) -> list[Path]:
    """Folders of results; of a folder that is none, those below it. InputError where there are none."""
    found: dict[Path, None] = {}
    for folder in (path.expanduser() for path in given):
        if (folder / "summary.json").exists() or not folder.is_dir():
            found[folder] = None
            continue
        below = sorted(file.parent for file in folder.rglob("summary.json"))
        below = [path for path in below if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
        if not below:
            raise InputError(f"{folder} holds no evaluation, nor does a folder below it (no summary.json)")
        found |= dict.fromkeys(below)
    return list(found)


class Report:
    """The results of evaluations on one page.

    Attributes:
        summary: the content of `report.json`.
    """

    def __init__(self, given: Sequence[str | Path | Result], title: str):
        if not given:
            raise InputError("expected folders of results, got none")
        self.title = title
        self.results = read_all(given, scoreless=True)
        self.sources = [source_of(result) for result in self.results]
        self.board = board_of(self.results)
        self.matrices = matrices_of(self.board)
        self.evidence, self.leakage = evidence_rows(self.results), leakage_rows(self.results)
        self.accuracy = with_accuracy(self.results)
        self.drawn = accuracy_pictures(self.results)

    @property
    def summary(self) -> dict[str, Any]:
        """Which results there are, all numbers of the leaderboard, evidence, verdicts, correlations."""
        return {
            "title": self.title,
            "results": [described(result) for result in self.results],
            "leaderboard": leaderboard_rows(self.board, self.sources),
            "evidence": self.evidence,
            "leakage": self.leakage,
            "accuracy": self.accuracy,
            "environment": environment(),
        }

    def files(self) -> dict[str, Write]:
        """Name -> what writes it; the page comes last."""
        found: dict[str, Write] = {}
        rows = leaderboard_rows(self.board, self.sources)
        for source in self.sources:
            found[source.summary] = lambda path, source=source: write_json(path, source.result.summary)
            for picture in source.pictures:
                found[picture.file] = lambda path, picture=picture: shutil.copyfile(picture.origin, path)
        for picture, draw in self.drawn:
            found[picture.file] = lambda path, draw=draw: save_figure(draw(), path)
        found["results.csv"] = lambda path: results_table(self.board).to_csv(path, index=False)
        found["leaderboard.csv"] = lambda path: leaderboard_table(rows).to_csv(path, index=False)
        found["leaderboard.tex"] = lambda path: path.write_text(page.latex_tables(self.matrices), encoding="utf-8")
        found["index.html"] = lambda path: path.write_text(self.html(), encoding="utf-8")
        return found

    def html(self) -> str:
        """The page."""
        chapters = self.chapters()
        rows = [
            row | {"label": method_label(row["attribution"], row["layer"]), "metric": metric_name(row["metric"])}
            for row in self.accuracy
        ]
        accuracy = {"pictures": [picture for picture, _ in self.drawn], "rows": rows}
        parts = [
            ("leaderboard", "Leaderboard", self.board.rows),
            ("matrix", "Method × model", self.board.rows),
            ("accuracy", "Accuracy against IDSDS", [*accuracy["pictures"], *rows]),
            ("evidence", "In-domain evidence", self.evidence),
            ("leakage", "Leakage verdicts", self.leakage),
            *((chapter["name"], chapter["heading"], True) for chapter in chapters),
            ("sources", "Where the numbers are from", True),
        ]
        return page.render_page(
            title=self.title,
            lead=self.lead(),
            headings=[(name, heading) for name, heading, there in parts if there],
            board=self.board,
            level=LEVEL,
            subjects=list(dict.fromkeys(row.subject for row in self.board.rows)),
            kinds=[(kind, page.about_protocol(kind)[0]) for kind in self.board.kinds],
            first_kind=self.board.kinds[0] if self.board.kinds else "",
            files=list(FILES.items()),
            sheets_of=lambda row: sheets_of(row, self.sources),
            matrices=self.matrices,
            ranges=[range_of(matrix) for matrix in self.matrices],
            accuracy=accuracy,
            evidence=self.evidence,
            leakage=self.leakage,
            leakage_tests=TESTS,
            chapters=chapters,
            sources=self.sources,
        )

    def lead(self) -> str:
        """How much there is on the page."""
        methods = len({row.label for row in self.board.rows})
        models = len({result.model for result in self.results})
        counts = [(len(self.results), "result"), (models, "model"), (methods, "method")]
        return ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for count, what in counts) + "."

    def chapters(self) -> list[dict[str, Any]]:
        """Results by their protocol."""
        kinds: dict[str, list[Source]] = {}
        for source in self.sources:
            kinds.setdefault(source.kind, []).append(source)
        found = []
        for number, (kind, sources) in enumerate(sorted(kinds.items(), key=lambda entry: page.place_of(entry[0]))):
            heading, about = page.about_protocol(kind)
            found.append({"name": f"protocol-{number}", "heading": heading, "about": about, "sources": sources})
        return found


def range_of(matrix: Matrix) -> tuple[float, float]:
    """The worst and the best mean of a matrix."""
    means = [cell.mean for standing in matrix.standings for cell in standing.cells if cell is not None]
    means = [mean for mean in means if math.isfinite(mean)] or [0.0]
    return min(means), max(means)


def accuracy_pictures(results: Sequence[Compared]) -> list[tuple[Picture, Callable[[], Any]]]:
    """What draws each IDSDS metric against the accuracy of models, for two of them or more on the same data."""
    groups: dict[tuple[Any, ...], list[Compared]] = {}
    for result in results:
        if result.kind in ACCURACY_OF and isinstance(result.summary["model"].get("accuracy"), int | float):
            groups.setdefault((result.kind, *data_key(result)), []).append(result)
    names, found = subjects_of(results), []
    for number, members in enumerate(groups.values()):
        members = list({result.model: result for result in members}.values())
        if len(members) > 1:
            lines, models = (
                lines_of(members),
                {names[each.model]: each.summary["model"]["accuracy"] for each in members},
            )
            metric, data = members[0].summary["scores"][0]["metric"], members[0].summary["data"]["name"]
            caption = f"accuracy against {metric_name(metric)} on {data}"
            alt = f"{caption}: {len(lines)} methods on {len(models)} models. The numbers are in results.csv."
            file = Path(f"{PICTURES}/accuracy-{number}.svg")
            picture = Picture(file.as_posix(), file, "accuracy", "", f"{len(models)} models", caption, alt)
            label = metric_name(metric, members[0].directions[metric])
            found.append((picture, drawing(lines, models, label, data)))
    return found


def drawing(lines: Any, models: Any, label: str, title: str) -> Callable[[], Any]:
    """What draws methods over accuracy."""
    return lambda: accuracy_figure(lines, models, label=label, title=title)


def lines_of(results: Sequence[Compared]) -> dict[str, list[tuple[float, ...]]]:
    """Method -> accuracy, mean and interval on each model."""
    found: dict[str, list[tuple[float, ...]]] = {}
    for result in results:
        for score in result.summary["scores"]:
            numbers = (result.summary["model"]["accuracy"], score["mean"], *score["ci95"])
            point = tuple(math.nan if value is None else float(value) for value in numbers)
            found.setdefault(method_label(score["attribution"], score["layer"]), []).append(point)
    return found
