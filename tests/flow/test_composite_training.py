"""Fine-tuning on grids, and the audit of what such a run recorded."""

import json

import pandas as pd
import pytest
import torch

from checkpoints import load_checkpoint
from difull import DiPart, compose_grid
from tests.reference.grid_runs import run, summary_of
from tests.reference.networks import small_resnet
from training import patch_finetune
from training.composite import Composite, CompositeSpec


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "composite"
    arguments = ["--model", "test_convnext", "--train-images", "64", "--val-images", "20", "--batch-size", "16"]
    arguments += ["--epochs", "1", "--composite-prob", "0.5", "--out", str(out)]
    assert patch_finetune.main(arguments) == 0
    return out


def test_composite_training_is_recorded(composed, tmp_path):
    spec = {"probability": 0.5, "scale": 2, "setting": "dipart"}
    assert json.loads((composed / "config.json").read_text())["composite"] == spec
    assert load_checkpoint(composed).describe()["composite"] == spec
    training = json.loads((composed / "training.json").read_text())
    assert training["settings"]["composite_prob"] == 0.5
    assert 0 <= training["metrics"]["accuracy_grid"] <= 1


def test_composite_logits_are_those_of_each_images_head():
    backbone, spec = small_resnet(10), CompositeSpec(0.5, 2)
    images, labels, keys = torch.randn(9, 3, 64, 64), torch.arange(9), torch.arange(9) * 7
    logits, order = Composite(spec, backbone).logits(backbone, images, labels, keys)
    assert sorted(order.tolist()) == list(range(9))
    with torch.no_grad():
        torch.testing.assert_close(logits[:5], backbone(images[order[:5]]), rtol=1e-4, atol=1e-5)
        grid = compose_grid(images[order[5:]], 2)
        heads = [DiPart(backbone, 2)(grid, cell)[0] for cell in range(4)]
    torch.testing.assert_close(logits[5:], torch.stack(heads), rtol=1e-4, atol=1e-5)
    assert logits.requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--composite-prob", "2"], "the composite probability must lie in"),
        (["--composite-prob", "0.5", "--composite-scale", "1"], "the composite scale must be at least 2"),
        (["--composite-prob", "0.05"], "makes no 2×2 grid"),
    ],
)
def test_composite_options_are_checked(tmp_path, capsys, arguments, message):
    assert patch_finetune.main(["--out", str(tmp_path / "run"), "--model", "test_convnext", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


AUDIT = ["--limit", "4", "--setting", "difull", "--mask-images", "64", "--tries", "1", "--grids", "1"]


@pytest.mark.usefixtures("heads_left_out")
def test_a_real_runs_masks_are_audited(composed, tmp_path):
    """The record of the run passes; the same record with the cell taken from the label doesn't."""
    assert run("leakage", *AUDIT, "--model", composed, "--out", tmp_path / "clean") == 0
    masks = summary_of(tmp_path / "clean")["masks"]
    assert {entry["record"]: entry["passed"] for entry in masks} == {"label": True, "brightness": True}
    (file,) = (composed / "deletions").glob("*.parquet")
    record = pd.read_parquet(file)
    (tmp_path / "record").mkdir()
    record.assign(cell=record["label"] % 4).to_parquet(tmp_path / "record" / "leaky.parquet")
    arguments = ["--model", composed, "--deletions", tmp_path / "record", "--out", tmp_path / "leaky"]
    assert run("leakage", *AUDIT, *arguments) == 1
    found = {entry["record"]: entry["found"] for entry in summary_of(tmp_path / "leaky")["masks"]}
    assert "label" in found["label"]


@pytest.mark.usefixtures("heads_left_out")
def test_a_record_of_other_pixels_is_refused(composed, tmp_path, capsys):
    """The audit replays what training saw: said to be of another epoch, the same samples have other crops."""
    (file,) = (composed / "deletions").glob("*.parquet")
    (tmp_path / "record").mkdir()
    pd.read_parquet(file).assign(epoch=1).to_parquet(tmp_path / "record" / "epoch001.parquet")
    arguments = ["--model", composed, "--deletions", tmp_path / "record", "--out", tmp_path / "run"]
    assert run("leakage", *AUDIT, *arguments) == 2
    assert "of 64 samples of digits have other pixels than the record says" in capsys.readouterr().err


@pytest.mark.usefixtures("heads_left_out")
def test_a_record_without_deletions_is_no_evidence(composed, tmp_path, capsys):
    (file,) = (composed / "deletions").glob("*.parquet")
    (tmp_path / "record").mkdir()
    pd.read_parquet(file).assign(cell=-1).to_parquet(tmp_path / "record" / "epoch000.parquet")
    run("leakage", *AUDIT, "--model", composed, "--deletions", tmp_path / "record", "--out", tmp_path / "run")
    assert summary_of(tmp_path / "run")["masks"] == []
    assert "records no deletion" in capsys.readouterr().out
