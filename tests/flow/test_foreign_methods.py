"""A user's method that changes its input, the weights or the mode changes no other method's score."""

import json

import pandas as pd
import pytest
import torch

from checkpoints import load_model, load_segmenter, save_checkpoint, save_segmenter
from eval import dea, idsds
from eval.dea import DeaOptions
from eval.idsds import IdsdsOptions
from faithfulness.attribution import create_attribution
from faithfulness.attribution.guard import fingerprint
from faithfulness.core import InputError
from tests.reference.networks import small_resnet
from tests.reference.tiny_models import tiny_segmenter

OWN = """
import torch
from faithfulness.attribution import Attribution, Passes, register_attribution

def blanks(images, targets):
    maps = images.clone()
    images.zero_()
    targets.zero_()
    return maps

def honest(model, images, targets):
    return images.abs()

def restores(model, images, targets):
    saved = {key: value.clone() for key, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.data.normal_()
    maps = images * model(images).mean()
    model.load_state_dict(saved)
    return maps

def weights(model, images, targets):
    next(model.parameters()).data[0, 0, 0, 0] *= 1.0001
    return images

def signs(model, images, targets):
    list(model.parameters())[-1].data.neg_()
    return images

def statistics(model, images, targets):
    model.train()
    model(images)
    model.eval()
    return images

def trains(model, images, targets):
    model.train()
    return images

def replaces(model, images, targets):
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight = torch.nn.Parameter(torch.zeros_like(module.weight))
    return images

def hooks(model, images, targets):
    list(model.modules())[-1].register_forward_hook(lambda module, given, output: output * 0.3)
    return images

def forwards(model, images, targets):
    run = model.forward
    model.forward = lambda images: run(images * 0.3)
    return images

def settings(model, images, targets):
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 5.0
    return images

def factory(model, layer=None):
    def explain(images, targets):
        with torch.no_grad():
            next(model.parameters()).add_(1)
        return images
    return explain

def at_once(model, layer=None):
    model.train()
    return lambda images, targets: images

class Method(Attribution):
    def attribute(self, images, activations, targets):
        next(self.model.buffers()).add_(1)
        return images.sum(dim=1, keepdim=True)
    @property
    def passes(self):
        return Passes(0, 0)

class Early(Method):
    def __init__(self, model, layer=None, **common):
        super().__init__(model, layer, **common)
        for parameter in model.parameters():
            parameter.data.zero_()
"""
EASY = {"min_iou": 0.0, "min_area": 0.0, "max_area": 1.0, "region": "annotated"}
CULPRITS = {
    "weights": "weight",
    "signs": "bias",
    "statistics": "running_mean",
    "trains": "another mode",
    "replaces": "weight",
    "hooks": "left a hook",
    "forwards": "left a hook, another function",
    "settings": "another setting",
    "factory": "weight",
    "at_once": "another mode",
    "Method": "running_mean",
    "Early": "weight",
}


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A folder with a checkpoint, a segmenter's, and a file of methods."""
    folder = tmp_path_factory.mktemp("room")
    classes = [str(digit) for digit in range(10)]
    save_checkpoint(folder / "model", small_resnet(10), deletion=None, classes=classes, training={})
    save_segmenter(folder / "fcn", tiny_segmenter(), deletion=None, classes=["background", *classes], training={})
    (folder / "own.py").write_text(OWN)
    return folder


def arguments(room, out, *methods):
    common = ["--model", room / "model", "--protocol", "single", "--limit", "6", "--batch-size", "3", "--out", out]
    return [str(word) for word in [*common, "--attributions", *methods]]


def values(folder):
    table = pd.read_parquet(folder / "per_image.parquet")
    return {name: part.sort_values("index")["value"].tolist() for name, part in table.groupby("attribution")}


@pytest.fixture(scope="module")
def alone(room):
    assert idsds.main(arguments(room, room / "alone", "ixg", "gradcam")) == 0
    return values(room / "alone")


@pytest.mark.parametrize("name", ["blanks", "honest", "restores"])
def test_the_others_score_as_if_alone(room, alone, name):
    assert idsds.main(arguments(room, room / name, f"{room}/own.py:{name}", "ixg", "gradcam")) == 0
    found = values(room / name)
    for method in ("ixg", "gradcam", "random", "edge"):
        assert found[method] == pytest.approx(alone[method], nan_ok=True, abs=1e-12)


@pytest.mark.parametrize("name", CULPRITS)
def test_the_command_names_the_culprit(room, name, capsys):
    out = room / f"refused-{name}"
    assert idsds.main([*arguments(room, out, f"{room}/own.py:{name}", "ixg"), "--quiet"]) == 2
    message = capsys.readouterr().err
    assert f"own.py:{name}" in message
    assert CULPRITS[name] in message
    assert message.count("\n") == 1
    # what was finished before stays, to be gone on with: nothing of a method, which has a cost
    assert [path.name for path in out.iterdir()] == ["parts"] if out.exists() else name in ("at_once", "Early")
    assert all(b'"costs": {}' in path.read_bytes() for path in out.glob("parts/*.parts"))


def test_callables_of_both_protocols_are_fenced(room, alone):
    def blank(images, *others):
        maps = images.clone()
        for tensor in (images, *others):
            tensor.zero_()
        return maps

    options = {"limit": 6, "batch_size": 3}
    classifier = IdsdsOptions(
        model=str(room / "model"), protocol="single", attributions=["ixg", "gradcam"], out=room / "blank", **options
    )
    idsds.COMMAND.run(classifier, {"mine": blank})
    assert values(room / "blank")["ixg"] == pytest.approx(alone["ixg"], nan_ok=True, abs=1e-12)
    segmenter = {"model": str(room / "fcn"), "attributions": ["ixg"], **EASY, **options}
    found = [
        dea.COMMAND.run(DeaOptions(out=room / f"dea-{len(given)}", **segmenter), given).summary
        for given in ({}, {"mine": blank})
    ]
    means = [
        {score["metric"]: score["mean"] for score in summary["scores"] if score["attribution"] == "ixg"}
        for summary in found
    ]
    for metric in ("target_deletion_drop", "insertion", "stability", "off_target_mass"):
        assert means[0][metric] == pytest.approx(means[1][metric], abs=1e-9)


@pytest.mark.parametrize("protocol", ["idsds", "dea"])
def test_a_callable_that_changes_the_model_is_named(room, protocol):
    command, folder = {"idsds": (idsds.COMMAND, "model"), "dea": (dea.COMMAND, "fcn")}[protocol]
    model = (load_model if protocol == "idsds" else load_segmenter)(str(room / folder)).model

    def change(images, *others):
        with torch.no_grad():
            next(model.parameters()).mul_(1.01)
        return images

    chosen = {"protocol": "single"} if protocol == "idsds" else EASY
    with pytest.raises(InputError, match=r"attribution change changed the model's .*weight"):
        command.evaluate(model, attributions=["ixg", change], limit=4, out=room / "never", **chosen)
    assert not (room / "never").exists()


def test_a_fingerprint_shows_every_change():
    torch.manual_seed(0)
    model = torch.nn.ModuleDict(
        {
            "small": torch.nn.Linear(3, 2),
            "large": torch.nn.Linear(700, 300),
            "short": torch.nn.Linear(5, 5).half(),
            "norm": torch.nn.BatchNorm2d(4),
        }
    ).to(memory_format=torch.channels_last)
    model.register_buffer("mask", torch.zeros(70000, dtype=torch.bool))
    model.register_buffer("none", torch.zeros(0))
    before = fingerprint(model)
    assert fingerprint(model) == before
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.numel():
            continue
        kept, flat = tensor.detach().clone(), tensor.data.view(-1)
        changes = [lambda f: f.copy_(-f if f.is_floating_point() else f == 0), lambda f: f[-1:].copy_(f[-1:] == 0)]
        if len(flat) > 1 and flat[0] != flat[1]:
            changes += [lambda f: f.copy_(f.flip(0)), lambda f: f[:2].copy_(f[:2].flip(0).clone())]
        for change in changes:
            change(flat)
            if not torch.equal(tensor, kept):
                after = fingerprint(model)
                assert {key for key in before if before[key] != after[key]} == {name}
            tensor.data.copy_(kept)
    assert fingerprint(model) == before


def test_what_commands_read_is_the_methods_own(room):
    backbone = load_model(str(room / "model")).model.eval()
    explain = create_attribution(f"{room}/own.py:honest|abs", backbone)
    assert (explain.layer, explain.upsample) == ("input", "bilinear")
    assert json.dumps(list(explain.passes)) == "[NaN, NaN]"


@pytest.mark.parametrize("moved", [1, 128])
def test_words_that_change_places_show(moved):
    layer = torch.nn.Conv2d(512, 256, 1)
    before = fingerprint(layer)
    layer.weight.data = layer.weight.data.roll(moved, 0)
    assert fingerprint(layer) != before
