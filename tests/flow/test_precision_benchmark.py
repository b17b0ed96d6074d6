"""`python -m benchmarks.precision`: what it says of means, orders and drops, against the command's own numbers."""

import json
from typing import Any

import numpy as np
import pytest

from benchmarks.drift import Drops, Scored, compared
from benchmarks.precision import main
from eval.idsds import SingleDeletion, evaluate
from faithfulness.core import InputError
from faithfulness.core.ranking import PRECISION

MODEL = "checkpoints/released/digits-resnet10t"
FEW = {"images": 6, "batch_size": 4, "attributions": ["ixg", "gradcam"]}


def written(folder):
    (file,) = folder.iterdir()
    assert file.name == "precision-digits-resnet10t-cpu.json"
    return json.loads(file.read_text())["precisions"]["bf16-mixed"]


def test_means_are_the_command_s_and_drops_the_same_bit_for_bit(tmp_path, capsys):
    main(**FEW, out=tmp_path)
    moved, shown = written(tmp_path), capsys.readouterr().out
    for precision, key in (("32-true", "mean_reference"), ("bf16-mixed", "mean")):
        result = evaluate(MODEL, attributions=["ixg", "gradcam"], limit=6, batch_size=4, precision=precision)
        assert result is not None
        means = {row["attribution"]: row["mean"] for row in result.summary["scores"]}
        assert {row["method"]: row[key] for row in moved["methods"]} == pytest.approx(means, abs=1e-12)
    assert any(row["difference"] for row in moved["methods"])
    assert moved["drops"]["identical"]
    assert moved["drops"]["ties"] == 0 < moved["drops"]["ties_if_rounded"]
    assert "drops identical" in shown


def test_drops_in_fewer_bits_are_seen(tmp_path, capsys, monkeypatch):
    exact = SingleDeletion.logits

    def rounded(self, network, name, images):
        found = exact(self, network, name, images)
        return found if self.run.options.precision == "32-true" else [each.bfloat16().float() for each in found]

    monkeypatch.setattr(SingleDeletion, "logits", rounded)
    main(**FEW, out=tmp_path)
    drops = written(tmp_path)["drops"]
    assert not drops["identical"]
    assert drops["ties"] > 0
    assert "drops DIFFER" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [({"precisions": ["bf16-mixed", "tf32"]}, "expected bf16-mixed"), ({"images": 1}, "--images must be")],
)
def test_what_says_nothing_is_refused(flags, said):
    with pytest.raises(InputError, match=said):
        main(**flags)


def made(scores, sums, drops):
    kept = Drops(np.array(drops), np.ones(len(drops)))
    nothing: Any = None  # the result isn't looked at
    return Scored(nothing, scores, sums, kept, kept, dict.fromkeys(scores, 1.0))


def test_what_moves_is_counted():
    """Three methods on four images: one as it was, one turned round, one that moves in one image of four."""
    sums, drops = np.arange(16.0).reshape(4, 4), np.arange(12.0).reshape(4, 3)
    still = {"a": np.array([0.9, 0.8, 0.9, 0.8]), "b": np.full(4, 0.5), "c": np.array([0.1, 0.2, 0.1, np.nan])}
    other = still | {"b": np.array([0.5, 0.5, 0.5, 0.44]), "c": np.full(4, 0.95)}
    found = compared(
        made(still, dict.fromkeys(still, sums), drops),
        made(other, {"a": sums, "b": np.vstack([sums[:3], sums[3:, ::-1]]), "c": sums * 0}, drops + PRECISION / 4),
    )
    a, b, c = found["methods"]
    assert [row["method"] for row in (a, b, c)] == ["a", "b", "c"]
    assert (a["difference"], a["share_moved"], a["cells_spearman"]) == (0, 0, {"mean": 1.0, "least": 1.0, "n": 4})
    assert b["difference"] == pytest.approx(-0.015)
    assert (b["share_moved"], b["cells_spearman"]) == (0.25, {"mean": 0.5, "least": -1.0, "n": 4})
    assert c["difference"] == pytest.approx(0.85)
    assert (c["n_undefined"], c["cells_spearman"]["n"]) == ([1, 0], 0)
    assert (found["order"]["spearman"], found["order"]["n"]) == (-0.5, 3)
    assert not found["drops"]["identical"]


def test_ties_are_those_that_a_score_takes_as_equal():
    drops = Drops(np.array([[1.0, 1.0, 2.0], [1.0, 1.0 + PRECISION / 8, 2.0], [1, 2, 3]]), np.full(3, 2.0))
    assert drops.ties.tolist() == [1, 1, 0]
