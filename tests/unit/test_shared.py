"""What methods share of a batch: less work, the same numbers, and times as if each were alone; too little memory."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from checkpoints import load_model
from difull import DiFull, DiPart, GridPG, compose_grid
from eval.difull import evaluate as evaluate_difull
from eval.idsds import evaluate
from faithfulness.attribution import create_attribution, list_attributions, seconds_shared, shared, sharing
from faithfulness.attribution.base import ATTRIBUTIONS
from faithfulness.core.errors import InputError
from faithfulness.data import open_data

CHEAP = {name: f"{name}(steps=2)" for name in ("ig", "ig-u", "ig-sg", "ig-sg-sq", "s-ig")}
CHEAP |= {"rise": "rise(masks=5)", "rise-u": "rise-u(masks=5)", "occlusion": "occlusion(kernel=64, stride=64)"}
CAMS = ["gradcam", "gradcampp", "layercam", "xgradcam"]


@pytest.fixture(scope="module")
def network():
    return load_model("checkpoints/released/digits-resnet10t").model.eval()


@pytest.fixture(scope="module")
def batch(network):
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return images, torch.tensor([1, 7, 7])


class Seen:
    """How many images have gone through the network's stem."""

    def __init__(self, network):
        self.count = 0
        self.handle = network.model.bn1.register_forward_hook(self.add)

    def add(self, module, given, output):
        self.count += len(output)


@pytest.fixture
def seen(network):
    found = Seen(network)
    yield found
    found.handle.remove()


@pytest.mark.parametrize("layer", ["input", "final"])
def test_shared_maps_are_those_of_each_method_alone(network, batch, layer):
    methods = []
    for name in list_attributions():
        try:
            methods.append(create_attribution(CHEAP.get(name, name), network, layer))
        except InputError:
            continue
    alone = [explain(*batch) for explain in methods]
    with sharing():
        together = [explain(*batch) for explain in methods]
        again = [explain(*batch) for explain in reversed(methods)]
    assert len(methods) > 15
    for own, first, second in zip(alone, together, reversed(again), strict=True):
        assert torch.equal(own, first)
        assert torch.equal(own, second)


def test_methods_of_a_layer_share_one_forward_and_one_backward_pass(network, batch, seen):
    backward = []
    handle = network.model.layer4.register_full_backward_hook(lambda *given: backward.append(1))
    rest = []
    pooled = network.model.global_pool.register_forward_hook(lambda module, given, output: rest.append(len(output)))
    with sharing():
        for name in CAMS:
            create_attribution(name, network)(*batch)
        assert (seen.count, sum(rest)) == (3, 3)
        create_attribution("grad", network)(*batch)
        create_attribution("ixg", network)(*batch)
        assert (seen.count, len(backward)) == (6, 1)
    create_attribution("ixg", network)(*batch)
    assert seen.count == 9
    handle.remove()
    pooled.remove()


def test_a_gradient_that_is_another_is_not_shared(network, batch):
    guided = create_attribution("gb", network)
    plain = create_attribution("grad", network)
    alone = guided(*batch)
    with sharing():
        assert not torch.equal(plain(*batch), alone)
        assert torch.equal(guided(*batch), alone)


def test_only_what_says_so_is_shared_and_no_subclass_inherits_it():
    own = {name for name in list_attributions() if vars(ATTRIBUTIONS[name]).get("plain_gradients")}
    assert own == {"grad", "ixg", *CAMS}


@pytest.mark.parametrize("changed", ["image", "target"])
def test_what_was_written_into_is_computed_anew(network, batch, changed):
    images, targets = (tensor.clone() for tensor in batch)
    explain = create_attribution("gradcam", network)
    with sharing():
        explain(images, targets)
        if changed == "image":
            images.mul_(0.5)
        else:
            targets.fill_(3)
        found = explain(images, targets)
    assert torch.equal(found, explain(images, targets))


def test_a_result_that_somebody_wrote_into_is_computed_anew(network, batch):
    explain = create_attribution("layercam", network)
    alone = explain(*batch)
    with sharing():
        explain(*batch)
        for kept in shared._SHARED.get()._kept.values():
            kept.value.zero_()
        assert torch.equal(explain(*batch), alone)


@pytest.mark.parametrize("precision", [torch.bfloat16])
def test_other_precisions_share_nothing_with_each_other(network, batch, precision):
    explain = create_attribution("gradcam", network)
    with sharing():
        plain = explain(*batch)
        with torch.autocast("cpu", precision):
            assert not torch.equal(explain(*batch), plain)
        assert torch.equal(explain(*batch), plain)


@pytest.mark.parametrize("kind", [DiFull, DiPart, GridPG])
def test_all_heads_share_the_activations_of_a_grid(network, batch, seen, kind):
    setting = kind(network, 2)
    grids = compose_grid(torch.cat([batch[0], batch[0][:1]]), scale=2)
    labels = torch.tensor([[1, 2, 3, 4]])
    heads = [create_attribution("gradcam", setting, cell=cell) for cell in range(4)]
    alone = [explain(grids, labels[:, cell]) for cell, explain in enumerate(heads)]
    single, seen.count = seen.count // 4, 0
    with sharing():
        together = [explain(grids, labels[:, cell]) for cell, explain in enumerate(heads)]
    assert seen.count == single
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_kind_of_grid_of_ones_own_shares_nothing_between_heads(network, batch):
    class Marked(DiFull):
        def split(self, layer="input", cell=0):
            split = super().split(layer, cell)
            return type(split)(layer, lambda images: split.stem(images) * (cell + 1), split.rest)

    setting, grids = Marked(network, 2), compose_grid(torch.cat([batch[0], batch[0][:1]]), scale=2)
    heads = [create_attribution("layercam", setting, "final", cell=cell) for cell in (0, 1)]
    alone = [explain(grids, torch.tensor([2])) for explain in heads]
    with sharing():
        assert all(
            torch.equal(explain(grids, torch.tensor([2])), own) for explain, own in zip(heads, alone, strict=True)
        )


def test_a_time_counts_what_was_shared(network, batch, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(shared.time, "perf_counter", lambda: float(next(clock)))
    with sharing():
        create_attribution("gradcam", network)(*batch)
        assert seconds_shared() == 0
        create_attribution("layercam", network)(*batch)
        assert seconds_shared() == 2  # a second for the activations, and one for the gradient
    assert seconds_shared() == 0


def test_an_evaluation_shares_and_its_numbers_are_the_same(network, monkeypatch, seen):
    flags = {"data": "digits", "attributions": CAMS, "limit": 40, "batch_size": 2, "setting": ["difull"], "scale": [2]}
    known = {"confidence": 0.5, "grids": 2, "accelerator": "cpu", "quiet": True}
    first = evaluate_difull(network, **flags, **known)
    together, seen.count = seen.count, 0
    monkeypatch.setattr("faithfulness.attribution.base.share", lambda kind, made_of, make: make())
    second = evaluate_difull(network, **flags, **known)
    saved = 2 * 4 * (2 * len(CAMS) - 1)  # grids, cells; all but the first of two heads' methods
    assert seen.count - together == saved
    np.testing.assert_array_equal(first.per_image["value"], second.per_image["value"])


class Small(torch.nn.Module):
    """A network on a device that bears so many images a pass."""

    def __init__(self, network, most, error=None):
        super().__init__()
        self.network, self.most, self.refused = network, most, 0
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")

    def forward(self, images):
        if len(images) > self.most:
            self.refused += 1
            raise self.error
        return self.network(images)


def test_passes_shrink_to_what_memory_bears(network, capsys):
    data = open_data("digits", "val").at_size(64)
    flags = {"data": data, "protocol": "single", "attributions": ["ixg", "ig(steps=4)"], "limit": 6, "batch_size": 4}
    known = {"input_size": 64, "accelerator": "cpu", "quiet": False}
    small = Small(network.model, 3)
    whole = evaluate(Small(network.model, 1000), **flags, **known, chunk=2)
    found = evaluate(small, **flags, **known, chunk=64)
    assert small.refused
    assert (whole.summary["settings"]["chunk"], found.summary["settings"]["chunk"]) == (2, 2)
    said = capsys.readouterr().err
    assert "out of memory; going on with 2 images a pass" in said
    assert "ixg: out of memory" in said
    np.testing.assert_array_equal(found.per_image["value"], whole.per_image["value"])


@pytest.mark.parametrize("words", ["CUDA error: out of memory", "cuBLAS: CUBLAS_STATUS_ALLOC_FAILED", "shapes differ"])
def test_a_device_has_many_words_for_too_little_memory(network, batch, words):
    small = Small(network, 2, RuntimeError(words))
    explain = create_attribution("ixg", small)
    if "shapes" in words:
        with pytest.raises(RuntimeError, match=words):
            explain(*batch)
    else:
        assert torch.equal(explain(*batch), create_attribution("ixg", network, chunk=2)(*batch))


def test_methods_with_other_chunks_share_nothing(network, batch, seen):
    with sharing():
        for chunk in (2, 3, 2):
            create_attribution("layercam", network, chunk=chunk)(*batch)
    assert seen.count == 6  # once for each of two


def test_tensors_of_inference_mode_are_not_shared(network, batch):
    with torch.inference_mode():
        images = batch[0].clone()
    explain = create_attribution("occlusion", network, "final")
    alone = explain(images, batch[1])
    with sharing(), torch.inference_mode():
        assert torch.equal(explain(images, batch[1]), alone)


def test_a_cut_of_ones_own_is_not_shared(network, batch):
    class Doubled(ATTRIBUTIONS["layercam"]):
        def cut_model(self, layer, cell):
            split = super().cut_model(layer, cell)
            return replace(split, stem=lambda images: 2 * split.stem(images))

    own, alone = Doubled(network), Doubled(network)(*batch)
    with sharing():
        create_attribution("layercam", network)(*batch)
        assert torch.equal(own(*batch), alone)


def test_a_pass_of_one_image_that_does_not_fit_is_refused(network, batch):
    explain = create_attribution("ixg", Small(network, 0))
    with pytest.raises(MemoryError):
        explain(*batch)
    assert explain.chunk == 1
