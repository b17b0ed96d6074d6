"""`python -m benchmarks.idsds`: both loops find the same, and what is made of their times."""

import json

import pytest
import torch

from benchmarks import idsds
from faithfulness.core import InputError
from faithfulness.core.cli import run_command

SAME = {"grad", "ixg", "ig", "gradcam", "gradcampp", "layercam"}
"""Methods without random numbers, which the restated loop draws otherwise."""


def test_the_restated_loop_scores_as_the_suite_does(tmp_path, capsys):
    flags = {"model": "test_resnet", "num-classes": 5, "input-size": 64, "images": 3, "masks": 4, "rounds": 2}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    assert run_command(idsds.main, arguments=[*words, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "idsds-test_resnet-4masks-cpu-32-true.json").read_text())
    own, restated = found["scores"]["ours"], found["scores"]["theirs"]
    assert set(restated) == {*SAME, "ixg-sg", "ig-u", "rise(masks=4)"}
    for name in SAME:
        assert own[name] == pytest.approx(restated[name], abs=5e-3)  # a near tie that rounds otherwise moves it by 1e-3
    assert set(found["floor"]) == {"drops", *restated}
    assert {name: len(values) for name, values in found["rounds"].items()} == {"ours": 2, "theirs": 2, "floor": 2}
    assert f"{found['over_floor']:.2f} of the floor" in capsys.readouterr().out


def test_what_is_compared_is_of_one_round():
    """A machine that is half as fast in the second round, and in the third while the floor is measured."""
    times = {"ours": [4, 8, 4], "theirs": [8, 16, 8]}
    found = idsds.summary(times, {"drops": [0.5, 1, 1], "ixg": [1.5, 3, 3]}, images=2)
    assert found["times_faster"] == 2
    assert found["over_floor"] == 1
    assert found["seconds_per_image"] == {"ours": 2, "theirs": 4, "floor": 4}
    assert found["rounds"]["floor"] == [2, 4, 4]


def test_the_restated_loop_runs_on_a_network_as_it_was_made(monkeypatch):
    """In every round: ours and the floor bring theirs into the memory format that they compute fastest in."""
    formats = []

    def theirs(network, *rest):
        formats.append(all(weight.is_contiguous() for weight in network.parameters()))
        return {}

    monkeypatch.setattr(idsds, "theirs", theirs)
    idsds.main("test_resnet", 32, num_classes=3, attributions=["ixg"], images=1, rounds=2)
    assert formats == [True] * 3


def test_a_network_without_a_last_stage_has_no_cams_and_others_are_refused():
    assert idsds.cam_layer(torch.nn.Flatten()) is None
    assert not any("cam" in name for name in idsds.chosen(None, 10, cams=False))
    assert idsds.chosen(["rise", "ixg"], 10, cams=False) == ["rise(masks=10)", "ixg"]
    with pytest.raises(InputError, match=r"--attributions: expected some of .* got lime"):
        idsds.chosen(["lime"], 10, cams=True)
