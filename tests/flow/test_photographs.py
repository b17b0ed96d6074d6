"""Photographs in folders through `eval.idsds`."""

import json
import shutil

import pytest
from PIL import Image
from skimage import data as photographs

from eval.idsds import main


def score(*arguments):
    return main([str(argument) for argument in arguments])


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


def test_results_may_lie_beside_the_splits_of_the_data(photos, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(photos, root / "val")
    words = ["--model", "timm:test_convnext", "--data", f"imagefolder:{root}", "--protocol", "single", "--limit", "2"]
    assert score(*words, "--attributions", "random", "--out", root / "results") == 0
    assert score(*words, "--attributions", "random", "--out", root / "val" / "animal" / "results") == 2
