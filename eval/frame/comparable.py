"""Which results can be held against each other: reading them, what they are of, and why two of them can't be."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eval.frame.result import Result, load_results
from faithfulness.core.errors import InputError

KEYS = ("setting", "scale", "attribution", "layer", "metric")
"""What a row of scores is of."""
UNITS = ("index", "class", "cell")
"""What tells the values of one such row apart; images are resampled, or grids, which are numbered alike."""
FREE = frozenset(
    {
        *("precision", "device", "processes", "batch_size", "chunk", "seed", "limit", "input_size"),
        *("setting", "scale", "grids", "one_use", "confidence", "choice", "kernels"),
        *("filters", "shown", "methods", "n_constant_drops", "fill_leaks"),
    }
)
"""Settings in which two results may differ: who computed it, which images, grids and methods there are. What is shared
is found by itself; every other setting, also of protocols to come, must be the same."""
_CLOSE = 1e-6
"""How far the mean of the single values may be from the one in the summary: some protocols average float32."""


@dataclass
class Compared:
    """A result among those that are compared.

    Attributes:
        letter: what tables call it.
        where: its folder, or what else names it.
        table: (setting, scale,) attribution, layer, metric, index, (class, cell,) value, and 0 for undefined values
            where the protocol counts them so, with `undefined` and what else it has; None where there are no values.
    """

    letter: str
    where: str
    result: Result
    table: pd.DataFrame | None

    @property
    def summary(self) -> dict[str, Any]:
        """The content of `summary.json`."""
        return self.result.summary

    @property
    def kind(self) -> str:
        """The protocol, and which of its kinds: scores of a model that lost other patches in training are one."""
        variant = self.summary["settings"].get("protocol")
        if variant == "in-domain":
            variant = None if self.knows_its_deletion else "out of domain"
        return self.summary["protocol"] + (f" ({variant})" if variant else "")

    @property
    def knows_its_deletion(self) -> bool:
        """Whether the model was trained with the deletion that it was scored with."""
        trained, settings = self.summary["model"].get("deletion") or {}, self.summary["settings"]
        return bool(trained.get("probability")) and all(
            trained.get(name) == settings.get(name) for name in ("grid", "fill")
        )

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.letter} ({self.where})"

    @property
    def model(self) -> tuple[Any, ...]:
        """What tells the model from others: its weights' digest, else its name, and the seed that may have drawn it."""
        model, settings = self.summary["model"], self.summary["settings"]
        if model.get("sha256"):
            return (model["sha256"],)
        path = model.get("path")
        return (model["name"], path, model.get("architecture"), settings.get("seed") if path else None)

    @property
    def cautions(self) -> list[str]:
        """What its numbers can't bear; InputError where that can't be read."""
        found = self.summary.get("cautions", [])
        if not (isinstance(found, list) and all(isinstance(each, str) for each in found)):
            raise damaged(self, "cautions")
        return found

    @cached_property
    def directions(self) -> dict[str, bool]:
        """Metric -> whether a higher value is better."""
        return {score["metric"]: score["higher_is_better"] for score in self.summary["scores"]}

    @cached_property
    def compositions(self) -> dict[str, np.ndarray] | None:
        """KIND-NxN -> (grids, cells) images; None for a protocol that has no grids."""
        if "grids" not in self.summary["settings"]:
            return None
        from difull import Compositions

        folder = self.result.path
        files = sorted((folder / "compositions").glob("*.parquet")) if folder else []
        if not files:
            raise InputError(f"{self.name} has no compositions/*.parquet, so its grids can't be told from others")
        return {file.stem: Compositions.load(file).indices for file in files}


def damaged(result: Compared, what: str) -> InputError:
    """For a summary that has something else there than a run's."""
    return InputError(f"{result.where}: summary.json has no {what} that can be read")


def letter_of(number: int) -> str:
    """A, B, … Z, AA, AB, …"""
    return (letter_of(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def read_all(given: Sequence[str | Path | Result], scoreless: bool = False) -> list[Compared]:
    """Read and check results; InputError for a folder that is given twice, or isn't one.

    Args:
        scoreless: results without scores are fine, as of `eval.leakage`; they have no table either.
    """
    found: list[Compared] = []
    known: dict[Path, str] = {}
    for number, each in enumerate(given):
        if not isinstance(each, str | Path | Result):
            raise InputError(f"expected folders or results, got {each!r}")
        result = each if isinstance(each, Result) else load_results(each)
        where = str(result.path) if result.path else f"{result.summary['protocol']} of {_name(result)}"
        place = result.path.expanduser().resolve() if result.path else None
        if place is not None and place in known:
            raise InputError(
                f"{where} is given twice" + (f", first as {known[place]}" if known[place] != where else "")
            )
        known |= {place: where} if place else {}
        check_summary(result.summary, where, scoreless)
        table = _values(result, where) if result.summary["scores"] else None
        found.append(Compared(letter_of(number), where, result, table))
    return found


def _name(result: Result) -> str:
    model = result.summary.get("model")
    return str(model.get("name")) if isinstance(model, dict) else "a model"


def check_summary(summary: dict[str, Any], where: str, scoreless: bool = False) -> None:
    """InputError unless a summary has all that is looked at."""
    needs: dict[str, type] = {"protocol": str, "model": dict, "data": dict, "settings": dict, "environment": dict}
    wrong = [name for name, kind in needs.items() if not isinstance(summary.get(name), kind)]
    wrong += (
        [] if wrong else [f"{part} {name}" for part, name in _WORDS if not isinstance(summary[part].get(name), str)]
    )
    wrong += [] if wrong or all(map(_is_score, summary["scores"])) else ["scores"]
    if not wrong:
        free = [summary["model"].get(name) for name in ("path", "architecture", "sha256")]
        wrong += [] if all(isinstance(value, str | None) for value in free) else ["model"]
        wrong += [] if isinstance(summary["model"].get("deletion"), dict | None) else ["model deletion"]
    if wrong:
        raise InputError(f"{where}: summary.json has no {wrong[0]} that can be read")
    if not summary["scores"] and not scoreless:
        raise InputError(f"{where} is of {summary['protocol']}, which gives no scores to compare")


def _is_score(score: dict[str, Any]) -> bool:
    """Whether a row of the scores has names, a mean with its interval, and a direction."""
    interval, numbers = score.get("ci95"), [score.get("mean")]
    numbers += interval if isinstance(interval, list) else ["none"]
    undefined = numbers[0] is None
    fine = all((isinstance(x, int | float) and math.isfinite(x)) or (undefined and x is None) for x in numbers)
    texts = all(isinstance(score.get(name), str) for name in ("attribution", "layer", "metric"))
    return texts and fine and len(numbers) == 3 and isinstance(score.get("higher_is_better"), bool)


_WORDS = (("model", "name"), ("data", "name"), ("data", "split"), ("data", "fingerprint"))


def _values(result: Result, where: str) -> pd.DataFrame | None:
    """The table of single values, checked against the summary's means."""
    table = result.per_image
    if table is None:
        return None
    wanted = {"index": "iu", "value": "f", "attribution": "", "layer": "", "metric": ""}
    for name, kinds in wanted.items():
        is_text = name in table and not kinds and pd.api.types.infer_dtype(table[name]) == "string"
        if not is_text and (name not in table or getattr(table[name].dtype, "kind", "") not in (*kinds,)):
            what = {"iu": "whole numbers", "f": "numbers", "": "words"}[kinds]
            raise InputError(f"{where}: per_image.parquet has no column {name} of {what}")
    keys = [key for key in KEYS if key in table]
    units = [unit for unit in UNITS if unit in table]
    table = table.assign(value=table["value"].astype(np.float64), undefined=table["value"].isna())
    if np.isinf(table["value"]).any():
        raise InputError(f"{where}: per_image.parquet has infinite values")
    if table["undefined"].all():
        raise InputError(f"{where}: no value in per_image.parquet is defined")
    if table.duplicated([*keys, *units]).any():
        raise InputError(f"{where}: per_image.parquet has several values of one image, attribution, layer and metric")
    return _counted(table, keys, result.summary, where)


def _counted(table: pd.DataFrame, keys: list[str], summary: dict[str, Any], where: str) -> pd.DataFrame:
    """Undefined values as 0 where the summary's means count them so; InputError if its means are neither."""
    means = {tuple(score.get(key) for key in keys): score["mean"] for score in summary["scores"]}
    plain = _means(table, keys)
    lost = [key for key in plain if key not in means]
    if lost:
        raise InputError(f"{where}: per_image.parquet has {' '.join(map(str, lost[0]))}, which summary.json hasn't")
    filled = table.assign(value=table["value"].fillna(0.0))
    zeros = _means(filled, keys)
    metric, zero_metrics = keys.index("metric"), set()
    for name in dict.fromkeys(key[metric] for key in plain):
        own = [key for key in plain if key[metric] == name]
        if all(_same(plain[key], means[key]) for key in own):
            continue
        if not all(_same(zeros[key], means[key]) for key in own):
            raise InputError(f"{where}: per_image.parquet doesn't come to the mean {name} that summary.json has")
        zero_metrics.add(name)
    return filled.where(table["metric"].isin(zero_metrics), table) if zero_metrics else table


def _means(table: pd.DataFrame, keys: list[str]) -> dict[tuple[Any, ...], float]:
    """Means as protocols take them: of grids, whose heads count together, else of all values."""
    if "cell" in table:
        table = table.groupby([*keys, "index"], sort=False)["value"].mean().reset_index()
    means = table.groupby(keys, sort=False)["value"].mean()
    return dict(zip(means.index, means, strict=True))


def _same(mean: float, other: float | None) -> bool:
    other = math.nan if other is None else other
    return math.isclose(mean, other, rel_tol=_CLOSE, abs_tol=_CLOSE) or (math.isnan(mean) and math.isnan(other))


def over_models(results: Sequence[Compared]) -> list[list[Compared]]:
    """Results of one question (protocol, data, settings), one for each model: of several, that of the most images."""
    groups: dict[str, dict[tuple[Any, ...], Compared]] = {}
    for result in results:
        summary = result.summary
        asked = {name: value for name, value in summary["settings"].items() if name not in FREE}
        data = [summary["data"][name] for name in ("name", "split", "fingerprint")]
        members = groups.setdefault(json.dumps([result.kind, data, asked], sort_keys=True, default=str), {})
        known = members.get(result.model)
        if known is None or _images(result) > _images(known):
            members[result.model] = result
    return [list(members.values()) for members in groups.values()]


def _images(result: Compared) -> int:
    count = result.summary["data"].get("n_images")
    return count if isinstance(count, int) else 0


def check_pair(first: Compared, other: Compared) -> None:
    """Raise InputError, with the reason, unless two results of one protocol are of the same question."""
    for name in ("split", "fingerprint"):
        ours, theirs = (each.summary["data"][name] for each in (first, other))
        if ours != theirs:
            data = [f"{each.summary['data']['name']}, {name} {each.summary['data'][name]}" for each in (first, other)]
            raise _unlike(first, other, f"other data ({data[0]}; {data[1]})")
    settings = [each.summary["settings"] for each in (first, other)]
    for name in sorted(settings[0].keys() | settings[1].keys()):
        if name not in FREE and settings[0].get(name) != settings[1].get(name):
            raise _unlike(
                first, other, f"other {name} ({shown(settings[0].get(name))}; {shown(settings[1].get(name))})"
            )
    for metric in first.directions.keys() & other.directions.keys():
        if first.directions[metric] != other.directions[metric]:
            raise _unlike(first, other, f"other directions of {metric} (higher is better; lower is better)")
    methods = [each.get("methods") or {} for each in settings]
    for name in methods[0].keys() & methods[1].keys():
        if methods[0][name] != methods[1][name]:
            raise _unlike(first, other, f"other settings of {name}")
    for each in (first, other):
        if each.table is None:
            raise InputError(f"{each.name} has no per_image.parquet, so there is nothing to pair")


def _unlike(first: Compared, other: Compared, what: str) -> InputError:
    return InputError(f"{first.name} and {other.name} can't be compared: {what}")


def shown(value: Any) -> str:
    """A setting in a few words: lists with spaces, long text cut in the middle."""
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(entry)}" for name, entry in value.items())
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 48 else f"{text[:30]}…{text[-17:]}"


def differing(first: Compared, other: Compared) -> list[dict[str, Any]]:
    """In what two results differ: `what`, and both values; models, data, settings and environment in this order."""
    found = []
    for section in ("model", "data", "settings", "environment"):
        ours, theirs = (each.summary[section] for each in (first, other))
        for name, a, b in _entries(ours, theirs, section):
            if a != b:
                found.append({"what": f"{section} {name}", "values": [_short(name, a), _short(name, b)]})
    return found


_FOUND = frozenset(
    {"accuracy", "accuracy_deleted", "mean_iou", "path", "choice", "methods", "shown", "n_constant_drops"}
)
"""What comes out of a run, or says where it lies, and is no setting of it."""


def _entries(ours: dict[str, Any], theirs: dict[str, Any], section: str) -> Iterator[tuple[str, Any, Any]]:
    of_data = ("name", "n_images", "n_corrupt", "split", "fingerprint")
    names = of_data if section == "data" else [*ours, *(name for name in theirs if name not in ours)]
    for name in names:
        if name not in _FOUND:
            yield name, ours.get(name), theirs.get(name)


def _short(name: str, value: Any) -> str:
    return str(value)[:8] if name in ("sha256", "commit") and value else shown(value)
