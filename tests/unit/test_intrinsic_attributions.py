"""What BagNets and B-cos networks say of themselves, and what other methods say of networks without biases."""

import math

import pytest
import torch
from torch import nn

from faithfulness import backbones
from faithfulness.attribution import create_attribution
from faithfulness.backbones import create_backbone
from faithfulness.backbones.networks.bcos import BcosConv2d
from faithfulness.core import InputError
from tests.reference.intrinsic_networks import BAGNETS, PLAIN, make_backbone, make_batch, target_logits


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


@pytest.mark.parametrize("name", ["resnet10_nobn_nobias_small", "vgg8_nobias_small", "x_resnet14_small"])
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
