"""`eval.difull` as a command: grids that are chosen or taken, scores, processes, baselines."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import eval.frame.compositions
import eval.frame.grid_batches
from difull import Compositions
from faithfulness.data import open_data
from tests.reference.checkpoints import save_other_sized, save_resnet
from tests.reference.grid_runs import GRIDS, run, save_compositions, summary_of
from tests.reference.networks import small_resnet

DRAWN = True


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_resnet(tmp_path_factory.mktemp("model") / "resnet")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return save_compositions(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def scored(checkpoint, files, tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "difull"
    arguments = ["--model", checkpoint, "--compositions", files, "--setting", "difull", "gridpg", "dipart"]
    arguments += ["--layers", "input", "middle", "final", "--attributions", "grad|abs", "ixg", "gradcam"]
    assert run("difull", *arguments, "--batch-size", "8", "--out", out) == 0
    return out


def test_summary_has_the_schema(scored):
    summary = summary_of(scored)
    assert (summary["schema"], summary["protocol"]) == (1, "difull")
    assert summary["settings"]["grids"] == {"corners 2×2": GRIDS, "distinct 2×2": GRIDS}
    assert len(summary["scores"]) == 9 * (3 + 2) - 3  # this DiPart sees the whole grid from the input
    for entry in summary["scores"]:
        assert entry["metric"] in ("localization", "impossible_attribution")
        assert entry["n"] == GRIDS * (4 if entry["setting"] == "gridpg" else 2)
        if entry["mean"] is not None:
            assert entry["ci95"][0] <= entry["mean"] <= entry["ci95"][1]
    assert [(row["setting"], len(row["accuracy_per_cell"])) for row in summary["accuracy"]] == [
        ("difull", 4),
        ("gridpg", 4),
        ("dipart", 4),
    ]
    names = {path.name for path in (scored / "plots").iterdir()}
    tests = {
        f"tests-{each['setting']}-{each['scale']}x{each['scale']}-{each['layer']}.png" for each in summary["tests"]
    }
    assert tests <= names
    assert {"localization.png", "localization-difull-2x2.png", "impossible_attribution-dipart-2x2.png"} <= names


def test_gradient_methods_are_exactly_local_in_difull(scored):
    own = [entry for entry in summary_of(scored)["scores"] if entry["setting"] == "difull"]
    assert {entry["layer"] for entry in own} == {"input", "middle", "final"}
    table = pd.read_parquet(scored / "per_image.parquet")
    table = table[(table.setting == "difull") & table.value.notna()]
    pooled = table[(table.attribution == "gradcam") & (table.metric == "localization")]
    assert (pooled.value < 1).any()  # its weights are pooled over all cells
    table = table[table.attribution != "gradcam"]
    by_metric = {name: set(part.value) for name, part in table.groupby("metric")}
    assert by_metric == {"localization": {1.0}, "impossible_attribution": {0.0}}


def test_per_image_rows_make_up_the_summary(scored):
    table = pd.read_parquet(scored / "per_image.parquet")
    assert list(table) == [
        *("setting", "scale", "index", "cell", "label"),
        *("predicted", "attribution", "layer", "metric", "value"),
    ]
    for entry in summary_of(scored)["scores"]:
        rows = table
        for key in ("setting", "scale", "attribution", "layer", "metric"):
            rows = rows[rows[key] == entry[key]]
        assert len(rows) == entry["n"]
        filled = rows.value.fillna(0) if entry["metric"] == "localization" else rows.value.dropna()
        assert filled.mean() == pytest.approx(entry["mean"])


def test_compositions_are_reused(checkpoint, files, scored, tmp_path):
    for kind in ("distinct", "corners"):
        given, kept = (
            Compositions.load(path) for path in (files / f"{kind}.parquet", scored / f"compositions/{kind}-2x2.parquet")
        )
        np.testing.assert_array_equal(given.indices, kept.indices)
    arguments = ["--model", checkpoint, "--compositions", scored / "compositions", "--layers", "final"]
    assert run("difull", *arguments, "--setting", "dipart", "--attributions", "ixg", "--out", tmp_path / "run") == 0
    keep = ["index", "cell", "label", "predicted", "value"]
    again, before = (pd.read_parquet(folder / "per_image.parquet") for folder in (tmp_path / "run", scored))
    before = before[(before.setting == "dipart") & (before.attribution == "ixg") & (before.layer == "final")]
    pd.testing.assert_frame_equal(again[keep], before[keep].reset_index(drop=True), rtol=1e-4)


def test_images_are_chosen_by_confidence(checkpoint, tmp_path, monkeypatch, capsys):
    """Every second image is known for certain; the rest is told with 0.6."""

    def known(runner, model):
        labels = torch.from_numpy(eval.frame.compositions.data_labels(runner.data)[: runner.count])
        chance = torch.where(torch.arange(len(labels)) % 2 == 0, 1.0, 0.6)
        probabilities = torch.zeros(len(labels), 10).scatter_(1, labels[:, None], chance[:, None])
        return probabilities, torch.arange(len(labels))

    monkeypatch.setattr(eval.frame.compositions, "confidences", known)
    arguments = ["--model", checkpoint, "--limit", "80", "--attributions", "ixg"]
    assert run("difull", *arguments, "--grids", "3", "--out", tmp_path / "run") == 0
    chosen = Compositions.load(tmp_path / "run/compositions/corners-2x2.parquet")
    assert (chosen.indices % 2 == 0).all()
    assert summary_of(tmp_path / "run")["settings"]["choice"]["n_confident"] == 40
    assert chosen.about["confidence"] == 0.99
    assert run("difull", *arguments, "--grids", "1000000000", "--out", tmp_path / "more") == 2
    assert "40 of 80" in capsys.readouterr().err


def test_one_use_grids_and_presets_are_taken_and_recorded(checkpoint, scored, tmp_path, monkeypatch, capsys):
    def certain(runner, model):
        labels = torch.from_numpy(eval.frame.compositions.data_labels(runner.data)[: runner.count])
        return torch.nn.functional.one_hot(labels, 10).float(), torch.arange(len(labels))

    monkeypatch.setattr(eval.frame.compositions, "confidences", certain)
    arguments = ["--model", checkpoint, "--attributions", "ig", "--layers", "final", "--batch-size", "16"]
    chosen = ["--one-use", "--limit", "40", "--grids", "6", "--setting", "difull", "gridpg"]
    assert run("difull", *arguments, *chosen[:3], "--grids", "11", "--out", tmp_path / "many") == 2
    assert "without a common image: 40 of 40" in capsys.readouterr().err
    assert run("difull", *arguments, *chosen, "--published", "difull", "--out", tmp_path / "run") == 0
    settings = summary_of(tmp_path / "run")["settings"]
    assert (settings["one_use"], settings["published"]) == (True, "difull")
    assert (summary_of(scored)["settings"]["one_use"], summary_of(scored)["settings"]["published"]) == (False, None)
    for kind in ("distinct", "corners"):
        made = Compositions.load(tmp_path / "run" / "compositions" / f"{kind}-2x2.parquet")
        assert len(np.unique(made.indices)) == made.indices.size == 24
    again = [*arguments, "--compositions", tmp_path / "run" / "compositions"]
    assert run("difull", *again[:3], "ig(steps=20)", *again[4:], "--one-use", "--out", tmp_path / "again") == 0
    tables = [pd.read_parquet(tmp_path / name / "per_image.parquet") for name in ("run", "again")]
    tables = [table[table.setting == "difull"].drop(columns="attribution") for table in tables]
    pd.testing.assert_frame_equal(*(table.reset_index(drop=True) for table in tables))
    capsys.readouterr()
    repeated = Compositions(np.array([[0, 1, 2, 3], [0, 1, 2, 4]]), np.zeros((2, 4), np.int64), 2, "corners")
    labels = np.array([open_data("digits", "val").label(index) for index in range(5)])
    replace(repeated, labels=labels[repeated.indices]).save(tmp_path / "repeated.parquet")
    shared = ["--compositions", tmp_path / "repeated.parquet", "--one-use", "--out", tmp_path / "not"]
    assert run("difull", *arguments, *shared) == 2
    assert "share images" in capsys.readouterr().err


def test_two_processes_give_the_numbers_of_one(checkpoint, files, scored, tmp_path):
    command = [
        sys.executable,
        "-m",
        "eval.difull",
        "--model",
        checkpoint,
        "--compositions",
        files,
        "--setting",
        "gridpg",
    ]
    command += ["--layers", "final", "--attributions", "ixg", "--batch-size", "8", "--devices", "2"]
    command += ["--accelerator", "cpu", "--out", tmp_path / "two"]
    subprocess.run([str(word) for word in command], check=True, timeout=400)
    two, one = (pd.read_parquet(folder / "per_image.parquet") for folder in (tmp_path / "two", scored))
    one = one[(one.setting == "gridpg") & (one.attribution == "ixg") & (one.layer == "final")].reset_index(drop=True)
    pd.testing.assert_frame_equal(two, one, check_exact=True)


@pytest.fixture(scope="module")
def other_sized(tmp_path_factory):
    return save_other_sized(tmp_path_factory.mktemp("model") / "other", small_resnet(10))


def test_a_baseline_and_the_models_that_choose_see_the_images_as_they_do_alone(
    checkpoint, other_sized, files, tmp_path, monkeypatch
):
    arguments = ["--attributions", "random", "--layers", "input", "--setting", "difull", "--batch-size", "8"]
    beside = ["--model", checkpoint, "--baseline", other_sized, "--compositions", files]
    assert run("difull", *arguments, *beside, "--out", tmp_path / "beside") == 0
    alone = ["--model", other_sized, "--compositions", files, "--out", tmp_path / "alone"]
    assert run("difull", *arguments, *alone) == 0
    (found,), (wanted,) = (summary_of(tmp_path / name)["accuracy"] for name in ("beside", "alone"))
    assert {key: found[f"baseline{key}"] for key in ("", "_ci95", "_per_cell")} == {
        key: wanted[f"accuracy{key}"] for key in ("", "_ci95", "_per_cell")
    }

    probabilities, confidences = {}, eval.frame.compositions.confidences

    def kept(runner, model):
        found = confidences(runner, model)
        probabilities[runner.options.model, model.model.input_size] = found[0]
        return found

    monkeypatch.setattr(eval.frame.compositions, "confidences", kept)
    for first, more in ((checkpoint, [other_sized, "timm:test_convnext"]), (other_sized, [])):
        choose = ["--choose-with", *more] if more else []
        command = ["--model", first, *choose, "--limit", "24", "--grids", "1", "--confidence", "1"]
        assert run("difull", *arguments, *command, "--out", tmp_path / f"none-{len(more)}") == 2
    of = {str(checkpoint): "main", str(other_sized): "alone"}
    by = {(of[model], size): values for (model, size), values in probabilities.items()}
    torch.testing.assert_close(by["main", (32, 32)], by["alone", (32, 32)], rtol=0, atol=0)


def test_where_everything_can_matter_nothing_is_impossible(checkpoint, files, tmp_path):
    arguments = ["--model", checkpoint, "--compositions", files, "--setting", "difull", "dipart"]
    assert run("difull", *arguments, "--attributions", "random", "--out", tmp_path / "run") == 0
    summary = summary_of(tmp_path / "run")
    assert set(summary["share_that_can_matter"].values()) == {1.0}
    told = {entry["setting"] for entry in summary["scores"] if entry["metric"] == "impossible_attribution"}
    assert told == {"difull"}
