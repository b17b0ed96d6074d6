"""Published weights fit this suite's networks by name and shape, and the logits are those of the published networks."""

import functools

import pytest
import timm
import torch
import torchvision
from timm.models import model_entrypoint as entry_point

from checkpoints.renaming import fit_names, names_apart
from faithfulness.attribution import create_attribution
from faithfulness.backbones import create_backbone
from tests.reference import plain_networks, published_names
from tests.reference.published_files import random_state
from tests.reference.published_names import TABLE


def on_nothing(names):
    return {name: torch.empty(shape, device="meta") for name, shape in names.items()}


def shapes(state):
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("name", TABLE)
def test_names_and_shapes_fit_strictly(name):
    published = TABLE[name](1000)
    with torch.device("meta"):
        network = timm.create_model(name)
    fitted = shapes(fit_names(on_nothing(published), network, name))
    assert fitted == shapes(network.state_dict())
    for lost in (next(iter(published)), list(published)[-1]):
        less = on_nothing({key: shape for key, shape in published.items() if key != lost})
        missing, unknown = names_apart(fit_names(less, network, name), network.state_dict())
        assert (len(missing), unknown) == (1, [])
    missing, unknown = names_apart(
        fit_names(on_nothing(published | {"evil": (3,)}), network, name), network.state_dict()
    )
    assert (missing, unknown) == ([], ["evil"])


@pytest.mark.parametrize("name", [name for name in TABLE if hasattr(torchvision.models, name)])
def test_the_list_is_torchvisions(name):
    with torch.device("meta"):
        network = getattr(torchvision.models, name)()
    assert shapes(network.state_dict()) == TABLE[name](1000)


def test_the_list_of_a_transformer_is_timms():
    with torch.device("meta"):
        assert shapes(timm.create_model("vit_base_patch16_224").state_dict()) == TABLE["vit_base_patch16_224"](1000)


def test_b_cos_v2s_own_files_fit_too():
    """Their convolutions hold a layer, and a network stands in a sequence, before its logit bias."""
    with torch.device("meta"):
        resnet, vit = timm.create_model("bcos_resnet50"), timm.create_model("bcos_vitc_s_patch1_14")
    names = published_names.bcos_resnet50(1000, inner=True)
    assert shapes(fit_names(on_nothing(names), resnet, "bcos_resnet50")) == shapes(resnet.state_dict())
    names = {f"0.{name}": shape for name, shape in TABLE["bcos_vitc_s_patch1_14"](1000).items()}
    assert shapes(fit_names(on_nothing(names), vit, "bcos_vitc_s_patch1_14")) == shapes(vit.state_dict())


def run_torchvision(name):
    def run(state, images):
        with torch.device("meta"):
            network = getattr(torchvision.models, name)(num_classes=5)
        network.load_state_dict(state, assign=True)
        return network.eval()(images)

    return run


SMALL = {"base": 12, "layers": (1, 1, 1, 1)}
_VGG8 = ((16,), (32,), (64,), (96,), (96,))
SOURCES = {
    "resnet18": (TABLE["resnet18"], run_torchvision("resnet18"), 64),
    "resnet50": (TABLE["resnet50"], run_torchvision("resnet50"), 64),
    "vgg11": (TABLE["vgg11"], run_torchvision("vgg11"), 224),
    "vgg11_bn": (TABLE["vgg11_bn"], run_torchvision("vgg11_bn"), 64),
    "vgg8_nobias_small": (
        lambda classes: published_names.vgg(_VGG8, classes, bias=False, side=2, hidden=256),
        functools.partial(plain_networks.vgg, side=2),
        64,
    ),
    "vit_tiny_patch16_224": (
        lambda classes: published_names.vit(192, 12, classes),
        functools.partial(plain_networks.vit, heads=3),
        224,
    ),
    "bagnet33": (TABLE["bagnet33"], plain_networks.bagnet, 64),
    "fixup_resnet50": (TABLE["fixup_resnet50"], plain_networks.fixup, 64),
    "x_resnet50": (TABLE["x_resnet50"], plain_networks.fixup, 64),
    "fixup_resnet14_small": (
        lambda classes: published_names.fixup(classes, bias=True, **SMALL),
        plain_networks.fixup,
        64,
    ),
    "bcos_resnet50": (TABLE["bcos_resnet50"], plain_networks.bcos_resnet, 64),
    "bcos_vitc_s_patch1_14": (
        TABLE["bcos_vitc_s_patch1_14"],
        functools.partial(plain_networks.bcos_vit, heads=6, side=1),
        64,
    ),
    "bcos_simple_vit_ti_patch16_224": (
        lambda classes: published_names.bcos_vit(192, 12, 768, classes),
        functools.partial(plain_networks.bcos_vit, heads=3, side=16),
        96,
    ),
}
"""Architecture -> its names, its logits from the published weights, side of the images."""


def settle(network, state, images):
    """Statistics of the images for every normalization, else activations fade out in fifty layers."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(images)
    told = {name: tensor for name, tensor in network.eval().state_dict().items() if "running" in name}
    return state | {name: told[name] for name in state if name in told}


@pytest.mark.parametrize("name", SOURCES)
def test_logits_are_those_of_the_source(name):
    # Fifty layers that each square what they see make percents of a rounding: float64 has digits to compare.
    dtype, tolerance = (torch.float64, 1e-9) if name == "bcos_resnet50" else (torch.float32, 1e-5)
    names, run, side = SOURCES[name]
    state = {key: value.to(dtype) if value.dim() else value for key, value in random_state(names(5)).items()}
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(3)).to(dtype)
    images[1, :, : side // 2] *= 0.2
    with torch.device("cpu" if name.startswith("vit") else "meta"):  # timm's ViT makes numbers that aren't weights
        network = timm.create_model(name, num_classes=5)
    network.load_state_dict(fit_names(state, network, name), assign=True)
    with torch.no_grad():
        state = settle(network, state, images)
        found, expected = network(images), run(state, images)
    signal = (expected - expected.mean()).abs().max()
    assert expected.diff(dim=0).abs().max() > 0.01 * signal > 1e-5
    assert (found - expected).abs().max() <= tolerance * max(signal, expected.abs().max())


@pytest.mark.parametrize("layer", ["middle", "final"])
def test_contributions_in_a_bcos_transformer_sum_to_the_logit_without_its_constant(layer):
    backbone = create_backbone("bcos_vitc_small", num_classes=5).eval()
    images, targets = torch.rand(2, 3, 64, 64), torch.tensor([4, 0])
    with torch.no_grad():
        logits = backbone(images).gather(1, targets[:, None])[:, 0] - backbone.model.logit_bias
    maps = create_attribution("bcos", backbone, layer)(images, targets)
    assert maps.shape == (2, 1, 8, 8)
    assert torch.allclose(maps.sum(dim=(1, 2, 3)), logits, rtol=1e-4, atol=1e-6)
    at_input = create_attribution("bcos", backbone)(images, targets)
    assert at_input.shape == (2, 1, 64, 64)
    assert at_input.isfinite().all()


def test_new_networks_are_registered_by_modules_of_this_suite():
    for name in ("fixup_resnet50", "x_resnet50", "x_vgg16", "bcos_vitc_s_patch1_14"):
        assert entry_point(name).__module__.startswith("faithfulness.backbones.networks")
