"""`eval.idsds` as a command: what it writes, and that the numbers are those of the definition."""

import json
import os
import subprocess
import sys
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.stats import wilcoxon

from checkpoints import load_checkpoint
from eval.idsds import COMMAND, IdsdsOptions, main
from faithfulness.attribution import parse_attribution
from faithfulness.core import InputError
from faithfulness.data import Samples, normalize, open_data
from tests.reference.checkpoints import save_resnet
from tests.reference.plain_idsds import plain_cell_sums, plain_drops, plain_scores

DRAWN = True

FAST = ["random", "edge", "ixg", "gradcam", "occlusion(kernel=16, stride=16)"]


def score(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_resnet(tmp_path_factory.mktemp("model") / "resnet")


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
    described = {"name", "path", "architecture", "sha256", "deletion"}
    assert set(summary["model"]) == described | {"accuracy", "accuracy_deleted"}
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


def test_single_deletion(checkpoint, tmp_path):
    arguments = ["--model", checkpoint, "--attributions", "ixg", "--limit", "6", "--protocol", "single"]
    assert score(*arguments, "--out", tmp_path / "run") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["protocol"], summary["settings"]["protocol"]) == ("idsds", "single")
    assert {entry["metric"] for entry in summary["scores"]} == {"single_deletion"}
    assert all(-1 <= entry["mean"] <= 1 for entry in summary["scores"])


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

    data, backbone = open_data("digits", "val", size=64), load_checkpoint(checkpoint).model
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


def test_a_name_is_scored_once_and_means_one_method(checkpoint, tmp_path):
    assert score("--model", checkpoint, "--attributions", "ixg", "IxG", "--limit", "4", "--out", tmp_path / "run") == 0
    scores = json.loads((tmp_path / "run" / "summary.json").read_text())["scores"]
    assert sorted(entry["attribution"] for entry in scores) == ["edge", "ixg", "random"]
    options = IdsdsOptions(model=str(checkpoint), attributions=["ixg"], limit=4, out=tmp_path / "other")
    with pytest.raises(InputError, match="same attribution twice: ixg at input"):
        COMMAND.run(options, {"ixg": lambda images, targets: images[:, :1]})


def test_another_runs_output_is_kept(checkpoint, results, capsys):
    before = (results / "summary.json").read_bytes()
    assert score("--model", checkpoint, "--out", results) == 2
    assert f"--out {results} already holds a run: baseline {checkpoint}, now none; " in capsys.readouterr().err
    assert (results / "summary.json").read_bytes() == before


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


def test_the_head_of_the_table_says_what_was_scored(checkpoint, tmp_path, capsys):
    common = ["--model", checkpoint, "--attributions", "random", "--limit", "2"]
    for number, (arguments, text) in enumerate(
        [
            ([], ", 4×4 cells, fill zeros"),
            (
                ["--output", "probability", "--published", "idsds"],
                "cells, of the probability, methods as published (idsds)",
            ),
        ]
    ):
        assert score(*common, *arguments, "--out", tmp_path / str(number)) == 0
        assert text in capsys.readouterr().out
