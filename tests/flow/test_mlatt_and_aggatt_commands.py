"""`eval.mlatt` and `eval.aggatt` as commands."""

import numpy as np
import pytest
from PIL import Image

import eval.frame.compositions
import eval.frame.grid_batches
import faithfulness.report
from difull import Compositions
from tests.reference.checkpoints import save_resnet
from tests.reference.grid_runs import GRIDS, run, save_compositions, summary_of

DRAWN = True


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_resnet(tmp_path_factory.mktemp("model") / "resnet")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return save_compositions(tmp_path_factory.mktemp("files"))


def test_mlatt(checkpoint, files, tmp_path):
    arguments = ["--model", checkpoint, "--compositions", files, "--setting", "gridpg", "--attributions", "ixg"]
    arguments += ["--layers", "input", "final", "--kernels", "1", "65"]
    assert run("mlatt", *arguments, "--out", tmp_path / "run") == 0
    summary = summary_of(tmp_path / "run")
    rows = {(row["attribution"], row["layer"], row["kernel"]): row for row in summary["correlations"]}
    assert set(rows) == {
        (name, layer, k) for name in ("ixg", "gradcam") for layer in ("input", "final") for k in (1, 65)
    }
    assert rows["gradcam", "final", 1]["spearman"] == pytest.approx(1)
    assert rows["ixg", "input", 65]["kernel_of_map"] == 19
    scores = {(s["attribution"], s["layer"]): s["mean"] for s in summary["scores"]}
    assert rows["ixg", "input", 1]["localization"] == pytest.approx(scores["ixg", "input"])
    assert (tmp_path / "run/plots/correlation-gridpg-2x2.png").is_file()


def test_mlatt_lists_and_records_how_it_scores(checkpoint, files, tmp_path, capsys):
    assert run("mlatt", "--list-attributions") == 0
    assert "gradcam" in capsys.readouterr().out
    arguments = ["--model", checkpoint, "--compositions", files, "--setting", "difull", "--attributions", "gradcam"]
    arguments += ["--layers", "final", "--kernels", "1", "--bilinear"]
    assert run("mlatt", *arguments, "--out", tmp_path / "run") == 0
    summary = summary_of(tmp_path / "run")
    assert summary["settings"]["scoring"] == "bilinear"
    means = [entry["mean"] for entry in summary["scores"] if entry["metric"] == "localization"]
    assert [row["localization"] for row in summary["correlations"]] == pytest.approx(means)
    assert any("5 grids: too few" in line for line in summary["cautions"])
    assert any(line.startswith("heads of difull 2×2: accuracy") for line in summary["cautions"])


def test_aggatt(checkpoint, files, tmp_path):
    arguments = ["--model", checkpoint, "--compositions", files, "--attributions", "ixg", "gradcam", "--map-size", "64"]
    assert run("aggatt", *arguments, "--layers", "input", "final", "--out", tmp_path / "run") == 0
    summary = summary_of(tmp_path / "run")
    assert len(summary["bins"]) == 4
    for entry in summary["bins"]:
        assert sum(part["n"] for part in entry["bins"]) == GRIDS
    for name in ("bins-difull-2x2-input", "bins-difull-2x2-final", "examples-difull-2x2-input-ixg"):
        with Image.open(tmp_path / "run" / "plots" / f"{name}.png") as picture:
            assert min(picture.size) > 200
    with np.load(tmp_path / "run" / "bins.npz") as bins:
        assert bins["difull-2x2/ixg/input"].shape == (6, 1, 64, 64)
        assert np.nansum(bins["difull-2x2/ixg/input"][..., 32:]) == 0


def test_the_grids_on_the_sheets_are_those_of_the_summary(checkpoint, files, tmp_path, monkeypatch):
    """One grid can't be read, so that places in the table and numbers of grids fall apart."""
    shown, draw = [], faithfulness.report.examples_figure
    labels = Compositions.load(files / "corners.parquet").labels

    def keep(*arguments, **named):
        figure = draw(*arguments, **named)
        places = [place for part in arguments[0].examples for place in part]
        shown.extend(named["numbers"][place] for place in places)
        texts = [axis.get_xlabel() for axis in figure.axes if axis.get_xlabel().startswith("class ")]
        assert texts == [f"class {labels[named['numbers'][place], 0]}" for place in places]
        return figure

    read = eval.frame.grid_batches.GridSamples.__getitem__
    monkeypatch.setattr(
        eval.frame.grid_batches.GridSamples,
        "__getitem__",
        lambda self, key: {"index": 1} if key[1] == 1 else read(self, key),
    )
    monkeypatch.setattr(faithfulness.report, "examples_figure", keep)
    arguments = ["--model", checkpoint, "--compositions", files, "--attributions", "random", "--examples", "9"]
    assert run("aggatt", *arguments, "--out", tmp_path / "run") == 0
    (entry,) = summary_of(tmp_path / "run")["bins"]
    assert sorted(shown) == sorted(number for part in entry["bins"] for number in part["examples"])
    assert sorted(set(shown)) == [0, 2, 3, 4]
