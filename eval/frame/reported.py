"""What a report holds: the page's content, and the files beside it."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eval.frame.agreement import with_accuracy
from eval.frame.board import LEVEL, Matrix, board_of, matrices_of
from eval.frame.comparable import letter_of, read_all
from eval.frame.comparing import described
from eval.frame.own_pictures import explanation_of, is_explanation
from eval.frame.report_files import leaderboard_rows, leaderboard_table, results_table
from eval.frame.result import Result
from eval.frame.sources import TESTS, Source, evidence_rows, leakage_rows, sheets_of, source_of
from eval.frame.spanning import spanning_pictures
from faithfulness.core.errors import InputError
from faithfulness.core.files import EXPLANATION, write_json
from faithfulness.core.results import environment
from faithfulness.report import method_label, metric_name, page, save_figure

FILES = {
    "results.csv": "a row per model and method",
    "leaderboard.csv": "a row per number, with its summary and command",
    "leaderboard.tex": "tables for LaTeX",
    "report.json": "all of it",
}
Write = Callable[[Path], object]


def find_results(given: Sequence[Path]) -> list[Path]:
    """Folders of results and of explained pictures; of any other, those below it. InputError where there are none."""
    found: dict[Path, None] = {}
    for folder in (path.expanduser() for path in given):
        if (folder / "summary.json").exists() or is_explanation(folder) or not folder.is_dir():
            found[folder] = None
            continue
        below = sorted({file.parent for name in ("summary.json", EXPLANATION) for file in folder.rglob(name)})
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
        explained = [each for each in given if isinstance(each, Path) and is_explanation(each)]
        self.results = read_all([each for each in given if each not in explained], scoreless=True)
        letters = map(letter_of, itertools.count(len(self.results)))
        self.explained = [explanation_of(folder, letter) for folder, letter in zip(explained, letters, strict=False)]
        self.sources = [*map(source_of, self.results), *self.explained]
        self.board = board_of(self.results)
        self.matrices = matrices_of(self.board)
        self.evidence, self.leakage = evidence_rows(self.results), leakage_rows(self.results)
        self.accuracy = with_accuracy(self.results)
        self.drawn = spanning_pictures(self.results)

    @property
    def summary(self) -> dict[str, Any]:
        """Which results there are, all numbers of the leaderboard, evidence, verdicts, correlations."""
        return {
            "title": self.title,
            "results": [described(result) for result in self.results],
            "explained": [{"result": each.letter, "path": each.where, **each.content} for each in self.explained],
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
            found[source.summary] = lambda path, source=source: write_json(path, source.content)
            for picture in source.pictures:
                found[picture.file] = lambda path, picture=picture: shutil.copyfile(picture.origin, path)
        for picture, draw in (each for pictures in self.drawn.values() for each in pictures):
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
        accuracy = {"pictures": [picture for picture, _ in self.drawn.get("accuracy", ())], "rows": rows}
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
        counts += [(sum(len(each.pictures) for each in self.explained), "explained picture")]
        return ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for count, what in counts if count) + "."

    def chapters(self) -> list[dict[str, Any]]:
        """Results by their protocol."""
        kinds: dict[str, list[Source]] = {}
        for source in self.sources:
            kinds.setdefault(source.kind, []).append(source)
        found = []
        for number, (kind, sources) in enumerate(sorted(kinds.items(), key=lambda entry: page.place_of(entry[0]))):
            heading, about = page.about_protocol(kind)
            found.append({"name": f"protocol-{number}", "heading": heading, "about": about, "sources": sources})
            found[-1]["pictures"] = [picture for picture, _ in self.drawn.get(kind, ())]
        return found


def range_of(matrix: Matrix) -> tuple[float, float]:
    """The worst and the best mean of a matrix."""
    means = [cell.mean for standing in matrix.standings for cell in standing.cells if cell is not None]
    means = [mean for mean in means if math.isfinite(mean)] or [0.0]
    return min(means), max(means)
