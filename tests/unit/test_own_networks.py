"""A network of the user's own, by object and by file: taken as it is, left as it was, saved and loaded again."""

import copy
import json

import pytest
import timm
import torch
from timm.models import register_model
from torch import nn
from torchvision.models import resnet18

from checkpoints import CLASSIFICATION, SEGMENTATION, load_model, load_segmenter, save_checkpoint, save_segmenter
from faithfulness.backbones import Backbone, TimmBackbone, create_backbone, unchanged
from faithfulness.core import InputError
from tests.reference import own_code
from tests.reference.networks import plain_cnn, small_convnext
from tests.reference.own_code import SIDE, Dense, Net

FILE = own_code.__file__


@register_model
def own_registered_net(pretrained=False, **arguments):
    return Net(arguments.get("num_classes", 3))


def test_a_module_is_a_model():
    net = Net(5)
    found = load_model(net, input_size=SIDE)
    assert (found.name, found.path, found.architecture, found.sha256) == ("Net", None, "Net", None)
    model = found.model
    assert (model.input_size, model.num_classes, model.name, model.layers) == ((SIDE, SIDE), 5, "Net", ["input"])
    assert model.data_config["mean"] == (0, 0, 0)
    assert [id(each) for each in model.parameters()] == [id(each) for each in net.parameters()]
    images = torch.randn(2, 3, SIDE, SIDE)
    net.eval()
    assert torch.equal(model.split("input").rest(images), net(images))


@pytest.mark.parametrize("attribute", ["data_config", "pretrained_cfg", "default_cfg"])
def test_what_a_module_says_of_its_images_is_honored(attribute):
    net = Net()
    setattr(net, attribute, {"input_size": SIDE, "mean": 0.5, "std": (0.1, 0.2, 0.3), "crop_pct": 0.9})
    config = load_model(net, default_size=64).model.data_config
    assert config["input_size"] == (3, SIDE, SIDE)
    assert (config["mean"], config["std"], config["crop_pct"]) == ((0.5,) * 3, (0.1, 0.2, 0.3), 0.9)
    assert config["interpolation"] == "bicubic"
    assert load_model(net, input_size=32).model.input_size == (32, 32)


def test_backbones_and_timm_models_keep_their_layers():
    own = plain_cnn()
    assert load_model(own).model.input_size == (224, 224)
    found = load_model(own, default_size=32)
    assert (found.model.input_size, own.input_size, found.model.num_classes) == ((32, 32), (224, 224), 5)
    assert found.model.layers == own.layers
    told = Backbone(own.features, own.head, data_config={"input_size": (3, 48, 40), "mean": (0.1, 0.2, 0.3)})
    assert load_model(told, default_size=32).model.input_size == (48, 40)
    plain = timm.create_model("test_convnext", num_classes=4)
    found = load_model(plain)
    assert isinstance(found.model, TimmBackbone)
    assert (found.name, found.model.num_classes, "final" in found.model.layers) == ("test_convnext", 4, True)
    wrapped = small_convnext()
    assert load_model(wrapped, input_size=96).model.input_size == (96, 96)
    assert wrapped.input_size == (64, 64)
    assert load_model(resnet18(num_classes=2), input_size=64).model.num_classes == 2


def state_of(net):
    modes = [(name, module.training) for name, module in net.named_modules()]
    tensors = [
        (name, id(each), each.data_ptr(), each.dtype, each.requires_grad) for name, each in net.named_parameters()
    ]
    return modes, tensors, [(name, each.data_ptr(), each.dtype) for name, each in net.named_buffers()], vars(net).keys()


@pytest.mark.parametrize(
    "make", [lambda: Net().half(), plain_cnn, lambda: timm.create_model("test_vit"), small_convnext]
)
def test_loading_leaves_a_module_as_it_was(make):
    net = make().train()
    next(net.children()).eval()
    next(net.parameters()).requires_grad_(False)
    before, generator = state_of(net), torch.get_rng_state()
    load_model(net, input_size=64 if isinstance(net, TimmBackbone) else None).model.num_classes  # noqa: B018
    assert state_of(net) == before
    assert torch.equal(torch.get_rng_state(), generator)


def test_what_is_done_to_a_module_meanwhile_is_undone():
    net = Net(3).train()
    net.body[1].eval()
    net.head.weight.requires_grad_(False)
    net(torch.randn(4, 3, SIDE, SIDE)).sum().backward()
    before, weights, gradient = state_of(net), copy.deepcopy(net.state_dict()), net.body[0].weight.grad
    with unchanged(net):
        model = load_model(net, input_size=SIDE).model.eval().double().requires_grad_(False)
        model.to(memory_format=torch.channels_last)
        assert model(torch.randn(2, 3, SIDE, SIDE).double()).dtype == torch.float64
    assert state_of(net) == before
    assert net.body[0].weight.grad is gradient
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, weights[name])


class Tells(nn.Module):
    """Another output than logits."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, images):
        return self.output(images)


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (
            Tells(lambda images: images),
            {},
            r"Tells gives \(1, 3, 224, 224\) for one image, expected logits \(1, classes\)",
        ),
        (Tells(lambda images: [images]), {}, "Tells gives list"),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), {}, "Sequential can't take images of 224 px"),
        (Net(), {"arch": "resnet18"}, "arch is for models by name; Net is a module already"),
        (Net(), {"pretrained": True}, "pretrained is for models by name"),
        (f"{FILE}:three", {}, "expected a network, an nn.Module, got int"),
        (f"{FILE}:nothing", {}, "unknown function of .* 'nothing'"),
        (f"{FILE}", {}, "names no function"),
        (f"{FILE}:fixed", {"model_args": {"depth": 3}}, r"own_code.py:fixed takes \(\), offered were depth"),
        (f"{FILE}:make", {}, "missing a required argument: 'num_classes'"),
        (f"{FILE}:make", {"num_classes": 2, "pretrained": True}, "unexpected keyword argument 'pretrained'"),
    ],
)
def test_what_is_no_classifier_is_refused_in_a_line(unchecked, model, arguments, message):
    with pytest.raises(InputError, match=message) as raised:
        load_model(model, **arguments)
    assert "\n" not in str(raised.value)


def test_a_files_function_makes_the_network():
    found = load_model(f"{FILE}:make", num_classes=7, model_args={"width": 6}, default_size=SIDE)
    assert (found.model.num_classes, found.model.input_size) == (7, (SIDE, SIDE))
    assert (found.name, found.path, found.architecture) == ("own_code.make", f"{FILE}:make", "make")
    assert load_model(f"{FILE}:fixed", num_classes=7).model.num_classes == 3
    assert CLASSIFICATION.load_model(f"{FILE}:Net", num_classes=2).model.num_classes == 2


@pytest.fixture
def saved(tmp_path):
    found = load_model(f"{FILE}:make", num_classes=4, model_args={"width": 6}, default_size=SIDE)
    save_checkpoint(tmp_path / "c", found.model, deletion=None, classes=list("abcd"), training={})
    return found.model.eval(), tmp_path / "c"


def test_a_folder_of_ones_own_network_is_loaded_by_the_code_that_the_person_names(saved):
    model, folder = saved
    config = json.loads((folder / "config.json").read_text())
    assert (config["architecture"], config["own"], "model_args" in config) == ("make", True, False)
    assert 'load_model("c", arch="path/to/file.py:make")' in (folder / "README.md").read_text()
    images = torch.randn(2, 3, SIDE, SIDE)
    for arch in (f"{FILE}:make", own_code.make):
        found = load_model(folder, arch=arch, model_args={"width": 6})
        assert torch.equal(found.model.eval()(images), model(images))
        assert (found.architecture, found.classes, found.model.input_size) == ("make", list("abcd"), (SIDE, SIDE))
    weights = load_model(folder / "model.safetensors", arch=f"{FILE}:make", num_classes=4, model_args={"width": 6})
    assert torch.equal(weights.model.eval()(images), model(images))
    for arguments, message in (
        ({}, "name the code that makes it: --arch path/to/file.py:make"),
        ({"arch": "resnet18"}, "expected --arch path/to/file.py:make"),
        ({"arch": f"{FILE}:make"}, "don't fit"),
    ):
        with pytest.raises(InputError, match=message):
            load_model(folder, **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "../evil.py:run"}, "expected the name of a function as architecture"),
        ({"model_args": {"path": "x.pth"}}, "model_args of a network of the user's own come from --model-args"),
        ({"own": "evil.py"}, "expected bool as own"),
        ({"own": False}, "unknown .*architecture 'make'"),
        ({"code": "evil.py"}, "'code' is nothing that a checkpoint may say"),
    ],
)
def test_such_a_folder_says_no_more_than_a_name(saved, change, message):
    path = saved[1] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        load_model(saved[1], arch=f"{FILE}:make", model_args={"width": 6})


def test_a_network_registered_with_timm_needs_no_config_of_timms(tmp_path):
    assert create_backbone("own_registered_net", 4).num_classes == 4
    found = load_model("timm:own_registered_net", num_classes=4, default_size=SIDE)
    assert (found.name, found.model.input_size, found.model.layers) == ("own_registered_net", (SIDE, SIDE), ["input"])
    with pytest.raises(InputError, match="offers no split"):
        found.model.embed(torch.zeros(1, 3, SIDE, SIDE))
    save_checkpoint(tmp_path / "c", found.model, deletion=None, classes=list("abcd"), training={})
    again = load_model(tmp_path / "c")
    assert (again.architecture, again.model.input_size) == ("own_registered_net", (SIDE, SIDE))
    images = torch.randn(2, 3, SIDE, SIDE)
    assert torch.equal(again.model.eval()(images), found.model.eval()(images))


def test_segmentation_networks_of_ones_own(tmp_path):
    found = load_segmenter(f"{FILE}:dense", num_classes=4, default_size=SIDE)
    model = found.model
    assert (model.num_classes, model.input_size, model.layers) == (4, (SIDE, SIDE), ["input"])
    images = torch.randn(2, 3, SIDE, SIDE)
    assert model(images).shape == (2, 4, SIDE, SIDE)
    assert torch.equal(model.split("input").rest(images), model.model(images)["out"])
    save_segmenter(tmp_path / "s", model, deletion=None, classes=list("abcd"), training={})
    again = SEGMENTATION.load_model(tmp_path / "s", arch=f"{FILE}:dense")
    assert torch.equal(again.model(images), model(images))
    assert load_segmenter(Dense(2), input_size=SIDE).model.num_classes == 2
    with pytest.raises(InputError, match=r"name the code that makes it: --arch path/to/file.py:dense"):
        load_segmenter(tmp_path / "s")
    with pytest.raises(InputError, match="expected logits"):
        load_segmenter(Net(), input_size=SIDE)


def test_checkpoints_of_one_architecture_have_different_names(tmp_path):
    for name in ("one", "two"):
        save_checkpoint(tmp_path / name, small_convnext(3), deletion=None, classes=list("abc"), training={})
    names = {load_model(tmp_path / name).describe()["name"] for name in ("one", "two")}
    assert names == {f"{tmp_path.name}/one", f"{tmp_path.name}/two"}
    described = load_model(str(tmp_path / "one")).describe()
    assert (described["architecture"], described["path"]) == ("test_convnext", str(tmp_path / "one"))
