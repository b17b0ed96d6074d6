"""`training.segmentation_finetune` as a command: what it writes, resuming, photographs, refusals."""

import json

import pandas as pd
import pytest
import torch

from checkpoints import load_model, load_segmenter, save_checkpoint, save_segmenter
from faithfulness.backbones import create_segmenter
from faithfulness.core import DeletionSpec, InputError
from faithfulness.data import normalize, open_segmentation_data
from tests.reference.networks import small_convnext
from tests.reference.segmentation_folders import make_sbd
from training.segmentation_finetune import finetune, main

TINY = ["--train-images", "32", "--val-images", "12", "--batch-size", "8", "--epochs", "2", "--input-size", "32"]


def train(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert train("--out", out, *TINY) == 0
    return out


def weights(folder):
    return (folder / "model.safetensors").read_bytes(), (folder / "last" / "model.safetensors").read_bytes()


def test_the_folder_says_all_that_loading_needs(trained):
    config = json.loads((trained / "config.json").read_text())
    assert (config["task"], config["architecture"], config["num_classes"]) == ("segmentation", "resnet10t", 11)
    assert config["label_names"] == ["background", *"0123456789"]
    assert config["deletion"] == DeletionSpec().to_dict()
    assert config["model_args"]["skip"] == "layer1"
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    training = json.loads((trained / "training.json").read_text())
    assert set(training["metrics"]) == {"mean_iou", "mean_iou_deleted"}
    assert training["data"]["n_train"] == 32
    card = (trained / "README.md").read_text()
    assert "eval.dea" in card
    assert "timm.create_model" not in card
    assert pd.read_csv(trained / "logs" / "epochs.csv")["mean_iou_deleted"].notna().sum() == 2
    record = pd.read_parquet(trained / "deletions" / "epoch001-rank0.parquet")
    expected = DeletionSpec().sample_cells(0, 1, torch.tensor(record["index"].to_numpy()))
    assert record["cell"].tolist() == expected.tolist()


def test_the_loaded_network_has_the_recorded_score(trained):
    checkpoint = load_segmenter(str(trained))
    model, data = checkpoint.model.eval(), open_segmentation_data("digits", "val", size=32, count=12)
    images = torch.stack([data.image(index) for index in range(12)])
    masks = torch.stack([data.mask(index) for index in range(12)])
    with torch.no_grad():
        guess = model(normalize(images, model.data_config)).argmax(dim=1)
    ious = []
    for c in range(11):
        union = int(((guess == c) | (masks == c)).sum())
        if union:
            ious.append(int(((guess == c) & (masks == c)).sum()) / union)
    recorded = json.loads((trained / "training.json").read_text())["metrics"]["mean_iou"]
    assert sum(ious) / len(ious) == pytest.approx(recorded, abs=1e-3)
    assert checkpoint.describe()["deletion"] == DeletionSpec().to_dict()


def test_resumed_equals_uninterrupted(trained, tmp_path, monkeypatch):
    from training.module import SegmentationFineTuner

    whole = SegmentationFineTuner.on_train_epoch_start

    def stop_before_the_second(self):
        if self.current_epoch == 1:
            raise RuntimeError("killed")
        whole(self)

    monkeypatch.setattr(SegmentationFineTuner, "on_train_epoch_start", stop_before_the_second)
    with pytest.raises(RuntimeError, match="killed"):
        train("--out", tmp_path / "run", *TINY)
    monkeypatch.undo()
    assert train("--out", tmp_path / "run", *TINY, "--resume") == 0
    assert weights(tmp_path / "run") == weights(trained)


def test_photographs_train_a_torchvision_network(tmp_path, capsys):
    root = make_sbd(tmp_path / "sbd")
    arguments = ["--model", "lraspp_mobilenet_v3_large", "--data", f"sbd:{root}", "--input-size", "32"]
    arguments += ["--epochs", "1", "--batch-size", "2", "--workers", "0", "--grid", "2"]
    assert train("--out", tmp_path / "run", *arguments) == 0
    checkpoint = load_segmenter(str(tmp_path / "run"))
    assert (checkpoint.architecture, checkpoint.model.num_classes) == ("lraspp_mobilenet_v3_large", 21)
    assert checkpoint.deletion.grid.cells == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "voc:nowhere"], "no folder nowhere"),
        (["--data", "digitz"], "did you mean digits"),
        (["--model", "resnett10t"], "did you mean"),
        (["--model", "torchvision:lraspp"], "did you mean lraspp_mobilenet_v3_large"),
        (["--grid", "5"], "5×5 grid does not divide 64×64"),
        (["--train-images", "8"], "fewer than one batch of 32"),
        (["--model", "resnet10t", "--model-args.skip", "layer9"], "unknown layer of fcn_resnet10t to skip from"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, capsys, arguments, message):
    out = tmp_path / "run"
    assert train("--out", out, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_classifier_is_no_segmenter_and_the_other_way_round(trained, tmp_path):
    save_checkpoint(tmp_path / "c", small_convnext(3), deletion=None, classes=list("abc"), training={})
    with pytest.raises(InputError, match="holds no segmentation network"):
        load_segmenter(str(tmp_path / "c"))
    with pytest.raises(InputError, match=r"holds a segmentation network; evaluate it with eval\.dea"):
        load_model(str(trained))


def test_weight_files_of_both_kinds_load(trained, tmp_path):
    lraspp = create_segmenter("lraspp_mobilenet_v3_large", 4).eval()
    torch.save(lraspp.model.state_dict(), tmp_path / "lraspp.pth")
    loaded = load_segmenter(str(tmp_path / "lraspp.pth"), arch="torchvision:lraspp_mobilenet_v3_large", input_size=64)
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded.model.eval()(image), lraspp(image))
    arguments = json.loads((trained / "config.json").read_text())["model_args"]
    file = str(trained / "model.safetensors")
    again = load_segmenter(file, arch="resnet10t", input_size=32, model_args=arguments).model.eval()
    assert torch.equal(again(image), load_segmenter(str(trained)).model.eval()(image))
    with pytest.raises(InputError, match="name its architecture with --arch"):
        load_segmenter(file)
    with pytest.raises(InputError, match=r"not those of a fcn_resnet50 that segments: classifier\.4\.weight"):
        load_segmenter(file, arch="fcn_resnet50")
    with pytest.raises(InputError, match=r"don't fit"):
        load_segmenter(file, arch="resnet10t", input_size=32)


def test_a_backbone_without_layers_is_saved_with_its_arguments(tmp_path):
    torch.manual_seed(0)
    model = create_segmenter("test_efficientnet_gn", 3, input_size=64).eval()
    save_segmenter(tmp_path / "m", model, deletion=None, classes=list("abc"), training={})
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(load_segmenter(str(tmp_path / "m")).model.eval()(image), model(image))


class HalfVoid(torch.utils.data.Dataset):
    """Eight pictures with masks of two classes; every other mask is void throughout."""

    classes = ("left", "right")

    def __len__(self):
        return 8

    def __getitem__(self, index):
        mask = torch.zeros(16, 16, dtype=torch.int64)
        mask[:, 8:] = 1
        return torch.full((3, 16, 16), index / 8), torch.full_like(mask, 255) if index % 2 else mask


def test_a_part_that_is_void_throughout_teaches_nothing(tmp_path):
    network = torch.nn.Conv2d(3, 2, 3, padding=1)
    flags = {"grid": [2, 2], "epochs": 1, "batch_size": 8, "accumulate": 8, "accelerator": "cpu", "quiet": True}
    trained = finetune(
        model=network, data={"train": HalfVoid(), "val": HalfVoid()}, input_size=16, out=tmp_path / "run", **flags
    )
    assert not torch.equal(next(iter(trained.model.state_dict().values())), network.weight)
    assert pd.read_csv(tmp_path / "run" / "logs" / "epochs.csv")["train_loss"].notna().all()
