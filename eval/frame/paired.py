"""Results of one protocol, each against the first: paired differences on what is shared, and which is best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from eval.frame.comparable import KEYS, UNITS, Compared, check_pair, differing
from eval.frame.grid_options import kind_of
from faithfulness.core.comparison import paired_differences
from faithfulness.core.errors import InputError
from faithfulness.core.statistics import holm

LEVEL = 0.05


def compare_kind(members: Sequence[Compared], across_layers: bool, seed: int) -> dict[str, Any]:
    """The comparisons of results of one protocol with the first of them, and a ranking; without Holm's correction."""
    first, *others = members
    pairs = []
    for other in others:
        check_pair(first, other)
        pairs.append(compare_pair(first, other, across_layers, seed))
    return {"protocol": first.kind, "comparisons": pairs, "ranking": ranking_of(members, pairs)}


def compare_pair(first: Compared, other: Compared, across_layers: bool, seed: int) -> dict[str, Any]:
    """In what two results differ, which methods only one has, and a row per shared method, metric and setting."""
    assert first.table is not None
    assert other.table is not None
    a, b = first.table, renumbered(first, other)
    if across_layers:
        a, b = joined_layers(a, b)
    keys = [key for key in KEYS if key in a and key in b]
    units = [unit for unit in UNITS if unit in a and unit in b]
    methods = [list(dict.fromkeys(zip(table["attribution"], table["layer"], strict=True))) for table in (a, b)]
    shared = pd.MultiIndex.from_frame(a[keys].drop_duplicates()).intersection(b[keys].drop_duplicates().pipe(_index))
    if not len(shared):
        have = [f"{first.name} ({_some(methods[0])})", f"{other.name} ({_some(methods[1])})"]
        raise InputError(
            f"no attribution at a layer, with its metric and setting, is in both {have[0]} and {have[1]}"
            + ("" if across_layers else "; --across-layers pairs one attribution at two layers")
        )
    check_labels(a, b, first, other)
    joined = a.merge(b, how="outer", on=[*keys, *units], suffixes=("_a", "_b"), indicator="side")
    joined = joined[_index(joined[keys]).isin(shared)]
    if joined.loc[joined["side"] == "both", "index"].nunique() < 2:
        unit = "grids" if "cell" in units else "images"
        count = joined.loc[joined["side"] == "both", "index"].nunique()
        raise InputError(f"{first.name} and {other.name} share {count} {unit}; a paired comparison needs at least 2")
    rows = difference_rows(joined, keys, units, first.directions, seed)
    return {
        "reference": first.letter,
        "other": other.letter,
        "differ": differing(first, other),
        "only_in_reference": ["@".join(method) for method in methods[0] if method not in methods[1]],
        "only_in_other": ["@".join(method) for method in methods[1] if method not in methods[0]],
        "rows": rows,
    }


def _some(methods: Sequence[tuple[str, str]]) -> str:
    return ", ".join(map("@".join, methods[:4])) + (", …" if len(methods) > 4 else "")


def _index(frame: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(frame)


def renumbered(first: Compared, other: Compared) -> pd.DataFrame:
    """The other's values; grids that aren't the first's with that number get a number that nothing pairs with."""
    table, ours, theirs = other.table, first.compositions, other.compositions
    assert table is not None
    if ours is None or theirs is None:
        return table
    index, shared = table["index"].to_numpy(), np.zeros(len(table), dtype=bool)
    for (setting, scale), rows in table.groupby(["setting", "scale"]).indices.items():  # type: ignore[misc]
        stem = f"{kind_of(setting)}-{scale}x{scale}"
        if stem not in ours or stem not in theirs:
            continue
        count = min(len(ours[stem]), len(theirs[stem]))
        same = (ours[stem][:count] == theirs[stem][:count]).all(axis=1)
        numbers = index[rows]
        shared[rows] = (numbers < count) & same[np.minimum(numbers, count - 1)]
    if not shared.any():
        raise InputError(
            f"{first.name} and {other.name} can't be compared: no grid has the same images; score both on the same "
            f"with --compositions {first.where}"
        )
    return table.assign(index=np.where(shared, index, -1 - index))


def joined_layers(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """An attribution that has one layer in each, and another one, is at "LAYER|LAYER" in both."""
    layers = [table.groupby("attribution")["layer"].agg(lambda some: sorted(set(some))) for table in (a, b)]
    names = {}
    for name in layers[0].index.intersection(layers[1].index):
        ours, theirs = layers[0][name], layers[1][name]
        if len(ours) == len(theirs) == 1 and ours != theirs:
            names[name] = f"{ours[0]}|{theirs[0]}"
    return _relayered(a, names), _relayered(b, names)


def _relayered(table: pd.DataFrame, names: dict[Any, str]) -> pd.DataFrame:
    """The table with other layers of some attributions."""
    pairs = zip(table["attribution"], table["layer"], strict=True)
    return table.assign(layer=pd.Series([names.get(name, layer) for name, layer in pairs], index=table.index))


def check_labels(a: pd.DataFrame, b: pd.DataFrame, first: Compared, other: Compared) -> None:
    """Raise InputError where an image has another label in the other result."""
    if "label" not in a or "label" not in b:
        return
    keys = [key for key in ("setting", "scale", "index", "cell") if key in a and key in b]
    joined = a.drop_duplicates(keys).merge(b.drop_duplicates(keys), on=keys, suffixes=("_a", "_b"))
    wrong = joined[joined["label_a"] != joined["label_b"]]
    if len(wrong):
        row = wrong.iloc[0]
        raise InputError(
            f"{first.name} and {other.name} can't be compared: sample {row['index']} has label {row['label_a']} in one "
            f"and {row['label_b']} in the other"
        )


def difference_rows(
    joined: pd.DataFrame, keys: list[str], units: list[str], directions: dict[str, bool], seed: int
) -> list[dict[str, Any]]:
    """A row per method, metric and setting of a table with `value_a`, `value_b` and `side`."""
    wide = {side: joined.pivot(index=keys, columns=units, values=f"value_{side}") for side in ("a", "b")}
    images = wide["a"].columns.get_level_values("index").to_numpy()
    found = paired_differences(
        wide["a"].to_numpy(float), wide["b"].to_numpy(float), images, equal="cell" in units, seed=seed
    )
    groups = dict(iter(joined.groupby(keys, sort=False)))
    rows = []
    for key, difference in zip(wide["a"].index, found, strict=True):
        own, named = groups[key], dict(zip(keys, key, strict=True))
        rows.append(
            {name: _plain(value) for name, value in named.items()}
            | {
                "mean_reference": difference.mean_a,
                "mean_other": difference.mean_b,
                "difference": difference.difference,
                "ci95": list(difference.ci95),
                "p": difference.p,
                "rank_sum": difference.rank_sum,
                "n": difference.n,
                "n_pairs": difference.n_pairs,
                "only_in_reference": int((own["side"] == "left_only").sum()),
                "only_in_other": int((own["side"] == "right_only").sum()),
                "undefined_reference": int(own["undefined_a"].eq(True).sum()),
                "undefined_other": int(own["undefined_b"].eq(True).sum()),
                "detectable": difference.detectable,
                "higher_is_better": directions[named["metric"]],
            }
        )
    order = list(directions)
    return sorted(rows, key=lambda row: _place(row, order))


def _place(row: dict[str, Any], metrics: list[str]) -> tuple[Any, ...]:
    """By metric, setting and scale; in each what the reference scores best first, undefined last."""
    gain = row["mean_reference"] * (1 if row["higher_is_better"] else -1)
    where = (metrics.index(row["metric"]), str(row.get("setting")), row.get("scale", 0))
    return (*where, bool(np.isnan(gain)), 0.0 if np.isnan(gain) else -gain)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def correct(rows: Sequence[dict[str, Any]]) -> None:
    """Add to all rows Holm's p over all of them, and which one is better: by mean and by ranks, at 5 %."""
    for row, p in zip(rows, holm(np.array([row["p"] for row in rows], dtype=float)), strict=True):
        sign = 1 if row["higher_is_better"] else -1
        row["p_holm"], row["better"] = float(p), None
        if p < LEVEL and row["difference"] * row["rank_sum"] > 0:
            row["better"] = "reference" if sign * row["difference"] > 0 else "other"


def ranking_of(members: Sequence[Compared], pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per metric and setting the results, best first, by their mean rank over the methods that all have.

    A method's means are those of its comparisons with the first result, so each is on the images shared with that.
    """
    keys = [key for key in KEYS if all(key in row for pair in pairs for row in pair["rows"])]
    means: dict[tuple[Any, ...], list[float]] = {}
    for place, pair in enumerate(pairs):
        for row in pair["rows"]:
            own = means.setdefault(tuple(row[key] for key in keys), [0.0] + [np.nan] * len(pairs))
            own[place + 1] = -row["difference"]
    groups: dict[tuple[Any, ...], list[list[float]]] = {}
    for key, values in means.items():
        if not np.isnan(values).any():
            named = dict(zip(keys, key, strict=True))
            groups.setdefault(tuple(named.get(name) for name in ("metric", "setting", "scale")), []).append(values)
    found = []
    for (metric, setting, scale), values in groups.items():
        gains = np.array(values) * (1 if members[0].directions[metric] else -1)
        ranks = pd.DataFrame(-gains).round(9).rank(axis=1).mean(axis=0)
        place = {} if setting is None else {"setting": setting, "scale": scale}
        found += [
            {"metric": metric, **place, "result": members[member].letter, "mean_rank": float(ranks[member])}
            | {"mean_gain": float(gains[:, member].mean()), "n_methods": len(values)}
            for member in np.argsort(ranks.to_numpy(), kind="stable")
        ]
    return found
