"""Attributions as text: the user's own files, installed packages, and the name `all`."""

import importlib.metadata
import logging

import pytest
import torch

from faithfulness.attribution import (
    Attribution,
    Passes,
    create_attribution,
    describe_attributions,
    expand_attributions,
    list_attributions,
    parse_attribution,
    plugins,
)
from faithfulness.attribution.base import ATTRIBUTIONS
from faithfulness.core import InputError
from tests.reference.tiny_models import tiny_batch, tiny_model

OWN = '''
"""A user's methods."""
from __future__ import annotations
from dataclasses import dataclass
import torch
from faithfulness.attribution import Attribution, Passes

def plain(images, targets, scale=1.0):
    """Brightness."""
    return scale * images

def with_model(model, images, targets, *, sign=1):
    images.requires_grad_(True)
    logits = model(images).gather(1, targets[:, None]).sum()
    return sign * images * torch.autograd.grad(logits, images)[0]

def factory(model, layer=None, power=1):
    return lambda images, targets: images.sum(dim=1, keepdim=True) ** power

class Method(Attribution):
    def __init__(self, model, layer=None, *, factor=2.0, **common):
        super().__init__(model, layer, **common)
        self.factor = factor
    def attribute(self, images, activations, targets):
        return self.factor * self.sum_channels(activations)
    @property
    def passes(self):
        return Passes(0, 0)

@dataclass
class Setting:
    sigma: float = 1.0

def unclear(a, b, c, d):
    return a

def wrong(images, targets):
    return images[0]

number = 3
'''


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "my-methods.py"
    path.write_text(OWN)
    return path


@pytest.fixture
def model():
    return tiny_model("plain")


def test_plain_function_of_a_file(own, model):
    images, targets = tiny_batch()
    explain = create_attribution(f"{own}:plain(scale=3.0)|abs", model)
    torch.testing.assert_close(explain(images, targets), (3 * images.sum(dim=1, keepdim=True)).abs())
    assert (explain.layer, explain.upsample) == ("input", "bilinear")
    assert all(count != count for count in explain.passes)
    with pytest.raises(InputError, match="input only"):
        create_attribution(f"{own}:plain@middle", model)


def test_function_of_a_file_that_takes_the_model(own, model):
    images, targets = tiny_batch()
    with torch.no_grad():
        maps = create_attribution(f"{own}:with_model(sign=-1)", model)(images, targets)
    torch.testing.assert_close(maps, -create_attribution("ixg", model)(images, targets))
    assert not images.requires_grad


def test_factories_of_a_file(own, model):
    images, targets = tiny_batch()
    squared = create_attribution(f"{own}:factory(power=2)", model)
    torch.testing.assert_close(squared(images, targets), images.sum(dim=1, keepdim=True).square())
    assert squared.layer == "input"
    method = create_attribution(f"{own}:Method(factor=0.5)@middle", model)
    expected = 0.5 * model.split("middle").stem(images).sum(dim=1, keepdim=True)
    torch.testing.assert_close(method(images, targets), expected.detach())
    assert method.passes == Passes(0, 0)


def test_label_of_a_file_is_its_text(own):
    spec = parse_attribution(f"{own}:plain(scale=2)+smooth(9)@input")
    assert spec.label == f"{own}:plain(scale=2)+smooth(9)"
    assert spec.layer == "input"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{own}:plane", "did you mean plain"),
        ("{own}:unclear", "expected \\(images, targets\\)"),
        ("{own}:number", "expected a function"),
        ("{own}:plain(scal=2)", "did you mean scale"),
        ("missing.py:f", "no file"),
        ("{broken}:f", "can't load .*SyntaxError"),
        ("{own}:wrong", "expected float maps"),
    ],
)
def test_mistakes_in_a_file_are_told_in_one_line(own, tmp_path, model, text, message):
    broken = tmp_path / "broken.py"
    broken.write_text("def f(:")
    images, targets = tiny_batch(2)
    with pytest.raises(InputError, match=message) as raised:
        create_attribution(text.format(own=own, broken=broken), model)(images, targets)
    assert "\n" not in str(raised.value)


class Found(Attribution):
    """What an installed package offers."""

    def attribute(self, images, activations, targets):
        return self.sum_channels(activations)

    @property
    def passes(self):
        return Passes(0, 0)


class Entry:
    group = plugins.GROUP

    def __init__(self, name, loaded):
        self.name, self.value, self.loaded = name, f"package:{name}", loaded

    def load(self):
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


@pytest.fixture
def installed(monkeypatch):
    """Offers entry points of a pretended package; the registry is as before afterwards."""
    saved = {key: dict(value) for key, value in vars(ATTRIBUTIONS).items() if isinstance(value, dict)}

    def offer(*entries):
        monkeypatch.setattr(plugins, "entry_points", lambda group: entries if group == plugins.GROUP else ())
        plugins.load_entry_points.cache_clear()

    yield offer
    for key, value in saved.items():
        setattr(ATTRIBUTIONS, key, value)
    plugins.load_entry_points.cache_clear()


def test_entry_points_are_loaded_when_a_name_is_unknown(installed, model):
    images, targets = tiny_batch()
    installed(Entry("found", Found), Entry("simple", lambda images, targets: images))
    torch.testing.assert_close(create_attribution("Found", model)(images, targets), images.sum(dim=1, keepdim=True))
    torch.testing.assert_close(create_attribution("simple", model)(images, targets), images.sum(dim=1, keepdim=True))


def test_entry_points_are_listed_and_broken_ones_left_out(installed, caplog):
    broken = Entry("broken", ImportError("no module\nnamed x"))
    installed(Entry("found", Found), broken, Entry("ig", Found), Entry("odd", 3))
    with caplog.at_level(logging.WARNING):
        names = list_attributions()
    assert "found" in names
    assert "broken" not in names
    assert ATTRIBUTIONS["ig"] is not Found
    assert len(caplog.messages) == 3
    assert all("\n" not in message for message in caplog.messages)
    assert {row.name: row.summary for row in describe_attributions()}["found"] == "What an installed package offers."


def test_unknown_names_have_near_matches(installed):
    installed()
    with pytest.raises(InputError, match="did you mean gradcam"):
        parse_attribution("gradcan")


def test_all_is_every_method_that_runs(model, caplog):
    specs = expand_attributions(["ig(steps=2)", "all", "IG(steps=2)", "ixg"], model)
    assert specs[0].label == "ig(steps=2)"
    labels = [spec.label for spec in specs]
    assert len(set(labels)) == len(labels)
    assert {"ixg", "gradcam", "rise", "ig"} <= set(labels)
    modified = expand_attributions(["all|abs@middle"], model)
    assert {(spec.modifiers, spec.layer) for spec in modified} == {((("abs", 0),), "middle")}


def test_all_leaves_out_what_cannot_run_and_says_why(caplog):
    class Whole(torch.nn.Module):
        def forward(self, images):
            return images.mean(dim=(2, 3))

    with caplog.at_level(logging.WARNING):
        labels = [spec.label for spec in expand_attributions(["all"], Whole())]
    assert "ixg" in labels
    assert "gradcam" not in labels
    assert any(message.startswith("gradcam is left out") and "input" in message for message in caplog.messages)
    assert expand_attributions(["gradcam"], Whole())[0].label == "gradcam"  # named, so never left out
    with pytest.raises(InputError, match="unknown attribution 'alle'"):
        expand_attributions(["alle"], Whole())


def test_group_is_the_documented_one():
    assert plugins.GROUP == "faithfulness.attributions"
    assert plugins.entry_points is importlib.metadata.entry_points
