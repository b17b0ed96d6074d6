"""Commands on parquet files as the Hub has them: corrupt rows, workers, rows that changed."""

import json
from pathlib import Path

import pandas as pd
import pytest

from checkpoints import load_model
from eval import idsds
from tests.reference.parquet_folders import make_hfds, painted, write_rows
from training import patch_finetune

SCORE = ["--model", "timm:test_resnet", "--input-size", "32", "--protocol", "single", "--grid", "2", "2"]
SCORE += ["--attributions", "ixg", "--batch-size", "4", "--accelerator", "cpu", "--quiet"]
TRAIN = ["--model", "test_convnext", "--batch-size", "4", "--epochs", "1", "--accelerator", "cpu", "--workers", "0"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def score(*words, out="run"):
    return idsds.main([*SCORE, "--out", out, *words])


def rows_of(out):
    return pd.read_parquet(f"{out}/per_image.parquet")


def test_a_corrupt_row_is_named_or_left_out_and_workers_give_the_same(capsys):
    pictures = [painted(row) for row in range(6)]
    pictures[4] = pictures[4][:50]
    write_rows(Path("pets/data/validation-00000-of-00001.parquet"), pictures, [row % 3 for row in range(6)])
    assert score("--data", "hfds:pets", "--workers", "0") == 2
    said = capsys.readouterr().err
    assert "validation-00000-of-00001.parquet, row 4 (" in said
    assert said.count("\n") == 1
    for workers in ("0", "2"):
        assert score("--data", "hfds:pets", "--skip-corrupt", "--workers", workers, out=f"with{workers}") == 0
    assert json.loads(Path("with2/summary.json").read_text())["data"]["n_corrupt"] == 1
    alone, together = rows_of("with0"), rows_of("with2")
    assert sorted(alone["index"].unique()) == [0, 1, 2, 3, 5]
    pd.testing.assert_frame_equal(alone, together)


def test_an_evaluation_of_other_rows_is_another_run(capsys):
    make_hfds(Path("pets"), 6)
    assert score("--data", "hfds:pets", "--workers", "0") == 0
    assert score("--data", "hfds:pets", "--workers", "0") == 0
    file = Path("pets/data/validation-00001-of-00002.parquet")
    write_rows(file, [painted(row) for row in (5, 4, 3)], [0, 1, 2])
    capsys.readouterr()
    assert score("--data", "hfds:pets", "--workers", "0") == 2
    assert "already holds a run" in capsys.readouterr().err


def test_training_goes_on_with_the_same_rows_alone(capsys):
    make_hfds(Path("pets"), 8)
    words = [*TRAIN, "--data", "hfds:pets", "--out", "trained", "--input-size", "32"]
    assert patch_finetune.main([*words, "--quiet"]) == 0
    assert load_model("trained").classes == ["cat", "dog", "eel"]
    assert patch_finetune.main([*words, "--quiet", "--resume"]) == 0
    file = Path("pets/data/train-00001-of-00002.parquet")
    write_rows(file, [painted(row) for row in (7, 6, 5, 4)], [0, 1, 2, 0])
    capsys.readouterr()
    assert patch_finetune.main([*words, "--quiet", "--resume"]) == 2
    said = capsys.readouterr().err
    assert "--resume with another data" in said
    assert said.count("\n") == 1
