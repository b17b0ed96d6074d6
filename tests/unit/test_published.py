"""Configurations of the publications: the target after the softmax, presets, VGG's last pool, the modifier `|relu`."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from difull import DiFull
from faithfulness.attribution import create_attribution, expand_attributions, list_attributions, parse_attribution
from faithfulness.attribution.published import PUBLISHED
from faithfulness.attribution.spec import parameters_of
from faithfulness.backbones import Explainable
from faithfulness.core import InputError
from tests.reference.tiny_models import FAMILIES, tiny_batch, tiny_model

QUICK = {"masks": 12, "steps": 3, "samples": 2, "relu": False, "chunk": 16, "grid": 2}
SPECIAL = {"occlusion": {"kernel": 24, "stride": 20}}
OF_OTHER_NETWORKS = {"bagnet", "bcos", "rollout", "chefer", "cheferlrp", "gradcam-attention"}
LOGITS_ONLY = {"lrp", "cheferlrp", "bagnet", "bcos"}


class WithSoftmax(Explainable):
    """A network whose outputs are probabilities, as the published design study wraps it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return torch.exp(self.model(images)) / torch.exp(self.model(images)).sum(dim=1, keepdim=True)

    def split(self, layer="input"):
        split = self.model.split(layer)

        def rest(activations):
            powers = torch.exp(split.rest(activations))
            return powers / powers.sum(dim=1, keepdim=True)

        return dataclasses.replace(split, rest=rest, softmax=lambda probabilities: probabilities)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", sorted(set(list_attributions()) - LOGITS_ONLY))
def test_the_probability_is_explained_as_that_of_a_network_with_softmax(name, family):
    model = tiny_model(family).double()
    images, targets = tiny_batch(2, dtype=torch.float64)
    parameters = {key: value for key, value in QUICK.items() if key in parameters_of(name)} | SPECIAL.get(name, {})
    try:
        create_attribution(name, model, **parameters)
    except InputError as error:
        pytest.skip(str(error))
    ours = create_attribution(name, model, output="probability", **parameters)(images, targets)
    theirs = create_attribution(name, WithSoftmax(model), **parameters)(images, targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * float(theirs.abs().max()))
    if name not in ("random", "edge", "rollout", "rise", "rise-u"):
        assert not torch.allclose(ours, create_attribution(name, model, **parameters)(images, targets))


def test_the_probability_among_the_logits_of_a_settings_cell():
    model = tiny_model("resnet").double()
    images, targets = tiny_batch(2, side=128, dtype=torch.float64)
    maps = create_attribution("ixg(output=probability)", DiFull(model, 2), cell=1)(images, targets)
    leaf = images.clone().requires_grad_(True)
    logits = model(leaf[:, :, :64, 64:])
    torch.exp(torch.log_softmax(logits, dim=1))[range(2), targets].sum().backward()
    torch.testing.assert_close(maps, (leaf * leaf.grad).sum(dim=1, keepdim=True).detach(), rtol=1e-9, atol=1e-12)


def test_rules_that_end_at_the_logit_refuse_the_probability():
    with pytest.raises(InputError, match="LRP explains the logit only"):
        create_attribution("lrp(output=probability)", tiny_model("resnet"))
    with pytest.raises(InputError, match="logit or probability, got 'softmax'"):
        create_attribution("ixg(output=softmax)", tiny_model("resnet"))
    defaults = {"output": "probability"}
    labels = [spec.label for spec in expand_attributions(["all"], tiny_model("resnet"), defaults=defaults)]
    assert "ixg" in labels
    assert "lrp" not in labels


def test_vgg_has_its_last_pool_as_a_layer():
    model = tiny_model("vgg")
    images, targets = tiny_batch(2)
    stem, rest = model.split("pool")
    inner = model.model
    assert torch.equal(stem(images), inner.features(images))
    torch.testing.assert_close(rest(stem(images)), inner(images))
    leaf = inner.features(images).detach().requires_grad_(True)
    inner.forward_head(leaf)[range(2), targets].sum().backward()
    expected = (leaf.grad.mean(dim=(2, 3), keepdim=True) * leaf).sum(dim=1, keepdim=True).relu().detach()
    torch.testing.assert_close(create_attribution("gradcam@pool", model)(images, targets), expected)


@pytest.mark.parametrize("name", list_attributions())
def test_every_method_runs_at_vggs_last_pool(name):
    model = tiny_model("vgg")
    images, targets = tiny_batch(2)
    parameters = {key: value for key, value in QUICK.items() if key in parameters_of(name)}
    if name in OF_OTHER_NETWORKS:
        with pytest.raises(InputError):
            create_attribution(name, model, "pool", **parameters)
        return
    explain = create_attribution(name, model, "pool", **parameters)
    maps = explain(images, targets)
    assert maps.shape == (2, 1, *model.split("pool").stem(images).shape[-2:])
    assert maps.isfinite().all()


def test_relu_is_a_modifier_beside_abs():
    model = tiny_model("plain")
    images, targets = tiny_batch(2, side=16)
    signed = create_attribution("ixg", model)(images, targets)
    assert signed.min() < 0
    assert torch.equal(create_attribution("ixg|relu", model)(images, targets), signed.clamp(min=0))
    spec = parse_attribution("ixg|relu+smooth(5)|abs@middle")
    assert spec.label == "ixg|relu+smooth(5)|abs"
    assert spec.modifiers == (("relu", 0), ("smooth", 5), ("abs", 0))
    assert parse_attribution(spec.label).modifiers == spec.modifiers
    assert {each.label for each in expand_attributions(["all|relu"], model)} >= {"ixg|relu", "gradcam|relu"}


PUBLISHED_BY_HAND = [
    ("idsds", "rise", "rise(masks=1000, cells=8, probability=0.1, divide=expectation, far_end=False, mirror=True)"),
    ("difull", "rise", "rise(masks=1000, cells=6, probability=0.1, divide=expectation, far_end=False, mirror=True)"),
    ("idsds", "ig", "ig(steps=50)"),
    ("difull", "ig", "ig(steps=20)"),
    ("idsds", "ixg-sg", "ixg-sg(samples=4, noise=1.0)"),
    ("idsds", "grad", "grad(absolute=False)"),
    ("difull", "grad", "grad(absolute=True)"),
    ("idsds", "sg-campp", "sg-campp(samples=4, noise=0.3, variant=torchcam)@pool"),
    ("idsds", "gradcam", "gradcam@pool"),
    ("difull", "gradcam", "gradcam@final"),
    ("difull", "scorecam", "scorecam(weighting=classes)"),
    ("difull", "occlusion", "occlusion(kernel=16, stride=8)"),
    ("difull", "s-ixg", "s-ixg"),  # which sets nothing
]


@pytest.mark.parametrize(("preset", "name", "by_hand"), PUBLISHED_BY_HAND)
def test_a_preset_is_its_parameters(preset, name, by_hand):
    model = tiny_model("vgg")
    images, targets = tiny_batch(1)
    expected = create_attribution(by_hand, model)
    for explain in (
        create_attribution(name, model, published=preset),
        create_attribution(f"{name}(published={preset})", model),
    ):
        assert explain.layer == expected.layer
        assert torch.equal(explain(images, targets), expected(images, targets))


def test_what_is_given_wins_over_a_preset():
    model = tiny_model("vgg")
    assert create_attribution("ig(published=difull)", model).steps == 20
    assert create_attribution("ig(published=difull, steps=7)", model).steps == 7
    assert create_attribution("ig(published=difull)", model, steps=7).steps == 7
    assert create_attribution("gradcam(published=idsds)", model).layer == "pool"
    assert create_attribution("gradcam(published=idsds)@final", model).layer == "final"
    assert create_attribution("gradcam(published=idsds)", model, "middle").layer == "middle"
    assert create_attribution("gradcam(published=idsds)", tiny_model("resnet")).layer == "final"
    assert create_attribution("gradcam(published=idsds)", DiFull(model, 2), cell=0).layer == "pool"
    inside = create_attribution("occlusion(published=difull)@final", model)
    assert (inside.kernel, inside.stride) == (5, 2)
    assert create_attribution("occlusion(published=difull, kernel=3)@final", model).kernel == 3
    spec = parse_attribution("ig(published=idsds)|abs")
    assert spec.label == "ig(published='idsds')|abs"
    for text in ("ig(published=idsd)", "rise(published=other)"):
        with pytest.raises(InputError, match="unknown published configuration"):
            parse_attribution(text)


def test_presets_name_methods_parameters_and_layers_that_exist():
    for setups in PUBLISHED.values():
        for name, setup in setups.items():
            assert name in list_attributions()
            assert set(setup.parameters) | set(setup.inside) <= set(parameters_of(name))


class Heads(nn.Module):
    """A network without taps, which a preset's layer must not break."""

    def forward(self, images):
        return images.mean(dim=(2, 3))


def test_a_preset_works_on_a_network_without_taps():
    images, _ = tiny_batch(1, side=16)
    maps = create_attribution("ig(published=difull)", Heads())(images, torch.tensor([1]))
    assert math.isclose(float(maps.sum()), float(images[:, 1].mean()), rel_tol=1e-4)
