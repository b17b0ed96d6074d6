"""Results of several protocols on one model, score against accuracy over models, and the published numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

import idsds
from eval.frame.comparable import KEYS, Compared, over_models, shown
from eval.frame.ranked import CONTROLS
from faithfulness.core.comparison import RESAMPLES, Agreement, agreement, resampled_means

FEWEST = 5
"""Of fewer things, even two orders that agree wholly could do so by chance: p is at least 2/4! = .083."""
ABOUT_INTERVALS = (
    f"methods without the controls {' and '.join(CONTROLS)}, which any protocol puts last; intervals: bootstrap over "
    "images (grids), the methods being these; images that both have are drawn together, others apart"
)
_IMAGENET = re.compile(r"imagenet:|hfds:.*imagenet-1k", re.IGNORECASE)
"""What data sets of ImageNet are called, on the Hub `ILSVRC/imagenet-1k`."""
Place = tuple[str, Any, Any]
"""Metric, setting and scale."""


def between_protocols(results: Sequence[Compared], seed: int) -> list[dict[str, Any]]:
    """How the methods' means agree between protocols, for every two results of one model and two protocols.

    +1 says that both put the methods in the same order, the best first; where lower is better, it is turned round.
    """
    found = []
    for a, b in combinations(results, 2):
        if a.kind == b.kind or a.model != b.model:
            continue
        for place_a, means_a in means_of(a).items():
            for place_b, means_b in means_of(b).items():
                methods = [method for method in means_a if method in means_b and method[0] not in CONTROLS]
                values = [np.array([means[method] for method in methods]) for means in (means_a, means_b)]
                draws = draws_of(a, b, place_a, place_b, methods, seed)
                entry = {"a": a.letter, "protocol_a": a.kind, **_named(place_a, "a")}
                entry |= {"b": b.letter, "protocol_b": b.kind, **_named(place_b, "b")}
                found.append(entry | _described(agreement(values[0], values[1], *draws)))
    return found


def means_of(result: Compared) -> dict[Place, dict[tuple[str, str], float]]:
    """Metric, setting and scale -> (attribution, layer) -> mean, the more the better."""
    found: dict[Place, dict[tuple[str, str], float]] = {}
    for score in result.summary["scores"]:
        if score["mean"] is not None:
            place = (score["metric"], score.get("setting"), score.get("scale"))
            sign = 1 if score["higher_is_better"] else -1
            found.setdefault(place, {})[score["attribution"], score["layer"]] = sign * score["mean"]
    return found


def _named(place: Place, side: str) -> dict[str, Any]:
    names = dict(zip(("metric", "setting", "scale"), place, strict=True))
    return {f"{name}_{side}": value for name, value in names.items() if value is not None}


def _described(found: Agreement) -> dict[str, Any]:
    few = found.n < FEWEST
    return {
        "spearman": found.spearman,
        "spearman_ci95": list(found.spearman_ci95),
        "kendall": found.kendall,
        "kendall_ci95": list(found.kendall_ci95),
        "n_methods": found.n,
        "too_few": few,
    }


def draws_of(
    a: Compared, b: Compared, place_a: Place, place_b: Place, methods: Sequence[tuple[str, str]], seed: int
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Means of the methods over resampled images in both results; None where one has no single values."""
    parts = [per_image(each, place, methods) for each, place in ((a, place_a), (b, place_b))]
    if parts[0] is None or parts[1] is None or not methods:
        return None, None
    data = [tuple(each.summary["data"][name] for name in ("split", "fingerprint")) for each in (a, b)]
    shared = parts[0].columns.intersection(parts[1].columns)
    together = data[0] == data[1] and len(shared) > 1 and not any("grids" in x.summary["settings"] for x in (a, b))
    found = []
    for number, part in enumerate(parts):
        part = part[shared] if together else part
        values = part.to_numpy(float)
        key = seed if together else seed + number
        found.append(resampled_means(np.nan_to_num(values), (~np.isnan(values)).astype(float), key, RESAMPLES // 4))
    return found[0], found[1]


def per_image(result: Compared, place: Place, methods: Sequence[tuple[str, str]]) -> Any:
    """A table (methods, images), the more the better; None where the result keeps no single values of them."""
    table, (metric, setting, scale) = result.table, place
    if table is None or metric not in set(table["metric"]):
        return None
    own = table[table["metric"] == metric]
    if setting is not None:
        own = own[(own["setting"] == setting) & (own["scale"] == scale)]
    wide = own.groupby(["attribution", "layer", "index"], sort=False)["value"].mean().unstack("index")
    sign = 1 if result.directions[metric] else -1
    return sign * wide.reindex(list(methods)).sort_index(axis=1)


def with_accuracy(results: Sequence[Compared]) -> list[dict[str, Any]]:
    """Spearman correlation over models of each method's mean with the model's accuracy, for three models or more.

    Over models of one question, see `over_models`; `results` in a row are the letters of those that it is of.
    """
    rows = []
    known = [result for result in results if isinstance(result.summary["model"].get("accuracy"), int | float)]
    for members in over_models(known):
        found: dict[tuple[Any, ...], dict[str, tuple[float, float]]] = {}
        for result in members:
            for score in result.summary["scores"]:
                if score["mean"] is not None:
                    key = (result.kind, *(score.get(name) for name in KEYS))
                    sign = 1 if score["higher_is_better"] else -1
                    pair = (result.summary["model"]["accuracy"], sign * score["mean"])
                    found.setdefault(key, {})[result.letter] = pair
        for key, models in found.items():
            if len(models) > 2:
                pairs = np.array(list(models.values()))
                named = {name: value for name, value in zip(("protocol", *KEYS), key, strict=True) if value is not None}
                spearman = agreement(pairs[:, 0], pairs[:, 1]).spearman
                counted = {"n_models": len(models), "too_few": len(models) < FEWEST, "results": list(models)}
                rows.append(named | {"spearman": spearman} | counted)
    return rows


def beside_published(result: Compared) -> list[dict[str, Any]]:
    """A row per method that the publication scored on this model: theirs, ours, and whether they agree.

    They do if theirs, give or take the error of reading it, lies in the 95% interval of ours.
    """
    published = idsds.published_scores(str(result.summary["model"].get("architecture")))
    rows = []
    for score in result.summary["scores"]:
        theirs = published.get((score["attribution"], score["layer"]))
        if theirs is None or score["metric"] != "idsds" or score["mean"] is None:
            continue
        low, high = score["ci95"]
        rows.append(
            {
                "result": result.letter,
                "attribution": score["attribution"],
                "layer": score["layer"],
                "published": theirs,
                "ours": score["mean"],
                "ci95": [low, high],
                "difference": score["mean"] - theirs,
                "within": low - idsds.READING_ERROR <= theirs <= high + idsds.READING_ERROR,
            }
        )
    return rows


def why_not_published(result: Compared) -> str | None:
    """Why the published numbers can't stand beside a result; None if they can."""
    model, data, settings = (result.summary[name] for name in ("model", "data", "settings"))
    if not is_idsds(result):
        return f"they are of IDSDS, this is {result.kind}"
    if not _IMAGENET.match(data["name"]) or data["split"] != "val":
        return f"they are of the ImageNet validation set, this is {data['name']} ({data['split']})"
    if not idsds.published_scores(str(model.get("architecture"))):
        return f"{model.get('architecture')} is no model of the publication"
    wanted = {"grid": [4, 4], "fill": "zeros", "output": "logit"}
    name = next((name for name, value in wanted.items() if settings.get(name) != value), None)
    if name is not None:
        return f"they are of another {name} than {settings.get(name)}"
    if not result.knows_its_deletion:
        trained = model.get("deletion") or {}
        own = shown(trained) if trained.get("probability") else "none"
        return f"they are of models trained with deletion (4×4, zeros), this one was trained with {own}"
    return None


def is_idsds(result: Compared) -> bool:
    """Whether a result is of the publication's protocol, in domain or not."""
    return result.summary["protocol"] == "idsds" and result.summary["settings"].get("protocol") == "in-domain"


def published_notes(result: Compared) -> Iterator[str]:
    """What to keep in mind where published numbers stand beside a result."""
    if result.summary["settings"].get("published") != "idsds":
        yield f"{result.letter}'s methods have this suite's parameters; --published idsds gives them the publication's"
    if result.summary["settings"].get("limit") is not None:
        yield f"{result.letter} is of the first {result.summary['data'].get('n_images')} images only"
