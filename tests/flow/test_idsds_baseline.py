"""`eval.idsds --baseline`, and models without weights of their own."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch

from eval.idsds import main
from tests.reference.checkpoints import save_other_sized, save_resnet


def score(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_resnet(tmp_path_factory.mktemp("model") / "resnet")


@pytest.fixture(scope="module")
def other_sized(tmp_path_factory):
    torch.manual_seed(5)
    return save_other_sized(tmp_path_factory.mktemp("model") / "other")


def test_a_baseline_sees_the_images_as_it_does_by_itself(checkpoint, other_sized, tmp_path):
    common = ["--attributions", "ixg", "--limit", "24", "--batch-size", "8"]
    assert score("--model", checkpoint, "--baseline", other_sized, *common, "--out", tmp_path / "beside") == 0
    assert score("--model", other_sized, "--protocol", "single", *common, "--out", tmp_path / "alone") == 0
    beside, alone = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("beside", "alone"))
    beside["evidence"]["baseline"].pop("name")
    assert beside["evidence"]["baseline"] == alone["evidence"]["model"]


def test_a_baseline_that_cannot_lose_the_cells_is_refused(checkpoint, other_sized, tmp_path, capsys):
    arguments = ["--model", checkpoint, "--baseline", other_sized, "--grid", "64", "--allow-out-of-domain"]
    assert score(*arguments, "--out", tmp_path / "run") == 2
    assert "can't lose the same cells: a 64×64 grid does not divide 32×32" in capsys.readouterr().err


def test_a_model_that_deletion_costs_more_than_its_baseline_is_told(checkpoint, tmp_path):
    words = ["--model", checkpoint, "--baseline", checkpoint, "--attributions", "random", "--limit", "20"]
    assert score(*words, "--out", tmp_path / "run") == 0
    cautions = json.loads((tmp_path / "run" / "summary.json").read_text())["cautions"]
    assert any("nothing shows that deletion is more in the model's domain" in line for line in cautions)


def test_untrained_models_are_drawn_by_the_seed(tmp_path):
    """Two runs, two processes and a baseline by name are one model; another seed is another one."""
    arguments = ["--model", "timm:test_convnext", "--protocol", "single", "--attributions", "ixg", "--limit", "12"]
    arguments += ["--batch-size", "4", "--baseline", "timm:test_convnext"]
    tables = {}
    for name, more in {"one": [], "again": [], "two": ["--devices", "2"], "other": ["--seed", "1"]}.items():
        command = [sys.executable, "-m", "eval.idsds", *arguments, *more, "--accelerator", "cpu"]
        if name == "two":
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
            subprocess.run([*command, "--out", str(tmp_path / name)], check=True, env=environment, timeout=400)
        else:
            torch.manual_seed(len(name))
            assert score(*command[3:], "--out", tmp_path / name) == 0
        tables[name] = pd.read_parquet(tmp_path / name / "per_image.parquet")
        evidence = json.loads((tmp_path / name / "summary.json").read_text())["evidence"]
        evidence["baseline"].pop("name")
        assert evidence["baseline"] == evidence["model"]
    pd.testing.assert_frame_equal(tables["one"], tables["again"], check_exact=True)
    pd.testing.assert_frame_equal(tables["one"], tables["two"], check_exact=True)
    ixg = [tables[name].query("attribution == 'ixg'")["predicted"].to_numpy() for name in ("one", "other")]
    assert (ixg[0] != ixg[1]).any()
