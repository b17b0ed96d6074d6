"""Copies of networks, settings and attributions are whole, and independent of the original."""

import pytest
import torch
from torch import nn

from difull import DiFull, DiPart, GridPG
from faithfulness.attribution import create_attribution, list_attributions
from faithfulness.backbones import Backbone, InputOnlyModel, SegmentationTarget, create_backbone, create_segmenter
from faithfulness.core import InputError
from tests.reference.copies import COPIES, cut_logits, in_another_process, renew, run
from tests.reference.networks import plain_cnn, small_vgg
from tests.reference.tiny_models import FAMILIES, tiny_batch, tiny_model

TINY = {"channels": (8, 12, 16, 24), "stem_width": 8, "zero_init_last": False}
SMALL_VIT = {"embed_dim": 24, "depth": 3, "num_heads": 3}
QUICK = {"ig": "(steps=2)", "rise": "(masks=4)", "region": "(grid=2)", "dea": "(grid=2)", "occlusion": "(kernel=24)"}


def target(layers):
    model = SegmentationTarget(create_segmenter("resnet10t", 4, input_size=64, **TINY))
    regions = torch.zeros(2, 64, 64, dtype=torch.bool)
    regions[:, 10:40, 5:30] = True
    model.aim(regions, torch.tensor([1, 3]))
    return model


NETWORKS = {
    **{family: (lambda family=family: tiny_model(family)) for family in FAMILIES},
    "bagnet": lambda: create_backbone("bagnet9_small", 5),
    "bcos": lambda: create_backbone("bcos_resnet10_small", 5),
    "conv-vit": lambda: create_backbone("vit_conv_small", 5),
    "registers": lambda: create_backbone("test_vit", 5, input_size=64, reg_tokens=2),
    "own": plain_cnn,
    "plain": lambda: InputOnlyModel(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 5))),
    "fcn": lambda: create_segmenter("resnet10t", 4, input_size=64, **TINY),
    "fcn-vit": lambda: create_segmenter("test_vit", 4, input_size=64, **SMALL_VIT),
    "fcn-features": lambda: create_segmenter("test_efficientnet_gn", 4, input_size=64),
    "lraspp": lambda: create_segmenter("lraspp_mobilenet_v3_large", 4),
    "target": lambda: target(4),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_copied_network_is_independent_of_the_original(name, how):
    torch.manual_seed(0)
    model, images = NETWORKS[name]().eval(), torch.randn(2, 3, 64, 64)
    expected = cut_logits(model, images)  # whatever is kept for later is kept by now
    copied = COPIES[how](model)
    for ours, theirs in zip(cut_logits(copied, images), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    renew(copied)
    for ours, theirs in zip(cut_logits(model, images), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    first, *others = cut_logits(copied, images)
    assert not torch.equal(first, expected[0])
    for logits in others:
        torch.testing.assert_close(logits, first, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        whole = model(images)
        torch.testing.assert_close(COPIES[how](model)(images), whole, rtol=0, atol=0)


@pytest.mark.parametrize("setting", [GridPG, DiFull, DiPart])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_copied_setting_is_independent_of_the_original(family, setting):
    model, images = setting(tiny_model(family), scale=2).eval(), torch.randn(1, 3, 128, 128)
    expected = cut_logits(model, images, cell=1)
    for copy in COPIES.values():
        copied = copy(model)
        renew(copied)
        first, *others = cut_logits(copied, images, cell=1)
        assert not torch.equal(first, expected[0])
        for logits in others:
            torch.testing.assert_close(logits, first, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(cut_logits(model, images, cell=1), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_replaced_submodule_is_what_runs():
    backbone, images = plain_cnn(), torch.randn(2, 3, 16, 16)
    backbone.features[0] = nn.Conv2d(3, 8, 3, 1, 1)
    first, *others = cut_logits(backbone, images)
    for logits in others:
        assert torch.equal(logits, first)
    assert torch.equal(first, backbone(images))


def check_independent(explain, images, targets):
    expected = explain(images, targets)
    for copy in COPIES.values():
        copied = copy(explain)
        assert torch.equal(copied(images, targets), expected)
        assert (copied.layer, copied.upsample) == (explain.layer, explain.upsample)
        renew(copied.model)
        changed, again = copied(images, targets), copy(copied)(images, targets)
        assert torch.equal(changed, again)
        assert torch.equal(explain(images, targets), expected)
    return expected, changed


@pytest.mark.parametrize("family", ["vgg", "vit"])
@pytest.mark.parametrize("name", list_attributions())
def test_a_copied_attribution_is_independent_of_the_original(name, family):
    images, targets = tiny_batch(1)
    try:
        explain = create_attribution(name + QUICK.get(name, ""), tiny_model(family))
    except InputError as error:
        pytest.skip(str(error))
    expected, changed = check_independent(explain, images, targets)
    assert name in ("random", "edge", "gpa", "ega", "region", "layercam") or not torch.equal(expected, changed)


@pytest.mark.parametrize("text", ["ixg|abs", "ixg+smooth(9)", "ig(steps=2)|abs+smooth(5)@middle", "gradcam|abs"])
def test_modified_attributions_and_settings_are_copied(text):
    images, targets = tiny_batch(1)
    check_independent(create_attribution(text, tiny_model("vit")), images, targets)
    setting = DiFull(tiny_model("resnet"), scale=2)
    check_independent(create_attribution(text, setting, cell=2), images.repeat(1, 1, 2, 2), targets)


def test_a_fresh_process_gets_the_same_network_and_maps():
    model, (images, targets) = tiny_model("vit"), tiny_batch(2)
    explain = create_attribution("ixg|abs+smooth(5)", model, "middle")
    for ours, theirs in zip(in_another_process(cut_logits, model, images), cut_logits(model, images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    maps = in_another_process(run, explain, images, targets)
    torch.testing.assert_close(maps, explain(images, targets), rtol=1e-5, atol=1e-6)


def test_a_split_by_itself_refuses_to_be_copied():
    split = small_vgg().split("middle")
    for copy in COPIES.values():
        with pytest.raises(TypeError, match="copy its network"):
            copy(split)


def test_own_taps_and_transforms_are_copied():
    torch.manual_seed(0)
    features, head = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(2)), nn.Sequential(nn.Flatten(), nn.LazyLinear(5))
    model = Backbone(features, head, {"middle": "0"}, to_map=as_maps, spread=torch.clone).eval()
    images = torch.randn(2, 3, 64, 64)
    model(images)
    for copy in COPIES.values():
        copied = copy(model)
        assert copied.layers == model.layers
        split = copied.split("final")
        assert split.to_map(split.stem(images)).shape == (2, 4, 8, 8)


def as_maps(activations):
    return activations.unflatten(-1, (8, 8)) if activations.dim() == 3 else activations
