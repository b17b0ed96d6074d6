"""GridPG, DiFull, DiPart: what each head computes, and that building one changes nothing."""

from functools import cache

import pytest
import timm
import torch
from torch import nn

from difull import DiFull, DiPart, GridPG, compose_grid, cut_cells, impossible_attribution, localization_score
from difull.cells import crop_cell
from faithfulness.attribution import ATTRIBUTIONS, create_attribution
from faithfulness.backbones import Backbone, InputOnlyModel, create_backbone
from faithfulness.backbones.vit_grid import cell_mask
from faithfulness.core import InputError
from tests.reference.grids import CELL, MODELS, plain_cnn, tiny_resnet, tiny_vgg, tiny_vit

GRID_SETTINGS = {"GridPG": GridPG, "DiFull": DiFull, "DiPart": DiPart}
GRADIENT_METHODS = [
    text
    for text in (
        "grad",
        "gb",
        "ixg",
        "ig(steps=3)",
        "ig-u(steps=3)",
        "sg(samples=2)",
        "ixg-sg(samples=2)",
        "ig-sg(samples=2, steps=2)",
        "ig-sg-sq(samples=2, steps=2)",
        "layercam",
    )
    if text.partition("(")[0] in ATTRIBUTIONS
]


@cache
def model(name):
    return MODELS[name]()


@cache
def grids(count=2, side=2 * CELL):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def test_compose_grid_places_cells_row_by_row():
    images = torch.arange(2 * 9).float().view(2, 9, 1, 1, 1).expand(2, 9, 3, 2, 4)
    grid = compose_grid(images, 3)
    assert grid.shape == (2, 3, 6, 12)
    assert torch.equal(grid[1, 0, ::2, ::4], torch.arange(9, 18).float().view(3, 3))
    assert torch.equal(compose_grid(images.flatten(0, 1), 3), grid)
    assert torch.equal(cut_cells(grid, 3), images)
    assert torch.equal(crop_cell(grid, 5, 3), images[:, 5])


def test_compose_grid_refuses_other_counts():
    with pytest.raises(InputError, match=r"expected images \(B, 4, C, h, w\)"):
        compose_grid(torch.zeros(5, 3, 2, 2), 2)
    with pytest.raises(InputError, match="scale must be a whole number"):
        compose_grid(torch.zeros(4, 3, 2, 2), 0)


@pytest.mark.parametrize("name", MODELS)
def test_difull_is_the_model_on_the_cell(name):
    setting = DiFull(model(name), 2)
    for cell in range(4):
        alone = model(name)(crop_cell(grids(), cell, 2))
        assert torch.equal(setting(grids(), cell), alone)
    assert torch.equal(setting.heads(grids())[:, 3], alone)


@pytest.mark.parametrize("name", ["resnet", "vgg", "convnext"])
def test_dipart_gives_the_head_one_part_of_the_features(name):
    backbone, setting = model(name), DiPart(model(name), 2)
    features = backbone.layout.features(grids())
    for cell in range(4):
        expected = backbone.layout.head(cut_cells(features, 2)[:, cell])
        assert torch.allclose(setting(grids(), cell), expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(setting.heads(grids())[:, cell], setting(grids(), cell))


@pytest.mark.parametrize("name", ["resnet", "convnext"])
def test_gridpg_pools_over_the_whole_grid(name):
    setting = GridPG(model(name), 2)
    assert torch.allclose(setting(grids()), model(name)(grids()), rtol=1e-5, atol=1e-6)
    assert torch.equal(setting(grids(), 3), setting(grids(), 0))
    assert torch.equal(setting.heads(grids())[:, 2], setting(grids()))


def test_gridpg_slides_a_flattening_classifier_as_a_convolution():
    torch.manual_seed(0)
    first, second = nn.Linear(6 * 3 * 4, 7), nn.Linear(7, 5)
    features = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d((3, 4)), nn.Flatten(), first, nn.ReLU(), second)
    images = torch.randn(2, 3, 18, 24)
    found = GridPG(Backbone(features, head), 3)(images)
    kernel = first.weight.view(7, 6, 3, 4)
    hidden = nn.functional.conv2d(features(images), kernel, first.bias).relu()
    expected = nn.functional.conv2d(hidden, second.weight[:, :, None, None], second.bias).mean(dim=(2, 3))
    assert hidden.shape[-2:] == (7, 9)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_gridpg_slides_timms_vgg_also_where_timm_would_stretch_the_features():
    native = tiny_vgg(size=56, pools=3)
    images = torch.randn(1, 3, 112, 112)
    assert torch.allclose(GridPG(native, 2)(images), native(images), rtol=1e-5, atol=1e-6)
    small = model("vgg")  # features of 2×2 for a cell, which timm stretches to its 7×7 window
    features = small.layout.features(grids())
    windows = [small.layout.head(features[:, :, i : i + 2, j : j + 2]) for i in range(3) for j in range(3)]
    assert torch.allclose(GridPG(small, 2)(grids()), torch.stack(windows).mean(dim=0), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(small(grids()), torch.stack(windows).mean(dim=0), rtol=1e-2)


@pytest.mark.parametrize("arguments", [{}, {"reg_tokens": 2, "no_embed_class": True}, {"global_pool": "avg"}])
def test_gridpg_resamples_positions_like_timms_dynamic_transformer(arguments):
    backbone = tiny_vit(**arguments)
    small = {"img_size": CELL, "depth": 3, "embed_dim": 48, "num_classes": 5}
    dynamic = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True, **{**small, **arguments}).eval()
    dynamic.load_state_dict(backbone.model.state_dict())
    assert torch.allclose(GridPG(backbone, 2)(grids()), dynamic(grids()), rtol=1e-4, atol=1e-6)


def test_gridpg_takes_a_convolutional_stem_too():
    torch.manual_seed(0)
    backbone = create_backbone("vit_conv_small", 5, input_size=CELL).eval()
    dynamic = timm.create_model("vit_conv_small", num_classes=5, img_size=CELL, dynamic_img_size=True).eval()
    dynamic.load_state_dict(backbone.model.state_dict())
    assert torch.allclose(GridPG(backbone, 2)(grids()), dynamic(grids()), rtol=1e-4, atol=1e-6)


def test_dipart_of_a_transformer_without_prefix_pools_the_cells_tokens():
    backbone = tiny_vit(global_pool="avg", class_token=False)
    tokens = GridPG(backbone, 2).split("final").stem(grids())
    tokens = backbone.model.norm(tokens).unflatten(1, (2, 4, 2, 4))
    for cell in range(4):
        part = tokens[:, cell // 2, :, cell % 2].flatten(1, 2)
        expected = backbone.model.forward_head(part)
        assert torch.allclose(DiPart(backbone, 2)(grids(), cell), expected, rtol=1e-4, atol=1e-6)


def test_dipart_of_a_transformer_has_a_class_token_for_each_cell():
    backbone = tiny_vit(depth=1)
    backbone.model.pos_embed.zero_()  # one block, no positions: the class token sees its cell as it is
    for cell in range(4):
        expected = backbone(crop_cell(grids(), cell, 2))
        assert torch.allclose(DiPart(backbone, 2)(grids(), cell), expected, rtol=1e-4, atol=1e-6)


def test_cell_mask_slowly():
    prefix, size, cells = 2, 5, 3
    mask = cell_mask(torch.zeros(1, cells * size, 4), prefix, cells)
    for reader in range(cells * size):
        for token in range(cells * size):
            same = reader // size == token // size
            both_patches = reader % size >= prefix and token % size >= prefix
            assert mask[reader, token] == (0 if same or both_patches else -torch.inf)


@pytest.mark.parametrize("setting", GRID_SETTINGS.values())
@pytest.mark.parametrize("name", MODELS)
def test_scale_one_is_the_model(name, setting):
    images = grids()[..., :CELL, :CELL]
    assert torch.allclose(setting(model(name), 1)(images), model(name)(images), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("setting", GRID_SETTINGS.values())
@pytest.mark.parametrize("name", MODELS)
def test_split_puts_the_whole_grid_before_the_cut(name, setting):
    built = setting(model(name), 2)
    logits = built(grids(), 1)
    for layer in built.layers:
        split = built.split(layer, 1)
        before = grids().clone()
        activations = split.stem(before)
        kept = activations.clone()
        assert torch.allclose(split.rest(activations), logits, rtol=1e-5, atol=1e-6)
        assert torch.equal(before, grids())
        assert torch.equal(activations, kept)
        maps = split.to_map(activations)
        assert maps.shape[0] == 2
        assert maps.shape[2] == maps.shape[3]
        weights = split.spread(torch.ones_like(maps[:, :1]))
        assert torch.equal((activations * weights), activations)
    assert split.layer == layer


@pytest.mark.parametrize("name", MODELS)
def test_difull_stem_lays_out_each_cells_own_activations(name):
    split, single = DiFull(model(name), 2).split("middle"), model(name).split("middle")
    maps = split.to_map(split.stem(grids()))
    for cell in range(4):
        alone = single.to_map(single.stem(crop_cell(grids(), cell, 2)))
        assert torch.allclose(cut_cells(maps, 2)[:, cell], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_spread_hides_one_cell_and_only_that(name):
    split = DiFull(model(name), 2).split("middle", cell=1)
    activations = split.stem(grids())
    weights = torch.ones_like(split.to_map(activations)[:, :1])
    side = weights.shape[-1] // 2
    weights[..., :side, side:] = 0
    hidden = split.to_map(activations * split.spread(weights))
    assert torch.equal(hidden, split.to_map(activations) * weights)


@pytest.mark.parametrize("layer", ["input", "middle", "final"])
@pytest.mark.parametrize("name", MODELS)
def test_gradient_methods_are_perfectly_local_in_difull(name, layer):
    setting = DiFull(model(name), 2)
    for cell in (0, 3):
        targets = setting(grids(), cell).argmax(dim=1)
        for method in GRADIENT_METHODS:
            maps = create_attribution(method, setting, layer=layer, cell=cell)(grids(), targets)
            assert localization_score(maps, cell, 2).tolist() == [1.0, 1.0], method
            assert impossible_attribution(maps, cell, 2).tolist() == [0.0, 0.0], method
            assert localization_score(maps, 1, 2).tolist() == [0.0, 0.0]


def test_occlusion_runs_in_every_setting_and_sees_what_the_head_sees():
    for setting in GRID_SETTINGS.values():
        explain = create_attribution("occlusion(kernel=16, stride=16)", setting(plain_cnn(), 2), cell=3)
        maps = explain(grids(1, 64), torch.tensor([2]))
        inside, far = crop_cell(maps, 3, 2).abs().max(), maps[..., :16, :16].abs().max()
        assert inside > 1e-5
        assert (far < 1e-3 * inside) == (setting is not GridPG)  # not 0: a logit's rounding depends on its batch


def test_building_a_setting_changes_neither_the_model_nor_another_setting():
    backbone = tiny_vgg()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    modules = [type(module) for module in backbone.modules()]
    first = GridPG(backbone, 2)
    alone, logits = backbone(grids()[..., :CELL, :CELL]), first(grids())
    backbone.train()
    built = [setting(backbone, scale) for setting in GRID_SETTINGS.values() for scale in (2, 3)]
    assert all(module.training for module in backbone.modules())
    backbone.eval()
    for setting in built:
        setting(torch.zeros(1, 3, setting.scale * CELL, setting.scale * CELL))
        assert setting.name == backbone.name
        assert setting.layers == backbone.layers
        assert [id(p) for p in setting.parameters()] == [id(p) for p in backbone.parameters()]
    assert torch.equal(first(grids()), logits)
    assert torch.equal(backbone(grids()[..., :CELL, :CELL]), alone)
    assert [type(module) for module in backbone.modules()] == modules
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.modules())


def test_training_through_the_heads_reaches_the_shared_parameters():
    backbone = plain_cnn().train()
    with torch.enable_grad():
        logits = DiPart(backbone, 2).heads(grids(2, 32))
        nn.functional.cross_entropy(logits.flatten(0, 1), torch.arange(8) % 5).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in backbone.parameters())
    assert backbone.training


def test_a_model_without_layers_is_explained_at_its_input():
    plain = InputOnlyModel(plain_cnn().features[:1].append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten()))
    images = grids(2, 32)
    assert torch.equal(DiFull(plain, 2)(images, 2), plain(crop_cell(images, 2, 2)))
    assert torch.equal(GridPG(plain, 2)(images), plain(images))
    assert DiFull(plain, 2).layers == ["input"]
    with pytest.raises(InputError, match="no split into layers"):
        DiPart(plain, 2)(images)
    with pytest.raises(InputError, match="explained at layer 'input' only"):
        DiFull(plain, 2).split("final")


def test_refusals_are_input_errors():
    backbone, images = model("resnet"), grids()
    with pytest.raises(InputError, match=r"cell of a 2×2 grid must lie in 0 … 3, got 4"):
        DiFull(backbone, 2)(images, cell=4)
    with pytest.raises(InputError, match="128×128 can't be cut into 3×3"):
        GridPG(backbone, 3)(images)
    with pytest.raises(InputError, match=r"float images \(B, C, H, W\)"):
        DiPart(backbone, 2).split("input").rest(images[0])
    with pytest.raises(InputError, match="middle"):
        DiFull(backbone, 2).split("midle")
    with pytest.raises(InputError, match="scale must be"):
        DiFull(backbone, 0)
    with pytest.raises(InputError, match="expected a backbone, got the setting DiFull"):
        DiPart(DiFull(backbone, 2), 2)
    with pytest.raises(InputError, match="features of resnet10t"):
        DiPart(backbone, 3)(torch.zeros(1, 3, 120, 120))


@pytest.mark.parametrize("setting", GRID_SETTINGS.values())
def test_a_transformer_refuses_cells_of_another_size(setting):
    with pytest.raises(InputError, match=r"64|48"):
        setting(model("vit"), 2)(torch.zeros(1, 3, 96, 96))


def test_a_transformer_with_its_own_embedding_is_refused_in_gridpg_but_not_in_difull():
    backbone = create_backbone("deit_tiny_distilled_patch16_224", 5, input_size=32, img_size=32, depth=1)
    images = grids(1, 64)
    assert DiFull(backbone.eval(), 2)(images).shape == (1, 5)
    with pytest.raises(InputError, match="can't be resampled"):
        GridPG(backbone, 2)(images)


def test_gridpg_and_dipart_differ_from_difull_where_cells_meet():
    backbone = tiny_resnet()
    logits = {name: setting(backbone, 2)(grids()) for name, setting in GRID_SETTINGS.items()}
    assert not torch.allclose(logits["DiFull"], logits["DiPart"], rtol=1e-3)
    assert not torch.allclose(logits["GridPG"], logits["DiPart"], rtol=1e-3)
