"""Result folders for a report: a few of every kind, names that mean harm, and many models with many methods."""

import math

import numpy as np
from matplotlib.figure import Figure

from faithfulness.core.files import write_json
from tests.reference.result_folders import (
    METHODS,
    edit_summary,
    noisy,
    ranked_table,
    write_grids,
    write_pairs,
    write_result,
)

SCRIPT = '<script>window.hacked = "yes"</script>'
HOSTILE = {
    "method": f"{SCRIPT}\"'&amp;{{{{ 7*7 }}}}" + "x" * 300,
    "model": '"><img src="https://example.org/x.png" onerror="window.hacked = 1">',
    "data": "</title></script><b>data</b>",
    "command": "python -m eval.idsds </script><script>window.hacked = 2</script> --out 'a b'",
}
PICTURE = 'odd "<b>&name'


def close():
    """Values of three methods of which the second is told apart from neither of the others."""
    values = list(noisy(1).values())
    shifts = (0.0, 0.2 - 0.04, 0.4 - 0.06)
    return {method: column - shift for method, column, shift in zip(METHODS, values, shifts, strict=True)}


def draw(folder, *names):
    """Pictures of a result, small but real."""
    (folder / "plots").mkdir(exist_ok=True)
    for name in names:
        Figure(figsize=(1, 1)).savefig(folder / "plots" / f"{name}.png", dpi=30)


def write_some(folder):
    """Results of several protocols: IDSDS of two models, grids, pairs, a proof, names that mean harm."""
    values = close()
    values["ixg", "input"][3:5] = math.nan
    first = write_result(folder / "idsds-a", ranked_table(values), settings={"input_size": [64, 64]})
    evidence = {"accuracy": 0.9, "accuracy_deleted": 0.85, "agreement": 0.95, "separability": 0.55}
    edit_summary(
        first,
        lambda summary: summary.update(
            command="python -m eval.idsds --model a",
            evidence={"model": evidence, "baseline": {**evidence, "name": "base", "separability": None}},
            cautions=["40 images: few"],
        ),
    )
    draw(first, "ranking", "examples")
    other = {"name": "resnet50", "architecture": "resnet50", "sha256": "b" * 64, "accuracy": 0.8}
    second = write_result(folder / "idsds-b", ranked_table(noisy(2, shift=0.1)), model=other)
    draw(second, "examples", "brand_new")
    grids, pairs = write_grids(folder / "difull"), write_pairs(folder / "dea")
    draw(grids, "localization-difull-2x2")
    return [first, second, grids, pairs, write_proofs(folder / "leakage"), write_hostile(folder / "hostile")]


def write_proofs(folder):
    """A result without scores."""
    write_result(folder, None, scores=[])
    proof = {
        "subject": "DiFull 2×2",
        "verdict": "passed: proven",
        "passed": True,
        "statements": {"structure": "apart", "taint": "none", "derivative": "zero", "intervention": "none"},
    }
    bad = {**proof, "subject": "GridPG 2×2", "verdict": "LEAKS", "passed": False}
    edit_summary(folder, lambda summary: summary.update(protocol="leakage", proofs=[proof, bad], passed=False))
    return folder


def write_hostile(folder):
    """A result whose names are HTML, one of whose methods has no mean at all."""
    values = {(HOSTILE["method"], "input"): np.linspace(0, 1, 40), ("nothing", "final"): np.full(40, math.nan)}
    model = {"name": HOSTILE["model"], "sha256": None, "architecture": None, "path": None}
    data = {"name": HOSTILE["data"], "fingerprint": "other"}
    write_result(folder, ranked_table(values), model=model, data=data, undefined_as=None)
    edit_summary(folder, lambda summary: summary.update(command=HOSTILE["command"], cautions=[SCRIPT]))
    draw(folder, "examples", PICTURE)
    return folder


def write_many(folder, methods=30, models=20):
    """IDSDS of many models, with the tests that the command writes, and no single values."""
    generator = np.random.default_rng(0)
    names = [f"method{number}" for number in range(methods)]
    for model in range(models):
        means = np.sort(generator.normal(size=methods))[::-1]
        p_values = np.minimum(1, np.exp(-np.abs(means[:, None] - means[None]) * 10))
        scores = [
            {
                **{"attribution": name, "layer": "input", "metric": "idsds", "mean": float(mean)},
                **{"mean_defined": float(mean), "ci95": [float(mean) - 0.1, float(mean) + 0.1], "n": 500},
                **{"n_undefined": 0, "higher_is_better": True, "seconds": 1.5},
                **{"forward_passes": 1.0, "backward_passes": 1.0},
            }
            for name, mean in zip(names, means, strict=True)
        ]
        described = {"name": f"model{model}", "sha256": f"{model:064x}", "accuracy": 0.5 + model / 100}
        place = write_result(folder / f"m{model}", None, scores=scores, model=described)
        edit_summary(place, lambda summary, p=p_values: summary.update(tests={"names": names, "p": p.tolist()}))
        write_json(place / "parts" / "run.json", {"protocol": "idsds"})
        draw(place, "ranking", "examples")
    return folder
