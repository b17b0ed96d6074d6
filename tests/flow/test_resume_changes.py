"""What a finished part depends on: whatever of it changes, the part is not taken over."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from eval import idsds, merge
from faithfulness.attribution.base import ATTRIBUTIONS
from faithfulness.core.plugin_files import _load_file
from tests.reference.results import content

RUN = ["--protocol", "single", "--grid", "2", "2", "--batch-size", "2", "--accelerator", "cpu", "--quiet"]
NETWORK = """
import torch
from torch import nn
from strength import FACTOR

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.scale, self.layer = SCALE, nn.Linear(192, 2)
        self.data_config = {"input_size": (3, 8, 8)}

    def forward(self, images):
        return self.layer(images.flatten(1) ** 2) * FACTOR + self.scale * images.mean(dim=(1, 2, 3))[:, None]

def make():
    return Net()
"""
PICTURES = """
import torch

VALUES = [float(number) for number in range(8)]

class Pictures:
    classes = ["a", "b"]
    def __len__(self):
        return 8
    def __getitem__(self, index):
        torch.manual_seed(index)
        return torch.rand(3, 8, 8) + VALUES[index], index % 2

def data(split):
    return Pictures()
"""


AWAY = """        import os
        if index == 2 and os.path.exists('away'):
            raise OSError('away')
        torch.manual_seed"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with a network, its helper and data in files, which every run reads anew, as a new process would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "net.py").write_text(NETWORK.replace("SCALE", "1.0"))
    (tmp_path / "strength.py").write_text("FACTOR = 1.0\n")
    (tmp_path / "pictures.py").write_text(PICTURES)
    yield tmp_path
    sys.modules.pop("strength", None)


def run(*words, out="run", model="net.py:make", data="pictures.py:data", methods=("ixg",)):
    sys.modules.pop("strength", None)
    _load_file.cache_clear()
    where = ["--model", model, "--data", data, "--out", out, "--attributions", *methods]
    return idsds.main([*where, *RUN, *words])


def change(file, old, new):
    text = Path(file).read_text()
    assert old in text
    Path(file).write_text(text.replace(old, new))
    shutil.rmtree("__pycache__", ignore_errors=True)


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("net.py", "** 2", "** 3", "net.py:make"),
        ("net.py", "= 1.0", "= 9.0", "net.py:make"),
        ("strength.py", "1.0", "3.0", "net.py:make"),
        ("pictures.py", "range(8)]", "range(8)]\nVALUES[3] = 0.5", "pictures.py:data"),
    ],
)
def test_code_of_ones_own_that_changes_is_another_run(here, capsys, file, old, new, named):
    assert run() == 0
    assert run() == 0
    change(file, old, new)
    capsys.readouterr()
    assert run() == 2
    error = capsys.readouterr().err
    assert "already holds a run: " in error
    assert f"code of one's own {named} " in error


def test_a_picture_of_the_same_size_is_another_one(here):
    for split in ("train", "val"):
        for label in ("a", "b"):
            folder = here / "folder" / split / label
            folder.mkdir(parents=True)
            for number in range(2):
                color = (40 * number, 90, 200 if label == "a" else 10)
                Image.new("RGB", (8, 8), color).save(folder / f"{label}{number}.bmp")
    assert run(data="imagefolder:folder") == 0
    assert run(data="imagefolder:folder", methods=["ixg", "grad"]) == 0
    file = here / "folder" / "val" / "a" / "a1.bmp"
    size = file.stat().st_size
    Image.effect_noise((8, 8), 90).convert("RGB").save(file)
    os.utime(file, ns=(1, 1))
    assert file.stat().st_size == size
    assert run(data="imagefolder:folder") == 2


@pytest.mark.parametrize("first", [["ixg"], ["ixg", "grad"]])
def test_what_could_not_be_read_once_is_tried_again(here, first):
    """A share that was away for a moment: the batch is computed anew, by all methods."""
    change("pictures.py", "        torch.manual_seed", AWAY)
    Path("away").touch()
    words = ["--skip-corrupt", "--data", "pictures.py:data"]
    # the look that the fingerprint takes must be the same, as it is with files: it stays away from this sample
    change("pictures.py", "class Pictures:", "class Pictures:\n    targets = [0, 1] * 4\n    name = 'pictures'")
    from faithfulness.data.own import OwnImages

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OwnImages, "_looks", lambda self, indices: iter(()))
        assert run(*words, methods=first) == 0
        assert json.loads(Path("run/summary.json").read_text())["data"]["n_corrupt"] == 1
        assert run(*words, methods=["ixg", "grad"]) == 0
        assert json.loads(Path("run/summary.json").read_text())["data"]["n_corrupt"] == 1
        Path("away").unlink()
        assert run(*words, methods=["ixg", "grad"]) == 0
        assert run(*words, methods=["ixg", "grad"], out="fresh") == 0
    assert content(here / "run") == content(here / "fresh")
    assert json.loads(Path("run/summary.json").read_text())["data"]["n_corrupt"] == 0


def test_a_method_that_a_program_registers_is_never_taken_over(here, monkeypatch):
    for sigma in (1.0, -5.0):

        def scaled(model, layer=None, sigma=sigma):
            return lambda images, targets: sigma * images * images.abs().sqrt()

        monkeypatch.setitem(ATTRIBUTIONS._entries, "edge", scaled)
        assert run(methods=["edge"]) == 0
        assert run(methods=["edge"], out=f"fresh{sigma}") == 0
        assert content(here / "run") == content(here / f"fresh{sigma}")


def test_shards_that_dont_fit_what_is_there(here, capsys):
    assert run(methods=["ixg", "grad"], out="all") == 0
    for number in (1, 2):
        assert run("--shard", f"{number}/2", out=f"s{number}") == 0
    capsys.readouterr()
    words = ["--out", "all", "--parts", "s1", "s2", "--own-code", "--quiet"]
    assert merge.main(words) == 2
    assert "grad left out" in capsys.readouterr().err
    assert merge.main(["--out", "new", *words[2:5], "--quiet"]) == 2
    assert "pass --own-code" in capsys.readouterr().err


def test_a_shard_that_fails_leaves_its_siblings_their_record(here):
    assert run("--shard", "1/2") == 0
    before = Path("run/parts/run.json").read_bytes()
    assert run("--shard", "2/2", methods=["nope"]) == 2
    assert run("--shard", "2/2", "--layers", "nowhere") == 2
    assert Path("run/parts/run.json").read_bytes() == before or json.loads(Path("run/parts/run.json").read_text())
    assert run("--shard", "2/2") == 0
    assert not list(Path("run").rglob(".*lock"))
    assert merge.main(["--out", "run", "--own-code", "--quiet"]) == 0


def test_what_parts_were_computed_with_is_told(here):
    assert run("--chunk", "2", "--shard", "1/2") == 0
    assert run("--chunk", "3") == 0
    settings = json.loads(Path("run/summary.json").read_text())["settings"]
    assert (settings["chunk"], settings["processes"], settings["batch_size"]) == ([2, 3], 1, 2)
