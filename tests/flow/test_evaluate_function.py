"""`evaluate` of every command, as one calls it from a notebook: a network, data, and a result."""

import copy

import pandas as pd
import pytest
import timm
import torch
from matplotlib.figure import Figure

from checkpoints import Checkpoint
from eval import aggatt, dea, difull, idsds, incremental, leakage, mlatt
from faithfulness.core import InputError
from tests.reference.networks import plain_cnn
from tests.reference.own_code import SIDE, Dense, Net, Pictures, Scenes, bright

SMALL = {"input_size": SIDE, "accelerator": "cpu", "batch_size": 8}
SINGLE = {**SMALL, "protocol": "single", "limit": 10}
ANY_REGION = {"min_iou": 0.0, "min_area": 0.0, "max_area": 1.0, "region": "annotated"}


def of_head(model, images, targets):
    """The gradient of what is explained: on grids, of one head."""
    leaf = images.clone().requires_grad_(True)
    return torch.autograd.grad(model(leaf).gather(1, targets[:, None]).sum(), leaf)[0]


def mine(images, *targets):
    """A user's method."""
    return images.abs()


def untimed(scores):
    return scores.drop(columns="seconds")


@pytest.fixture
def quiet(tmp_path, monkeypatch, capfd):
    """Nothing is printed, by whatever means, and nothing is written into the empty folder that one works in."""
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    yield
    assert list(tmp_path.iterdir()) == []
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""


NETWORKS = {
    "module": Net,
    "backbone": lambda: plain_cnn(3),
    "timm": lambda: timm.create_model("test_resnet", num_classes=3),
}


@pytest.mark.parametrize("kind", ["float", "pil"])
@pytest.mark.parametrize("network", NETWORKS)
def test_any_network_is_scored_on_any_torch_data_set(quiet, network, kind):
    torch.manual_seed(0)
    net, data = NETWORKS[network](), Pictures(kind)
    result = idsds.evaluate(net, data, attributions=["ixg", mine], **SINGLE)
    assert result.path is None
    assert isinstance(result.plot(), Figure)
    assert isinstance(result.plot("single_deletion"), Figure)
    assert set(result.scores["attribution"]) == {"ixg", "mine", "random", "edge"}
    assert {"layer", "metric", "mean", "low", "high", "n", "n_undefined"} <= set(result.scores)
    assert (result.scores["low"] <= result.scores["mean"]).all()
    assert sorted(result.per_image["index"].unique()) == list(range(10))
    means = result.per_image.fillna({"value": 0}).groupby("attribution")["value"].mean()
    for _, row in result.scores.iterrows():
        assert means[row["attribution"]] == pytest.approx(row["mean"])
    again = idsds.evaluate(net, data, attributions=["ixg", mine], **SINGLE)
    pd.testing.assert_frame_equal(untimed(result.scores), untimed(again.scores), check_exact=True)
    pd.testing.assert_frame_equal(result.per_image, again.per_image, check_exact=True)


OF_EACH = {
    "idsds": (idsds, bright, {"protocol": "single"}),
    "incremental": (incremental, bright, {"steps": 3}),
    "difull": (difull, bright, {"grids": 2, "layers": ["input", "final"]}),
    "mlatt": (mlatt, bright, {"grids": 2, "kernels": [1, 17], "setting": ["difull"]}),
    "aggatt": (aggatt, bright, {"grids": 2}),
    "leakage": (leakage, bright, {"grids": 1, "tries": 1, "setting": ["difull"]}),
    "dea": (dea, lambda: Dense(3), ANY_REGION),
}
"""The command, a network, and its own options."""


@pytest.mark.parametrize("name", OF_EACH)
def test_every_command_is_a_function(quiet, name):
    command, make, options = OF_EACH[name]
    common = {key: value for key, value in SMALL.items() if name != "leakage" or key != "batch_size"}
    if name != "leakage":
        common["attributions"] = ["ixg", of_head if name in ("difull", "mlatt", "aggatt") else mine]
    result = command.evaluate(make(), (Scenes if name == "dea" else Pictures)("float"), **common, **options)
    assert (result.path, result.summary["protocol"], result.summary["command"]) == (None, name, None)
    assert result.summary["data"]["name"] == ("Scenes" if name == "dea" else "Pictures")
    assert len(str(result).splitlines()) > 3
    if name == "leakage":
        assert result.summary["passed"]
        assert result.scores.empty
        with pytest.raises(InputError, match="leakage has no scores to plot"):
            result.plot()
        return
    own = common["attributions"][1].__name__
    assert {"ixg", own} <= set(result.scores["attribution"])
    assert isinstance(result.plot(), Figure)
    assert "setting" in result.scores if name in ("difull", "mlatt", "aggatt") else "setting" not in result.scores
    assert (result.per_image is None) == (name == "aggatt")
    with pytest.raises(InputError, match="has no metric 'idds'"):
        result.plot("idds")


def state_of(net):
    """All of a network that its owner could miss: modes, weights, where they lie, gradients, hooks."""
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return {
        "modes": [module.training for module in net.modules()],
        "objects": {name: id(tensor) for name, tensor in tensors.items()},
        "places": {name: (tensor.data_ptr(), tensor.stride(), tensor.device) for name, tensor in tensors.items()},
        "types": {name: tensor.dtype for name, tensor in tensors.items()},
        "required": {name: tensor.requires_grad for name, tensor in tensors.items()},
        "gradients": {name: None if tensor.grad is None else id(tensor.grad) for name, tensor in tensors.items()},
        "names": [sorted(vars(module)) for module in net.modules()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules()],
    }


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
@pytest.mark.parametrize("network", [*NETWORKS, "checkpoint"])
def test_the_network_comes_back_as_it_was(network, precision):
    torch.manual_seed(0)
    net = NETWORKS[network]() if network in NETWORKS else bright()
    net.train()
    next(iter(net.children())).eval()
    next(net.parameters()).requires_grad_(False)
    list(net.parameters())[-1].grad = torch.ones_like(list(net.parameters())[-1])
    before, weights = state_of(net), copy.deepcopy(net.state_dict())
    given = Checkpoint(net, "mine") if network == "checkpoint" else net
    idsds.evaluate(given, Pictures("float"), attributions=["ixg"], baseline=net, precision=precision, **SINGLE)
    assert state_of(net) == before
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_a_network_comes_back_from_a_mistake_too():
    net = Net().train()
    before = state_of(net)
    with pytest.raises(InputError, match="NaN or infinite values"):
        idsds.evaluate(
            net, Pictures("float"), attributions=[lambda images, targets: images / 0], precision="64-true", **SINGLE
        )
    assert state_of(net) == before


class Watched(Net):
    """Keeps every image that it sees."""

    def __init__(self, **told):
        super().__init__()
        self.seen, self.data_config = [], told

    def forward(self, images):
        self.seen.extend(tuple(image.flatten().tolist()) for image in images.detach())
        return super().forward(images)


@pytest.mark.parametrize("kind", ["float", "pil", "pixels"])
def test_images_are_normalized_once_and_floats_not_at_all(kind):
    net = Watched(mean=0.5, std=0.25)
    idsds.evaluate(net, Pictures(kind), attributions=["random"], **SINGLE)
    wanted = [Pictures("float" if kind == "float" else "pixels")[index][0] for index in range(10)]
    if kind != "float":
        wanted = [((image / 255) - 0.5) / 0.25 for image in wanted]
    seen = torch.tensor(net.seen)
    for image in wanted:
        assert (seen - image.flatten()).abs().amax(dim=1).min() < 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limt": 3}, "unknown option of IdsdsOptions 'limt'; did you mean limit"),
        ({"limit": 0}, "--limit must be at least 1, got 0"),
        ({"protocol": "incremental"}, "--protocol: expected one of in-domain, single, got 'incremental'"),
        ({"precision": "64"}, "--precision: expected one of 32-true, 64-true"),
        ({"published": "rao"}, "--published: expected one of idsds, difull, got 'rao'"),
        ({"layers": "input"}, "--layers: expected words, got 'input'"),
        ({"attributions": ["igg"]}, "unknown attribution 'igg'; did you mean ig"),
        ({"attributions": ["gradcam"]}, "Net offers no split into layers"),
        ({"attributions": [mine, mine]}, "two attributions are called mine"),
        ({"attributions": {"a": "grad"}}, "a mapping names functions, got 'grad' for a"),
        ({"attributions": [lambda images: images]}, "takes (images), expected (images, targets)"),
        ({"batch_size": "4"}, "--batch-size: expected a whole number, got '4'"),
        ({"grid": []}, "--grid takes rows and columns"),
        ({"devices": 999999999}, "--devices must be at most"),
        ({"seed": -1}, "--seed must lie in 0"),
        ({"batch_size": 2**70}, "--batch-size must be at least 1 and below"),
        ({"model": torch.jit.script(torch.nn.Linear(2, 2))}, "is scripted or traced"),
        ({"protocol": "in-domain"}, "Net was not trained with deletion"),
        ({"data": 3}, "gives int, expected a data set with a length and samples by index"),
        ({"model": 3}, "expected a network, or what names one, as the model, got int"),
    ],
)
def test_a_mistake_is_one_line(quiet, unchecked, options, message):
    given = {"model": Net(), "data": Pictures("float"), "attributions": ["ixg"]} | SINGLE | options
    with pytest.raises(InputError) as caught:
        idsds.evaluate(given.pop("model"), given.pop("data"), **given)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_attributions_come_as_names_functions_and_mappings(quiet):
    def methods(attributions):
        return set(idsds.evaluate(Net(), Pictures("float"), attributions=attributions, **SINGLE).scores["attribution"])

    controls = {"random", "edge"}
    assert methods("ixg") == controls | {"ixg"}
    assert methods(mine) == controls | {"mine"}
    assert methods({"a": mine, "b": lambda images, targets: images}) == controls | {"a", "b"}
    assert methods(["grad", of_head]) == controls | {"grad", "of_head"}


def test_on_grids_a_function_is_given_the_head(quiet):
    """Outside the cell of a DiFull head the gradient is 0; a function that explained the whole grid would miss that."""
    common = {**SMALL, "grids": 2, "layers": ["input"], "confidence": 0.0}
    result = difull.evaluate(bright(), Pictures("float"), attributions=["grad(absolute=False)", of_head], **common)
    scores = result.scores[result.scores["metric"] == "impossible_attribution"].set_index("attribution")["mean"]
    assert scores["of_head"] == scores["grad(absolute=False)"] == 0
    with pytest.raises(InputError, match=r"mine must take \(model, images, targets\) on grids"):
        difull.evaluate(bright(), Pictures("float"), attributions=[mine], **common)


def test_a_baseline_is_a_network_too(quiet):
    result = idsds.evaluate(Net(), Pictures("float"), baseline=bright(), attributions=["ixg"], **SINGLE)
    evidence = result.summary["evidence"]
    assert evidence["baseline"]["name"] == "bright"
    assert evidence["baseline"]["accuracy"] == 1
    assert evidence["model"]["separability"] is None, "a module without layers has no features to probe"
    assert "–" in str(result).splitlines()[-2]
