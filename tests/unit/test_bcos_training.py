"""B-cos networks are trained and fed as published: loss, normalization, and what a deleted pixel is."""

import json

import pytest
import torch
from torch import nn

from checkpoints import load_model, save_checkpoint
from faithfulness.backbones import create_backbone
from faithfulness.core import DeletionSpec
from faithfulness.data import normalize, open_data
from training.optimization import loss_function
from training.patch_finetune import main

BCOS = ["bcos_resnet10_small", "bcos_resnet18", "bcos_resnet50"]
TINY = ["--train-images", "32", "--val-images", "16", "--batch-size", "16", "--epochs", "1", "--accelerator", "cpu"]


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_the_loss_is_the_mean_over_batch_and_classes(classes):
    logits, labels = torch.randn(6, classes, dtype=torch.float64), torch.arange(6) % classes
    one_hot = torch.zeros_like(logits)
    one_hot[range(6), labels] = 1
    found = loss_function("binary_cross_entropy")(logits, labels)
    torch.testing.assert_close(found, nn.BCEWithLogitsLoss()(logits, one_hot), rtol=1e-12, atol=0)
    chances = logits.sigmoid()
    by_hand = -(one_hot * chances.log() + (1 - one_hot) * (1 - chances).log()).sum() / (6 * classes)
    torch.testing.assert_close(found, by_hand, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("model", "asked", "expected"),
    [
        ("bcos_resnet10_small", [], "binary_cross_entropy"),
        ("bcos_resnet10_small", ["--loss", "cross_entropy"], "cross_entropy"),
        ("test_convnext", [], "cross_entropy"),
        ("test_convnext", ["--loss", "binary_cross_entropy"], "binary_cross_entropy"),
    ],
)
def test_the_backbone_chooses_the_loss_unless_it_is_given(tmp_path, monkeypatch, model, asked, expected):
    used = []
    for kind in (nn.CrossEntropyLoss, nn.BCEWithLogitsLoss):

        def forward(self, logits, labels, kind=kind, original=kind.forward):
            used.append(kind)
            return original(self, logits, labels)

        monkeypatch.setattr(kind, "forward", forward)
    out = tmp_path / "run"
    arguments = ["--out", str(out), "--model", model, *TINY, *asked]
    assert main(arguments) == 0
    settings = json.loads((out / "settings.json").read_text())
    assert settings["loss"] == expected
    assert settings.pop("began")["data"]["train"]
    assert json.loads((out / "training.json").read_text())["settings"] == settings
    assert set(used) == {nn.CrossEntropyLoss if expected == "cross_entropy" else nn.BCEWithLogitsLoss}
    assert main([*arguments, "--resume"]) == 0


@pytest.mark.parametrize("name", BCOS)
def test_a_deleted_pixel_is_black_and_its_complement_white(name):
    """Read at the first convolution: [0, 0, 0, 1, 1, 1] in the deleted cell, [x, 1 − x] elsewhere."""
    backbone = create_backbone(name, num_classes=10).eval()
    assert backbone.data_config["mean"] == (0, 0, 0)
    assert backbone.data_config["std"] == (1, 1, 1)
    data = open_data("digits", size=backbone.input_size[0])
    pixels = torch.stack([data.image(index) for index in range(2)])
    deletion, cells = DeletionSpec(), torch.tensor([6, -1])
    images = deletion.delete(normalize(pixels, backbone.data_config), cells, torch.arange(2))
    seen = []
    backbone.model.conv1.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        backbone(images)
    side = backbone.input_size[0] // 4
    cell = (slice(side, 2 * side), slice(2 * side, 3 * side))
    black = torch.tensor([0.0, 0, 0, 1, 1, 1]).view(-1, 1, 1).expand(6, side, side)
    torch.testing.assert_close(seen[0][0, :, *cell], black, rtol=0, atol=0)
    expected = torch.cat([pixels / 255, 1 - pixels / 255], dim=1)
    expected[0, :, *cell] = black
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-6)


def test_a_checkpoint_keeps_the_normalization_that_it_was_trained_with(tmp_path):
    overlay = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    for name, arguments in (("earlier", {"pretrained_cfg_overlay": overlay}), ("now", {})):
        backbone = create_backbone("bcos_resnet10_small", num_classes=3, **arguments)
        backbone.arguments = {}
        save_checkpoint(tmp_path / name, backbone, deletion=None, classes=["a", "b", "c"], training={})
        again = load_model(str(tmp_path / name)).model
        assert again.data_config["mean"] == (overlay["mean"] if arguments else (0, 0, 0))
        pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
        encoded = again.split("encode").stem(normalize(pixels, again.data_config))
        torch.testing.assert_close(encoded, torch.cat([pixels / 255, 1 - pixels / 255], dim=1), rtol=0, atol=1e-6)
