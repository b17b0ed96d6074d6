"""`eval.incremental` as a command."""

import json

import pandas as pd
import pytest

from eval.incremental import main
from tests.reference.checkpoints import save_resnet


def score(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_resnet(tmp_path_factory.mktemp("model") / "resnet")


def test_incremental_deletion_looks_in_float32_and_counts_every_attribution(checkpoint, tmp_path):
    curves = {}
    for precision in ("32-true", "bf16-mixed"):
        arguments = ["--model", checkpoint, "--attributions", "ixg", "--limit", "4"]
        arguments += ["--steps", "3", "--reattribute", "--precision", precision, "--out", tmp_path / precision]
        assert score(*arguments) == 0
        table = pd.read_parquet(tmp_path / precision / "per_image.parquet")
        curves[precision] = table[table.attribution == "random"]
        for entry in json.loads((tmp_path / precision / "summary.json").read_text())["scores"]:
            assert entry["seconds"] > 0
    pd.testing.assert_frame_equal(*curves.values(), check_exact=True)


def test_the_mean_probability_is_scored(checkpoint, tmp_path):
    arguments = ["--model", checkpoint, "--attributions", "ixg", "--limit", "6", "--steps", "4"]
    assert score(*arguments, "--out", tmp_path / "run") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["protocol"] == "incremental"
    assert {entry["metric"] for entry in summary["scores"]} == {"incremental_deletion"}
    assert all(0 <= entry["mean"] <= 1 for entry in summary["scores"])


def test_a_diverged_model_is_named(tmp_path, capsys, diverged):
    arguments = ["--model", "timm:test_convnext", "--limit", "3", "--out", tmp_path / "run", "--attributions", "ixg"]
    assert score(*arguments) == 2
    assert "test_convnext gives NaN or infinite logits for 3 of 3 images" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--steps", "2"], ", 2 steps, ascending (higher is better), fill zeros"),
        (["--steps", "2", "--order", "descending"], "descending (lower is better)"),
    ],
)
def test_the_head_of_the_table_says_what_was_scored(checkpoint, tmp_path, capsys, arguments, text):
    common = ["--model", checkpoint, "--attributions", "random", "--limit", "2"]
    assert score(*common, *arguments, "--out", tmp_path / "run") == 0
    assert text in capsys.readouterr().out


def test_a_fill_is_named_and_what_means_nothing_here_is_refused(checkpoint, tmp_path, capsys):
    common = ["--model", checkpoint, "--attributions", "random", "--limit", "2", "--steps", "2"]
    assert score(*common, "--fill", "blur", "--out", tmp_path / "run") == 0
    assert "fill blur (LEAKS)" in capsys.readouterr().out
    assert score(*common, "--steps", "0", "--out", tmp_path / "none") == 2
    assert "--steps must be at least 1, got 0" in capsys.readouterr().err
    assert score(*common, "--grid", "4", "--out", tmp_path / "none") == 2
    assert "unknown flag --grid" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
