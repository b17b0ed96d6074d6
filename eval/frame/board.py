"""The leaderboard of some results: a row per model and method, a column per metric, whatever metrics there are."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from eval.frame.agreement import per_image
from eval.frame.comparable import Compared
from faithfulness.core.comparison import joined_groups, mean_of_defined, ranks_of
from faithfulness.core.errors import InputError
from faithfulness.core.statistics import paired_tests
from faithfulness.report import method_label, metric_name, page

LEVEL = 0.05
"""Two methods are told apart where the corrected p-value is below."""
Method = tuple[str, str]
"""Attribution and layer."""


class Column(NamedTuple):
    """A metric of a protocol, on grids of one setting and scale."""

    kind: str
    metric: str
    setting: str | None
    scale: int | None

    @property
    def place(self) -> str:
        """The setting, where there is one."""
        return "" if self.setting is None else f"{self.setting} {self.scale}×{self.scale}"

    @property
    def title(self) -> str:
        """The metric, and where it is taken."""
        return " ".join(filter(None, [metric_name(self.metric), self.place]))

    @property
    def name(self) -> str:
        """For files that programs read: idsds, incremental_deletion, or difull_2x2_localization, say."""
        kind = "" if self.metric.startswith(self.kind) else self.kind
        words = [kind, self.setting, self.scale and f"{self.scale}x{self.scale}", self.metric]
        return "_".join(dict.fromkeys(re.sub(r"\W+", "_", word).strip("_") for word in words if word))


@dataclass(frozen=True)
class Cell:
    """A number of the leaderboard, with all that says how sure it is.

    Attributes:
        mean, low, high: NaN where undefined.
        rank, of: the place among the methods of the same result; NaN where the mean is.
        letters: methods of one result that share one can't be told apart; empty where nothing was tested.
        tied: these methods.
        source: letter of the result.
    """

    mean: float
    low: float
    high: float
    n: int
    n_undefined: int
    rank: float
    of: int
    letters: str
    tied: tuple[str, ...]
    source: str


@dataclass
class Row:
    """A method on a model and data.

    Attributes:
        subject: the model, as people tell it from the others.
        sources: of its cells.
    """

    subject: str
    data: str
    attribution: str
    layer: str
    result: Compared
    cells: dict[Column, Cell] = field(default_factory=dict)
    seconds: float = math.nan
    passes: float = math.nan

    @property
    def label(self) -> str:
        """The method."""
        return method_label(self.attribution, self.layer)

    @property
    def sources(self) -> list[str]:
        """The letters of the results that its numbers are from."""
        return list(dict.fromkeys(cell.source for cell in self.cells.values()))


@dataclass
class Board:
    """All rows, and which columns they have.

    Attributes:
        directions: whether a higher value is better.
    """

    columns: list[Column] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    directions: dict[Column, bool] = field(default_factory=dict)

    @property
    def kinds(self) -> list[str]:
        """The protocols that give scores."""
        return list(dict.fromkeys(column.kind for column in self.columns))


def board_of(results: Sequence[Compared]) -> Board:
    """The leaderboard of results; two of one protocol, model and data keep rows of their own."""
    board, rows = Board(), {}
    names, data = subjects_of(results), data_names(map(data_key, results))
    taken: dict[tuple[Any, ...], int] = {}
    for result in results:
        key = (result.model, *data_key(result), result.kind)
        variant = taken[key] = taken.get(key, -1) + 1
        subject = names[result.model] + (f" · {result.letter}" if variant else "")
        for column, scores in columns_of(result).items():
            if column not in board.directions:
                board.columns.append(column)
                board.directions[column] = scores[0]["higher_is_better"]
            for score, cell in zip(scores, cells_of(result, column, scores), strict=True):
                of = (result.model, *data_key(result), variant, score["attribution"], score["layer"])
                row = rows.get(of)
                if row is None:
                    row = rows[of] = Row(subject, data[data_key(result)], score["attribution"], score["layer"], result)
                row.cells[column] = cell
                add_cost(row, score)
    board.rows = list(rows.values())
    board.columns.sort(key=lambda column: page.place_of(column.kind))
    return board


def data_key(result: Compared) -> tuple[Any, ...]:
    """What tells data from others."""
    return tuple(result.summary["data"][name] for name in ("name", "split", "fingerprint"))


def data_names(keys: Iterable[tuple[Any, ...]]) -> dict[tuple[Any, ...], str]:
    """Data -> their name and split, with their fingerprint where others have the same, as of another `--seed`."""
    keys = dict.fromkeys(keys)
    named = [key[:2] for key in keys]
    return {
        (name, split, mark): f"{name} ({split})" + (f", data {str(mark)[:6]}" if named.count((name, split)) > 1 else "")
        for name, split, mark in keys
    }


def subjects_of(results: Sequence[Compared]) -> dict[tuple[Any, ...], str]:
    """Model -> its name, with its digest or a letter where another one has the same."""
    named: dict[str, dict[tuple[Any, ...], Compared]] = {}
    for result in results:
        named.setdefault(result.summary["model"]["name"], {}).setdefault(result.model, result)
    found = {}
    for name, models in named.items():
        for model, result in models.items():
            sha = result.summary["model"].get("sha256")
            more = f" ({sha[:6] if sha else result.letter})" if len(models) > 1 else ""
            found[model] = name + more
    return found


def columns_of(result: Compared) -> dict[Column, list[dict[str, Any]]]:
    """Column -> its scores, in the order of the summary."""
    found: dict[Column, list[dict[str, Any]]] = {}
    for score in result.summary["scores"]:
        if not _is_counted(score):
            raise InputError(f"{result.where}: summary.json has no scores that can be read")
        column = Column(result.kind, score["metric"], score.get("setting"), score.get("scale"))
        found.setdefault(column, []).append(score)
    return found


def add_cost(row: Row, score: dict[str, Any]) -> None:
    """Seconds per value and passes per map, from the first score that tells them."""
    count, seconds = score.get("n"), score.get("seconds")
    passes: list[Any] = [score.get(f"{which}_passes") for which in ("forward", "backward")]
    if math.isnan(row.seconds) and _is_number(seconds) and _is_number(count) and count:
        row.seconds = float(seconds / count)
    if math.isnan(row.passes) and all(map(_is_number, passes)):
        row.passes = float(sum(passes))


def _is_counted(score: dict[str, Any]) -> bool:
    """Whether counts and place of a row of the scores are what they should be."""
    counts = [score.get(name) for name in ("n", "n_undefined")]
    whole = all(isinstance(count, int) and not isinstance(count, bool) for count in counts)
    return whole and isinstance(score.get("setting"), str | None) and isinstance(score.get("scale"), int | None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def cells_of(result: Compared, column: Column, scores: Sequence[dict[str, Any]]) -> list[Cell]:
    """A cell per score, with its rank and the methods that it isn't told apart from."""
    means = np.array([math.nan if score["mean"] is None else score["mean"] for score in scores], dtype=float)
    ranks = ranks_of(means, scores[0]["higher_is_better"])
    methods = [(score["attribution"], score["layer"]) for score in scores]
    separated = separations(result, column, methods)
    groups = None if separated is None else joined_groups(separated[0])
    cells = []
    for place, score in enumerate(scores):
        low, high = (math.nan if end is None else float(end) for end in score["ci95"])
        letters, tied = "", ()
        if separated is not None and separated[1][place]:
            order = [other for other in range(len(scores)) if other != place and separated[1][other]]
            tied = tuple(method_label(*methods[other]) for other in order if not separated[0][place, other])
            letters = "".join(letter for letter, group in zip(LETTERS, groups or (), strict=False) if place in group)
        cells.append(
            Cell(
                *(float(means[place]), low, high),
                *(score["n"], score["n_undefined"]),
                *(float(ranks[place]), int(np.isfinite(ranks).sum()), letters, tied, result.letter),
            )
        )
    return cells


LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def separations(result: Compared, column: Column, methods: Sequence[Method]) -> tuple[np.ndarray, np.ndarray] | None:
    """Which methods are told apart (n, n), and which were tested (n,); None where there are no single values.

    The summary's own tests where it has them of all these methods, else the same tests of the table's values.
    """
    labels = [method_label(*method) for method in methods]
    p_values = tests_of(result, labels)
    if p_values is not None:
        return p_values < LEVEL, np.ones(len(labels), dtype=bool)
    values = per_image(result, (column.metric, column.setting, column.scale), methods)
    if values is None or len(set(labels)) != len(labels):
        return None
    array = values.to_numpy(float)
    _, p_values = paired_tests(dict(zip(labels, array, strict=True)))
    return p_values < LEVEL, ~np.isnan(array).all(axis=1)


def tests_of(result: Compared, labels: Sequence[str]) -> np.ndarray | None:
    """The p-values of all pairs in a summary (n, n); None where it has none of just these methods, by their labels."""
    own = result.summary.get("tests")
    names = own.get("names") if isinstance(own, dict) else None
    if not isinstance(names, list) or sorted(map(str, names)) != sorted(labels) or len(set(labels)) != len(labels):
        return None
    try:
        p_values = np.array((own or {})["p"], dtype=float)
    except (KeyError, TypeError, ValueError):
        p_values = np.empty(0)
    if p_values.shape != (len(names), len(names)):
        raise InputError(f"{result.where}: summary.json has no tests that can be read")
    order = [names.index(label) for label in labels]
    return p_values[np.ix_(order, order)]


class Standing(NamedTuple):
    """A method over all models of a column: its cell on each, None where there is none, and its mean rank."""

    label: str
    cells: list[Cell | None]
    mean_rank: float

    @property
    def ranked(self) -> int:
        """On how many models it has a rank."""
        return sum(cell is not None and math.isfinite(cell.rank) for cell in self.cells)


@dataclass(frozen=True)
class Matrix:
    """A column of the leaderboard as methods × models, best mean rank first."""

    column: Column
    higher_is_better: bool
    subjects: list[str]
    standings: list[Standing]


def matrices_of(board: Board) -> list[Matrix]:
    """A matrix for each column."""
    found = []
    for column in board.columns:
        rows = [row for row in board.rows if column in row.cells]
        several = len({row.data for row in rows}) > 1
        by_place = {(row.label, named(row, several)): row.cells[column] for row in rows}
        subjects = list(dict.fromkeys(named(row, several) for row in rows))
        standings = []
        for label in dict.fromkeys(row.label for row in rows):
            cells = [by_place.get((label, subject)) for subject in subjects]
            mean_rank = mean_of_defined(np.array([math.nan if cell is None else cell.rank for cell in cells]))
            standings.append(Standing(label, cells, mean_rank))
        standings.sort(key=lambda standing: (math.isnan(standing.mean_rank), standing.mean_rank))
        found.append(Matrix(column, board.directions[column], subjects, standings))
    return found


def named(row: Row, with_data: bool) -> str:
    """The model of a row, with its data where there are several."""
    return f"{row.subject} on {row.data}" if with_data else row.subject
