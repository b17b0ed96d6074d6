"""What every registered method promises, on a small network of each family."""

import dataclasses
import functools
import math

import pytest
import torch

from faithfulness.attribution import create_attribution, describe_attributions, list_attributions
from faithfulness.attribution.spec import parameters_of
from faithfulness.backbones import Explainable
from faithfulness.core import InputError
from tests.reference.tiny_models import CLASSES, FAMILIES, tiny_batch, tiny_model

# chunk = 16 cuts a batch of three within a point (but for RISE, which takes whole ones); without the ReLU, a CAM isn't
# flat where evidence is against.
QUICK = {"masks": 12, "steps": 3, "samples": 2, "relu": False, "chunk": 16}
# Large windows: what a small one costs an untrained network is lost in the rounding of its logits.
SPECIAL = {"occlusion": {"kernel": 24, "stride": 20}, "region": {"grid": 2}, "dea": {"grid": 2}}
RECTIFIED = {"gpa", "ega", "region", "dea"}  # ReLU by definition: flat where the evidence is against
# Drops of a logit: float32 keeps the logits' digits, not those of a drop a thousand times smaller, and the batch
# size picks the kernel that rounds them. In float64 the drops have digits to compare.
DIFFERENCES = {"ablationcam", "occlusion", "region", "dea"}
# Gradient × activation before a LayerNorm: a token's terms cancel to 3e-7 of themselves, since the norm takes no notice
# of a token's scale. Rounding is relative to the terms: float64 keeps some 1e-9 of the map, bfloat16 nothing.
CANCELLING = {("ega", "vit"), ("dea", "vit")}
# They divide by sums of signed tokens, which come close to 0: what rounds at 1e-7 comes out at percents.
QUOTIENTS = {("xgradcam", "vit"), ("cheferlrp", "vit")}
TARGETLESS = {"random", "edge", "rollout"}
CASES = [(name, family) for name in list_attributions() for family in FAMILIES]
walk = pytest.mark.parametrize(("name", "family"), CASES)


@functools.cache
def model_of(family):
    return tiny_model(family)


def explainer(name, model, layer=None, **more):
    """The method, or a skip if it says that this network isn't for it."""
    parameters = {key: value for key, value in (QUICK | more).items() if key in parameters_of(name)}
    try:
        return create_attribution(name, model, layer, **parameters | SPECIAL.get(name, {}))
    except InputError as error:
        if "\n" in str(error):
            raise
        pytest.skip(str(error))


@functools.cache
def maps_of(name, family):
    """The maps of a batch of three, with the network in evaluation mode."""
    return explainer(name, model_of(family))(*tiny_batch())


def close(a, b, tolerance=1e-5):
    return float((a - b).abs().max()) <= tolerance * float(b.abs().max())


def state_of(model):
    """What a method could leave changed: flags and simple attributes, hooks, gradients, values."""
    return {
        name: (
            {k: v for k, v in vars(module).items() if isinstance(v, bool | int | float | str | tuple)},
            {k: list(v) for k, v in vars(module).items() if k.endswith("hooks") and v is not None},
            {k: v for k, v in vars(module).items() if callable(v) and not isinstance(v, torch.nn.Module)},
            [(k, p.requires_grad, p.grad, p._version) for k, p in module.named_parameters(recurse=False)],
            [(k, b._version) for k, b in module.named_buffers(recurse=False)],
        )
        for name, module in model.named_modules()
    }


@walk
def test_a_batch_equals_its_images_one_by_one(name, family):
    explain = explainer(name, model_of(family))
    images, targets = tiny_batch()
    maps = maps_of(name, family)
    assert maps.shape[:2] == (3, 1)
    assert maps.dtype == torch.float32
    assert not maps.requires_grad
    assert maps.isfinite().all()
    assert name in RECTIFIED or maps.flatten(1).std(dim=1).min() > 0
    tolerance = 1e-5
    if name in DIFFERENCES or (name, family) in CANCELLING | QUOTIENTS:
        explain = explainer(name, tiny_model(family).double())
        images, tolerance = images.double(), 1e-6 if (name, family) in CANCELLING | QUOTIENTS else 1e-9
        maps = explain(images, targets)
    for i in range(3):
        assert close(explain(images[i : i + 1], targets[i : i + 1]), maps[i : i + 1], tolerance)


@walk
def test_model_and_input_are_left_as_they_were(name, family):
    model = tiny_model(family).train()
    list(model.modules())[-1].eval()
    next(model.parameters()).requires_grad_(False)
    images, targets = tiny_batch()
    assert model.layers  # the network has looked at itself, once
    before, given, generator = state_of(model), images.clone(), torch.get_rng_state()
    explain = explainer(name, model)
    maps = explain(images, targets)
    assert torch.equal(maps, maps_of(name, family))  # another instance, the same answer
    assert torch.equal(generator, torch.get_rng_state())
    assert state_of(model) == before
    if name not in TARGETLESS:
        with pytest.raises(InputError, match="targets"):
            explain(images, torch.full_like(targets, CLASSES))
        assert state_of(model) == before
    assert torch.equal(images, given)
    assert not images.requires_grad
    assert images.grad is None


@walk
def test_half_precision_comes_close(name, family):
    maps = maps_of(name, family)
    with torch.autocast("cpu", torch.bfloat16):
        half = explainer(name, model_of(family))(*tiny_batch())
    assert half.dtype == torch.float32
    assert half.isfinite().all()
    # bfloat16 keeps 8 bits: the direction of the map survives, its digits don't
    told = maps.flatten(1).std(dim=1) > 0
    assert told.any()
    if (name, family) not in CANCELLING:
        assert torch.cosine_similarity(half[told].flatten(1), maps[told].flatten(1)).min() > 0.8


@pytest.mark.parametrize("name", list_attributions())
def test_float64_stays_float64(name):
    images, targets = tiny_batch(2, dtype=torch.float64)
    explain = explainer(name, tiny_model("resnet").double())
    maps = explain(images, targets)
    assert maps.dtype == torch.float64
    for i in range(2):
        assert close(explain(images[i : i + 1], targets[i : i + 1]), maps[i : i + 1], 1e-9)


@pytest.mark.parametrize("name", list_attributions())
@pytest.mark.parametrize("layer", ["input", "middle", "final"])
def test_any_chunk_gives_the_same_maps(name, layer):
    if "chunk" not in parameters_of(name):
        pytest.skip("takes no chunk")
    images, targets = tiny_batch()
    maps = [explainer(name, model_of("vgg"), layer, chunk=chunk)(images, targets) for chunk in (2, 7, 1000)]
    assert close(maps[0], maps[2])
    assert close(maps[1], maps[2])


class Counting(Explainable):
    """A network that counts the images which go through `rest`, forward and backward."""

    def __init__(self, model):
        super().__init__()
        self.model, self.forwards, self.backwards, self.largest = model, 0, 0, 0

    def forward(self, images):
        return self.model(images)

    def split(self, layer="input"):
        split = self.model.split(layer)
        rest = split.rest

        def counted(activations):
            logits = rest(activations)
            self.forwards += len(activations)
            self.largest = max(self.largest, len(activations))
            if logits.requires_grad:
                logits.register_hook(self.count_backward)
            return logits

        return dataclasses.replace(split, rest=counted)

    def count_backward(self, gradients):
        self.backwards += len(gradients)


@walk
def test_passes_are_what_it_takes(name, family):
    model = Counting(model_of(family))
    explain = explainer(name, model)
    images, targets = tiny_batch()
    explain(images, targets)
    forward, backward = explain.passes
    if math.isnan(forward):
        pytest.skip("counts no passes")
    assert (model.forwards, model.backwards) == (3 * forward, 3 * backward)
    if "chunk" in parameters_of(name):
        assert model.largest <= QUICK["chunk"]


def test_a_network_without_layers_is_explained_at_its_input():
    class Whole(torch.nn.Module):
        def forward(self, images):
            return images.mean(dim=(2, 3))

    images, _ = tiny_batch(1)
    assert create_attribution("ixg", Whole())(images, torch.tensor([2])).shape == (1, 1, 64, 64)
    with pytest.raises(InputError, match="input"):
        create_attribution("gradcam", Whole())


def test_the_description_agrees_with_the_methods():
    rows = {row.name: row for row in describe_attributions()}
    assert list(rows) == list_attributions()
    for name, row in rows.items():
        assert row.summary
        assert set(row.parameters) == set(parameters_of(name)) - {"chunk", "output"}
        for count in (row.forward, row.backward):
            assert count.replace(".", "").isdigit() or " " in count or count.isalpha()
    assert (rows["ig"].forward, rows["ig"].backward) == ("50", "50")
    assert (rows["ig-sg"].forward, rows["ig-sg"].backward) == ("200", "200")
    assert (rows["rise"].forward, rows["rise"].backward) == ("1000", "0")
    assert "windows" in rows["occlusion"].forward
    assert "channels" in rows["ablationcam"].forward
    assert rows["gradcam"].layer == "final"
    assert rows["gradcam"].aliases == ("Grad-CAM", "GradCam")
    assert rows["sg-campp"].parameters == {"samples": 4, "noise": 0.3, "seed": 0, "variant": "paper", "relu": True}
