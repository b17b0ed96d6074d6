"""IDSDS over the family: every network's scores, and what the findings ask of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.findings.family import (
    ARCHITECTURES,
    BAGNET,
    BASE,
    BCOS,
    DEEPER,
    FEWEST_NETWORKS,
    FEWEST_SEEDS,
    FILLS,
    NO_BATCHNORM,
    NO_BIAS,
    SEEDS,
    WIDER,
    Scale,
)
from benchmarks.findings.quantities import (
    Floats,
    Quantities,
    by_seeds,
    largest,
    mean_over_networks,
    over_networks,
    quantity,
    spread,
)
from benchmarks.findings.steps import Steps, weights_of
from faithfulness.core.comparison import agreement, resampled_means

if TYPE_CHECKING:
    import pandas as pd

    from eval.frame.result import Result

PUBLISHED = ("ixg", "ixg-sg", "ig", "ig-u", "gradcam", "gradcampp", "layercam", "rise")
"""The methods of the published table: a network's score is the mean over them."""
EVERYWHERE = (*PUBLISHED, "ixg|abs", "ig|abs")
SMOOTHED = "ig-sg"
"""Scored on every network too, for one finding; not among the methods whose order is compared."""
OWN = {BAGNET: "bagnet", BCOS: "bcos"}
PLAIN = tuple(name for name in ARCHITECTURES if name not in OWN)
STEPS, MASKS = ("ig", "ig-u", "ig-sg", "ig-sg-sq", "s-ig"), ("rise", "rise-u")
IMAGES = "images"


def spec(method: str, scale: Scale) -> str:
    """A method with the study's parameters."""
    name, bar, change = method.partition("|")
    arguments = f"(steps={scale.steps})" if name in STEPS else f"(masks={scale.masks})" if name in MASKS else ""
    return name + arguments + bar + change


def methods_for(name: str, scale: Scale, model: Any) -> dict[str, str]:
    """Plain name -> label of what a network is scored with: all that it can carry for the base, else what counts."""
    from faithfulness.attribution import create_attribution, list_attributions, parse_attribution
    from faithfulness.core.errors import InputError

    wanted = [*EVERYWHERE, SMOOTHED, *([OWN[name]] if name in OWN else [])]
    if scale.methods_everywhere or name == BASE:
        wanted += list_attributions()
    found = {}
    for method in dict.fromkeys(wanted):
        parsed = parse_attribution(spec(method, scale))
        try:
            create_attribution(parsed, model)
        except InputError:  # not for such a network
            continue
        found[method] = parsed.label
    return found


def score(name: str, checkpoint: Path, scale: Scale, steps: Steps) -> Result:
    """The network's IDSDS; of an earlier call where there is one. InputError where it was scored otherwise."""
    from checkpoints import load_model
    from eval import load_results
    from eval.idsds import evaluate

    key = f"idsds/{name}"
    folder = steps.out / key
    labels = list(methods_for(name, scale, load_model(checkpoint).model.eval()).values())
    flags: dict[str, Any] = {"attributions": labels, "limit": scale.images}

    def make() -> None:
        evaluate(str(checkpoint), **flags, batch_size=32, out=folder, accelerator="cpu")

    steps.once(key, flags | {"model": weights_of(checkpoint)}, folder / "summary.json", make)
    return load_results(folder)


def table_of(result: Result, scale: Scale) -> pd.DataFrame:
    """A row per image, a column per method by its plain name; undefined as 0, as in the mean."""
    from faithfulness.attribution import list_attributions, parse_attribution

    assert result.per_image is not None
    wide = result.per_image.pivot_table(index="index", columns="attribution", values="value", dropna=False)
    plain = {parse_attribution(spec(m, scale)).label: m for m in (*EVERYWHERE, *list_attributions())}
    return wide.rename(columns=plain).fillna(0.0)


def deletion_quantities(tables: dict[str, pd.DataFrame], accuracy: dict[str, float], least: float) -> Quantities:
    """All of section 1 that the scored networks allow.

    What is of many networks at once is of those with the `least` accuracy; of all where none has it.
    """
    found: Quantities = {}
    learned = [name for name in PLAIN if accuracy.get(name, 0) >= least] or list(PLAIN)
    for a, b in (("ixg-sg", "ixg"), (SMOOTHED, "ig"), ("ixg|abs", "ixg"), ("ig|abs", "ig")):
        names = [name for name in learned if name in tables and {a, b} <= set(tables[name])]
        if names:
            each = {name: float((tables[name][a] - tables[name][b]).mean()) for name in names}
            found[f"idsds: {a} - {b}"] = mean_over_networks(each)
    found |= tradeoff_quantities(tables, accuracy, least)
    return found | architecture_quantities(tables, learned) | stability_quantities(tables)


def tradeoff_quantities(tables: dict[str, pd.DataFrame], accuracy: dict[str, float], least: float) -> Quantities:
    """Accuracy with the mean over the published methods that all compared networks carry, if there are enough.

    Networks below the `least` accuracy are left out.
    """
    names = [name for name in ARCHITECTURES if name in tables and accuracy.get(name, 0) >= least]
    if len(names) < FEWEST_NETWORKS:
        return {}
    methods = [method for method in PUBLISHED if all(method in tables[name] for name in names)]
    scores = np.array([overall(tables[name], methods) for name in names])
    accuracies = np.array([accuracy[name] for name in names])
    return {"idsds: accuracy and score": over_networks(accuracies, scores, names) | {"methods": methods}}


def seeds_of(tables: dict[str, pd.DataFrame]) -> list[str]:
    """The trainings of the base that were scored."""
    return [name for name in SEEDS if name in tables]


def overall(table: pd.DataFrame, methods: Sequence[str] = PUBLISHED) -> float:
    """A network's score: the mean over such methods as it carries."""
    return float(table[[method for method in methods if method in table]].to_numpy().mean())


def architecture_quantities(tables: dict[str, pd.DataFrame], learned: list[str]) -> Quantities:
    """What compares networks: by the spread over the seeds of the base."""
    found: Quantities = {}
    scores = {name: overall(table) for name, table in tables.items()}
    trained = seeds_of(tables)
    if len(trained) >= FEWEST_SEEDS:
        seeds = np.array([scores[name] for name in trained])
        one = 1 + 1 / len(seeds)
        for name in (*DEEPER, WIDER, NO_BATCHNORM):
            if name in tables:
                models = [name, *trained]
                found[f"idsds: {name} - {BASE}"] = by_seeds(scores[name] - float(seeds.mean()), seeds, one, models)
        if NO_BATCHNORM in tables and NO_BIAS in tables:
            models = [NO_BIAS, NO_BATCHNORM, *trained]
            difference = scores[NO_BIAS] - scores[NO_BATCHNORM]
            found[f"idsds: {NO_BIAS} - {NO_BATCHNORM}"] = by_seeds(difference, seeds, 2.0, models)
        found |= intrinsic_quantities(tables, learned)
    return found


def intrinsic_quantities(tables: dict[str, pd.DataFrame], learned: list[str]) -> Quantities:
    """A network's own explanation against the best published method: of all plain networks, and of the base."""
    found: Quantities = {}
    trained = seeds_of(tables)
    of_seeds = {m: np.array([tables[name][m].mean() for name in trained]) for m in PUBLISHED if m in tables[BASE]}
    best = max(of_seeds, key=lambda method: of_seeds[method].mean())
    if BCOS in tables:
        own, models = float(tables[BCOS]["bcos"].mean()), [BCOS, *trained]
        difference = own - float(of_seeds[best].mean())
        found["idsds: bcos - best of base"] = by_seeds(difference, of_seeds[best], 1 + 1 / len(trained), models)
        found["idsds: bcos - best of base"]["best"] = best
    if BAGNET in tables:
        means = {(n, m): tables[n][m].mean() for n in learned if n in tables for m in PUBLISHED if m in tables[n]}
        name, method = max(means, key=lambda key: means[key])
        difference = float(tables[BAGNET]["bagnet"].mean() - means[name, method])
        seeds = of_seeds.get(method, of_seeds[best])
        found["idsds: bagnet - best of all"] = by_seeds(difference, seeds, 2.0, [BAGNET, name, *trained])
        found["idsds: bagnet - best of all"]["best"] = f"{method} of {name}"
    return found


def stability_quantities(tables: dict[str, pd.DataFrame]) -> Quantities:
    """How the methods' order and their means move with the seed, and with the fill."""
    found: Quantities = {}
    seeds = seeds_of(tables)
    if len(seeds) >= FEWEST_SEEDS:
        orders = [order(tables[a], tables[b], [a, b]) for a, b in combinations(seeds, 2)]
        found["idsds: order, seeds"] = min(orders, key=lambda each: each["effect"])
        found["idsds: spread, seeds"] = spread_of(tables, seeds, "seeds of the base")
    fills = [name for name in (BASE, *FILLS) if name in tables]
    if len(fills) == 1 + len(FILLS):
        found["idsds: spread, fills"] = spread_of(tables, fills, "fills")
    for name in FILLS:
        if name in tables and BASE in tables:
            fill = name.rpartition("-")[2]
            found[f"idsds: order, zeros and {fill}"] = order(tables[BASE], tables[name], [BASE, name])
    return found


def spread_of(tables: dict[str, pd.DataFrame], names: list[str], unit: str) -> dict[str, Any]:
    """How far the methods' means spread over networks: of every method, and the largest."""
    methods = [method for method in EVERYWHERE if all(method in tables[name] for name in names)]
    return spread({m: np.array([tables[name][m].mean() for name in names]) for m in methods}, unit, names)


def order(a: pd.DataFrame, b: pd.DataFrame, models: list[str]) -> dict[str, Any]:
    """Spearman of two networks' methods, with its interval over the images that both have."""
    methods = [method for method in EVERYWHERE if method in a and method in b]
    shared = a.index.intersection(b.index)
    values = [table.loc[shared, methods].to_numpy().T for table in (a, b)]
    draws = [resampled_means(rows, np.ones_like(rows), resamples=1000) for rows in values]
    same = agreement(values[0].mean(axis=1), values[1].mean(axis=1), draws[0], draws[1])
    return quantity(same.spearman, same.spearman_ci95, len(shared), IMAGES, models) | {"n_methods": same.n}


def identity_quantities(checkpoints: dict[str, Path], scale: Scale) -> Quantities:
    """How far integrated gradients are from input × gradient, per network, in float64."""
    import torch

    from benchmarks.findings.inputs import inputs_of
    from checkpoints import load_model
    from faithfulness.attribution import create_attribution

    found: Quantities = {}
    for name in (NO_BIAS, BASE):
        if name not in checkpoints:
            continue
        model = load_model(checkpoints[name]).model.double().eval()
        images, targets = inputs_of(model, torch.float64, count=32)
        maps = [create_attribution(m, model)(images, targets) for m in ("ixg", spec("ig", scale))]
        gaps = (maps[1] - maps[0]).flatten(1).abs().amax(1) / maps[0].flatten(1).abs().amax(1)
        values: Floats = gaps.numpy()
        found[f"identity: {name}"] = largest(values, IMAGES, [])
    return found
