"""`eval.dea` as a command: results, processes, photographs, refusals."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import eval.frame.run
from checkpoints import load_segmenter, save_segmenter
from dea import deletion_curves, insertion_scores, off_target_mass
from eval.dea import COMMAND, DeaOptions, main
from eval.frame.sweep import sweep_attributions
from faithfulness.attribution import create_attribution
from faithfulness.backbones import SegmentationTarget, create_segmenter
from faithfulness.core import DeletionSpec
from faithfulness.data import normalize, open_segmentation_data
from faithfulness.data.segmentation import SegmentedDigits
from tests.reference.segmentation_folders import make_sbd, make_voc
from tests.reference.tiny_models import tiny_segmenter

DRAWN = True

METHODS = ["gpa", "ega", "dea", "random"]
# In double precision, so that no pixel's rank hangs on rounding.
SMALL = ["--limit", "5", "--batch-size", "2", "--precision", "64-true", "--min-iou", "0", "--min-area", "0"]
SMALL += ["--max-area", "1", "--region", "annotated"]
ALL = SMALL[6:]


def score(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An untrained network whose classes all win somewhere: what the command does is the same."""
    folder = tmp_path_factory.mktemp("model") / "fcn"
    classes = ["background", *"0123456789"]
    save_segmenter(folder, tiny_segmenter(), deletion=DeletionSpec(), classes=classes, training={})
    return folder


@pytest.fixture(scope="module")
def results(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "dea"
    arguments = ["--model", checkpoint, "--attributions", *METHODS, *SMALL]
    assert score(*arguments, "--out", out) == 0
    return out


def read(folder):
    return json.loads((folder / "summary.json").read_text(), parse_constant=pytest.fail)


def test_summary_has_the_schema(results):
    summary = read(results)
    assert (summary["schema"], summary["protocol"]) == (1, "dea")
    assert {"name", "sha256", "deletion", "mean_iou"} <= set(summary["model"])
    assert summary["settings"]["fractions"] == list(SegmentedDigits.fractions)
    assert summary["settings"]["methods"]["dea"]["grid"] == [8, 8]
    assert summary["settings"]["methods"]["dea"]["lambda"] == 1
    data = summary["data"]
    assert data["n_images"] == 5
    assert data["n_pairs"] > 3
    assert {"IoU too low", "class not predicted", "area too small", "class not asked for"} <= set(data["dropped"])
    metrics = {entry["metric"] for entry in summary["scores"]}
    assert {
        "target_deletion_drop",
        "off_target_deletion_drop",
        "insertion",
        "off_target_mass",
        "stability",
        "stability_flip",
        "seconds_per_map",
        "passes_per_map",
    } <= metrics
    for entry in summary["scores"]:
        assert entry["n"] == data["n_pairs"]
        if entry["n_undefined"] < entry["n"]:
            assert entry["ci95"][0] <= entry["mean"] <= entry["ci95"][1]
    passes = {e["attribution"]: e["mean"] for e in summary["scores"] if e["metric"] == "passes_per_map"}
    assert passes == {"gpa": 2, "ega": 2, "dea": 67, "random": 0}


def test_every_pair_has_a_row_per_method_and_metric(results):
    table, summary = pd.read_parquet(results / "per_image.parquet"), read(results)
    assert list(table) == ["index", "class", "area", "iou", "attribution", "layer", "metric", "value"]
    for _, rows in table.groupby(["metric", "attribution"]):
        assert len(rows) == summary["data"]["n_pairs"]
        assert not rows.duplicated(["index", "class"]).any()
    for row in summary["comparisons"]:
        wide = table[table.metric == row["metric"]].pivot(
            index=["index", "class"], columns="attribution", values="value"
        )
        difference = (wide["dea"] - wide[row["other"]]).dropna()
        assert row["n"] == len(difference)
        if row["n"]:
            assert row["difference"] == pytest.approx(difference.mean())
            assert row["ci95"][0] <= row["difference"] <= row["ci95"][1]
    assert len(summary["comparisons"]) == 5 * 3


def test_batched_equals_one_by_one(checkpoint, results):
    """Every value recomputed by the protocol's own functions, a pair at a time."""
    model = load_segmenter(str(checkpoint)).model.eval().double()
    data = open_segmentation_data("digits", size=32)
    table = pd.read_parquet(results / "per_image.parquet").set_index(["metric", "attribution", "index", "class"])
    pairs = sorted(set(zip(table.index.get_level_values("index"), table.index.get_level_values("class"), strict=True)))
    for index, c in pairs[:6]:
        image = normalize(data.image(index)[None], model.data_config, torch.float64)
        region, classes = data.mask(index)[None] == c, torch.tensor([c])
        target = SegmentationTarget(model)
        for name in METHODS:
            maps = create_attribution(name, target)(image, target.aim(region, classes))
            what = (model, image, region, classes, maps, SegmentedDigits.fractions)
            curves = deletion_curves(*what)
            wanted = {
                "target_deletion_drop": curves.target.mean(),
                "off_target_deletion_drop": curves.off_target.mean(),
                "insertion": insertion_scores(*what).mean(),
                "off_target_mass": off_target_mass(maps, region)[0],
            }
            for metric, value in wanted.items():
                found = table.loc[(metric, name, index, c), "value"]
                assert found == pytest.approx(float(value), abs=1e-9, nan_ok=True), (metric, name)


def test_every_picture_is_there(results):
    names = ["curve_target", "curve_off_target", "curve_insertion", "faithfulness_stability", "faithfulness_cost"]
    for name in [*names, "examples"]:
        with Image.open(results / "plots" / f"{name}.png") as picture:
            assert min(picture.size) > 200


def test_two_processes_give_the_numbers_of_one(checkpoint, results, tmp_path):
    out = tmp_path / "two"
    command = [sys.executable, "-m", "eval.dea", "--model", checkpoint, "--attributions", *METHODS, *SMALL]
    command += ["--devices", "2", "--accelerator", "cpu", "--out", out]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([str(word) for word in command], check=True, env=environment, timeout=400)
    tables = [pd.read_parquet(folder / "per_image.parquet") for folder in (out, results)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    one, two = read(results), read(out)
    assert one["model"] == two["model"]
    assert one["data"] == two["data"]
    assert one["comparisons"] == two["comparisons"]


@pytest.mark.parametrize("kind", ["voc", "sbd"])
def test_photographs_through_torchvisions_loaders(tmp_path, kind, capsys):
    root = {"voc": make_voc, "sbd": make_sbd}[kind](tmp_path / kind)
    if kind == "voc":
        file = root / "VOCdevkit/VOC2012/SegmentationClass/val_1.png"
        with Image.open(file) as mask:
            Image.fromarray(np.asarray(mask)[:-2]).save(file)
    model = _biased_to(15, tmp_path / "weights.pth")
    arguments = ["--model", model, "--arch", "lraspp_mobilenet_v3_large", "--data", f"{kind}:{root}", *ALL]
    arguments += ["--input-size", "64", "--attributions", "ega", "dea(grid=4)", "--fractions", "0.1", "0.3"]
    if kind == "voc":
        assert score(*arguments, "--out", tmp_path / "run") == 2
        assert "val_1.png has 96×126 pixels, its image 96×128" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
    assert score(*arguments, "--out", tmp_path / "run", "--skip-corrupt") == 0
    summary = read(tmp_path / "run")
    corrupt = int(kind == "voc")
    pairs = len(open_segmentation_data(f"{kind}:{root}").files) - corrupt
    assert (summary["data"]["n_corrupt"], summary["data"]["n_pairs"]) == (corrupt, pairs)
    assert summary["data"]["dropped"]["class not predicted"] == pairs
    assert summary["settings"]["fractions"] == [0.1, 0.3]
    assert set(pd.read_parquet(tmp_path / "run" / "per_image.parquet")["class"]) == {15}


def _biased_to(label, file):
    """Untrained LRASPP that says `label` everywhere."""
    torch.manual_seed(0)
    model = create_segmenter("lraspp_mobilenet_v3_large")
    with torch.no_grad():
        model.get_submodule("model.classifier.low_classifier").bias[label] += 5
    torch.save(model.get_submodule("model").state_dict(), file)
    return file


def test_a_sweep_varies_one_parameter_at_a_time(checkpoint, tmp_path, capsys):
    arguments = ["--model", checkpoint, "--attributions", "ega", "--limit", "1", *ALL, "--sweep"]
    assert score(*arguments, "--out", tmp_path / "run") == 0
    rows = read(tmp_path / "run")["sweep"]
    assert [row["attribution"] for row in rows] == [label for _, _, label in sweep_attributions()]
    by = {(row["parameter"], row["value"]): row for row in rows}
    assert by["grid", "4"]["passes_per_map"] == 19
    assert by["lambda", "0"]["passes_per_map"] == 65
    assert by["grid", "8"]["target_deletion_drop"] == by["lambda", "1"]["target_deletion_drop"]
    assert by["lambda", "0"]["insertion"] != by["lambda", "1"]["insertion"]
    assert "sweep of dea" in capsys.readouterr().out


def test_a_callable_and_only_the_classes_asked_for(checkpoint, results, tmp_path):
    table = pd.read_parquet(results / "per_image.parquet")
    label = int(table["class"].iloc[0])
    model = load_segmenter(str(checkpoint)).model.double()
    target = SegmentationTarget(model)
    explain = create_attribution("ega", target)

    def mine(images, regions, classes):
        return 3 * explain(images, target.aim(regions, classes))

    flags = {"min_iou": 0.0, "min_area": 0.0, "max_area": 1.0, "region": "annotated", "precision": "64-true"}
    flags |= {"attributions": ["ega"], "limit": 5, "batch_size": 2, "classes": [str(label - 1)]}
    data = COMMAND.run(DeaOptions(model=str(checkpoint), out=tmp_path / "run", **flags), {"mine": mine}).summary["data"]
    assert data["n_pairs"] + data["dropped"]["class not asked for"] == read(results)["data"]["n_pairs"]
    part = pd.read_parquet(tmp_path / "run" / "per_image.parquet")
    wanted = table[(table["class"] == label) & (table.attribution == "ega")]
    for name in ("ega", "mine"):
        np.testing.assert_allclose(part[part.attribution == name]["value"], wanted["value"], atol=1e-9)


def test_drops_are_float32_under_mixed_precision(checkpoint, tmp_path):
    """A map that doesn't depend on precision scores as in float32 to the last bit; digits name classes."""
    tables = []
    for precision in ("32-true", "bf16-mixed"):
        arguments = ["--model", checkpoint, "--attributions", "random", "ega", "--limit", "6", *ALL]
        arguments += ["--classes", "3", "5", "7", "--precision", precision, "--out", tmp_path / precision]
        assert score(*arguments) == 0
        tables.append(pd.read_parquet(tmp_path / precision / "per_image.parquet"))
    assert set(tables[0]["class"]) <= {4, 6, 8}
    random, ega = ([table[table.attribution == name] for table in tables] for name in ("random", "ega"))
    pd.testing.assert_frame_equal(*random, check_exact=True)
    assert (ega[0]["value"].to_numpy() != ega[1]["value"].to_numpy()).any()


def test_a_diverged_model_is_named(checkpoint, tmp_path, capsys, monkeypatch):
    load = eval.frame.run.load_named

    def diverged(*arguments, **keywords):
        found = load(*arguments, **keywords)
        with torch.no_grad():
            found.model.classifier.bias[2] = torch.nan
        return found

    monkeypatch.setattr(eval.frame.run, "load_named", diverged)
    assert score("--model", checkpoint, "--limit", "2", *ALL, "--out", tmp_path / "run") == 2
    name = f"{checkpoint.parent.name}/{checkpoint.name}"
    assert f"{name} gives NaN or infinite logits for 2 of 2 images" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "voc:nowhere"], "no folder nowhere"),
        (["--data", "imagefolder:x"], "unknown segmentation data set 'imagefolder'"),
        (["--attributions", "deaa"], "did you mean dea"),
        (["--attributions", "dea(lambda_=-1)"], "lambda_ must be at least 0"),
        (["--fill", "zero"], "did you mean zeros"),
        (["--fractions", "0.1", "1.5"], "--fractions must lie in (0, 1]"),
        (["--min-area", "2"], "--min-area must lie in [0, 1]"),
        (["--classes", "ten"], "unknown class of digits 'ten'"),
        (["--classes", "background"], "unknown class of digits 'background'"),
        (["--min-iou", "1"], "no (image, class) pair of digits passes the filters ("),
        (["--model", "nowhere/at/all"], "no checkpoint at nowhere/at/all"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(checkpoint, tmp_path, capsys, arguments, message):
    out = tmp_path / "run"
    assert score("--model", checkpoint, "--limit", "2", "--out", out, "--quiet", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    kept = [path.name for path in out.iterdir()] if out.exists() else []
    assert kept == (["parts"] if "passes the filters" in message else [])
