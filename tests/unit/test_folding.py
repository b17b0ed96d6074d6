"""Batch normalization in the weights of convolutions: the same logits, or the network as it was."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from faithfulness.backbones import adopt_classifier, create_backbone, fold_batchnorm
from tests.reference.intrinsic_networks import make_backbone, make_batch


def norms(network):
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("name", ["resnet10t", "bagnet9_small", "mobilenetv3_small_050", "test_efficientnet"])
def test_the_logits_are_the_networks_and_no_normalization_is_left(name):
    network, (images, _) = make_backbone(name, input_size=64), make_batch()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    folded = fold_batchnorm(network)
    assert (norms(network) > 5, norms(folded)) == (True, 0)
    with torch.no_grad():
        expected, found = network(images), folded(images)
        exact = fold_batchnorm(network.double())
        assert torch.allclose(exact(images.double()), network(images.double()), rtol=1e-12, atol=1e-12)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert not torch.equal(found, expected)
    assert all(torch.equal(value, state[key]) for key, value in network.float().state_dict().items())


class Net(nn.Module):
    """A convolution and its normalization, used as a test says."""

    def __init__(self, use):
        super().__init__()
        self.conv, self.bn, self.use = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), use
        self.head = nn.Linear(4, 2)
        self.bn.running_mean.uniform_()
        self.bn.running_var.uniform_(0.5, 2)

    def forward(self, images):
        return self.head(self.use(self, images).mean(dim=(2, 3)))


@pytest.fixture
def known(monkeypatch):
    """The modules of this file count as known."""
    monkeypatch.setattr("faithfulness.backbones.folding.KNOWN", ("torch", "faithfulness", "tests"))


def shared(net, x):
    made = net.conv(x)
    return net.bn(made) + made


def twice(net, x):
    return net.bn(net.conv(x)) + net.bn(net.conv(-x))


def between(net, x):
    return net.bn(net.conv(x).relu())


def within(net, x):
    return net.bn(net.conv(x).clamp_(min=-1e3))  # the same object, and on most images the same numbers


def usual(net, x):
    return net.bn(net.conv(x)).relu()


def named(net, x):
    return net.bn(input=net.conv(input=x))


def single(net, x):
    return net.bn(net.conv(x.float())).to(x.dtype)


def many(net, x):
    made = net.conv(x)
    return net.bn(made) + (made if len(x) > 1 else 0)


STAYS = (shared, twice, between, within, named, single)


@pytest.mark.parametrize(("use", "left"), [(usual, 0), *((use, 1) for use in STAYS)])
def test_what_is_not_a_convolution_and_its_normalization_alone_stays(use, left, known):
    torch.manual_seed(0)
    network = adopt_classifier(Net(use).eval(), 8)
    folded = fold_batchnorm(network)
    assert norms(folded) == left
    images = torch.randn(3, 3, 8, 8)
    assert torch.allclose(folded(images), network(images), atol=1e-5)


@pytest.mark.parametrize("what", ["hook", "parametrization", "statistics", "forward", "class", "lock", "mode", "part"])
def test_what_is_more_than_its_class_stays(what, known):
    torch.manual_seed(0)
    net = Net(usual).eval()
    if what == "hook":
        net.conv.register_forward_hook(lambda module, given, output: output + 1)
    elif what == "parametrization":
        parametrizations.weight_norm(net.conv)
    elif what == "statistics":
        net.bn = nn.BatchNorm2d(4, track_running_stats=False).eval()
    elif what == "forward":
        net.bn.forward = lambda x: x * 2
    elif what == "class":
        net.conv = type("Own", (nn.Conv2d,), {})(3, 4, 3)
    elif what == "lock":
        net.generator = (number for number in range(3))  # can't be copied
    network = adopt_classifier(net, 8)
    net.bn.training = what == "mode"
    net.head.training = what == "part"
    assert fold_batchnorm(network) is network
    assert not net.bn.training or torch.equal(net.bn.num_batches_tracked, torch.tensor(0))


def test_modules_of_ones_own_may_look_at_the_images_and_stay():
    network = adopt_classifier(Net(many).eval(), 8)
    assert fold_batchnorm(network) is network


def test_modules_of_torch_alone_are_folded():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    network = adopt_classifier(nn.Sequential(*layers).eval(), 8)
    assert norms(fold_batchnorm(network)) == 0


def test_a_copy_is_trained_no_more_than_the_network():
    network = create_backbone("resnet10t", num_classes=3, input_size=64).eval()
    folded = fold_batchnorm(network)
    assert not any(module.training for module in folded.modules())
    assert folded.model.conv1[0].weight.dtype is torch.float32
