"""`python -m checkpoints.convert`: published files become checkpoints; what is wrong with one is said in a line."""

import functools
import json
import os
import pickle
from argparse import Namespace
from hashlib import sha256

import pytest
import timm
import torch
from safetensors.torch import save_file

from checkpoints import Checkpoint, load_model
from checkpoints.convert import main
from checkpoints.published import as_published
from checkpoints.weights import read_file
from eval import idsds
from eval.idsds import IdsdsOptions
from faithfulness.backbones import create_backbone
from faithfulness.core import DeletionSpec, InputError, PatchGrid
from tests.reference import plain_networks, published_names
from tests.reference.published_files import SECRET, arguments_of, random_state, write_published

PUBLISHED = DeletionSpec(PatchGrid(4, 4), "zeros", 0.5)
SMALL = {"base": 12, "layers": (1, 1, 1, 1)}
SOURCES = {
    "resnet18": (published_names.TABLE["resnet18"], None, 224),
    "vgg8_nobias_small": (
        lambda classes: published_names.vgg(
            ((16,), (32,), (64,), (96,), (96,)), classes, bias=False, side=2, hidden=256
        ),
        functools.partial(plain_networks.vgg, side=2),
        64,
    ),
    "fixup_resnet14_small": (
        functools.partial(published_names.fixup, bias=True, **SMALL),
        plain_networks.fixup,
        64,
    ),
    "x_resnet14_small": (functools.partial(published_names.fixup, bias=False, **SMALL), plain_networks.fixup, 64),
    "bagnet33_small": (
        functools.partial(published_names.bagnet33, base=16, layers=(1, 1, 1, 1)),
        plain_networks.bagnet,
        64,
    ),
    "bcos_vitc_small": (
        lambda classes: published_names.bcos_vit(64, 3, 128, classes, (16, 32, 64), 1),
        functools.partial(plain_networks.bcos_vit, heads=4, side=1),
        64,
    ),
}
"""Architecture -> its published names, its logits from them, side of its images."""


def small_state(classes=10):
    return random_state(published_names.fixup(classes, bias=False, **SMALL))


def small_file(folder, **changed):
    return write_published(folder / "weights.pth.tar", small_state(), "x_resnet14_small", **changed)


def convert(*words):
    return main([str(word) for word in words])


def refused(capsys, *words):
    """The one line with which a command line is refused."""
    assert convert(*words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert told.err.startswith("error: ")
    return told.err


@pytest.mark.parametrize("name", SOURCES)
def test_a_published_file_becomes_a_checkpoint(name, tmp_path):
    names, run, side = SOURCES[name]
    state = random_state(names(7))
    file = write_published(tmp_path / "best.pth.tar", state, name)
    assert convert(file, "--arch", name, "--out", tmp_path / "out") == 0
    folder, direct = load_model(tmp_path / "out"), load_model(file, arch=name)
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if run is None:
            source = timm.create_model(name, num_classes=7).eval()  # its names are torchvision's own
            source.load_state_dict(state)
            expected = source(images)
        else:
            expected = run(state, images)
        for loaded in (folder, direct):
            assert (loaded.model.eval()(images) - expected).abs().max() <= 1e-5 * expected.abs().max()
            assert (loaded.deletion, loaded.classes, loaded.architecture) == (PUBLISHED, None, name)
            assert loaded.model.data_config["interpolation"] == "bilinear"
            assert loaded.model.data_config["crop_pct"] == 0.875
        assert folder.model.data_config == direct.model.data_config
        by_timm = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
        assert torch.equal(by_timm(images), folder.model(images))


def test_the_checkpoint_says_where_it_comes_from_and_no_place_on_a_disk(tmp_path, capsys):
    file = small_file(
        tmp_path, pretrained_ckpt=f"{SECRET}/x.pth", resume=r"C:\secret", note="fine", list=[1, "a/secret"]
    )
    assert convert(file, "--out", tmp_path / "out", "--license", "cc-by-nc-4.0") == 0
    assert "trained with a cell of 4×4 filled with zeros in 0.5 of the images" in capsys.readouterr().out
    told = json.loads((tmp_path / "out" / "training.json").read_text())
    assert "cautions" not in told
    source = told["converted_from"]
    assert told["license"] == "cc-by-nc-4.0"
    assert (source["file"], source["architecture"]) == ("weights.pth.tar", "x_resnet14_small")
    assert source["sha256"] == sha256(file.read_bytes()).hexdigest()
    assert (source["epoch"], source["best_acc1"]) == (30, 76.5)
    kept = source["arguments"]
    assert (kept["lr"], kept["note"], kept["gpu"]) == (0.001, "fine", None)
    assert not {"data_dir", "store_path", "pretrained_ckpt", "checkpoint_prefix", "resume", "list"} & kept.keys()
    for path in (tmp_path / "out").iterdir():
        assert b"secret" not in path.read_bytes()
        assert str(tmp_path).encode() not in path.read_bytes()


def test_classes_of_imagenet_have_their_names(tmp_path):
    file = write_published(tmp_path / "w", small_state(1000), "x_resnet14_small")
    assert convert(file, "--out", tmp_path / "out") == 0
    for loaded in (load_model(tmp_path / "out"), load_model(file)):
        assert (loaded.classes[0], loaded.classes[999], len(loaded.classes)) == ("n01440764", "n15075141", 1000)
        assert loaded.model.data_config["mean"] == (0.485, 0.456, 0.406)
    assert load_model(file, default_size=96).model.input_size == (64, 64)


@pytest.mark.parametrize(
    ("told", "flags", "expected"),
    [
        ({}, [], ([4, 4], "zeros", 0.5)),
        ({"baseline": "random", "grid_rows_and_cols": 8}, [], ([8, 8], "random", 0.5)),
        ({"baseline": "blur"}, [], ([4, 4], "blur-published", 0.5)),
        ({"baseline": "random"}, ["--grid", 2, 3], ([2, 3], "random", 0.5)),
        ({}, ["--fill", "mean", "--deletion-probability", 0.25], ([4, 4], "mean", 0.25)),
        ({}, ["--no-deletion"], None),
    ],
)
def test_the_deletion_is_what_the_file_says_unless_flags_do(tmp_path, told, flags, expected):
    assert convert(small_file(tmp_path, **told), "--out", tmp_path / "out", *flags) == 0
    deletion = load_model(tmp_path / "out").deletion
    found = deletion and tuple(deletion.to_dict().values())
    assert found == expected


def test_a_file_that_says_nothing_of_deletion_is_not_taken_for_a_published_one(tmp_path, capsys):
    """Nor one whose script keeps arguments of other names."""
    for name, content in {
        "bare": small_state(),
        "other": {"state_dict": small_state(), "args": Namespace(lr=1)},
    }.items():
        torch.save(content, tmp_path / name)
        words = (tmp_path / name, "--arch", "x_resnet14_small", "--out", tmp_path / f"{name}_out")
        assert "doesn't say which deletion it was trained on; pass --grid and --fill" in refused(capsys, *words)
        assert not (tmp_path / f"{name}_out").exists()
        assert load_model(tmp_path / name, arch="x_resnet14_small").deletion is None
        assert convert(*words, "--grid", 4, 4, "--fill", "zeros") == 0
        assert load_model(tmp_path / f"{name}_out").deletion == PUBLISHED
        said = capsys.readouterr().err
        assert said.startswith("caution: the file doesn't say how images were shown to it; recorded is timm's default")
        record = json.loads((tmp_path / f"{name}_out" / "training.json").read_text())
        assert record["cautions"] == [said.removeprefix("caution: ").rstrip()]


def test_it_is_scored_as_a_folder_and_as_a_file(tmp_path):
    file = small_file(tmp_path)
    assert convert(file, "--out", tmp_path / "out") == 0
    common = {"data": "digits", "limit": 2, "attributions": ["ixg"], "input_size": 64, "quiet": True}
    results = [idsds.COMMAND.run(IdsdsOptions(model=str(model), **common)) for model in (tmp_path / "out", file)]
    for result in results:
        assert result.summary["model"]["deletion"] == {"grid": [4, 4], "fill": "zeros", "probability": 0.5}
    assert results[0].per_image["value"].tolist() == results[1].per_image["value"].tolist()


def test_a_network_of_ones_own_sees_images_as_the_script_shows_them(tmp_path):
    """Unless its code says how: there, nobody else does."""
    code = tmp_path / "own.py"
    code.write_text(
        "from torch import nn\n\n\n"
        "def make(num_classes=3):\n"
        "    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)\n"
        "    return nn.Sequential(*layers)\n"
    )
    names = {"0.weight": (4, 3, 3, 3), "0.bias": (4,), "4.weight": (3, 4), "4.bias": (3,)}
    file = write_published(tmp_path / "w", random_state(names), "own")
    assert convert(file, "--arch", f"{code}:make", "--out", tmp_path / "out") == 0
    for path in (file, tmp_path / "out"):
        loaded = load_model(path, arch=f"{code}:make")
        assert loaded.model.data_config["mean"] == (0.485, 0.456, 0.406)
        assert loaded.deletion == PUBLISHED


def test_a_bcos_network_that_their_script_shows_other_images_is_refused():
    network = create_backbone("bcos_resnet10_small", num_classes=3)
    arguments = vars(arguments_of("bcos_resnet18"))
    with pytest.raises(InputError, match="their script trains bcos_resnet18 on"):
        as_published(Checkpoint(network, "x", architecture="bcos_resnet18"), arguments)


def test_only_a_converted_checkpoint_is_overwritten(tmp_path, capsys):
    file, out = small_file(tmp_path), tmp_path / "out"
    assert convert(file, "--out", out) == 0
    capsys.readouterr()
    assert "already holds a converted checkpoint" in refused(capsys, file, "--out", out)
    assert convert(file, "--out", out, "--no-deletion", "--overwrite") == 0
    assert load_model(out).deletion is None
    capsys.readouterr()
    (out / "notes.txt").touch()
    assert "already holds a checkpoint" in refused(capsys, file, "--out", out, "--overwrite")
    (out / "notes.txt").unlink()
    record = json.loads((out / "training.json").read_text())
    (out / "training.json").write_text(json.dumps(record | {"settings": {"lr": 1}}))
    assert "already holds a checkpoint" in refused(capsys, file, "--out", out, "--overwrite")
    assert "is above" in refused(capsys, file, "--out", tmp_path)


class Intruder:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch code_has_run",)


class Heir(Namespace):
    """A subclass, which could do anything when it is made."""


def torch_file(content):
    return lambda path: torch.save(content, path)


EVIL = {
    "a bare pickle": lambda path: path.write_bytes(pickle.dumps(Intruder())),
    "a pickle of a dict": lambda path: path.write_bytes(pickle.dumps({"state_dict": Intruder()})),
    "beside the weights": torch_file({"state_dict": small_state(), "optimizer": Intruder()}),
    "in the arguments": torch_file({"state_dict": small_state(), "args": Namespace(model=Intruder())}),
    "arguments of a subclass": torch_file({"state_dict": small_state(), "args": Heir(model="resnet18")}),
    "old format": lambda path: torch.save({"state_dict": Intruder()}, path, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("name", ["w.pth", "w.tar", "w.pth.tar", "w.safetensors", "w.bin", "w"])
@pytest.mark.parametrize("kind", EVIL)
def test_nothing_runs_whatever_a_file_is_called(kind, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    EVIL[kind](tmp_path / name)
    text = refused(capsys, name, "--arch", "x_resnet14_small", "--out", "out")
    assert ("can't read weights" if name == "w.safetensors" else "no plain weight file") in text
    assert os.listdir(tmp_path) == [name]


def changed_state(**changed):
    state = small_state()
    for name, value in changed.items():
        name = name.replace("__", ".")
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


@pytest.mark.parametrize(
    ("state", "model", "message"),
    [
        (changed_state(layer2__0__conv1__weight=None), "x_resnet14_small", "missing layer2.0.conv1.weight"),
        (changed_state(evil=torch.zeros(3)), "x_resnet14_small", "not of this network evil"),
        (
            changed_state(conv1__weight=torch.zeros(12, 3, 5, 5)),
            "x_resnet14_small",
            "expected (12, 3, 7, 7) as conv1.weight",
        ),
        (
            small_state(),
            "fixup_resnet14_small",
            "missing bias1, bias2, fc.bias, layer1.0.bias1a, … (31); the file says",
        ),
        (small_state(), "resnet18", "the file says that it is of a x_resnet14_small"),
        (small_state(), "vgg16", "are not those of a vgg16: missing features.0.bias"),
        (small_state(), "resnet19", "did you mean resnet18"),
        ({"fc.weight": torch.tensor(torch.nan)}, "x_resnet14_small", "NaN"),
        ({}, "x_resnet14_small", "missing conv1.weight"),
    ],
)
def test_weights_that_do_not_fit_are_named(state, model, message, tmp_path, capsys):
    write_published(tmp_path / "w", state, "x_resnet14_small")
    assert message in refused(capsys, tmp_path / "w", "--arch", model, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("told", "words", "message"),
    [
        ({"grid_rows_and_cols": "4/4"}, [], "expected 1 … 256 as grid_rows_and_cols in the file's args"),
        ({"grid_rows_and_cols": 10**9}, [], "expected 1 … 256"),
        ({"baseline": ["zeros"]}, [], "expected one of zeros, random, blur as baseline"),
        ({"model": "local-dir:/etc"}, [], "name its architecture with --arch"),
        ({"model": {"a": 1}}, [], "name its architecture with --arch"),
        ({}, ["--grid", 4], "expected rows and columns"),
        ({}, ["--grid", 0, 4], "expected rows and columns"),
        ({}, ["--fill", "zero"], "did you mean zeros"),
        ({}, ["--deletion-probability", 2], "must lie in [0, 1]"),
        ({}, ["--no-deletion", "--fill", "zeros"], "--no-deletion goes with none of"),
        ({}, ["--license", "mine / yours"], "unknown license (--license)"),
        ({}, ["--license", "none"], "unknown license (--license)"),
        ({}, ["--license", "apache"], "did you mean apache-2.0"),
        ({}, ["--archh", "x"], "did you mean --arch"),
    ],
)
def test_mistakes_are_one_line(told, words, message, tmp_path, capsys):
    file = small_file(tmp_path, **told)
    assert message in refused(capsys, file, "--out", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there_is_said_to_be(tmp_path, capsys):
    assert "no weight file at" in refused(capsys, tmp_path / "no", "--out", tmp_path / "out")
    assert "--file is needed" in refused(capsys, "--out", tmp_path / "out")


def test_counters_may_be_absent_and_safetensors_do_as_well(tmp_path):
    """Files before torch 0.4.1 have no counters."""
    state = random_state(published_names.bagnet33(4, base=16, layers=(1, 1, 1, 1)))
    old = {f"module.{name}": tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    save_file(old, tmp_path / "w.safetensors")
    loaded = load_model(tmp_path / "w.safetensors", arch="bagnet33_small").model.model.state_dict()
    assert all(torch.equal(loaded[name.removeprefix("module.")], tensor) for name, tensor in old.items())


def test_arguments_are_read_as_plain_values_alone(tmp_path):
    hostile = arguments_of("resnet18")
    vars(hostile)[3] = "not a name"
    torch.save(
        {"state_dict": small_state(), "args": hostile, "epoch": "many", "best_acc1": torch.zeros(2)}, tmp_path / "w"
    )
    file = read_file(tmp_path / "w")
    assert file.arguments is not None
    assert 3 not in file.arguments
    assert file.told == {}
    with pytest.raises(InputError, match="holds no state dict"):
        torch.save({"state_dict": hostile}, tmp_path / "w")
        read_file(tmp_path / "w")
