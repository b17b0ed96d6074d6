"""Result folders made by hand, through the suite's writers, so that a comparison has something to read."""

import json
import math

import numpy as np
import pandas as pd

from difull import Compositions
from faithfulness.core.files import write_json
from faithfulness.core.results import ordered_rows, summarize_scores, write_per_image

SETTINGS = {"precision": "32-true", "seed": 0, "limit": None, "batch_size": 64, "published": None, "device": "cpu"}
OF_PROTOCOL = {
    "idsds": {"protocol": "in-domain", "grid": [4, 4], "fill": "zeros", "output": "logit"},
    "single": {"protocol": "single", "grid": [4, 4], "fill": "zeros", "output": "logit"},
    "incremental": {"fill": "zeros", "output": "logit", "order": "ascending", "steps": 32},
    "difull": {"setting": ["difull"], "scale": [2], "grids": {"corners 2×2": 6}, "scoring": "exact"},
    "dea": {"fill": "mean", "region": "predicted", "fractions": [0.1], "methods": {"gpa": {}}},
}
METRIC = {"single": "single_deletion", "incremental": "incremental_deletion", "difull": "localization"}
METHODS = (("ixg", "input"), ("ig", "input"), ("gradcam", "final"))


def ranked_table(values, metric="idsds", indices=None):
    """A row per image and method; `values` is (attribution, layer) -> (images,)."""
    rows = []
    for (name, layer), column in values.items():
        index = np.arange(len(column)) if indices is None else np.asarray(indices)
        common = {"index": index, "label": index % 3, "predicted": 0, "attribution": name, "layer": layer}
        rows.append(pd.DataFrame({**common, "metric": metric, "value": np.asarray(column, dtype=float)}))
    return ordered_rows(pd.concat(rows))


def scores_of(table, undefined_as=0.0, higher=True):
    """The rows of `summary.json` as the protocols take their means: of grids, whose heads count together, or of all."""
    keys = [key for key in ("setting", "scale", "metric", "attribution", "layer") if key in table]
    found = []
    for key, rows in table.groupby(keys, sort=False):
        named = dict(zip(keys, key, strict=True)) | ({"scale": int(rows["scale"].iloc[0])} if "scale" in rows else {})
        if "cell" in table:
            rows = rows.assign(value=rows["value"].fillna(0)).groupby("index")["value"].mean().reset_index()
        score = summarize_scores(
            rows["value"].to_numpy(), seed=0, undefined_as=undefined_as, higher_is_better=higher, **named
        )
        found.append(score.to_dict())
    return found


def write_result(folder, table, protocol="idsds", *, scores=None, data=None, model=None, settings=None, **how):
    """A result's folder: `summary.json` and `per_image.parquet`, None leaving that out; of IDSDS, it is in-domain."""
    of = OF_PROTOCOL[protocol] | SETTINGS | (settings or {})
    summary = {
        "schema": 1,
        "protocol": "idsds" if protocol == "single" else protocol,
        "model": {"name": "resnet10t", "architecture": "resnet10t", "sha256": "a" * 64, "accuracy": 0.9}
        | ({"deletion": {"grid": of["grid"], "fill": of["fill"], "probability": 0.5}} if protocol == "idsds" else {})
        | (model or {}),
        "data": {"name": "digits", "split": "val", "n_images": 40, "fingerprint": "0123"} | (data or {}),
        "settings": of,
        "scores": scores_of(table, **how) if scores is None else scores,
        "environment": {"python": "3.12", "torch": "2.14"},
        "files": [],
    }
    write_json(folder / "summary.json", summary)
    if table is not None:
        write_per_image(folder, table)
    return folder


def edit_summary(folder, change):
    """Change `summary.json` by a function of its content."""
    summary = json.loads((folder / "summary.json").read_text())
    change(summary)
    write_json(folder / "summary.json", summary)


def noisy(seed, images=40, methods=METHODS, shift=0.0):
    """Values of each method that differ from image to image, the same images being easy in every draw."""
    common = np.random.default_rng(99).normal(size=images)
    generator = np.random.default_rng(seed)
    return {
        method: 0.2 * place + 0.1 * common + 0.1 * generator.normal(size=images) + shift
        for place, method in enumerate(methods)
    }


def write_grids(folder, seed=0, count=6, images=None, shift=0.0):
    """A DiFull result of 2×2 corner grids with its compositions; `images` (count, 4) are what they are made of."""
    images = np.arange(4 * count).reshape(count, 4) if images is None else images
    generator, rows = np.random.default_rng(seed), []
    for name, layer in METHODS:
        for cell in (0, 3):
            value = generator.random(count) / 2 + shift
            value[0] = math.nan if cell == 3 and name == "gradcam" else value[0]
            common = {"setting": "difull", "scale": 2, "index": np.arange(count), "cell": cell, "label": cell}
            named = {"attribution": name, "layer": layer, "metric": "localization"}
            rows.append(pd.DataFrame({**common, "predicted": 0, **named, "value": value}))
    write_result(folder, ordered_rows(pd.concat(rows)), "difull")
    (folder / "compositions").mkdir()
    Compositions(images, np.zeros_like(images), 2, "corners").save(folder / "compositions" / "corners-2x2.parquet")
    return folder


def write_pairs(folder, seed=0, images=20, drop=(), shift=0.0):
    """A DEA result: one or two classes per image, undefined ones left out of the mean."""
    generator, rows = np.random.default_rng(seed), []
    index = np.repeat(np.arange(images), 1 + np.arange(images) % 2)
    kept = ~np.isin(index, drop)
    for metric in ("target_deletion_drop", "off_target_deletion_drop"):
        value = generator.normal(size=len(index)) + shift
        value[3] = math.nan
        common = {"index": index, "class": np.arange(len(index)) % 5, "attribution": "gpa", "layer": "final"}
        rows.append(pd.DataFrame({**common, "metric": metric, "value": value})[kept])
    table = ordered_rows(pd.concat(rows))
    scores = scores_of(table, undefined_as=None)
    for score in scores:
        score["higher_is_better"] = score["metric"] == "target_deletion_drop"
    return write_result(folder, table, "dea", scores=scores)
