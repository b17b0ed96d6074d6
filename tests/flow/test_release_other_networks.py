"""Releases of segmenters, and of networks that need code of one's own."""

import json

from huggingface_hub import ModelCard

from checkpoints import load_model, save_checkpoint, save_segmenter
from checkpoints.release import main as release
from checkpoints.verify import main as verify
from faithfulness.backbones import create_segmenter
from faithfulness.core import DeletionSpec
from tests.reference.checkpoints import DIGITS

LICENSE = ["--license", "apache-2.0"]


def scored(folder, protocol, name, root, flags=()):
    """A result that says it is of the weights in a folder."""
    summary = {
        **{"schema": 1, "protocol": protocol, "command": None, "settings": {}, "scores": [], "cautions": []},
        "model": {"name": "x", "path": str(folder), "sha256": load_digest(folder)},
        "data": {"name": "digits", "split": "val", "n_images": 4, "fingerprint": "0"},
        **dict(flags),
    }
    (root / name).mkdir()
    (root / name / "summary.json").write_text(json.dumps(summary))
    return str(root / name)


def load_digest(folder):
    return json.loads((folder / "training.json").read_text())["sha256"]


def test_segmenters_are_released_likewise(tmp_path, capsys):
    network = create_segmenter("test_convnext", num_classes=11, input_size=32)
    classes = ["background", *DIGITS]
    save_segmenter(tmp_path / "net", network, deletion=DeletionSpec(), classes=classes, training={"license": None})
    result = scored(tmp_path / "net", "dea", "result", tmp_path)
    assert release([str(tmp_path / "net"), "--results", result, "--out", str(tmp_path / "out"), *LICENSE]) == 0
    data = ModelCard.load(tmp_path / "out" / "README.md").data
    assert (data.pipeline_tag, data.library_name) == ("image-segmentation", "pytorch")
    assert verify([str(tmp_path / "out")]) == 0
    assert "timm has no such network (a segmentation head)" in capsys.readouterr().out


CODE = "from tests.reference.networks import plain_cnn\n\n\ndef make():\n    return plain_cnn()\n"


def test_a_network_of_ones_own_comes_with_its_code(tmp_path, capsys):
    (tmp_path / "net.py").write_text(CODE)
    made = load_model(f"{tmp_path}/net.py:make", input_size=32)
    classes = [str(number) for number in range(made.model.num_classes)]
    save_checkpoint(tmp_path / "net", made.model, deletion=None, classes=classes, training={})
    result = scored(tmp_path / "net", "idsds", "result", tmp_path)
    words = [str(tmp_path / "net"), "--results", result, "--out", str(tmp_path / "out"), *LICENSE]
    assert release([*words, "--parent-license", "none"]) == 2
    assert "--arch path/to/file.py:make" in capsys.readouterr().err
    (tmp_path / "my-net.py").write_text(CODE)
    assert release([*words, "--parent-license", "none", "--arch", f"{tmp_path}/my-net.py:make"]) == 2
    assert "got my-net.py; rename it" in capsys.readouterr().err
    words += ["--arch", f"{tmp_path}/net.py:make"]
    assert release(words) == 2
    assert "state it with --parent-license" in capsys.readouterr().err
    assert release([*words, "--parent-license", "none"]) == 0
    assert "out/net.py:make" in (tmp_path / "out" / "README.md").read_text()
    assert verify([str(tmp_path / "out")]) == 0
    assert "pass --own-code" in capsys.readouterr().out
    assert verify([str(tmp_path / "out"), "--own-code"]) == 0
    assert "every one in its place" in capsys.readouterr().out
