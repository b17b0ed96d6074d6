import pytest
import timm
import torch
from torch import nn

from faithfulness.backbones import Backbone, InputOnlyModel, TimmBackbone, as_explainable, create_backbone
from faithfulness.backbones.timm_models import tokens_to_map, weights_to_tokens
from faithfulness.core import InputError
from tests.reference.networks import plain_cnn, small_vgg

LIGHT = [
    "resnet10t",
    "resnet26t",
    "test_convnext",
    "test_vit",
    "test_vit2",
    "vit_conv_small",
    "regnetx_002",
    "efficientnet_b0",
    "mobilenetv3_small_050",
    "densenet121",
]


def build(name):
    torch.manual_seed(0)
    return create_backbone(name, 5, input_size=64).eval()


@pytest.mark.parametrize("name", LIGHT)
def test_every_cut_gives_the_models_own_logits(name):
    backbone, images = build(name), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = backbone.model(images)
        for layer in backbone.layers:
            stem, rest = backbone.split(layer)
            activations = stem(images)
            kept = activations.clone()
            torch.testing.assert_close(rest(activations), expected, rtol=1e-5, atol=1e-5)
            assert torch.equal(activations, kept), f"rest wrote into its input at {layer}"


@pytest.mark.parametrize("name", LIGHT)
def test_taps_lie_where_methods_are_compared(name):
    backbone, images = build(name), torch.randn(1, 3, 64, 64)
    sides = []
    for layer in ("input", "middle", "final"):
        split = backbone.split(layer)
        sides.append(split.to_map(split.stem(images)).shape[-1])
    assert sides[0] == 64 > sides[1] >= sides[2] >= 1


def test_taps_after_their_relu():
    torch.manual_seed(0)
    for backbone in (build("resnet10t"), small_vgg()):
        for layer in ("middle", "final"):
            assert backbone.split(layer).stem(torch.randn(1, 3, 64, 64)).min() == 0


def test_vgg_taps_are_convolutions_five_and_eight():
    backbone = small_vgg()
    convolutions = [name for name, child in backbone.model.features.named_children() if isinstance(child, nn.Conv2d)]
    taps = backbone.layout.taps
    assert (taps["middle"], taps["final"]) == tuple(f"features.{int(convolutions[n]) + 1}" for n in (4, 7))


def test_the_final_tap_of_a_vit_still_reaches_the_logits():
    backbone, images = build("test_vit"), torch.randn(1, 3, 64, 64)
    stem, rest = backbone.split("final")
    activations = stem(images).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(rest(activations)[0, 0], activations)
    assert gradient[:, backbone.model.num_prefix_tokens :].abs().sum() > 0


def test_a_convolutional_stem_halves_once_per_factor_of_two():
    stem = create_backbone("vit_conv_small", 5).model.patch_embed
    assert [layer.stride for layer in stem.proj if isinstance(layer, nn.Conv2d)] == [(2, 2)] * 3
    assert stem(torch.randn(2, 3, 64, 64)).shape == (2, 64, 64)
    with pytest.raises(InputError, match="no power of two"):
        create_backbone("vit_conv_small", 5, patch_size=6)


def test_tokens_and_maps():
    tokens = torch.arange(2 * 13 * 4.0).view(2, 13, 4)
    maps = tokens_to_map(tokens, prefix=1, grid=(3, 4))
    assert maps.shape == (2, 4, 3, 4)
    assert torch.equal(maps[1, :, 2, 3], tokens[1, 12])
    weights = torch.rand(2, 1, 3, 4)
    spread = weights_to_tokens(weights, prefix=1)
    assert torch.equal(tokens_to_map(spread, 1, (3, 4)), weights)
    assert (spread[:, 0] == 1).all()
    with pytest.raises(InputError, match="form neither"):
        tokens_to_map(tokens[:, :12], prefix=1, grid=(3, 4))


def test_own_backbone():
    backbone, images = plain_cnn(), torch.randn(2, 3, 16, 16)
    for layer in ("input", "middle", "final", "0", "2"):
        stem, rest = backbone.split(layer)
        torch.testing.assert_close(rest(stem(images)), backbone(images), rtol=0, atol=0)
    assert backbone.split("middle").stem(images).shape == (2, 8, 16, 16)
    with pytest.raises(InputError, match="did you mean middle"):
        backbone.split("midle")
    with pytest.raises(InputError, match="submodule for tap 'middle' '9'"):
        Backbone(backbone.features, backbone.head, taps={"middle": "9"})


def test_nested_sequentials_can_be_cut_anywhere():
    inner = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 5, 1)))
    backbone = Backbone(inner, nn.Flatten(), taps={"middle": "1.0", "outer": "1"})
    images = torch.randn(1, 3, 4, 4)
    assert backbone.split("middle").stem(images).shape[1] == 4
    assert backbone.split("outer").stem(images).shape[1] == 5


@pytest.mark.parametrize("name", ["resnetv2_50", "test_mambaout"])
def test_a_model_without_a_layout_says_so_and_works_at_the_input(name):
    backbone = create_backbone(name, 5).eval()
    assert backbone.layers == ["input"]
    stem, rest = backbone.split("input")
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(rest(stem(images)), backbone(images))
    with pytest.raises(InputError, match=f"{name} offers no split into layers"):
        backbone.split("final")


def test_any_module_is_explained_at_its_input():
    model = as_explainable(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)))
    assert isinstance(model, InputOnlyModel)
    assert model.split().rest(torch.zeros(1, 3, 2, 2)).shape == (1, 2)
    assert as_explainable(plain_cnn()).split("final").layer == "final"


def test_unknown_names_and_arguments_are_refused():
    with pytest.raises(InputError, match="unknown timm model 'resnet19'; did you mean resnet18"):
        create_backbone("resnet19")
    with pytest.raises(InputError, match="timm could not build resnet18"):
        create_backbone("resnet18", 3, nonsense=1)


def test_no_network_for_pretrained_weights_is_one_line(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(InputError, match=r"no pretrained weights for resnet18 \(OSError\); is there a network\?"):
        create_backbone("resnet18", pretrained=True)


def test_data_config_is_timms_own():
    backbone = create_backbone("resnet18", 7)
    assert backbone.input_size == (224, 224)
    assert backbone.data_config["mean"] == timm.get_pretrained_cfg("resnet18").mean
    assert create_backbone("test_vit", 7, input_size=64).input_size == (64, 64)
    assert backbone.num_classes == 7


@pytest.mark.parametrize("size", [64, (64, 64), [64, 64]])
def test_timms_own_word_for_the_size(size):
    small = {"embed_dim": 24, "depth": 2, "num_heads": 3}
    backbone = create_backbone("vit_tiny_patch16_224", 5, img_size=size, **small).eval()
    assert backbone.input_size == (64, 64)
    assert backbone.data_config["input_size"] == (3, 64, 64)
    images = torch.randn(2, 3, 64, 64)
    split = backbone.split("final")
    assert split.to_map(split.stem(images)).shape[-2:] == (4, 4)
    torch.testing.assert_close(split.rest(split.stem(images)), backbone(images), rtol=1e-5, atol=1e-5)
    own = TimmBackbone(timm.create_model("vit_tiny_patch16_224", img_size=size, **small))
    assert (own.input_size, "final" in own.layers) == ((64, 64), True)
    with pytest.raises(InputError, match="one size of images, got input_size=96 and img_size="):
        create_backbone("vit_tiny_patch16_224", 5, input_size=96, img_size=size, **small)


def test_sizes_that_are_not_square_and_free_ones():
    backbone = create_backbone("test_vit", 5, img_size=(64, 96)).eval()
    assert backbone.input_size == (64, 96)
    split = backbone.split("final")
    assert split.to_map(split.stem(torch.randn(1, 3, 64, 96))).shape[-2:] == (4, 6)
    free = create_backbone("test_vit", 5, img_size=64, dynamic_img_size=True).eval()
    assert free.input_size == (64, 64)
    assert free(torch.randn(1, 3, 96, 96)).shape == (1, 5)
