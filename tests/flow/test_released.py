"""The checkpoints that come with the suite are what they say; `test_readme.py` gives them to commands."""

from pathlib import Path

import pytest

from checkpoints import load_model, load_segmenter, verify

RELEASED = Path(__file__).resolve().parents[2] / "checkpoints" / "released"
NAMES = ("digits-resnet10t", "digits-segmenter")


def test_they_are_small_and_all_are_known():
    assert {path.name for path in RELEASED.iterdir() if path.is_dir()} == set(NAMES)
    assert sum(path.stat().st_size for path in RELEASED.rglob("*") if path.is_file()) < 10e6


@pytest.mark.parametrize("name", NAMES)
def test_every_check_passes(name, capsys):
    status = verify.main([str(RELEASED / name), "--sample", "2" if name == NAMES[1] else "8"])
    text = capsys.readouterr().out
    assert status == 0, text
    assert " 0 failed" in text
    assert "again" in text


def test_they_have_learned_what_they_are_for():
    resnet, segmenter = load_model(RELEASED / NAMES[0]), load_segmenter(RELEASED / NAMES[1])
    assert resnet.training is not None
    assert segmenter.training is not None
    assert min(resnet.training["metrics"][key] for key in ("accuracy", "accuracy_deleted")) > 0.9
    assert segmenter.training["metrics"]["mean_iou"] > 0.6
    assert resnet.deletion is not None
    assert resnet.deletion.probability == 0.5
