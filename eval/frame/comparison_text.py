"""What a comparison says: the text for the terminal, its table, its pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import idsds
from faithfulness.core.tables import WIDTH, format_table, wrap
from faithfulness.report import number

if TYPE_CHECKING:
    import pandas as pd

MOST_DIFFERENCES = 12
"""Of more things in which two results differ, the terminal shows so many."""
Key = tuple[str, str, Any, Any]
"""Protocol, metric, setting and scale."""


def table_of(summary: dict[str, Any]) -> pd.DataFrame:
    """A row per paired difference."""
    import pandas as pd

    rows = []
    for found in summary["protocols"]:
        for pair in found["comparisons"]:
            place = {"protocol": found["protocol"], "reference": pair["reference"], "other": pair["other"]}
            rows += [
                place | {name: value for name, value in row.items() if name != "ci95"} | _ends(row["ci95"])
                for row in pair["rows"]
            ]
    table = pd.DataFrame(rows)
    first = ["protocol", "reference", "other", "attribution", "layer", "metric", "setting", "scale"]
    then = ["mean_reference", "mean_other", "difference", "low", "high", "p", "p_holm", "better", "detectable"]
    order = [name for name in (*first, *then) if name in table] if rows else [*first[:6], *then]
    return table.reindex(columns=[*order, *(name for name in table if name not in order)])


def _ends(interval: Sequence[float | None]) -> dict[str, float | None]:
    return {"low": interval[0], "high": interval[1]}


def report(summary: dict[str, Any]) -> str:
    """All of it."""
    parts = [_results(summary["results"])]
    for found in summary["protocols"]:
        parts += [_pair(found["protocol"], pair) for pair in found["comparisons"]]
        if len(found["comparisons"]) > 1:
            parts.append(_ranking(found))
    parts += [_agreement(summary["agreement"])] if summary["agreement"] else []
    parts += [_accuracy(summary["accuracy"])] if summary["accuracy"] else []
    parts += [_published(summary["published"])] if summary["published"] else []
    parts += ["\n".join(summary["notes"])] if summary["notes"] else []
    return "\n\n".join(parts)


def _results(results: Sequence[dict[str, Any]]) -> str:
    rows = []
    for entry in results:
        model, data = entry["model"], entry["data"]
        about = f"{data['name']} ({data['split']})"
        digest = str(model["sha256"])[:8] if model["sha256"] else "–"
        rows.append((entry["result"], entry["protocol"], model["name"], digest, about, entry["path"]))
    table = format_table(("", "protocol", "model", "sha256", "data", "folder"), rows, "<<<<<<")
    cautions = [f"caution, {entry['result']}: {line}" for entry in results for line in entry["cautions"]]
    return "\n".join([table, *cautions])


def _interval(ends: Sequence[float | None], digits: int = 3) -> str:
    return f"[{number(ends[0], digits)}, {number(ends[1], digits)}]"


def _method(row: dict[str, Any]) -> str:
    place = f"{row['setting']} {row['scale']}×{row['scale']} " if "setting" in row else ""
    return f"{place}{row['attribution']}"


def _p(value: float | None) -> str:
    return "–" if value is None else "<.001" if value < 0.001 else f"{value:.3f}"


def _pair(protocol: str, pair: dict[str, Any]) -> str:
    """One comparison with the reference, metric by metric."""
    a, b = pair["reference"], pair["other"]
    letters = {"reference": f"{a} better", "other": f"{b} better", None: ""}
    lines = [f"{protocol}: {a} − {b} on what both have"]
    differ = [f"{entry['what']} {entry['values'][0]} | {entry['values'][1]}" for entry in pair["differ"]]
    more = f"; and {len(differ) - MOST_DIFFERENCES} more" if len(differ) > MOST_DIFFERENCES else ""
    lines.append(wrap(f"they differ in: {'; '.join(differ[:MOST_DIFFERENCES]) or 'nothing'}{more}", WIDTH))
    for side, letter in (("only_in_reference", a), ("only_in_other", b)):
        if pair[side]:
            lines.append(wrap(f"only in {letter}: {', '.join(pair[side])}", WIDTH))
    for metric in dict.fromkeys(row["metric"] for row in pair["rows"]):
        own = [row for row in pair["rows"] if row["metric"] == metric]
        rows = [
            (
                _method(row),
                row["layer"],
                number(row["mean_reference"]),
                number(row["mean_other"]),
                number(row["difference"]),
                _interval(row["ci95"]),
                _p(row["p_holm"]),
                number(row["detectable"]),
                str(row["n"]) + (f" ({row['n_pairs']})" if row["n_pairs"] != row["n"] else ""),
                f"{row['only_in_reference']}/{row['only_in_other']}",
                f"{row['undefined_reference']}/{row['undefined_other']}",
                letters[row["better"]],
            )
            for row in own
        ]
        better = "higher" if own[0]["higher_is_better"] else "lower"
        header = (f"{metric} ({better} is better)", "layer", a, b, f"{a}−{b}", "95% interval", "p (Holm)")
        header = (*header, "detectable", "n", f"only {a}/{b}", f"undefined {a}/{b}", "")
        lines.append(format_table(header, rows, "<<>>>>>>>>><"))
    lines.append(
        wrap(
            "p: Wilcoxon signed-rank (zeros after Pratt), corrected over all rows; interval: bootstrap over images; n: "
            "images (values); detectable: the smallest difference that so many images find with 80 % power (paired "
            "t-test, α = .05)",
            WIDTH,
        )
    )
    return "\n".join(lines)


def _ranking(found: dict[str, Any]) -> str:
    rows = [
        (
            row["metric"] + (f" {row['setting']} {row['scale']}×{row['scale']}" if "setting" in row else ""),
            row["result"],
            number(row["mean_rank"], 2),
            number(row["mean_gain"]),
            str(row["n_methods"]),
        )
        for row in found["ranking"]
    ]
    first = found["comparisons"][0]["reference"]
    table = format_table(("ranking", "result", "mean rank", f"better than {first} by", "methods"), rows, "<<>>>")
    return f"{found['protocol']}: results ranked by each method's mean, 1 the best\n{table}"


def _agreement(rows: Sequence[dict[str, Any]]) -> str:
    from eval.frame.agreement import ABOUT_INTERVALS, FEWEST

    shown = [
        (
            *(_end(row, side) for side in ("a", "b")),
            number(row["spearman"], 2),
            _interval(row["spearman_ci95"], 2),
            number(row["kendall"], 2),
            _interval(row["kendall_ci95"], 2),
            str(row["n_methods"]),
            f"too few, below {FEWEST}" if row["too_few"] else "",
        )
        for row in rows
    ]
    header = ("ranking by", "and by", "Spearman", "95% interval", "Kendall", "95% interval", "methods", "")
    table = format_table(header, shown, "<<>>>>><")
    return f"Do protocols rank the methods alike?\n{table}\n{wrap(ABOUT_INTERVALS, WIDTH)}"


def _end(row: dict[str, Any], side: str) -> str:
    place = f" {row[f'setting_{side}']} {row[f'scale_{side}']}×" if f"setting_{side}" in row else ""
    return f"{row[side]} {row[f'metric_{side}']}{place}{row[f'scale_{side}'] if place else ''}"


def _accuracy(rows: Sequence[dict[str, Any]]) -> str:
    from eval.frame.agreement import FEWEST

    shown = [
        (
            f"{row['metric']} {_method(row)}",
            row["layer"],
            number(row["spearman"], 2),
            str(row["n_models"]),
            f"too few, below {FEWEST}" if row["too_few"] else "",
        )
        for row in rows
    ]
    table = format_table(("score", "layer", "Spearman", "models", ""), shown, "<<>><")
    return f"Do more accurate models score higher? Over models, each on its own images\n{table}"


def _published(rows: Sequence[dict[str, Any]]) -> str:
    shown = [
        (
            f"{row['result']} {row['attribution']}",
            row["layer"],
            number(row["published"]),
            number(row["ours"]),
            _interval(row["ci95"]),
            number(row["difference"]),
            "within" if row["within"] else "outside",
        )
        for row in rows
    ]
    header = ("attribution", "layer", "published", "ours", "95% interval", "difference", "sampling + reading")
    about = f"{idsds.SOURCE}, ± {idsds.READING_ERROR}"
    return f"Beside the publication: {about}\n{format_table(header, shown, '<<>>>><')}"


def published_table() -> str:
    """The published scores of all models, a row each."""
    methods = list(dict.fromkeys(method for scores in idsds.PUBLISHED_SCORES.values() for method in scores))
    rows = [
        (f"{name} ({idsds.PUBLISHED_NAMES[name]})", *(number(scores.get(method)) for method in methods))
        for name, scores in idsds.PUBLISHED_SCORES.items()
    ]
    head = f"IDSDS on the ImageNet validation set, 4×4 cells, zeros: {idsds.SOURCE}, ± {idsds.READING_ERROR}"
    return f"{head}\n{format_table(('model', *(name for name, _ in methods)), rows)}"


def pictures_of(summary: dict[str, Any]) -> dict[Key, Callable[[], Any]]:
    """Protocol, metric, setting and scale -> what draws the differences, a panel per comparison."""
    from faithfulness.report import difference_figure

    names = {entry["result"]: entry["model"]["name"] for entry in summary["results"]}
    panels: dict[Key, dict[str, list[dict[str, Any]]]] = {}
    for found in summary["protocols"]:
        for pair in found["comparisons"]:
            for row in pair["rows"]:
                key = (found["protocol"], row["metric"], row.get("setting"), row.get("scale"))
                panels.setdefault(key, {}).setdefault(f"{pair['reference']} − {pair['other']}", []).append(row)
    drawn: dict[Key, Callable[[], Any]] = {}
    for key, own in panels.items():
        letters = dict.fromkeys(letter for name in own for letter in name.split(" − "))
        place = "" if key[2] is None else f", {key[2]} {key[3]}×{key[3]}"
        title = f"{key[0]}{place}: " + ", ".join(f"{letter} {names[letter]}" for letter in letters)
        drawn[key] = partial(difference_figure, own, title)
    return drawn


def file_name(key: Key) -> str:
    """`difference-PROTOCOL-METRIC…`, of letters that any file system takes."""
    parts = [str(part) for part in key if part is not None]
    plain = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in "-".join(parts))
    return f"difference-{plain}"
