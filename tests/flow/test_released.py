"""The checkpoints that come with the suite are what they say, and commands take them at once."""

import json
from pathlib import Path

import pytest

from checkpoints import load_model, load_segmenter, verify
from eval import dea, idsds
from tests.reference.undrawn import undrawn

RELEASED = Path(__file__).resolve().parents[2] / "checkpoints" / "released"
NAMES = ("digits-resnet10t", "digits-segmenter")


def test_they_are_small_and_all_are_known():
    assert {path.name for path in RELEASED.iterdir() if path.is_dir()} == set(NAMES)
    assert sum(path.stat().st_size for path in RELEASED.rglob("*") if path.is_file()) < 10e6


@pytest.mark.parametrize("name", NAMES)
def test_every_check_passes(name, capsys):
    with undrawn():
        status = verify.main([str(RELEASED / name), "--sample", "2" if name == NAMES[1] else "8"])
    text = capsys.readouterr().out
    assert status == 0, text
    assert " 0 failed" in text
    assert "again" in text


@pytest.mark.parametrize(("name", "command", "method"), [(NAMES[0], idsds, "gradcam"), (NAMES[1], dea, "ega")])
def test_commands_take_them(name, command, method, tmp_path):
    words = ["--model", str(RELEASED / name), "--limit", "2", "--attributions", method, "--quiet"]
    with undrawn():
        assert command.main([*words, "--out", str(tmp_path / "run")]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    recorded = json.loads((RELEASED / name / "training.json").read_text())
    assert summary["model"]["sha256"] == recorded["sha256"]


def test_they_have_learned_what_they_are_for():
    resnet, segmenter = load_model(RELEASED / NAMES[0]), load_segmenter(RELEASED / NAMES[1])
    assert resnet.training is not None
    assert segmenter.training is not None
    assert min(resnet.training["metrics"][key] for key in ("accuracy", "accuracy_deleted")) > 0.9
    assert segmenter.training["metrics"]["mean_iou"] > 0.6
    assert resnet.deletion is not None
    assert resnet.deletion.probability == 0.5
