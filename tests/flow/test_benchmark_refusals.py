"""What benchmarks refuse in one line, before they measure."""

import fcntl
import os

import pytest
import torch

from benchmarks import attribution, drops, idsds, precision, scaling, training
from faithfulness.core.cli import run_command

COMMANDS = {
    "attribution": attribution,
    "drops": drops,
    "idsds": idsds,
    "precision": precision,
    "scaling": scaling,
    "training": training,
}
BAD = [
    ("idsds", ["--num-classes", "0"], "--num-classes must be a whole number in 1"),
    ("idsds", ["--seed", "-1"], "--seed must be a whole number in 0"),
    ("idsds", ["--seed", "99999999999999999999"], "--seed must be a whole number in 0"),
    ("idsds", ["--precision", "16-mixed"], "--precision 16-mixed needs a GPU"),
    ("drops", ["--num-classes", "0"], "--num-classes"),
    ("training", ["--input-size", "0"], "--input-size must be a whole number in 1"),
    ("training", ["--workers", "-1"], "--workers must be a whole number in 0"),
    ("attribution", ["--seed", "-1"], "--seed must be a whole number in 0"),
]


@pytest.fixture(autouse=True)
def nothing_is_measured(monkeypatch):
    def measure(*given, **more):
        raise AssertionError("measured")

    for module, name in (
        *((attribution, "measure"), (drops, "ours"), (idsds, "alternate")),
        *((precision, "measured"), (scaling, "start"), (training, "measure")),
    ):
        monkeypatch.setattr(module, name, measure)


def refusal(capsys, name, words):
    assert run_command(COMMANDS[name].main, arguments=[str(word) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(("name", "words", "says"), BAD, ids=lambda value: repr(value)[:30])
def test_a_value_that_cannot_be(capsys, name, words, says):
    assert says in refusal(capsys, name, words)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "precision"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_card_that_is_not_there(capsys, name):
    assert "--device: expected cpu, got cuda" in refusal(capsys, name, ["--device", "cuda"])


@pytest.mark.parametrize("name", COMMANDS)
def test_results_that_cannot_be_written_are_not_measured(tmp_path, capsys, name):
    (tmp_path / "file").touch()
    assert "file is no folder that can be written" in refusal(capsys, name, ["--out", tmp_path / "file"])
    assert "file is no folder that can be written" in refusal(capsys, name, ["--out", tmp_path / "file" / "below"])
    (tmp_path / "out").mkdir()
    handle = os.open(tmp_path / "out" / f".{name}.lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        assert "another run is writing" in refusal(capsys, name, ["--out", tmp_path / "out"])
    finally:
        os.close(handle)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "out"}


def test_a_record_of_something_else_is_not_measured_for(tmp_path, capsys):
    (tmp_path / "scaling-digits-resnet10t-cpu.json").write_text("[1, 2]")
    assert "is no record of this command" in refusal(capsys, "scaling", ["--out", tmp_path])
