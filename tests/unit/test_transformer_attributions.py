import pytest
import timm
import torch
from torch import nn

from faithfulness.attribution import create_attribution
from faithfulness.attribution.transformers import chefer_step, rollout_step
from faithfulness.backbones import Backbone, InputOnlyModel, create_backbone
from faithfulness.core import InputError
from faithfulness.core.resize import resize_maps
from tests.reference.plain_transformer import (
    plain_chefer,
    plain_chefer_lrp,
    plain_grad_cam_on_attention,
    plain_rollout,
)

SMALL = {"num_classes": 5, "embed_dim": 24, "depth": 3, "num_heads": 3, "input_size": 64}


def make_backbone(name: str = "vit_tiny_patch16_224", **arguments):
    """A small transformer whose attention is far from uniform."""
    torch.manual_seed(0)
    backbone = create_backbone(name, **{**SMALL, **arguments}).eval()
    for block in backbone.model.blocks:
        nn.init.normal_(block.attn.qkv.weight, std=0.5)
        if block.attn.qkv.bias is not None:
            nn.init.normal_(block.attn.qkv.bias, std=0.5)
    return backbone


def make_batch(count: int = 3, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 64, 64, generator=generator, dtype=dtype), torch.tensor([4, 0, 2, 2, 1])[:count]


POOLINGS = [
    {"global_pool": "token"},
    {"global_pool": "avg"},
    {"global_pool": "avg", "class_token": False, "reg_tokens": 2},
]


@pytest.mark.parametrize("arguments", POOLINGS)
@pytest.mark.parametrize(
    "parameters",
    [{}, {"fusion": "max"}, {"fusion": "min", "residual": 0.2}, {"discard": 0.4}, {"residual": 0.0}, {"start": 1}],
)
def test_rollout_follows_the_plain_version_of_one_image(arguments, parameters):
    backbone = make_backbone(**arguments).double()
    images, targets = make_batch()
    maps = create_attribution("rollout", backbone, **parameters)(images, targets)
    assert maps.shape == (3, 1, 4, 4)
    for image, found in zip(images, maps, strict=True):
        assert torch.allclose(found[0], plain_rollout(backbone.model, image, **parameters), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("arguments", POOLINGS)
def test_chefer_follows_the_plain_version_of_one_image(arguments):
    backbone = make_backbone(**arguments).double()
    images, targets = make_batch()
    maps = create_attribution("chefer", backbone)(images, targets)
    assert maps.shape == (3, 1, 4, 4)
    for image, target, found in zip(images, targets.tolist(), maps, strict=True):
        plain = plain_chefer(backbone.model, image.clone(), target)
        assert float(plain.abs().max()) > 0
        assert torch.allclose(found[0], plain, rtol=1e-9, atol=1e-12)


# The rule for skip connections divides by sums that cross 0: even in double precision six digits are lost.
@pytest.mark.parametrize("arguments", [*POOLINGS, {"qk_norm": True, "init_values": 0.5}])
@pytest.mark.parametrize("start", [0, 1, 2])
def test_cheferlrp_follows_the_plain_version_of_one_image(arguments, start):
    backbone = make_backbone(**arguments).double()
    images, targets = make_batch()
    maps = create_attribution("CheferLRP", backbone, start=start, chunk=2)(images, targets)
    assert maps.shape == (3, 1, 4, 4)
    for image, target, found in zip(images, targets.tolist(), maps, strict=True):
        plain = plain_chefer_lrp(backbone.model, image, target, start)
        assert float(plain.max()) > 0
        assert torch.allclose(found[0], plain, rtol=1e-6, atol=1e-6 * float(plain.max()))


def test_cheferlrp_starts_at_the_second_block_and_takes_plain_vits_only():
    backbone = make_backbone().double()
    images, targets = make_batch()
    maps = create_attribution("cheferlrp", backbone)(images, targets)
    assert torch.equal(maps, create_attribution("cheferlrp(start=1)", backbone)(images, targets))
    assert not torch.allclose(maps, create_attribution("cheferlrp(start=0)", backbone)(images, targets))
    for name in ("deit_tiny_distilled_patch16_224", "beit_base_patch16_224"):
        with pytest.raises(InputError, match="cheferlrp needs a ViT of plain blocks"):
            create_attribution("cheferlrp", create_backbone(name, **SMALL))
    for method in ("cheferlrp", "rollout"):
        with pytest.raises(InputError, match=r"start must lie in 0 … 2, got 3"):
            create_attribution(method, backbone, start=3)
    with pytest.raises(InputError, match="logit only"):
        create_attribution("cheferlrp(output=probability)", backbone)


@pytest.mark.parametrize("arguments", POOLINGS)
def test_grad_cam_on_attention_follows_the_plain_version_of_one_image(arguments):
    backbone = make_backbone(**arguments).double()
    images, targets = make_batch()
    maps = create_attribution("gradcam-attention", backbone)(images, targets)
    for image, target, found in zip(images, targets.tolist(), maps, strict=True):
        plain = plain_grad_cam_on_attention(backbone.model, image.clone(), target)
        assert torch.allclose(found[0], plain, rtol=1e-9, atol=1e-12)
    assert maps.max() > 0
    signed = create_attribution("gradcam-attention(relu=False)", backbone)(images, targets)
    assert signed.min() < 0
    assert torch.equal(signed.relu(), maps)


def test_a_distilled_transformer_is_read_at_both_of_its_tokens():
    backbone = make_backbone("deit_tiny_distilled_patch16_224").double()
    images, targets = make_batch()
    steps = []

    def keep(module, args, output):
        steps.append(output.detach())

    maps = create_attribution("rollout", backbone)(images, targets)
    fused = [block.attn.fused_attn for block in backbone.model.blocks]
    hooks = [block.attn.attn_drop.register_forward_hook(keep) for block in backbone.model.blocks]
    for block in backbone.model.blocks:
        block.attn.fused_attn = False
    with torch.no_grad():
        backbone(images)
    for block, hook, flag in zip(backbone.model.blocks, hooks, fused, strict=True):
        block.attn.fused_attn = flag
        hook.remove()
    relevance = None
    for attention in steps:
        relevance = rollout_step(relevance, attention)
    expected = (relevance[:, 0, 2:] + relevance[:, 1, 2:]) / 2
    assert torch.allclose(maps.flatten(1), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("beit_base_patch16_224", {}), ("eva02_tiny_patch14_224", {"input_size": 56}), ("test_vit", {"depth": 2})],
)
@pytest.mark.parametrize("method", ["rollout", "chefer"])
def test_other_families_with_the_same_attention_work(method, name, arguments):
    torch.manual_seed(0)
    backbone = create_backbone(name, **{**SMALL, **arguments}).eval()
    images = torch.randn(2, 3, *backbone.input_size)
    maps = create_attribution(method, backbone)(images, torch.tensor([1, 3]))
    assert maps.shape == (2, 1, 4, 4)
    assert torch.isfinite(maps).all()
    assert maps.flatten(1).std(dim=1).min() > 0


@pytest.mark.parametrize("method", ["rollout", "chefer", "cheferlrp", "gradcam-attention"])
def test_the_batch_is_its_images_whatever_the_chunk(method):
    backbone = make_backbone()
    images, targets = make_batch(5, torch.float32)
    together = create_attribution(method, backbone)(images, targets)
    for chunk in (1, 2):
        apart = create_attribution(method, backbone, chunk=chunk)(images, targets)
        assert torch.allclose(together, apart, rtol=1e-5, atol=1e-7)
    one = create_attribution(method, backbone)(images[3:4], targets[3:4])
    assert torch.allclose(one, together[3:4], rtol=1e-5, atol=1e-7)


def test_only_chefer_depends_on_the_target():
    backbone = make_backbone()
    images, targets = make_batch(3, torch.float32)
    others = (targets + 1) % 5
    for method, same in (("rollout", True), ("chefer", False)):
        explain = create_attribution(method, backbone)
        assert torch.equal(explain(images, targets), explain(images, others)) == same


@pytest.mark.parametrize("method", ["rollout", "chefer", "cheferlrp", "gradcam-attention"])
def test_the_model_is_left_as_it_was_even_after_an_error(method):
    backbone = make_backbone().train()
    backbone.model.set_grad_checkpointing(True)
    backbone.model.blocks[1].attn.fused_attn = False
    flags = [block.attn.fused_attn for block in backbone.model.blocks]
    images, targets = make_batch(2, torch.float32)
    explain = create_attribution(method, backbone)
    explain(images, targets)
    with pytest.raises(InputError):
        create_attribution("chefer", backbone)(images, targets + 9)
    with pytest.raises(AssertionError):
        explain(torch.randn(2, 3, 32, 32), targets)
    assert [block.attn.fused_attn for block in backbone.model.blocks] == flags
    assert backbone.model.grad_checkpointing
    assert backbone.training
    assert not any(module._forward_hooks for module in backbone.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in backbone.parameters())


@pytest.mark.parametrize("method", ["rollout", "chefer", "cheferlrp", "gradcam-attention"])
def test_networks_without_visible_attention_and_other_layers_are_refused(method):
    for name in ("resnet10t", "test_convnext", "swin_tiny_patch4_window7_224", "xcit_nano_12_p16_224"):
        with pytest.raises(InputError, match=name):
            create_attribution(method, create_backbone(name, num_classes=2))
    with pytest.raises(InputError, match="attention"):
        create_attribution(method, Backbone(nn.Conv2d(3, 4, 3), nn.Flatten()))
    with pytest.raises(InputError, match="global_pool"):
        create_attribution(method, make_backbone(global_pool="max"))
    with pytest.raises(InputError, match="input"):
        create_attribution(method, make_backbone(), "middle")


class Quarters(nn.Module):
    """A grid of four images, each through the network by itself."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images):
        rows = [part for half in images.chunk(2, dim=2) for part in half.chunk(2, dim=3)]
        return self.model(torch.cat(rows)).unflatten(0, (4, -1)).mean(dim=0)


@pytest.mark.parametrize("method", ["rollout", "chefer", "cheferlrp", "gradcam-attention"])
def test_a_grid_of_images_is_refused_rather_than_misread(method):
    explain = create_attribution(method, Quarters(make_backbone().model))
    with pytest.raises(InputError, match="grid"):
        explain(torch.randn(2, 3, 128, 128), torch.tensor([0, 1]))


def test_parameters_are_checked():
    backbone = make_backbone()
    for parameters in ({"fusion": "sum"}, {"discard": 1.0}, {"residual": 1.5}, {"discard": 0.5, "residual": 0.0}):
        with pytest.raises(InputError):
            create_attribution("rollout", backbone, **parameters)


def test_a_timm_model_without_wrapper_works_and_maps_are_nearest_tokens():
    backbone = make_backbone()
    images, targets = make_batch(2, torch.float32)
    explain = create_attribution("rollout", InputOnlyModel(backbone.model))
    maps = explain(images, targets)
    assert torch.equal(maps, create_attribution("rollout", backbone)(images, targets))
    assert explain.upsample == "nearest"
    assert torch.equal(resize_maps(maps, (64, 64), explain.upsample)[:, :, ::16, ::16], maps)


def test_rows_of_rollout_sum_to_one_and_passes_are_counted():
    attention = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)).softmax(dim=-1)
    relevance = rollout_step(rollout_step(None, attention), attention, "max", 0.3)
    assert torch.allclose(relevance.sum(dim=-1), torch.ones(2, 6))
    model = timm.create_model("test_vit", num_classes=3)
    assert create_attribution("rollout", model).passes == (1, 0)
    assert create_attribution("chefer", model).passes == (1, 1)


def test_negative_gradients_leave_no_relevance():
    attention = torch.rand(1, 2, 4, 4)
    assert torch.equal(chefer_step(None, attention, -torch.rand(1, 2, 4, 4)), torch.zeros(1, 4, 4))


@pytest.mark.parametrize("method", ["rollout", "chefer"])
def test_bfloat16_gives_finite_float_maps(method):
    backbone = make_backbone()
    images, targets = make_batch(2, torch.float32)
    explain = create_attribution(method, backbone)
    exact = explain(images, targets)
    with torch.autocast("cpu", torch.bfloat16):
        rough = explain(images, targets)
    assert rough.dtype == torch.float32
    assert torch.allclose(rough, exact, rtol=0.2, atol=0.1 * float(exact.abs().max()))
