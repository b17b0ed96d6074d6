import gc
import weakref

import pytest
import timm
import torch
from torch import nn
from torchvision.transforms.v2.functional import normalize

from faithfulness.attribution import create_attribution
from faithfulness.attribution.lrp import input_box
from faithfulness.attribution.lrp_mode import RelevanceMode
from faithfulness.backbones import Backbone, create_backbone
from faithfulness.core import InputError
from tests.reference.plain_lrp import plain_lrp

COMPOSITES = ["epsilon", "zplus", "gamma"]
TINY = {"channels": (4, 4, 6, 8), "stem_width": 4, "zero_init_last": False}


def shake(model: nn.Module, seed: int = 0, biases: bool = True) -> nn.Module:
    """Random weights in the layers that start with constants, so that a mistake in them shows."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            if biases:
                module.bias.data.normal_(0, 0.3, generator=generator)
                module.running_mean.normal_(0, 0.3, generator=generator)
        elif isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            module.bias.data.normal_(0, 0.2 if biases else 0, generator=generator)
    return model.eval()


def make_images(backbone, count: int = 2, size: int = 32) -> torch.Tensor:
    images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))
    return normalize(images, list(backbone.data_config["mean"]), list(backbone.data_config["std"]))


def resnet_layers(model) -> list[nn.Module]:
    stem = list(model.conv1) if isinstance(model.conv1, nn.Sequential) else [model.conv1]
    blocks = [block for stage in (model.layer1, model.layer2, model.layer3, model.layer4) for block in stage]
    return [*stem, model.bn1, nn.ReLU(), model.maxpool, *blocks, model.global_pool, model.fc]


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("resnet10t", TINY), ("resnet26t", {**TINY, "channels": (1, 1, 2, 2), "layers": (1, 1, 1, 1)})],
)
def test_resnets_follow_the_slow_restatement(name, arguments, composite):
    torch.manual_seed(0)
    backbone = create_backbone(name, num_classes=5, input_size=24, **arguments)
    shake(backbone).double()
    images, targets = make_images(backbone, 2, 24).double(), torch.tensor([3, 1])
    maps = create_attribution("lrp", backbone, composite=composite, epsilon=1e-4)(images, targets)
    layers = resnet_layers(backbone.model)
    for image, target, found in zip(images, targets.tolist(), maps, strict=True):
        slow = plain_lrp(layers, image[None], target, composite, 0.25, 1e-4, input_box(backbone))[0]
        assert torch.allclose(found, slow, rtol=1e-9, atol=1e-9 * float(slow.abs().max()))


@pytest.mark.parametrize("composite", COMPOSITES)
def test_a_plain_network_and_its_layers_follow_the_slow_restatement(composite):
    torch.manual_seed(0)
    features = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *(nn.Conv2d(4, 6, 3, padding="same", groups=2), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 6, 1), nn.ReLU()),
    )
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))
    backbone = Backbone(features, head, taps={"middle": "3"})
    shake(backbone).double()
    images, targets = torch.randn(2, 3, 12, 12, dtype=torch.float64), torch.tensor([4, 0])
    for layer, cut in (("input", 0), ("middle", 4)):
        maps = create_attribution("lrp", backbone, layer, composite=composite, gamma=0.5, epsilon=0.01)(images, targets)
        activations = features[:cut](images)
        for x, target, found in zip(activations, targets.tolist(), maps, strict=True):
            box = (x.amin(dim=(1, 2)), x.amax(dim=(1, 2)))
            slow = plain_lrp([*features[cut:], *head], x[None], target, composite, 0.5, 0.01, box, image=cut == 0)[0]
            assert torch.allclose(found, slow, rtol=1e-9, atol=1e-9 * float(slow.abs().max()))


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize(
    ("name", "arguments", "layers"),
    [
        ("resnet10t", {**TINY, "channels": (24, 48, 96, 192)}, ("input", "middle", "final")),
        ("resnet14t", {**TINY, "channels": (8, 16, 24, 32)}, ("input",)),
        ("resnet26d", {**TINY, "channels": (8, 16, 24, 32)}, ("input",)),
        ("regnetx_002", {}, ("input",)),
        ("densenet121", {"growth_rate": 8, "block_config": (2, 2, 2, 2)}, ("input", "middle")),
    ],
)
def test_relevance_is_conserved_without_biases(name, arguments, layers, composite):
    torch.manual_seed(0)
    backbone = create_backbone(name, num_classes=7, input_size=32, **arguments)
    shake(backbone, biases=False)
    images, targets = make_images(backbone), torch.tensor([0, 6])
    logits = backbone(images).gather(1, targets[:, None]).squeeze(1)
    for layer in layers:
        maps = create_attribution("lrp", backbone, layer, composite=composite)(images, targets)
        assert (maps.sum(dim=(1, 2, 3)) / logits - 1).abs().max() < 1e-3


@pytest.mark.parametrize("layer", ["input", "middle"])
def test_the_epsilon_composite_is_input_times_gradient_in_a_relu_network(layer):
    """Ancona et al. 2018, proposition 1; it holds with biases and batch normalization too."""
    torch.manual_seed(0)
    backbone = create_backbone("resnet10t", num_classes=5, input_size=32, **TINY)
    shake(backbone).double()
    images, targets = make_images(backbone).double(), torch.tensor([3, 1])
    lrp, ixg = (create_attribution(name, backbone, layer)(images, targets) for name in ("lrp", "ixg"))
    assert torch.allclose(lrp, ixg, rtol=1e-5, atol=1e-6 * float(ixg.abs().max()))


class Functional(nn.Module):
    """A residual network written with operators and functions, beside its twin made of layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(12, 4)

    def forward(self, x):
        x = nn.functional.relu(self.first(x))
        y = self.second(x) / 2
        y += 0.5 * x
        return self.fc(torch.cat([(y + x).relu().mean(dim=(2, 3)), x.mean((2, 3))], dim=1))


@pytest.mark.parametrize("composite", COMPOSITES)
def test_operators_and_functions_are_followed_like_layers(composite):
    torch.manual_seed(0)
    model = shake(Functional(), biases=False).double()
    images, targets = torch.randn(3, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 3, 2])
    maps = create_attribution("lrp", model, composite=composite)(images, targets)
    logits = model(images).gather(1, targets[:, None]).squeeze(1)
    assert torch.allclose(maps.sum(dim=(1, 2, 3)), logits, rtol=1e-6)
    if composite == "epsilon":
        ixg = create_attribution("ixg", model)(images, targets)
        assert torch.allclose(maps, ixg, rtol=1e-6, atol=1e-9)


def test_composites_differ_and_gamma_zero_is_epsilon_behind_the_first_layer():
    torch.manual_seed(0)
    backbone = create_backbone("resnet10t", num_classes=5, input_size=32, **TINY)
    shake(backbone).double()
    images, targets = make_images(backbone).double(), torch.tensor([3, 1])

    def explain(**parameters):
        return create_attribution("lrp", backbone, "middle", **parameters)(images, targets)

    epsilon, zplus, gamma = (explain(composite=composite) for composite in COMPOSITES)
    assert torch.allclose(explain(composite="gamma", gamma=0.0), epsilon, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(gamma, epsilon, rtol=0.1)
    assert not torch.allclose(zplus, gamma, rtol=0.1)


def test_the_fully_connected_convolutions_of_vgg_follow_epsilon():
    """Seen at Final, behind which there are only pooling and what torchvision's VGG calls linear layers."""
    torch.manual_seed(0)
    backbone = create_backbone("vgg11", num_classes=4, input_size=32, mlp_ratio=0.01)
    shake(backbone)
    images, targets = make_images(backbone, 1), torch.tensor([2])
    zplus, epsilon = (
        create_attribution("lrp", backbone, "final", composite=name)(images, targets) for name in ("zplus", "epsilon")
    )
    assert torch.equal(zplus, epsilon)


@pytest.mark.parametrize(
    ("name", "arguments", "named"),
    [("test_vit", {}, "LayerNorm"), ("test_convnext", {}, "LayerNorm"), ("resnet10t", {"act_layer": "silu"}, "SiLU")],
)
def test_networks_without_a_rule_are_refused_by_the_name_of_their_layer(name, arguments, named):
    with pytest.raises(InputError, match=named):
        create_attribution("lrp", create_backbone(name, num_classes=3, **arguments))


class Gated(nn.Module):
    def __init__(self, how: str):
        super().__init__()
        self.conv, self.how = nn.Conv2d(3, 4, 3), how

    def forward(self, x):
        x = self.conv(x)
        y = {"product": lambda: x * x, "sigmoid": lambda: x.sigmoid(), "detach": lambda: x + x.detach()}[self.how]()
        return y.mean(dim=(2, 3))


@pytest.mark.parametrize(("how", "named"), [("product", "mul"), ("sigmoid", "sigmoid"), ("detach", "detach")])
def test_functions_without_a_rule_are_refused_by_name_and_nothing_stays_behind(how, named):
    model = Gated(how)
    images = torch.randn(2, 3, 8, 8)
    before = model(images)
    with pytest.raises(InputError, match=named):
        create_attribution("lrp", model)(images, torch.tensor([0, 1]))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model(images), before)


def test_unknown_composites_and_parameters_are_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match="composite"):
        create_attribution("lrp", model, composite="alphabeta")
    with pytest.raises(InputError, match="gamma"):
        create_attribution("lrp", model, gamma=-1.0)


@pytest.mark.parametrize("composite", COMPOSITES)
def test_a_batch_is_its_images_and_the_model_is_left_as_it_was(composite):
    torch.manual_seed(0)
    backbone = create_backbone("resnet10t", num_classes=5, input_size=32, **TINY)
    shake(backbone).train()
    backbone.model.set_grad_checkpointing(True)
    images, targets = make_images(backbone, 5), torch.tensor([3, 1, 0, 0, 4])
    kept = images.clone()
    state = {name: value.clone() for name, value in backbone.state_dict().items()}
    together = create_attribution("lrp", backbone, composite=composite)(images, targets)
    apart = create_attribution("lrp", backbone, composite=composite, chunk=1)(images, targets)
    assert torch.allclose(together, apart, rtol=1e-5, atol=1e-5 * float(apart.abs().max()))
    assert torch.equal(images, kept)
    assert all(torch.equal(value, state[name]) for name, value in backbone.state_dict().items())
    assert backbone.training
    assert backbone.model.grad_checkpointing
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in backbone.parameters())


def test_bfloat16_stays_near_float32():
    torch.manual_seed(0)
    backbone = create_backbone("resnet10t", num_classes=5, input_size=32, **TINY)
    shake(backbone, biases=False)
    images, targets = make_images(backbone), torch.tensor([3, 1])
    for composite in COMPOSITES:
        explain = create_attribution("lrp", backbone, composite=composite)
        exact = explain(images, targets)
        with torch.autocast("cpu", torch.bfloat16):
            rough = explain(images, targets)
        assert rough.dtype == torch.float32
        correlation = torch.corrcoef(torch.stack([exact.flatten(), rough.flatten()]))[0, 1]
        assert correlation > 0.98


def test_activations_are_freed_without_the_garbage_collector():
    backbone = create_backbone("resnet10t", num_classes=5, input_size=32, **TINY)
    seen = []

    class Watching(RelevanceMode):
        def _follow(self, linear, x, value):
            result = super()._follow(linear, x, value)
            seen.append(weakref.ref(result))
            return result

    import faithfulness.attribution.lrp as module

    gc.collect()
    gc.disable()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "RelevanceMode", Watching)
            create_attribution("lrp", backbone)(torch.randn(1, 3, 32, 32), torch.tensor([0]))
        assert seen
        assert not any(reference() is not None for reference in seen)
    finally:
        gc.enable()


class Written(nn.Module):
    """A residual network in which every function may write in place, beside its twin in which none does."""

    def __init__(self, how: str):
        super().__init__()
        self.how = how
        self.first, self.second, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 4)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x):
        x, how = self.first(x), self.how
        if how == "apart":
            x = x.relu()
            y = ((self.norm(self.second(x)) + x) * 0.5 / 2).relu()
            y = torch.cat([y[:, :3] + x[:, :3], y[:, 3:]], dim=1)
            return self.fc(y.mean(dim=(2, 3))) + 1
        if how == "returned":
            x = nn.functional.relu(x, inplace=True)
            y = self.norm(self.second(x)).add_(x).mul_(0.5).div_(2).relu_()
            y[:, :3] += x[:, :3]
            return self.fc(y.mean(dim=(2, 3))).add_(1)
        if how == "named":
            torch.relu_(x)
            y = self.norm(self.second(x))
            y += x
            y *= 0.5
            y /= 2
            nn.functional.relu(y, True)
            y[:, :3] = y[:, :3] + x[:, :3]
            logits = self.fc(y.mean(dim=(2, 3)))
            logits.add_(1)
            return logits
        view = x.view(len(x), 6, -1)
        {"view": view.relu_, "part": lambda: x[:, 1:].mul_(3)}[how]()
        return self.fc(self.norm(x).mean(dim=(2, 3)))


def written(how):
    torch.manual_seed(0)
    return shake(Written(how)).double().eval()


@pytest.mark.parametrize("how", ["returned", "named"])
@pytest.mark.parametrize("composite", COMPOSITES)
def test_functions_in_place_are_followed_like_their_twins(how, composite):
    images, targets = torch.randn(3, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 3, 2])
    assert torch.allclose(written(how)(images), written("apart")(images))  # what is compared is the same network
    expected = create_attribution("lrp", written("apart"), composite=composite)(images, targets)
    maps = create_attribution("lrp", written(how), composite=composite)(images, targets)
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("how", ["view", "part"])
def test_writing_through_a_view_is_refused_not_ignored(how):
    model, images = written(how), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with pytest.raises(InputError, match=r"its logits differ by .* from the network's own"):
        create_attribution("lrp", model)(images, torch.tensor([0, 1]))


def test_passes_are_two_forward_and_one_back():
    backbone = timm.create_model("resnet10t", num_classes=5, **TINY)
    assert create_attribution("lrp", backbone).passes == (2, 1)
