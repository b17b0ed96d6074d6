"""Training of a user's own network on a user's own data, from Python and from the command line."""

import copy
import json
import warnings
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file

from checkpoints import load_model, load_segmenter
from faithfulness.core import DeletionSpec, InputError
from faithfulness.data import open_data
from tests.reference import own_code
from tests.reference.networks import plain_cnn
from tests.reference.own_code import SIDE, Dense, Net, Pictures, Scenes
from training import patch_finetune, segmentation_finetune
from training.patch_finetune import PatchOptions
from training.segmentation_finetune import SegmentationOptions

FILE = own_code.__file__
BOTH = {"train": Pictures(seed=0), "val": Pictures(seed=1)}
SMALL = {"input_size": SIDE, "epochs": 2, "batch_size": 8, "lr": 0.05, "grid": [2], "accelerator": "cpu"}
FLAGS = ["--input-size", SIDE, "--epochs", 2, "--batch-size", 8, "--lr", 0.05, "--grid", 2, "--accelerator", "cpu"]


def recorded(out, name):
    return json.loads((out / name).read_text())


@pytest.mark.parametrize("make", [Net, lambda: plain_cnn(3), lambda: timm.create_model("test_resnet", num_classes=3)])
def test_a_module_is_trained_on_a_torch_data_set(tmp_path, make):
    torch.manual_seed(0)
    net = make().train()
    before = copy.deepcopy(net.state_dict())
    found = patch_finetune.finetune(model=net, data=BOTH, out=str(tmp_path / "run"), **SMALL)
    assert net.training
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), "the module that was given has changed"
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert set(weights) == set(before)
    assert any(not torch.equal(weights[name], before[name]) for name in before)
    assert found.name == f"{tmp_path.name}/run"
    assert (found.deletion.grid.cells, found.classes, len(found.sha256)) == (4, ["0", "1", "2"], 64)
    known = type(net).__name__ == "ResNet"
    again = load_model(tmp_path / "run", arch=None if known else make).model.state_dict()
    for name, tensor in found.model.state_dict().items():
        assert torch.equal(again[name], tensor)
    settings = recorded(tmp_path / "run", "settings.json")
    assert (settings["model"], settings["data"]) == (getattr(net, "name", type(net).__name__), "Pictures")


def test_the_command_takes_a_network_and_data_by_file(tmp_path):
    words = ["--model", f"{FILE}:make", "--model-args.width", 6, "--data", f"{FILE}:pictures", *FLAGS]
    for out, more in ((tmp_path / "one", []), (tmp_path / "two", ["--workers", 1])):
        assert patch_finetune.main([str(word) for word in ("--out", out, *words, *more)]) == 0
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two, "loader processes see other samples"
    config, training = recorded(tmp_path / "one", "config.json"), recorded(tmp_path / "one", "training.json")
    assert (config["architecture"], config["own"], config["num_classes"]) == ("make", True, 3)
    assert config["deletion"] == DeletionSpec.from_dict({**config["deletion"], "grid": [2, 2]}).to_dict()
    assert training["data"]["name"] == f"{FILE}:pictures"
    card = (tmp_path / "one" / "README.md").read_text()
    assert f"--data PATH/{Path(FILE).name}:pictures --arch path/to/file.py:make" in card
    found = load_model(str(tmp_path / "one"), arch=f"{FILE}:make", model_args={"width": 6})
    assert found.sha256 == training["sha256"]
    # From Python the same flags are the same run, and another training may begin from its folder.
    again = patch_finetune.finetune(
        model=f"{FILE}:make", model_args={"width": 6}, data=f"{FILE}:pictures", out=tmp_path / "three", **SMALL
    )
    assert again.sha256 == found.sha256
    assert recorded(tmp_path / "three", "settings.json") == recorded(tmp_path / "one", "settings.json")
    words = ["--out", tmp_path / "next", "--model", tmp_path / "one", "--arch", f"{FILE}:make", "--model-args.width", 6]
    words += ["--data", f"{FILE}:pictures", *FLAGS]
    assert patch_finetune.main([str(word) for word in words]) == 0
    assert recorded(tmp_path / "next", "training.json")["parent_sha256"] == found.sha256
    assert recorded(tmp_path / "next", "config.json")["own"] is True


def test_floats_are_trained_on_as_they_are(tmp_path, monkeypatch):
    from training.module import PatchFineTuner

    seen = []
    loss = PatchFineTuner.loss_of

    def watch(self, images, labels, keys):
        seen.append(images)
        return loss(self, images, labels, keys)

    monkeypatch.setattr(PatchFineTuner, "loss_of", watch)
    net = Net()
    net.data_config = {"input_size": SIDE, "mean": 0.5, "std": 0.1}
    flags = SMALL | {"input_size": None, "deletion_probability": 0.0, "epochs": 1}
    patch_finetune.finetune(model=net, data=own_code.floats, out=tmp_path / "run", **flags)
    expected = {tuple(Pictures("float")[index][0].flatten().tolist()) for index in range(24)}
    assert {tuple(image.flatten().tolist()) for batch in seen for image in batch} == expected
    with pytest.raises(InputError, match=r"normalized images \(3, 16, 16\), the model takes \(3, 32, 32\)"):
        patch_finetune.finetune(model=Net(), data=own_code.floats, out=tmp_path / "big", **SMALL | {"input_size": 32})


def test_a_network_of_ones_own_draws_digits_at_their_size(tmp_path):
    flags = {"epochs": 1, "batch_size": 8, "train_images": 16, "val_images": 8, "accelerator": "cpu"}
    found = patch_finetune.finetune(model=f"{FILE}:make", out=tmp_path / "run", **flags)
    assert (found.model.input_size, found.model.num_classes) == ((64, 64), 10)
    assert recorded(tmp_path / "run", "settings.json")["optimizer"] == "adamw"
    with pytest.raises(InputError, match="Net has 3 classes, digits has 10"):
        patch_finetune.finetune(model=Net(), out=tmp_path / "other", **flags)
    assert not (tmp_path / "other").exists()


def test_validating_on_what_is_trained_on_is_said(tmp_path):
    with pytest.warns(UserWarning, match="gives the same samples to train and to validate on"):
        patch_finetune.finetune(model=Net(), data=Pictures(), out=tmp_path / "run", **SMALL | {"epochs": 1})
    flags = SMALL | {"epochs": 1, "input_size": None}
    with pytest.warns(UserWarning, match="digits gives the same samples"):
        patch_finetune.finetune(model=Net(10), data=open_data("digits", count=8), out=tmp_path / "same", **flags)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*same samples.*")
        patch_finetune.finetune(model=Net(), data=BOTH, out=tmp_path / "other", **SMALL | {"epochs": 1})


def test_segmentation_of_ones_own(tmp_path):
    words = ["--model", f"{FILE}:dense", "--data", f"{FILE}:scenes", *FLAGS, "--out", tmp_path / "run"]
    assert segmentation_finetune.main([str(word) for word in words]) == 0
    config = recorded(tmp_path / "run", "config.json")
    assert (config["task"], config["architecture"], config["own"]) == ("segmentation", "dense", True)
    found = load_segmenter(tmp_path / "run", arch=f"{FILE}:dense")
    assert found.model(torch.zeros(1, 3, SIDE, SIDE)).shape == (1, 3, SIDE, SIDE)
    data = {"train": Scenes("float"), "val": Scenes("float", seed=1)}
    again = segmentation_finetune.finetune(model=Dense(3), data=data, out=tmp_path / "two", **SMALL)
    assert "mean_iou_deleted" in again.training["metrics"]


def test_resolved_options_say_what_the_recipe_decides():
    digits = PatchOptions(lr=0.5).resolved()
    assert (digits["epochs"], digits["lr"], digits["grid"]) == (4, 0.5, [4, 4])
    assert (digits["workers"], digits["loss"], digits["composite_scale"]) == (None, None, 2)
    files = PatchOptions(data="imagefolder:nowhere", model="resnet18", grid=[2, 4]).resolved()
    assert (files["model"], files["epochs"], files["grid"]) == ("resnet18", 30, [2, 4])
    with pytest.raises(InputError, match="did you mean digits"):
        PatchOptions(data="digitz").resolved()
    with pytest.raises(InputError, match="--grid takes rows and columns"):
        PatchOptions(grid=[1, 2, 3]).check()


def test_the_recipes_network_is_named_beside_the_settings_and_gives_way_to_another(tmp_path, capsys):
    assert "resnet10t" in PatchOptions().remarks()[0]
    assert "torchvision:deeplabv3_resnet50" in SegmentationOptions(data="voc:x").remarks()[0]
    assert "skip=layer1" in SegmentationOptions().remarks()[0]
    assert PatchOptions(model="resnet18").remarks() == []
    assert patch_finetune.main(["--print-config"]) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    words = ["--config", str(tmp_path / "printed.yaml"), "--model", "resnet18", "--print-config"]
    assert patch_finetune.main(words) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["model"], shown["model_args"]) == ("resnet18", None)


@pytest.mark.parametrize("kind", [PatchOptions, SegmentationOptions])
def test_groups_hold_flags_once(kind):
    grouped = [name for names in kind.GROUPS.values() for name in names]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) <= set(vars(kind()))
