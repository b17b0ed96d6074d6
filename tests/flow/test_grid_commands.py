"""The grid commands: what they write, what they refuse, and composite fine-tuning."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import eval.aggatt
import eval.grids
from checkpoints import load_checkpoint, save_checkpoint
from core import DeletionSpec
from core.cli import run_command
from data import open_data
from difull import Compositions, DiPart, compose_grid, make_compositions
from eval.aggatt import AggattOptions
from eval.aggatt import evaluate as aggatt
from eval.difull import DifullOptions
from eval.difull import evaluate as difull
from eval.leakage import LeakageOptions
from eval.leakage import evaluate as leakage
from eval.mlatt import MlattOptions
from eval.mlatt import evaluate as mlatt
from tests.reference.networks import small_resnet
from training.composite import Composite, CompositeSpec
from training.patch_finetune import finetune

COMMANDS = {
    "difull": (DifullOptions, difull),
    "mlatt": (MlattOptions, mlatt),
    "aggatt": (AggattOptions, aggatt),
    "leakage": (LeakageOptions, leakage),
}
GRIDS = 5


def run(command, *arguments):
    return run_command(*COMMANDS[command], [str(argument) for argument in arguments])


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text(), parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "resnet"
    classes = [str(digit) for digit in range(10)]
    save_checkpoint(folder, small_resnet(10), deletion=DeletionSpec(), classes=classes, training={})
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    data = open_data("digits", "val")
    labels = np.array([data.label(index) for index in range(len(data))])
    for kind in ("distinct", "corners"):
        make_compositions(labels, np.arange(60), 2, GRIDS, kind).save(folder / f"{kind}.parquet")
    return folder


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
        labels = torch.from_numpy(eval.grids.data_labels(runner.data)[: runner.count])
        chance = torch.where(torch.arange(len(labels)) % 2 == 0, 1.0, 0.6)
        probabilities = torch.zeros(len(labels), 10).scatter_(1, labels[:, None], chance[:, None])
        return probabilities, torch.arange(len(labels))

    monkeypatch.setattr(eval.grids, "confidences", known)
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
        labels = torch.from_numpy(eval.grids.data_labels(runner.data)[: runner.count])
        return torch.nn.functional.one_hot(labels, 10).float(), torch.arange(len(labels))

    monkeypatch.setattr(eval.grids, "confidences", certain)
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


def test_leakage_passes_and_fails(checkpoint, tmp_path, capsys):
    arguments = ["--model", checkpoint, "--limit", "8", "--setting", "difull", "--tries", "3"]
    assert run("leakage", *arguments, "--out", tmp_path / "clean") == 0
    summary = summary_of(tmp_path / "clean")
    assert summary["passed"]
    assert [entry["verdict"] for entry in summary["proofs"]] == ["proven"] * 4 + ["tested"]
    assert summary["settings"]["tries"] == summary["proofs"][0]["numbers"]["random_contents_tried"] == 3
    assert (tmp_path / "clean/plots/influence-2x2.png").is_file()
    assert run("leakage", *arguments, "--fill", "blur", "--out", tmp_path / "blur") == 1
    failed = [proof for proof in summary_of(tmp_path / "blur")["proofs"] if not proof["passed"]]
    assert [proof["found"] for proof in failed] == [["fill 'blur' reads the deleted pixels"]]
    assert "fill 'blur' reads the deleted pixels" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flag",
    ["attributions ixg", "layers final", "confidence 0.5", "choose-with x", "compositions x", "devices 2", "workers 2"],
)
def test_leakage_refuses_flags_that_mean_nothing_to_it(checkpoint, tmp_path, capsys, flag):
    with pytest.raises(SystemExit) as refused:
        run("leakage", "--model", checkpoint, "--out", tmp_path / "run", *f"--{flag}".split())
    assert refused.value.code == 2
    assert f"--{flag.split()[0].replace('-', '_')}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "composite"
    arguments = ["--model", "test_convnext", "--train-images", "64", "--val-images", "20", "--batch-size", "16"]
    arguments += ["--epochs", "1", "--composite-prob", "0.5", "--out", str(out)]
    assert run_command(finetune, arguments=arguments) == 0
    return out


def test_composite_training_is_recorded(composed, tmp_path):
    spec = {"probability": 0.5, "scale": 2, "setting": "dipart"}
    assert json.loads((composed / "config.json").read_text())["composite"] == spec
    assert load_checkpoint(composed).describe()["composite"] == spec
    training = json.loads((composed / "training.json").read_text())
    assert training["settings"]["composite_prob"] == 0.5
    assert 0 <= training["metrics"]["accuracy_grid"] <= 1


AUDIT = ["--limit", "4", "--setting", "gridpg", "--mask-images", "64", "--tries", "1", "--grids", "1"]
"""GridPG reads every cell by construction, which takes the least time to tell."""


def test_a_real_runs_masks_are_audited(composed, tmp_path, monkeypatch):
    """The record of the run passes; the same record with the cell taken from the label doesn't."""
    assert run("leakage", *AUDIT, "--model", composed, "--out", tmp_path / "clean") == 1  # GridPG leaks
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


def test_a_record_of_other_pixels_is_refused(composed, tmp_path, capsys):
    """The audit replays what training saw: said to be of another epoch, the same samples have other crops."""
    (file,) = (composed / "deletions").glob("*.parquet")
    (tmp_path / "record").mkdir()
    pd.read_parquet(file).assign(epoch=1).to_parquet(tmp_path / "record" / "epoch001.parquet")
    arguments = ["--model", composed, "--deletions", tmp_path / "record", "--out", tmp_path / "run"]
    assert run("leakage", *AUDIT, *arguments) == 2
    assert "of 64 samples of digits have other pixels than the record says" in capsys.readouterr().err


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
    ("command", "arguments", "message"),
    [
        ("difull", ["--setting", "difool"], "did you mean difull"),
        ("difull", ["--attributions", "igg"], "unknown attribution 'igg'; did you mean ig"),
        ("difull", ["--layers", "midle"], "did you mean middle"),
        ("difull", ["--scale", "1"], "--scale takes whole numbers of at least 2"),
        ("difull", ["--confidence", "2"], "--confidence must lie in"),
        ("difull", ["--compositions", "nowhere.parquet"], "nowhere.parquet holds no compositions"),
        ("difull", ["--compositions", "FILES", "--scale", "3"], "no corners grids of 3×3"),
        ("mlatt", ["--kernels", "4"], "--kernels takes odd numbers"),
        ("mlatt", ["--layers", "input"], "--layers must have final"),
        ("aggatt", ["--cell", "1"], "--cell 1 is not scored in corners grids of 2×2; scored: 0, 3"),
        ("leakage", ["--deletions", "nowhere"], "no record of deletions"),
        ("leakage", ["--limit", "3"], "a 2×2 grid needs 4 images"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(checkpoint, files, tmp_path, capsys, command, arguments, message):
    out = tmp_path / "run"
    arguments = [files if word == "FILES" else word for word in arguments]
    if command == "leakage" and "--limit" not in arguments:
        arguments += ["--limit", "4", "--setting", "difull"]
    assert run(command, "--model", checkpoint, "--out", out, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--composite-prob", "2"], "the composite probability must lie in"),
        (["--composite-prob", "0.5", "--composite-scale", "1"], "the composite scale must be at least 2"),
        (["--composite-prob", "0.05"], "makes no 2×2 grid"),
    ],
)
def test_composite_options_are_checked(tmp_path, capsys, arguments, message):
    assert (
        run_command(finetune, arguments=["--out", str(tmp_path / "run"), "--model", "test_convnext", *arguments]) == 2
    )
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


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
    """A model of another size and normalisation."""
    folder = tmp_path_factory.mktemp("model") / "other"
    backbone = small_resnet(10)
    backbone.data_config |= {"input_size": (3, 32, 32), "mean": (0.1, 0.4, 0.7), "std": (0.5, 0.9, 0.3)}
    classes = [str(digit) for digit in range(10)]
    save_checkpoint(folder, backbone, deletion=None, classes=classes, training={})
    return folder


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

    probabilities, confidences = {}, eval.grids.confidences

    def kept(runner, model):
        found = confidences(runner, model)
        probabilities[runner.options.model, model.backbone.input_size] = found[0]
        return found

    monkeypatch.setattr(eval.grids, "confidences", kept)
    for first, more in ((checkpoint, [other_sized, "timm:test_convnext"]), (other_sized, [])):
        choose = ["--choose-with", *more] if more else []
        command = ["--model", first, *choose, "--limit", "24", "--grids", "1", "--confidence", "1"]
        assert run("difull", *arguments, *command, "--out", tmp_path / "none") == 2
    of = {str(checkpoint): "main", str(other_sized): "alone"}
    by = {(of[model], size): values for (model, size), values in probabilities.items()}
    torch.testing.assert_close(by["main", (32, 32)], by["alone", (32, 32)], rtol=0, atol=0)


def test_the_grids_on_the_sheets_are_those_of_the_summary(checkpoint, files, tmp_path, monkeypatch):
    """One grid can't be read, so that places in the table and numbers of grids fall apart."""
    shown, draw = [], eval.aggatt.examples_figure

    def keep(*arguments):
        figure = draw(*arguments)
        texts = [axis.get_xlabel() for axis in figure.axes]
        shown.extend(int(text.removeprefix("grid ")) for text in texts if text.startswith("grid "))
        return figure

    read = eval.grids.GridSamples.__getitem__
    monkeypatch.setattr(
        eval.grids.GridSamples, "__getitem__", lambda self, key: {"index": 1} if key[1] == 1 else read(self, key)
    )
    monkeypatch.setattr(eval.aggatt, "examples_figure", keep)
    arguments = ["--model", checkpoint, "--compositions", files, "--attributions", "random", "--examples", "9"]
    assert run("aggatt", *arguments, "--out", tmp_path / "run") == 0
    (entry,) = summary_of(tmp_path / "run")["bins"]
    assert sorted(shown) == sorted(number for part in entry["bins"] for number in part["examples"])
    assert sorted(set(shown)) == [0, 2, 3, 4]


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


def test_where_everything_can_matter_nothing_is_impossible(checkpoint, files, tmp_path):
    arguments = ["--model", checkpoint, "--compositions", files, "--setting", "difull", "dipart"]
    assert run("difull", *arguments, "--attributions", "random", "--out", tmp_path / "run") == 0
    summary = summary_of(tmp_path / "run")
    assert set(summary["share_that_can_matter"].values()) == {1.0}
    told = {entry["setting"] for entry in summary["scores"] if entry["metric"] == "impossible_attribution"}
    assert told == {"difull"}


def test_a_record_without_deletions_is_no_evidence(composed, tmp_path, capsys):
    (file,) = (composed / "deletions").glob("*.parquet")
    (tmp_path / "record").mkdir()
    pd.read_parquet(file).assign(cell=-1).to_parquet(tmp_path / "record" / "epoch000.parquet")
    run("leakage", *AUDIT, "--model", composed, "--deletions", tmp_path / "record", "--out", tmp_path / "run")
    assert summary_of(tmp_path / "run")["masks"] == []
    assert "records no deletion" in capsys.readouterr().out
