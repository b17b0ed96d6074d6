"""Results as the commands make them, held against each other in one process."""

import shutil

import pytest
import torch

from eval import aggatt, difull, idsds, incremental
from eval.compare import compare
from faithfulness.core import InputError
from tests.reference.own_code import SIDE, Pictures, bright

COMMON = {"input_size": SIDE, "accelerator": "cpu", "limit": 18, "attributions": ["ixg", "grad", "gradcam"]}


def dimmed():
    """As `bright`, with other weights."""
    net = bright()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape))
    return net


def test_results_of_commands_are_compared(tmp_path):
    data = Pictures()
    first = idsds.evaluate(bright(), data, protocol="single", **COMMON)
    other = idsds.evaluate(dimmed(), data, protocol="single", **COMMON | {"limit": 12})
    steps = incremental.evaluate(bright(), data, steps=3, **COMMON)
    found = compare([first, other, steps])
    assert set(found.table["n"]) <= set(range(2, 13))
    assert found.table["only_in_reference"].min() >= 6
    assert {(row["a"], row["b"], row["n_methods"]) for row in found.summary["agreement"]} == {
        ("A", "C", 3),
        ("B", "C", 3),
    }
    assert "by name, as no digest" in found.summary["notes"][-1]
    same = compare([first, idsds.evaluate(bright(), data, protocol="single", **COMMON)]).table
    assert (same["difference"] == 0).all()
    assert (same["p_holm"] == 1).all()


def test_grids_of_commands_are_compared(tmp_path):
    data, common = Pictures(), {**COMMON, "grids": 4, "confidence": 0.0, "scale": [2]}
    difull.evaluate(bright(), data, out=tmp_path / "a", **common)
    difull.evaluate(dimmed(), data, out=tmp_path / "b", compositions=[str(tmp_path / "a")], **common)
    aggatt.evaluate(bright(), data, out=tmp_path / "c", compositions=[str(tmp_path / "a")], **common)
    found = compare([tmp_path / "a", tmp_path / "b", tmp_path / "c"])
    assert set(found.table["metric"]) == {"localization", "impossible_attribution"}
    assert (found.table["n"] == 4).all()
    assert len(found.summary["agreement"]) == 4  # two metrics of A and of B with C's
    shutil.copytree(tmp_path / "c", tmp_path / "d")
    with pytest.raises(InputError, match="has no per_image"):
        compare([tmp_path / "c", tmp_path / "d"])
