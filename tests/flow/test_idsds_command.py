"""`eval.idsds` as a command: results, processes, photographs, refusals."""

import json
import os
import shutil
import subprocess
import sys
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.stats import wilcoxon
from skimage import data as photographs

import eval.runner
from attribution import parse_attribution
from backbones import create_backbone
from checkpoints import load_checkpoint, save_checkpoint
from core import DeletionSpec, InputError, PatchGrid
from core.cli import run_command
from data import Samples, normalize, open_data
from eval.idsds import IdsdsOptions, evaluate
from tests.reference.networks import small_convnext, small_resnet
from tests.reference.plain_idsds import plain_cell_sums, plain_drops, plain_scores

FAST = ["random", "edge", "ixg", "gradcam", "occlusion(kernel=16, stride=16)"]


def score(*arguments):
    return run_command(IdsdsOptions, evaluate, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An untrained network that says it was trained with deletion: what the command does is the same."""
    folder = tmp_path_factory.mktemp("model") / "resnet"
    classes = [str(digit) for digit in range(10)]
    save_checkpoint(folder, small_resnet(10), deletion=DeletionSpec(), classes=classes, training={})
    return folder


@pytest.fixture(scope="module")
def results(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "idsds"
    arguments = ["--model", checkpoint, "--baseline", checkpoint, "--attributions", *FAST]
    assert score(*arguments, "--limit", "29", "--batch-size", "8", "--out", out) == 0
    return out


def test_summary_has_the_schema(results):
    summary = json.loads((results / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["schema"] == 1
    assert summary["protocol"] == "idsds"
    assert set(summary["model"]) == {"name", "sha256", "deletion", "accuracy", "accuracy_deleted"}
    assert summary["model"]["deletion"] == {"grid": [4, 4], "fill": "zeros", "probability": 0.5}
    assert summary["data"]["n_images"] == 29
    assert summary["settings"]["grid"] == [4, 4]
    assert {"torch", "commit"} <= set(summary["environment"])
    keys = {"attribution", "layer", "metric", "mean", "ci95", "n", "n_undefined", "higher_is_better", "seconds"}
    for entry in summary["scores"]:
        assert keys <= set(entry)
        assert entry["metric"] == "idsds"
        assert entry["ci95"][0] <= entry["mean"] <= entry["ci95"][1]
    means = [entry["mean"] for entry in summary["scores"]]
    assert means == sorted(means, reverse=True)
    names = summary["tests"]["names"]
    assert np.array(summary["tests"]["p"], dtype=float).shape == (len(names), len(names))
    assert set(summary["evidence"]) == {"model", "baseline"}


def test_per_image_rows_make_up_the_summary(results):
    table = pd.read_parquet(results / "per_image.parquet")
    assert list(table) == ["index", "label", "predicted", "attribution", "layer", "metric", "value"]
    for entry in json.loads((results / "summary.json").read_text())["scores"]:
        rows = table[(table.attribution == entry["attribution"]) & (table.layer == entry["layer"])]
        assert sorted(rows["index"]) == list(range(29))
        assert rows["value"].fillna(0).mean() == pytest.approx(entry["mean"])


def test_occlusion_of_the_cells_is_the_definition(results):
    scores = json.loads((results / "summary.json").read_text())["scores"]
    assert scores[0]["attribution"].startswith("occlusion")
    assert scores[0]["mean"] > 0.999


def test_every_picture_is_there(results):
    for name in ("ranking", "distribution", "tests", "evidence", "examples"):
        with Image.open(results / "plots" / f"{name}.png") as picture:
            assert min(picture.size) > 200


def test_two_processes_give_the_numbers_of_one(checkpoint, results, tmp_path):
    out = tmp_path / "two"
    command = [sys.executable, "-m", "eval.idsds", "--model", checkpoint, "--attributions", *FAST]
    command += ["--limit", "29", "--batch-size", "8", "--devices", "2", "--accelerator", "cpu", "--out", out]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([str(word) for word in command], check=True, env=environment, timeout=400)
    pd.testing.assert_frame_equal(
        pd.read_parquet(out / "per_image.parquet"), pd.read_parquet(results / "per_image.parquet"), check_exact=True
    )


def test_the_first_images_are_the_same_in_a_longer_run(checkpoint, results, tmp_path):
    arguments = ["--model", checkpoint, "--attributions", "ixg", "--batch-size", "8"]
    assert score(*arguments, "--limit", "16", "--out", tmp_path / "short") == 0
    short, long = (pd.read_parquet(folder / "per_image.parquet") for folder in (tmp_path / "short", results))
    long = long[(long["index"] < 16) & long.attribution.isin(["ixg", "random", "edge"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(short, long, check_exact=True)


@pytest.mark.parametrize("protocol", ["single", "incremental"])
def test_other_protocols(checkpoint, tmp_path, protocol):
    arguments = ["--model", checkpoint, "--attributions", "ixg", "--limit", "6", "--protocol", protocol]
    arguments += ["--steps", "4"] if protocol == "incremental" else []
    assert score(*arguments, "--out", tmp_path / "run") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {entry["metric"] for entry in summary["scores"]} == {f"{protocol}_deletion"}
    assert all(0 <= entry["mean"] <= 1 or protocol == "single" for entry in summary["scores"])


def test_the_output_holds_for_drops_and_all_methods(checkpoint, tmp_path):
    arguments = ["--model", checkpoint, "--attributions", "ixg", "ixg(output=logit)", "occlusion(kernel=16, stride=16)"]
    assert score(*arguments, "--limit", "12", "--output", "probability", "--out", tmp_path / "run") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["settings"]["output"] == "probability"
    assert summary["scores"][0]["attribution"].startswith("occlusion")
    assert summary["scores"][0]["mean"] > 0.999  # its windows are the cells, its target that of the drops
    table = pd.read_parquet(tmp_path / "run" / "per_image.parquet")
    found = {name: part.sort_values("index")["value"].to_numpy() for name, part in table.groupby("attribution")}
    assert not np.allclose(found["ixg"], found["ixg(output='logit')"])

    data, backbone = open_data("digits", "val", size=64), load_checkpoint(checkpoint).backbone
    samples = Samples(data, backbone.data_config, training=False)
    images = torch.stack([torch.as_tensor(samples[0, i]["image"]) for i in range(12)])
    images = normalize(images, backbone.data_config, torch.float32)
    targets = torch.tensor([data.label(i) for i in range(12)])
    network = torch.nn.Sequential(backbone, torch.nn.Softmax(dim=1)).eval()
    drops = plain_drops(network, images, targets, 4, 4)
    leaf = images.clone().requires_grad_(True)
    network(leaf)[range(12), targets].sum().backward()
    expected = plain_scores(drops, plain_cell_sums((leaf * leaf.grad).detach(), 4, 4))
    np.testing.assert_allclose(found["ixg"], expected, atol=1e-6)


def test_a_preset_holds_for_what_isnt_given_and_is_recorded(checkpoint, tmp_path):
    arguments = ["--model", checkpoint, "--limit", "3", "--attributions"]
    given = ["ig(steps=20)", "ig(steps=3)", "grad(absolute=True)"]
    assert score(*arguments, *given, "--out", tmp_path / "given") == 0
    preset = ["ig", "ig(steps=3)", "grad"]
    assert score(*arguments, *preset, "--published", "difull", "--out", tmp_path / "preset") == 0
    other = ["ig(published=difull)", "ig(steps=3)", "grad(absolute=True)"]
    assert score(*arguments, *other, "--published", "idsds", "--out", tmp_path / "other") == 0
    tables = [pd.read_parquet(tmp_path / name / "per_image.parquet") for name in ("given", "preset", "other")]
    for names in zip(given, preset, other, strict=True):
        labels = [parse_attribution(name).label for name in names]
        values = [t[t.attribution == label]["value"].to_numpy() for t, label in zip(tables, labels, strict=True)]
        np.testing.assert_array_equal(values[0], values[1])
        np.testing.assert_array_equal(values[0], values[2])
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("given", "preset", "other")]
    assert [summary["settings"]["published"] for summary in summaries] == [None, "difull", "idsds"]


def test_a_callable_is_scored_like_any_method(checkpoint, tmp_path):
    options = IdsdsOptions(model=str(checkpoint), attributions=["ixg"], limit=8, out=tmp_path / "run")
    from attribution import create_attribution
    from checkpoints import load_checkpoint

    explain = create_attribution("ixg", load_checkpoint(checkpoint).backbone)
    summary = evaluate(options, {"mine": lambda images, targets: 3 * explain(images, targets)})
    means = {entry["attribution"]: entry["mean"] for entry in summary["scores"]}
    assert means["mine"] == pytest.approx(means["ixg"], abs=1e-9)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda images, targets: images[:, :1] * torch.nan, "NaN or infinite values in 8 of 8 maps"),
        (lambda images, targets: images[:3, :1], "expected float maps (8, C, h, w)"),
        (lambda images, targets: images.numpy(), "returned ndarray"),
    ],
)
def test_broken_maps_are_refused(checkpoint, tmp_path, broken, message):
    options = IdsdsOptions(model=str(checkpoint), attributions=["ixg"], limit=8, out=tmp_path / "run")
    with pytest.raises(InputError) as caught:
        evaluate(options, {"mine": broken})
    assert message in str(caught.value)
    assert "mine" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_name_is_scored_once_and_means_one_method(checkpoint, tmp_path):
    assert score("--model", checkpoint, "--attributions", "ixg", "IxG", "--limit", "4", "--out", tmp_path / "run") == 0
    scores = json.loads((tmp_path / "run" / "summary.json").read_text())["scores"]
    assert sorted(entry["attribution"] for entry in scores) == ["edge", "ixg", "random"]
    options = IdsdsOptions(model=str(checkpoint), attributions=["ixg"], limit=4, out=tmp_path / "other")
    with pytest.raises(InputError, match="same attribution twice: ixg at input"):
        evaluate(options, {"ixg": lambda images, targets: images[:, :1]})


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for kind, names in {"animal": ("chelsea",), "person": ("astronaut",), "thing": ("coffee", "rocket")}.items():
        (root / kind).mkdir()
        for name in names:
            Image.fromarray(getattr(photographs, name)()).save(root / kind / f"{name}.jpg")
    return root


@pytest.mark.parametrize(
    ("model", "arguments"),
    [("timm:resnet18", ["--model-args.zero_init_last", "false"]), ("timm:vit_tiny_patch16_224", [])],
)
def test_photographs_run_end_to_end(photos, tmp_path, model, arguments):
    command = ["--model", model, "--data", f"imagefolder:{photos}", "--protocol", "single", *arguments]
    assert score(*command, "--attributions", "ixg", "gradcam", "--chunk", "16", "--out", tmp_path / "run") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["settings"]["input_size"] == [224, 224]
    assert all(entry["n"] == 4 for entry in summary["scores"])


def test_corrupt_photographs(photos, tmp_path, capsys):
    broken = tmp_path / "photos"
    for kind in ("animal", "person", "thing"):
        (broken / kind).mkdir(parents=True)
        for path in (photos / kind).iterdir():
            (broken / kind / path.name).write_bytes(path.read_bytes())
    (broken / "thing" / "coffee.jpg").write_bytes((photos / "thing" / "coffee.jpg").read_bytes()[:5000])
    command = ["--model", "timm:test_convnext", "--data", f"imagefolder:{broken}", "--protocol", "single"]
    command += ["--attributions", "ixg", "--out", tmp_path / "run"]
    assert score(*command) == 2
    error = capsys.readouterr().err
    assert "corrupt image" in error
    assert "coffee.jpg" in error
    assert score(*command, "--skip-corrupt") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["data"]["n_corrupt"] == 1
    assert all(entry["n"] == 3 for entry in summary["scores"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attributions", "igg"], "unknown attribution 'igg'; did you mean ig"),
        (["--attributions", "ig(step=3)"], "unknown parameter of ig 'step'"),
        (["--attributions", "ixg@midle"], "did you mean middle"),
        (["--grid", "5"], "trained with a 4×4 grid and fill zeros, asked for 5×5"),
        (["--fill", "mean"], "asked for 4×4 and mean"),
        (["--grid", "5", "--allow-out-of-domain"], "5×5 grid does not divide 64×64"),
        (["--model", "timm:test_convnext"], "was not trained with deletion"),
        (["--model", ""], "--model is needed"),
        (["--limit", "0"], "--limit must be at least 1"),
        (["--data", "imagefolder:nowhere"], "no folder nowhere"),
        (["--protocol", "single", "--pretrained", "--model", "timm:resnet18"], "no pretrained weights for resnet18"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(checkpoint, tmp_path, capsys, arguments, message):
    out = tmp_path / "run"
    assert score("--model", checkpoint, "--out", out, "--limit", "4", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()


def test_another_runs_output_is_kept(checkpoint, results, capsys):
    before = (results / "summary.json").read_bytes()
    assert score("--model", checkpoint, "--out", results) == 2
    assert "already holds a run (idsds of resnet10t on digits" in capsys.readouterr().err
    assert (results / "summary.json").read_bytes() == before


def test_a_checkpoint_of_other_classes_is_refused(tmp_path, capsys):
    save_checkpoint(tmp_path / "m", small_convnext(5), deletion=DeletionSpec(), classes=list("abcde"), training={})
    assert score("--model", tmp_path / "m", "--out", tmp_path / "run") == 2
    assert "has 5 classes, digits (val) has 10" in capsys.readouterr().err
    save_checkpoint(
        tmp_path / "n",
        small_convnext(10),
        deletion=DeletionSpec(PatchGrid(2, 2)),
        classes=list("abcdefghij"),
        training={},
    )
    assert score("--model", tmp_path / "n", "--out", tmp_path / "run") == 2
    assert "'a' where the data has '0'" in capsys.readouterr().err


def test_methods_no_better_than_edges_by_a_paired_test_are_flagged(checkpoint, tmp_path, capsys):
    """The verdicts are those of scipy's tests on the file of per-image values, not of two intervals."""
    arguments = [
        "--model",
        checkpoint,
        "--attributions",
        "ixg|abs",
        "ixg",
        "gradcam",
        "occlusion(kernel=16, stride=16)",
    ]
    assert score(*arguments, "--limit", "40", "--out", tmp_path / "run") == 0
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if line[:2].strip().isdigit()}
    table = pd.read_parquet(tmp_path / "run" / "per_image.parquet").fillna({"value": 0.0})
    wide = table.pivot(index="index", columns="attribution", values="value")
    pairs = list(combinations(wide.columns, 2))
    p_values = [wilcoxon((wide[a] - wide[b]).round(9), zero_method="pratt").pvalue for a, b in pairs]
    order, corrected, worst = np.argsort(p_values), {}, 0.0
    for rank, place in enumerate(order):
        worst = max(worst, min(1.0, p_values[place] * (len(pairs) - rank)))
        corrected[frozenset(pairs[place])] = worst
    tests = json.loads((tmp_path / "run" / "summary.json").read_text())["tests"]["against_edge"]
    layers = {"gradcam": "gradcam@final"}
    assert set(tests) == {layers.get(name, name) for name in wide.columns} - {"edge"}
    for name in wide.columns.drop("edge"):
        found = tests[layers.get(name, name)]
        difference = (wide[name] - wide["edge"]).mean()
        assert found["p"] == pytest.approx(corrected[frozenset((name, "edge"))])
        assert found["difference"] == pytest.approx(difference)
        assert found["above"] == (found["p"] < 0.05 and difference > 0)
        if name != "random":
            assert ("not above edge" in lines[name.split()[0]]) == (not found["above"])
    assert tests["occlusion(kernel=16, stride=16)"]["above"]


def test_drops_are_float32_under_mixed_precision(checkpoint, tmp_path):
    """A map that doesn't depend on precision scores as in float32 to the last bit."""
    tables, summaries = [], []
    for precision in ("32-true", "bf16-mixed"):
        out = tmp_path / precision
        arguments = ["--model", checkpoint, "--attributions", "ixg", "--limit", "12", "--precision", precision]
        assert score(*arguments, "--out", out) == 0
        table = pd.read_parquet(out / "per_image.parquet")
        tables.append(table[table.attribution == "random"])
        summaries.append(json.loads((out / "summary.json").read_text()))
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert summaries[0]["evidence"] == summaries[1]["evidence"]
    means = [{s["attribution"]: s["mean"] for s in summary["scores"]}["ixg"] for summary in summaries]
    assert means[0] != means[1]  # the maps are in bf16


def test_incremental_deletion_looks_in_float32_and_counts_every_attribution(checkpoint, tmp_path):
    curves = {}
    for precision in ("32-true", "bf16-mixed"):
        arguments = ["--model", checkpoint, "--attributions", "ixg", "--limit", "4", "--protocol", "incremental"]
        arguments += ["--steps", "3", "--reattribute", "--precision", precision, "--out", tmp_path / precision]
        assert score(*arguments) == 0
        table = pd.read_parquet(tmp_path / precision / "per_image.parquet")
        curves[precision] = table[table.attribution == "random"]
        for entry in json.loads((tmp_path / precision / "summary.json").read_text())["scores"]:
            assert entry["seconds"] > 0
    pd.testing.assert_frame_equal(*curves.values(), check_exact=True)


@pytest.fixture(scope="module")
def other_sized(tmp_path_factory):
    """A baseline of another size and normalisation than the model."""
    folder = tmp_path_factory.mktemp("model") / "other"
    torch.manual_seed(5)
    backbone = create_backbone("test_convnext", 10, input_size=32).eval()
    backbone.data_config |= {"mean": (0.1, 0.4, 0.7), "std": (0.5, 0.9, 0.3)}
    classes = [str(digit) for digit in range(10)]
    save_checkpoint(folder, backbone, deletion=None, classes=classes, training={})
    return folder


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


@pytest.mark.parametrize("protocol", ["single", "incremental"])
def test_a_diverged_model_is_named(tmp_path, capsys, monkeypatch, protocol):
    load = eval.runner.load_named

    def diverged(*arguments, **keywords):
        checkpoint = load(*arguments, **keywords)
        with torch.no_grad():
            next(checkpoint.backbone.parameters()).mul_(torch.inf)
        return checkpoint

    monkeypatch.setattr(eval.runner, "load_named", diverged)
    arguments = ["--model", "timm:test_convnext", "--protocol", protocol, "--limit", "3", "--out", tmp_path / "run"]
    assert score(*arguments, "--attributions", "ixg") == 2
    assert "test_convnext gives NaN or infinite logits for 3 of 3 images" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_few_images_and_poor_accuracy_are_told(results, checkpoint, tmp_path, capsys):
    lines = json.loads((results / "summary.json").read_text())["cautions"]
    poor, baseline = lines
    assert poor.startswith("the model: accuracy")
    assert baseline.startswith("deleting a cell costs the model")  # the baseline is the model itself
    assert score("--model", checkpoint, "--attributions", "ixg", "--limit", "19", "--out", tmp_path / "run") == 0
    lines = json.loads((tmp_path / "run" / "summary.json").read_text())["cautions"]
    assert "19 images: too few" in lines[0]
    printed = capsys.readouterr().out
    assert all(f"caution: {line}" in printed for line in lines)


def test_controls_run_at_the_input_whatever_layers_are_asked_for(checkpoint, tmp_path):
    words = ["--model", checkpoint, "--attributions", "gradcam", "--layers", "final", "--limit", "20"]
    assert score(*words, "--out", tmp_path / "run") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    found = {(entry["attribution"], entry["layer"]) for entry in summary["scores"]}
    assert found == {("gradcam", "final"), ("random", "input"), ("edge", "input")}
    assert len(summary["tests"]["against_edge"]) == 2


def test_results_may_lie_beside_the_splits_of_the_data(photos, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(photos, root / "val")
    words = ["--model", "timm:test_convnext", "--data", f"imagefolder:{root}", "--protocol", "single", "--limit", "2"]
    assert score(*words, "--attributions", "random", "--out", root / "results") == 0
    assert score(*words, "--attributions", "random", "--out", root / "val" / "animal" / "results") == 2


def test_the_head_of_the_table_says_what_was_scored(checkpoint, tmp_path, capsys):
    common = ["--model", checkpoint, "--attributions", "random", "--limit", "2"]
    for number, (arguments, text) in enumerate(
        [
            ([], ", 4×4 cells, fill zeros"),
            (
                ["--output", "probability", "--published", "idsds"],
                "cells, of the probability, methods as published (idsds)",
            ),
            (["--protocol", "incremental", "--steps", "2"], ", 2 steps, ascending (higher is better), fill zeros"),
            (["--protocol", "incremental", "--steps", "2", "--order", "descending"], "descending (lower is better)"),
        ]
    ):
        assert score(*common, *arguments, "--out", tmp_path / str(number)) == 0
        assert text in capsys.readouterr().out


def test_a_model_that_deletion_costs_more_than_its_baseline_is_told(checkpoint, tmp_path):
    words = ["--model", checkpoint, "--baseline", checkpoint, "--attributions", "random", "--limit", "20"]
    assert score(*words, "--out", tmp_path / "run") == 0
    cautions = json.loads((tmp_path / "run" / "summary.json").read_text())["cautions"]
    assert any("nothing shows that deletion is more in the model's domain" in line for line in cautions)
