"""Segmentation networks: equal to torchvision's own forward pass, cut anywhere, seen through regions."""

import inspect
import os
import urllib.error

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate
from torchvision.models import get_model

from checkpoints import load_segmenter
from faithfulness.attribution import select_logits
from faithfulness.backbones import Backbone, FcnSegmenter, SegmentationTarget, Segmenter, create_segmenter
from faithfulness.backbones.segmentation import TORCHVISION
from faithfulness.core import InputError

TINY = {"channels": (8, 12, 16, 24), "stem_width": 8, "zero_init_last": False}


class Intruder:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def tiny(classes=4):
    torch.manual_seed(0)
    return create_segmenter("resnet10t", classes, input_size=64, **TINY).eval()


@pytest.fixture(scope="module", params=list(TORCHVISION))
def published(request):
    """Ours with the weights of torchvision's own model, auxiliary head included, through a file."""
    torch.manual_seed(0)
    name = request.param
    aux = {} if name.startswith("lraspp") else {"aux_loss": True}
    theirs = get_model(name, weights=None, weights_backbone=None, num_classes=5, **aux)
    # At its random start the signal dies out in the depth; with the right statistics every branch matters.
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        theirs.train()(torch.randn(4, 3, 64, 64))
    return name, theirs.eval()


@pytest.mark.parametrize("size", [(64, 64), (49, 70)])
def test_torchvision_models_give_torchvisions_logits_and_cut_anywhere(published, size, tmp_path):
    name, theirs = published
    torch.save(theirs.state_dict(), tmp_path / "model.pth")
    ours = load_segmenter(str(tmp_path / "model.pth"), arch=name).model.eval()
    assert ours.num_classes == 5
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = theirs(images)["out"]
        torch.testing.assert_close(ours(images), expected, rtol=1e-5, atol=1e-6)
        for layer in ("input", "middle", "final", ours.layers[-1]):
            stem, rest = ours.split(layer)
            activations = stem(images)
            kept = activations.clone()
            dense = interpolate(rest(activations), size=size, mode="bilinear", align_corners=False)
            torch.testing.assert_close(dense, expected, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(activations, kept, rtol=0, atol=0)
            assert activations.dim() == 4


def test_weights_of_another_count_of_classes_keep_all_but_the_last_layer(published, tmp_path):
    name, theirs = published
    state = {key: value.contiguous() for key, value in theirs.state_dict().items()}
    ours = create_segmenter(name, 7, weights=state).eval()
    assert ours.num_classes == 7
    images = torch.randn(1, 3, 32, 32)
    assert ours(images).shape == (1, 7, 32, 32)
    mine = ours.model.state_dict()
    last = tuple(f"{path}." for path in TORCHVISION[name])
    for key, value in state.items():
        if not key.startswith(("aux_classifier.", *last)):
            assert torch.equal(mine[key], value)


def test_weights_that_cannot_be_had_or_do_not_fit_are_refused(tmp_path, monkeypatch):
    name = "lraspp_mobilenet_v3_large"

    def offline(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "urlopen", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    (tmp_path / "text.pth").write_text("not weights")
    torch.save({"model": 3}, tmp_path / "nested.pth")
    torch.save({"code": Intruder(str(tmp_path / "intruded"))}, tmp_path / "code.pth")
    other, part = {"conv.weight": torch.zeros(1)}, {"classifier.low_classifier.weight": torch.zeros(21, 40, 1, 1)}
    for arguments, message in (
        ({"pretrained": True}, "is there a network.*lraspp_mobilenet_v3_large-d234d4ea.pth.*no route"),
        ({"weights": other}, "classifier.low_classifier.weight is missing"),
        ({"weights": part}, "not weights of"),
        ({"weights": part, "pretrained": True}, "either"),
        ({"drop_rate": 0.1}, "no further arguments"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            create_segmenter(name, **arguments)
        assert "\n" not in str(caught.value)
    for file, message in (("text", "no plain weight file"), ("code", "no plain weight"), ("nested", "no state dict")):
        with pytest.raises(InputError, match=message) as caught:
            load_segmenter(str(tmp_path / f"{file}.pth"), arch=name)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "intruded").exists()
    with pytest.raises(InputError, match=r"did you mean.*fcn_resnet50"):
        create_segmenter("fcn_resnet5", 3)
    with pytest.raises(InputError, match="needs num_classes"):
        create_segmenter("resnet10t")
    with pytest.raises(InputError, match="timm backbone"):
        create_segmenter("resnet10t", 3, weights=other)


@pytest.mark.parametrize(
    ("name", "arguments", "channels", "side"),
    [
        ("resnet10t", TINY, 12 + 24, 8),
        ("test_vit", {}, 64 + 64, 4),
        ("test_convnext", {}, 32 + 64, 8),
        ("test_efficientnet", {}, 24 + 256, 16),
        # Families without a layout:
        ("ghostnet_050", {}, 20 + 80, 8),
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "embed_dim": 12, "depths": (1, 1, 1, 1)}, 24 + 96, 8),
    ],
)
def test_an_fcn_on_any_timm_backbone_is_cut_anywhere(name, arguments, channels, side):
    torch.manual_seed(0)
    model = create_segmenter(name, 4, input_size=64, **arguments).eval()
    assert isinstance(model, Segmenter)
    assert model.input_size == (64, 64)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        assert expected.shape == (2, 4, 64, 64)
        assert expected.std() > 0
        assert model.split("final").stem(images).shape == (2, channels, side, side)
        assert ("middle" in model.layers) == (name not in ("ghostnet_050", "swin_tiny_patch4_window7_224"))
        for layer in [*model.layers[:3], *model.layers[-2:]]:
            cut = model.split(layer)
            activations = cut.stem(images)
            kept = activations.clone()
            dense = interpolate(cut.rest(activations), size=(64, 64), mode="bilinear", align_corners=False)
            torch.testing.assert_close(dense, expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(activations, kept, rtol=0, atol=0)
            weights = torch.zeros(2, 1, *cut.to_map(activations).shape[-2:])
            assert (cut.to_map(activations * cut.spread(weights)) == 0).all()
    with pytest.raises(InputError, match="unknown layer"):
        model.split("nowhere")


def test_the_fcn_sees_an_early_and_the_last_map_and_learns():
    model = tiny().train()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        early = model.split("middle").stem(images)
        fused = model.split("final").stem(images)
    assert early.shape == (2, 12, 8, 8)
    assert fused.shape == (2, 36, 8, 8)
    nn.functional.cross_entropy(model(images), torch.zeros(2, 64, 64, dtype=torch.int64)).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert model.embed(images).shape == (2, 36)


def test_the_fcn_on_an_encoder_that_writes_in_place():
    torch.manual_seed(0)
    first, later = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, stride=2, padding=1)
    encoder = Backbone(nn.Sequential(first, nn.ReLU(inplace=True), later), nn.Identity(), {"middle": "0"})
    model = FcnSegmenter("toy", encoder, 3, {"input_size": (3, 16, 16)}).eval()
    images = torch.randn(2, 3, 16, 16)
    early, late = first(images), later(first(images).relu())
    upsampled = interpolate(late, size=(16, 16), mode="bilinear", align_corners=False)
    expected = model.classifier(torch.cat([early, upsampled], dim=1))
    torch.testing.assert_close(model(images), expected)
    for layer in ("input", "middle", "final"):
        stem, rest = model.split(layer)
        torch.testing.assert_close(rest(stem(images)), expected)


def pairs(count=4, size=64):
    generator = torch.Generator().manual_seed(0)
    regions = torch.rand(count, size, size, generator=generator) < 0.2
    return torch.randn(count, 3, size, size, generator=generator), regions, torch.tensor([3, 0, 0, 2])


@pytest.mark.parametrize("layer", ["input", "middle", "final"])
def test_a_target_is_the_mean_logit_of_its_class_over_its_region(layer):
    model = tiny().double()
    images, regions, classes = pairs()
    images = images.double()
    target = SegmentationTarget(model, regions, classes)
    expected = torch.stack([model(images[i : i + 1])[0, classes[i]][regions[i]].mean() for i in range(4)])
    stem, rest = target.split(layer)
    torch.testing.assert_close(select_logits(rest(stem(images)), target.targets), expected, rtol=0, atol=1e-9)
    # Rows in any order and number keep their region.
    rows = torch.tensor([3, 1, 1])
    found = select_logits(rest(stem(images[rows])), target.targets[rows])
    torch.testing.assert_close(found, expected[rows], rtol=0, atol=1e-9)
    torch.testing.assert_close(select_logits(target(images), target.targets), expected, rtol=0, atol=1e-9)


def test_the_gradient_of_a_target_is_that_of_the_region_mean():
    model = tiny().double()
    images, regions, classes = pairs()
    x = images.double().requires_grad_(True)
    target = SegmentationTarget(model, regions, classes)
    (found,) = torch.autograd.grad(select_logits(target(x), target.targets).sum(), x)
    for i in range(4):
        score = model(x[i : i + 1])[0, classes[i]][regions[i]].mean()
        torch.testing.assert_close(found[i], torch.autograd.grad(score, x)[0][i], rtol=0, atol=1e-9)


def test_probabilities_are_among_the_classes_of_a_region_not_among_pairs():
    model = tiny()
    images, regions, classes = pairs()
    target = SegmentationTarget(model, regions, classes)
    cut = target.split("final")
    found = select_logits(cut.softmax(cut.rest(cut.stem(images))), target.targets)
    for i in range(4):
        means = model(images[i : i + 1])[0][:, regions[i]].mean(dim=1)
        torch.testing.assert_close(found[i], means.softmax(0)[classes[i]])
    plain = model.encoder.split("final")
    logits = torch.randn(2, 3)
    torch.testing.assert_close(plain.softmax(logits), logits.softmax(1))


def test_a_target_takes_any_dense_network_and_new_pairs():
    network = nn.Conv2d(3, 4, 1)
    images, regions, classes = pairs(size=8)
    target = SegmentationTarget(network)
    rest = target.split("input").rest
    with pytest.raises(InputError, match="call aim"):
        rest(images)
    for some in (slice(0, 4), slice(1, 3)):
        targets = target.aim(regions[some], classes[some])
        found = select_logits(rest(images[some]), targets)
        dense = network(images[some])
        expected = [dense[i, c][r].mean() for i, (c, r) in enumerate(zip(classes[some], regions[some], strict=True))]
        torch.testing.assert_close(found, torch.stack(expected))


def test_bad_targets_are_refused():
    images, regions, classes = pairs()
    target = SegmentationTarget(tiny())
    aim = inspect.unwrap(type(target).aim)
    empty = regions.clone()
    empty[2] = False
    for given, message in (
        ((empty, classes), r"empty: \[2\] of 4"),
        ((regions.float(), classes), "bool regions"),
        ((regions[0], classes), r"\(P, H, W\)"),
        ((regions, classes[:2]), r"classes \(4,\)"),
        ((regions, classes.float()), "int64 classes"),
        ((regions, classes - 1), "at least 0"),
    ):
        with pytest.raises(InputError, match=message):
            aim(target, *given)
    targets = target.aim(regions, classes + 4)
    logits = target(images)
    with pytest.raises(InputError, match="targets must lie in"):
        select_logits(logits, targets)
    with pytest.raises(InputError, match=r"gives logits \(B, K, h, w\)"):
        inspect.unwrap(SegmentationTarget.pair_logits)(target, torch.zeros(2, 3))
