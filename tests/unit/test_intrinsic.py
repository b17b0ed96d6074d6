import math

import pytest
import timm
import torch
from torch import nn

import backbones
from attribution import create_attribution
from backbones import create_backbone
from backbones.bcos import BatchNormUncentered2d, BcosConv2d
from core import InputError

BAGNETS = ["bagnet9_small", "bagnet17_small", "bagnet33_small"]
PLAIN = ["resnet10_nobn_small", "resnet10_nobn_nobias_small", "vgg8_small", "vgg8_nobias_small"]
SMALL = [*BAGNETS, "bcos_resnet10_small", *PLAIN]
LARGE = ["bagnet9", "bagnet17", "bagnet33", "bcos_resnet18", "bcos_resnet50", "resnet50_nobn", "resnet50_nobn_nobias"]


def make_backbone(name: str, dtype: torch.dtype = torch.float32, **arguments):
    """A network whose normalisation has seen data and whose biases aren't 0."""
    torch.manual_seed(0)
    backbone = create_backbone(name, num_classes=5, **arguments)
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in norms:
        module.momentum = 1.0
    backbone.train()(make_batch()[0])
    for module in backbone.modules():
        if getattr(module, "bias", None) is not None and isinstance(module.bias, nn.Parameter):
            nn.init.normal_(module.bias, std=0.1)
    return backbone.eval().to(dtype)


def make_batch(count: int = 3, size: int = 64, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, size, size, generator=generator).to(dtype), torch.tensor([4, 0, 2, 2, 1])[:count]


def target_logits(backbone, images, targets):
    with torch.no_grad():
        return backbone(images).gather(1, targets[:, None]).squeeze(1)


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


@pytest.mark.parametrize("name", BAGNETS)
@pytest.mark.parametrize("place", ["center", "field", "position"])
def test_bagnet_evidence_is_the_logit_of_each_patch_and_sums_to_the_logit(name, place):
    backbone = make_backbone(name)
    network = backbone.model
    images, targets = make_batch()
    maps = create_attribution("bagnet", backbone, place=place)(images, targets)
    assert torch.allclose(maps.sum(dim=(1, 2, 3)), target_logits(backbone, images, targets), atol=1e-4)
    field, stride = network.receptive_field, network.stride
    expected, positions = torch.zeros(3, 1, 64, 64), torch.zeros(3, 1, *[(64 - field) // stride + 1] * 2)
    for i in range(positions.shape[2]):
        for j in range(positions.shape[3]):
            patches = images[:, :, i * stride : i * stride + field, j * stride : j * stride + field]
            evidence = target_logits(backbone, patches, targets) / positions[0].numel()
            positions[:, 0, i, j] = evidence
            middle = (field - stride) // 2
            first, side = (0, field) if place == "field" else (middle, stride)
            top, left = i * stride + first, j * stride + first
            expected[:, 0, top : top + side, left : left + side] += evidence[:, None, None] / side**2
    assert torch.allclose(maps, positions if place == "position" else expected, atol=1e-6)


@pytest.mark.parametrize("name", BAGNETS)
def test_dense_bagnet_evidence_is_the_logit_of_every_patch_of_the_padded_image(name):
    """As the published heat map has it: patches of the receptive field's size at stride 1, one after another."""
    backbone = make_backbone(name, torch.float64)
    images, targets = make_batch(2, 27, torch.float64)
    images = images[..., :21]  # neither square nor a multiple of the stride
    maps = create_attribution("bagnet(place=dense)", backbone, chunk=7)(images, targets)
    assert maps.shape == (2, 1, 27, 21)
    field = backbone.model.receptive_field
    padded = torch.zeros(2, 3, 27 + field - 1, 21 + field - 1, dtype=torch.float64)
    padded[:, :, (field - 1) // 2 : (field - 1) // 2 + 27, (field - 1) // 2 : (field - 1) // 2 + 21] = images
    for row in range(27):
        patches = [padded[:, :, row : row + field, col : col + field] for col in range(21)]
        logits = torch.stack([target_logits(backbone, patch, targets) for patch in patches], dim=1)
        torch.testing.assert_close(maps[:, 0, row], logits, rtol=1e-9, atol=1e-9)


def test_dense_bagnet_evidence_keeps_passes_small_and_counts_them():
    backbone = make_backbone("bagnet9_small")
    images, targets = make_batch(2)
    explain = create_attribution("bagnet(place=dense)", backbone, chunk=5)
    sizes = []
    backbone.model.layer4[0].register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    explain(images, targets)
    assert max(sizes) <= 5
    assert explain.passes == (64, 0)
    assert sum(sizes) == 2 * 64 + 2  # and one patch of each, for the bias


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


def test_uncentred_batch_norm_only_scales():
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


@pytest.mark.parametrize("layer", ["input", "middle", "final"])
@pytest.mark.parametrize("arguments", [{}, {"temperature": 0.05, "logit_bias": -1.5}, {"bottleneck": True}])
def test_bcos_contributions_sum_to_the_logit_without_its_constant(arguments, layer):
    backbone = make_backbone("bcos_resnet10_small", **arguments)
    images, targets = make_batch()
    logits = target_logits(backbone, images, targets)
    maps = create_attribution("bcos", backbone, layer)(images, targets)
    constant = arguments.get("logit_bias", -math.log(4))
    assert (logits - constant).abs().max() > 1e-3
    assert torch.allclose(maps.sum(dim=(1, 2, 3)), logits - constant, rtol=1e-4, atol=1e-6)


def test_bcos_contributions_are_those_of_the_linear_map_written_out():
    """With the factors of all layers frozen, the network is linear: it is fed each pixel of [x, 1 − x] alone."""
    backbone = make_backbone("bcos_resnet10_small", torch.float64)
    images, targets = make_batch(1, 32, torch.float64)
    factors = {}
    layers = [module for module in backbone.modules() if isinstance(module, BcosConv2d)]

    def keep(module, args, output):
        factors[module] = output / module.linear(args[0])

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    encoded = backbone.split("encode").stem(images)
    with torch.no_grad():
        backbone(images)
    for hook in hooks:
        hook.remove()
    frozen = [
        layer.register_forward_hook(
            lambda m, args, output: m.linear(args[0]) * factors[m].expand(len(args[0]), -1, -1, -1)
        )
        for layer in layers
    ]
    rest, constant = backbone.split("encode").rest, backbone.model.logit_bias
    pixels = [(5, 7), (16, 16), (31, 0)]
    alone = torch.zeros(len(pixels), 6, 32, 32, dtype=torch.float64)
    for n, (i, j) in enumerate(pixels):
        alone[n, :, i, j] = encoded[0, :, i, j]
    with torch.no_grad():
        expected = rest(alone)[:, int(targets[0])] - constant
    for hook in frozen:
        hook.remove()
    maps = create_attribution("bcos", backbone)(images, targets)
    found = torch.stack([maps[0, 0, i, j] for i, j in pixels])
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-12)


def test_bcos_sees_the_unnormalised_image_in_six_channels():
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


@pytest.mark.parametrize("name", ["resnet10_nobn_nobias_small", "vgg8_nobias_small"])
@pytest.mark.parametrize("layer", ["input", "middle"])
def test_without_biases_input_times_gradient_is_integrated_gradients(name, layer):
    backbone = make_backbone(name, torch.float64)
    images, targets = make_batch(dtype=torch.float64)
    assert not [parameter for parameter, _ in backbone.named_parameters() if "bias" in parameter]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    ixg, ig = (create_attribution(text, backbone, layer)(images, targets) for text in ("ixg", "ig(steps=4)"))
    assert torch.allclose(ixg, ig, rtol=1e-9, atol=1e-12)
    assert torch.allclose(ixg.sum(dim=(1, 2, 3)), target_logits(backbone, images, targets), rtol=1e-9)
    assert torch.allclose(backbone(3 * images), 3 * backbone(images))
    backbone.model.reset_classifier(2)
    assert not [parameter for parameter, _ in backbone.named_parameters() if "bias" in parameter]


@pytest.mark.parametrize("name", ["resnet10_nobn_small", "vgg8_small"])
def test_with_biases_the_identity_fails(name):
    backbone = make_backbone(name, torch.float64)
    images, targets = make_batch(dtype=torch.float64)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    ixg, ig = (create_attribution(text, backbone)(images, targets) for text in ("ixg", "ig(steps=4)"))
    assert not torch.allclose(ixg, ig, rtol=1e-2)


def test_activations_keep_their_scale_through_fifty_layers_without_normalisation():
    torch.manual_seed(0)
    backbone = create_backbone("resnet50_nobn_nobias", num_classes=5).eval()
    with torch.no_grad():
        final = backbone.split("final").stem(make_batch(2)[0])
    assert 0.2 < float(final.std()) < 20


@pytest.mark.parametrize("name", [*BAGNETS, *PLAIN])
@pytest.mark.parametrize("composite", ["epsilon", "gamma"])
def test_lrp_is_conserved_on_these_networks_without_biases(name, composite):
    backbone = make_backbone(name)
    for module in backbone.modules():
        for value in ("bias", "running_mean"):
            if isinstance(getattr(module, value, None), torch.Tensor):
                nn.init.zeros_(getattr(module, value))
    images, targets = make_batch(2)
    maps = create_attribution("lrp", backbone, composite=composite)(images, targets)
    logits = target_logits(backbone, images, targets)
    assert (maps.sum(dim=(1, 2, 3)) / logits - 1).abs().max() < 1e-3


@pytest.mark.parametrize(("method", "name"), [("bagnet", "bagnet9_small"), ("bcos", "bcos_resnet10_small")])
def test_the_batch_is_its_images_and_the_model_is_left_as_it_was(method, name):
    backbone = make_backbone(name).train()
    images, targets = make_batch(5)
    kept = images.clone()
    state = {key: value.clone() for key, value in backbone.state_dict().items()}
    together = create_attribution(method, backbone)(images, targets)
    apart = create_attribution(method, backbone, chunk=2)(images, targets)
    one = create_attribution(method, backbone)(images[4:], targets[4:])
    assert torch.allclose(together, apart, rtol=1e-5, atol=1e-7)
    assert torch.allclose(together[4:], one, rtol=1e-5, atol=1e-7)
    with pytest.raises(InputError):
        create_attribution(method, backbone)(images, targets + 7)
    assert torch.equal(images, kept)
    assert all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())
    assert backbone.training
    assert not any(getattr(module, "explaining", False) or module._forward_hooks for module in backbone.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in backbone.parameters())


@pytest.mark.parametrize(("method", "name"), [("bagnet", "bagnet9_small"), ("bcos", "bcos_resnet10_small")])
def test_a_timm_model_works_without_a_wrapper(method, name):
    backbone = make_backbone(name)
    images, targets = make_batch()
    wrapped, bare = (create_attribution(method, model)(images, targets) for model in (backbone, backbone.model))
    assert torch.equal(wrapped, bare)


def test_other_networks_layers_and_places_are_refused():
    resnet = create_backbone("resnet10t", num_classes=3)
    with pytest.raises(InputError, match="BagNet"):
        create_attribution("bagnet", resnet)
    with pytest.raises(InputError, match="B-cos"):
        create_attribution("bcos", resnet)
    bagnet = create_backbone("bagnet9_small", num_classes=3)
    with pytest.raises(InputError, match="middle"):
        create_attribution("bagnet", bagnet, "middle")
    with pytest.raises(InputError, match="place"):
        create_attribution("bagnet", bagnet, place="corner")
    with pytest.raises(InputError, match="BcosConv2d"):
        create_attribution("lrp", create_backbone("bcos_resnet10_small", num_classes=3))


class Pairs(nn.Module):
    """A setting: two images side by side through one network; each cell's head pools its half."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def split(self, layer: str = "input", cell: int = 0):
        inner = self.backbone.split(layer)

        def rest(activations):
            features = activations if layer == "final" else self.backbone.split("final").stem(activations)
            half = features.shape[-1] // 2
            return self.backbone.model.forward_head(features[..., :half] if cell == 0 else features[..., half:])

        return backbones.Split(layer, inner.stem, rest, inner.to_map, inner.spread, inner.upsample)


@pytest.mark.parametrize("cell", [0, 1])
def test_in_a_grid_setting_evidence_lies_where_the_head_looks(cell):
    setting = Pairs(make_backbone("bagnet9_small"))
    images, targets = torch.randn(2, 3, 64, 129, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 3])
    maps = create_attribution("bagnet", setting, cell=cell)(images, targets)
    assert maps.shape == (2, 1, 7, 16)
    assert torch.equal(maps[..., 8:] if cell == 0 else maps[..., :8], torch.zeros(2, 1, 7, 8))
    logits = setting.split("input", cell).rest(images).gather(1, targets[:, None]).squeeze(1)
    assert torch.allclose(maps.sum(dim=(1, 2, 3)), logits, atol=1e-5)
