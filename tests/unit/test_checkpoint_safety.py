"""Nothing runs from a checkpoint folder: files beside the weights, and what config.json may say."""

import json
import os
import pickle
from functools import partial

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from checkpoints import load_checkpoint, load_model, load_segmenter, save_checkpoint, save_segmenter
from eval import dea, idsds
from eval.dea import DeaOptions
from eval.idsds import IdsdsOptions
from faithfulness.backbones import create_segmenter
from faithfulness.core import InputError
from tests.reference.networks import small_resnet, small_vit

TINY = {"channels": (8, 12, 16, 24), "stem_width": 8, "zero_init_last": False}


class Intruder:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def save_classifier(folder, network=small_resnet):
    backbone = network(10)
    save_checkpoint(folder, backbone, deletion=None, classes=[str(i) for i in range(10)], training={})
    return backbone


def save_fcn(folder):
    torch.manual_seed(0)
    model = create_segmenter("resnet10t", 11, input_size=64, **TINY).eval()
    save_segmenter(folder, model, deletion=None, classes=["background", *"0123456789"], training={})
    return model


KINDS = {"classifier": (save_classifier, load_model), "segmenter": (save_fcn, load_segmenter)}


@pytest.fixture(params=KINDS)
def saved(request, tmp_path):
    """A folder, how it is loaded, its model, and a mark that a pickle beside the weights would leave."""
    save, load = KINDS[request.param]
    folder, mark = tmp_path / "checkpoint", tmp_path / "mark"
    model = save(folder)
    for name in ("model.pth", "pytorch_model.bin", "model.pt", "checkpoint.ckpt", "weights.pth.tar", "a.pth"):
        (folder / name).write_bytes(pickle.dumps(Intruder(str(mark))))
    return folder, load, model, mark


def edit(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_pickles_beside_the_weights_are_not_read(saved):
    folder, load, model, mark = saved
    loaded, images = load(str(folder)).model.eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
    assert not mark.exists()


def test_timms_own_loader_is_not_asked(saved, monkeypatch):
    folder, load, *_ = saved
    for name in ("load_state_dict_from_path", "load_pretrained"):
        refuse = partial(pytest.fail, f"timm's {name} was called")
        monkeypatch.setattr(timm.models._builder, name, lambda *args, refuse=refuse, **kwargs: refuse())
    load(str(folder))


EVIL_ARGUMENTS = [
    "checkpoint_path",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained",
    "cache_dir",
    "weights",
    "pretrained_strict",
    "pretrained_filter_fn",
    "num_classes",
    "model_name",
    "nonsense",
]


@pytest.mark.parametrize("argument", EVIL_ARGUMENTS)
def test_arguments_that_do_not_shape_the_network_are_refused(saved, argument):
    folder, load, _, mark = saved
    value = {"file": str(folder / "a.pth")} if "cfg" in argument else str(folder / "a.pth")
    edit(folder, lambda config: config["model_args"].update({argument: value}))
    with pytest.raises(InputError, match=rf"config\.json: '{argument}' in model_args"):
        load(str(folder))
    assert not mark.exists()


@pytest.mark.parametrize("key", ["url", "file", "hf_hub_id", "hf_hub_filename", "source", "state_dict", "evil"])
def test_a_source_of_weights_is_refused(saved, key):
    folder, load, _, mark = saved
    edit(folder, lambda config: config["pretrained_cfg"].update({key: str(folder / "a.pth")}))
    with pytest.raises(InputError, match=rf"config\.json: '{key}' in pretrained_cfg"):
        load(str(folder))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["local-dir:{folder}", "hf-hub:someone/something", "{folder}", "../x", 3, None])
def test_an_architecture_is_a_name(saved, name):
    folder, load, _, mark = saved
    edit(folder, lambda config: config.update(architecture=str(name).format(folder=folder) if name != 3 else 3))
    with pytest.raises(InputError, match=r"config\.json"):
        load(str(folder))
    assert not mark.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"auto_map": {"AutoModel": "evil.py"}},
        {"model_args": ["a"]},
        {"pretrained_cfg": "a.pth"},
        {"num_classes": "ten"},
        {"label_names": "0123456789"},
        {"deletion": 3},
        {"architecture": None},
    ],
)
def test_other_keys_and_garbled_ones_are_refused(saved, change):
    folder, load, *_ = saved
    edit(folder, lambda config: config.update(change))
    with pytest.raises(InputError, match=rf"config\.json.*{next(iter(change))}") as raised:
        load(str(folder))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(saved, value):
    folder, load, *_ = saved
    (folder / "training.json").unlink()
    state = load_file(folder / "model.safetensors")
    name = next(key for key in state if key.endswith("bias") and ("fc" in key or "classifier" in key))
    state[name][1] = value
    save_file(state, folder / "model.safetensors")
    with pytest.raises(InputError, match=rf"{name} holds NaN or infinity"):
        load(str(folder))


def test_a_weight_file_with_a_nan_is_refused(tmp_path):
    model = timm.create_model("test_convnext", num_classes=7)
    model.head.fc.bias.data[0] = torch.nan
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        with pytest.raises(InputError, match=r"head\.fc\.bias holds NaN or infinity"):
            load_model(str(tmp_path / name), arch="test_convnext")


def test_the_commands_refuse_such_folders(saved, tmp_path):
    folder, load, _, mark = saved
    edit(folder, lambda config: config["model_args"].update(checkpoint_path=str(folder / "a.pth")))
    common = {"model": str(folder), "limit": 2, "out": tmp_path / "out"}
    with pytest.raises(InputError, match="checkpoint_path"):
        if load is load_model:
            idsds.COMMAND.run(IdsdsOptions(protocol="single", attributions=["ixg"], **common))
        else:
            dea.COMMAND.run(DeaOptions(attributions=["ixg"], **common))
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


def test_a_timm_folder_of_the_hub_still_loads(tmp_path):
    """What timm itself writes for the hub, notes on license and papers included."""
    model = timm.create_model("test_convnext", num_classes=4)
    timm.models.save_for_hf(model, tmp_path, model_config={"label_names": list("abcd")}, safe_serialization=True)
    edit(tmp_path, lambda config: config["pretrained_cfg"].update(license="mit", origin_url="https://x", paper_ids="1"))
    loaded = load_checkpoint(tmp_path)
    assert loaded.classes == ["a", "b", "c", "d"]
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.model.model.state_dict()[key], value)


@pytest.mark.parametrize("network", [small_resnet, small_vit])
def test_a_folder_honors_another_size(tmp_path, network):
    backbone = save_classifier(tmp_path / "c", network)
    loaded = load_model(str(tmp_path / "c"), input_size=96).model.eval()
    assert loaded.input_size == (96, 96)
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        logits = loaded(images)
        assert logits.shape == (2, 10)
        if network is small_resnet:
            assert torch.equal(logits, backbone(images))
        else:
            # timm's own way: the weights through its filter into a network that is made for that size
            model = timm.create_model("test_vit", num_classes=10, img_size=96).eval()
            state = timm.models.vision_transformer.checkpoint_filter_fn(backbone.model.state_dict(), model)
            model.load_state_dict(state)
            torch.testing.assert_close(logits, model(images), rtol=1e-5, atol=1e-6)
        for layer in loaded.layers[1:3]:
            split = loaded.split(layer)
            torch.testing.assert_close(split.rest(split.stem(images)), logits, rtol=1e-5, atol=1e-5)
    save_checkpoint(tmp_path / "d", loaded, deletion=None, classes=[str(i) for i in range(10)], training={})
    again = load_model(str(tmp_path / "d")).model.eval()
    assert again.input_size == (96, 96)
    with torch.no_grad():
        assert torch.equal(again(images), logits)
    assert load_model(str(tmp_path / "c"), input_size=64).model.input_size == (64, 64)


@pytest.mark.parametrize("size", [8])
def test_a_size_that_the_network_cannot_take_is_refused(tmp_path, size):
    save_classifier(tmp_path / "c", small_vit)
    with pytest.raises(InputError, match=f"can't take images of {size} px"):
        load_model(str(tmp_path / "c"), input_size=size)


@pytest.mark.parametrize(("name", "arguments"), [("resnet10t", TINY), ("test_vit", {})])
def test_a_segmenter_honors_another_size(tmp_path, name, arguments):
    torch.manual_seed(0)
    model = create_segmenter(name, 4, input_size=64, **arguments).eval()
    save_segmenter(tmp_path / "c", model, deletion=None, classes=list("abcd"), training={})
    loaded = load_segmenter(str(tmp_path / "c"), input_size=96).model.eval()
    assert loaded.input_size == (96, 96)
    with torch.no_grad():
        images = torch.randn(1, 3, 96, 96)
        assert loaded(images).shape == (1, 4, 96, 96)
        if name == "resnet10t":
            assert torch.equal(loaded(images), model(images))
    with pytest.raises(InputError, match="can't take images of 8 px" if name == "test_vit" else "model-args"):
        load_segmenter(str(tmp_path / "c"), input_size=8, model_args=None if name == "test_vit" else {"skip": "layer1"})


def test_the_command_scores_a_folder_at_the_size_asked_for(tmp_path):
    save_classifier(tmp_path / "c")
    options = IdsdsOptions(
        model=str(tmp_path / "c"),
        protocol="single",
        attributions=["ixg"],
        limit=2,
        input_size=96,
        out=tmp_path / "out",
    )
    summary = idsds.COMMAND.run(options).summary
    assert summary["settings"]["input_size"] == [96, 96]


def test_the_command_takes_timms_own_size(tmp_path):
    arguments = ["--model", "timm:test_vit", "--model-args.img_size", "32", "--protocol", "single", "--limit", "2"]
    arguments += ["--attributions", "ixg@final", "--out", str(tmp_path / "out")]
    assert idsds.main(arguments) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["settings"]["input_size"] == [32, 32]
    with pytest.raises(InputError, match="one size of images"):
        idsds.COMMAND.run(
            IdsdsOptions(model="timm:test_vit", model_args={"img_size": 32}, input_size=64, out=tmp_path / "b")
        )
