import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from checkpoints import load_checkpoint, load_model, save_checkpoint
from faithfulness.core import DeletionSpec, InputError, PatchGrid
from tests.reference.networks import small_convnext, small_resnet, small_vit

SPEC = DeletionSpec(PatchGrid(4, 4), "mean", 0.5)
TRAINING = {"settings": {"lr": 0.1}, "metrics": {"accuracy": 0.5}, "data": {"name": "digits"}}


@pytest.fixture(params=[small_resnet, small_convnext, small_vit])
def saved(request, tmp_path):
    backbone = request.param()
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, backbone, deletion=SPEC, classes=list("abcde"), training=TRAINING)
    return backbone, folder


def test_timm_itself_loads_the_folder(saved):
    backbone, folder = saved
    images = torch.randn(2, 3, 64, 64)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(model(images), backbone(images))
    assert tuple(timm.data.resolve_model_data_config(model)["input_size"]) == (3, 64, 64)


def test_a_checkpoint_comes_back_whole(saved):
    backbone, folder = saved
    loaded = load_checkpoint(folder)
    assert (loaded.deletion, loaded.classes, loaded.architecture) == (SPEC, list("abcde"), backbone.name)
    assert (loaded.name, loaded.path) == ("/".join(folder.parts[-2:]), str(folder))
    assert loaded.training["settings"] == {"lr": 0.1}
    assert loaded.describe()["sha256"] == loaded.training["sha256"]
    assert loaded.model.data_config == backbone.data_config
    again = folder.parent / "again"
    save_checkpoint(again, loaded.model, deletion=loaded.deletion, classes=loaded.classes, training=loaded.training)
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert (again / "config.json").read_text() == (folder / "config.json").read_text()


def test_the_card_says_what_was_deleted(saved):
    card = (saved[1] / "README.md").read_text()
    assert "4×4 grid" in card
    assert "replaced by `mean`" in card
    assert "library_name: timm" in card


def test_changed_weights_are_noticed(saved):
    backbone, folder = saved
    state = {key: value + 1 for key, value in backbone.model.state_dict().items() if value.is_floating_point()}
    save_file({**backbone.model.state_dict(), **state}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"is not the file that training\.json recorded"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "message"), [("model.safetensors", r"lacks model\.safetensors"), ("config.json", r"lacks config\.json")]
)
def test_incomplete_folders_are_refused(saved, name, message):
    (saved[1] / name).unlink()
    with pytest.raises(InputError, match=message):
        load_model(str(saved[1]))


def test_a_broken_config_is_refused(saved):
    (saved[1] / "config.json").write_text("{")
    with pytest.raises(InputError, match="can't read"):
        load_checkpoint(saved[1])


def test_a_weight_file_needs_its_architecture_and_has_its_classes(tmp_path):
    model = timm.create_model("test_convnext", num_classes=7)
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, tmp_path / "w.pth"
    )
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        loaded = load_model(str(tmp_path / name), arch="test_convnext")
        assert loaded.model.num_classes == 7
        for key, value in model.state_dict().items():
            assert torch.equal(loaded.model.model.state_dict()[key], value)
    with pytest.raises(InputError, match="name its architecture with --arch"):
        load_model(str(tmp_path / "w.pth"))
    with pytest.raises(InputError, match="are not those of a test_vit"):
        load_model(str(tmp_path / "w.pth"), arch="test_vit")


class Payload:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_pickle_with_code_is_not_run(tmp_path, capsys):
    torch.save({"state_dict": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="no plain weight file"):
        load_model(str(tmp_path / "evil.pth"), arch="test_convnext")
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runs/nowhere", "no checkpoint at runs/nowhere"),
        ("resnet19", "did you mean resnet18"),
        ("timm:resnet19", "did you mean resnet18"),
        ("zoo:resnet18", "unknown model source 'zoo'"),
        ("hf-hub:nobody/nothing", "can't download hf-hub:nobody/nothing"),
    ],
)
def test_what_is_not_there_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        load_model(text)


def test_timm_names():
    for text in ("timm:test_convnext", "test_convnext"):
        loaded = load_model(text, num_classes=3, input_size=64)
        assert (loaded.name, loaded.model.num_classes, loaded.deletion) == ("test_convnext", 3, None)


def test_config_holds_strict_json(saved):
    config = json.loads((saved[1] / "config.json").read_text(), parse_constant=pytest.fail)
    assert config["deletion"] == {"grid": [4, 4], "fill": "mean", "probability": 0.5}
    assert config["label_names"] == list("abcde")
