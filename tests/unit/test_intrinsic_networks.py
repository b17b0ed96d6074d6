"""BagNets, B-cos networks, and networks without biases or normalization: what they are made of."""

import pytest
import timm
import torch
from torch import nn

from faithfulness import backbones
from faithfulness.backbones import create_backbone
from faithfulness.backbones.networks.bcos import BatchNormUncentered2d, BcosConv2d
from tests.reference.intrinsic_networks import BAGNETS, PLAIN, make_backbone, make_batch

SMALL = [*BAGNETS, "bcos_resnet10_small", *PLAIN]
LARGE = ["bagnet9", "bagnet17", "bagnet33", "bcos_resnet18", "bcos_resnet50", "resnet50_nobn", "resnet50_nobn_nobias"]


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_are_timm_models_that_split_load_and_train(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4)
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8) % 4
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    twin = timm.create_model(name, num_classes=4)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin.eval()(images), model.eval()(images))
    backbone = backbones.TimmBackbone(model)
    with torch.no_grad():
        for layer in ("middle", "final"):
            stem, rest = backbone.split(layer)
            assert torch.allclose(rest(stem(images)), model(images), atol=1e-5)
    assert backbone.split("final").stem(images).shape[-1] < backbone.split("middle").stem(images).shape[-1]
    assert backbone.embed(images).shape == (8, model.head_hidden_size)
    model.reset_classifier(7)
    assert model(images).shape == (8, 7)
    assert model.get_classifier() is not None


@pytest.mark.parametrize("name", BAGNETS)
def test_small_bagnets_have_learned_after_few_steps_as_the_trainer_takes_them(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=2).to(memory_format=torch.channels_last)
    labels = torch.arange(16) % 2
    images = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.3
    images = (images + labels[:, None, None, None]).contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert torch.equal(model.eval()(images).argmax(dim=1), labels)


@pytest.mark.parametrize("name", LARGE)
def test_large_networks_are_registered(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert model.pretrained_cfg["input_size"] == (3, 224, 224)
    assert model.num_classes == 1000


def test_resnet50s_have_the_weights_of_resnet50_where_they_have_any():
    with torch.device("meta"):
        names = ("resnet50", "resnet50_nobn", "resnet50_nobn_nobias", "bcos_resnet50")
        theirs, nobn, nobias, bcos = (dict(timm.create_model(name).named_parameters()) for name in names)

    def shapes(parameters, without):
        return {name: tuple(p.shape) for name, p in parameters.items() if not name.endswith(without)}

    weights = {name: shape for name, shape in shapes(theirs, "bias").items() if len(shape) > 1}
    assert shapes(nobias, "bn3.weight") == weights
    assert shapes(nobn, ("bias", "bn3.weight")) == weights
    assert {name for name in nobn if name.endswith("bias")} == {name.replace("weight", "bias") for name in weights}
    expected = {name.replace(".weight", ".linear.weight"): shape for name, shape in weights.items()}
    expected |= {"conv1.linear.weight": (64, 6, 7, 7), "fc.linear.weight": (1000, 2048, 1, 1)}
    expected |= {name: shape for name, shape in shapes(theirs, "bias").items() if len(shape) == 1}
    assert shapes(bcos, "none") == expected


@pytest.mark.parametrize(("name", "stages"), [("bagnet9", 2), ("bagnet17", 3), ("bagnet33", 4)])
def test_bagnets_see_by_one_3x3_convolution_per_stage(name, stages):
    with torch.device("meta"):
        model = timm.create_model(name)
    wide = [
        name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)
    ]
    assert wide == ["conv2", *(f"layer{i}.0.conv2" for i in range(1, stages + 1))]
    assert [len(stage) for stage in (model.layer1, model.layer2, model.layer3, model.layer4)] == [3, 4, 6, 3]
    assert not any(layer.padding != (0, 0) for layer in model.modules() if isinstance(layer, nn.Conv2d))


def test_vgg16_without_biases_is_timms_vgg16_less_its_biases():
    with torch.device("meta"):
        ours, theirs = timm.create_model("vgg16_nobias"), timm.create_model("vgg16")
    expected = {name: value.shape for name, value in theirs.named_parameters() if not name.endswith("bias")}
    assert {name: value.shape for name, value in ours.named_parameters()} == expected


@pytest.mark.parametrize("name", BAGNETS)
def test_a_position_sees_its_receptive_field_and_nothing_else(name):
    backbone = make_backbone(name)
    network = backbone.model
    images, _ = make_batch(1)
    images.requires_grad_(True)
    features = backbone.split("final").stem(images)
    assert features.shape[-1] == (64 - network.receptive_field) // network.stride + 1
    features[:, :, 2, 1].abs().sum().backward()
    touched = images.grad.abs().sum(dim=(0, 1)) > 0
    rows, cols = touched.any(dim=1).nonzero(), touched.any(dim=0).nonzero()
    field, stride = int(name.removeprefix("bagnet").removesuffix("_small")), network.stride
    assert network.receptive_field == field
    assert (int(rows.min()), int(rows.max())) == (2 * stride, 2 * stride + field - 1)
    assert (int(cols.min()), int(cols.max())) == (stride, stride + field - 1)


def test_bcos_convolution_follows_its_formula():
    torch.manual_seed(0)
    for b in (1.0, 2.0, 2.5):
        layer = BcosConv2d(4, 3, 3, 2, 1, b).double()
        x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
        found = layer(x)
        patches = nn.functional.unfold(x, 3, padding=1, stride=2)
        for n in range(2):
            for k in range(3):
                weight = layer.linear.weight[k].flatten()
                for position in range(patches.shape[2]):
                    patch = patches[n, :, position]
                    cosine = patch @ weight / (patch.norm() * weight.norm())
                    expected = cosine.abs() ** (b - 1) * (patch @ weight) / weight.norm()
                    assert found[n, k].flatten()[position].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)


def test_uncentered_batch_norm_only_scales():
    layer = BatchNormUncentered2d(3).double()
    nn.init.uniform_(layer.weight, 0.5, 2)
    x = torch.randn(6, 3, 5, 5, dtype=torch.float64) * 4 + 3
    out = layer(x)
    std = (x.var(dim=(0, 2, 3), unbiased=False) + layer.eps).sqrt().view(-1, 1, 1)
    assert torch.allclose(out, x / std * layer.weight.view(-1, 1, 1))
    assert torch.allclose(layer.running_var, 0.9 + 0.1 * x.var(dim=(0, 2, 3), unbiased=False))
    assert int(layer.num_batches_tracked) == 1
    x, y = x[:1], layer.eval()(x[:1])
    assert torch.allclose(layer(-2 * x), -2 * y)
    assert list(dict(layer.named_parameters())) == ["weight"]


def test_bcos_sees_the_unnormalized_image_in_six_channels():
    backbone = create_backbone("bcos_resnet10_small", num_classes=3)
    x = torch.rand(2, 3, 8, 8)
    mean, std = (torch.tensor(backbone.data_config[key]).view(-1, 1, 1) for key in ("mean", "std"))
    encoded = backbone.model.encode((x - mean) / std)
    assert torch.allclose(encoded, torch.cat([x, 1 - x], dim=1), atol=1e-6)
    overlay = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    other = create_backbone("bcos_resnet10_small", num_classes=3, pretrained_cfg_overlay=overlay)
    assert other.data_config["mean"] == overlay["mean"]
    assert torch.allclose(other.model.encode((x - 0.5) / 0.25), torch.cat([x, 1 - x], dim=1), atol=1e-6)


def test_an_untrained_bcos_network_starts_at_the_base_rate():
    backbone = create_backbone("bcos_resnet10_small", num_classes=10)
    logits = backbone.eval()(make_batch()[0])
    assert torch.allclose(logits.sigmoid(), torch.full_like(logits, 0.1), atol=0.01)
    backbone.model.reset_classifier(2)
    assert backbone.model.logit_bias == 0


def test_activations_keep_their_scale_through_fifty_layers_without_normalization():
    torch.manual_seed(0)
    backbone = create_backbone("resnet50_nobn_nobias", num_classes=5).eval()
    with torch.no_grad():
        final = backbone.split("final").stem(make_batch(2)[0])
    assert 0.2 < float(final.std()) < 20
