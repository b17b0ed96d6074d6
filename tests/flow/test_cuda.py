"""What a GPU gives is what the processor gives. These tests run where there is one."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from eval import idsds, leakage
from faithfulness.attribution import list_attributions
from faithfulness.core.precision import use_precision
from tests.reference import every_command
from tests.reference.tiny_models import FAMILIES, tiny_batch, tiny_model
from tests.unit.test_attribution_registry import CANCELLING, explainer
from training import patch_finetune, segmentation_finetune

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
TRAINING = ["--model", "test_convnext", "--train-images", "64", "--val-images", "32", "--epochs", "2", "--quiet"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", list_attributions())
def test_every_method_gives_the_maps_of_the_processor(name, family):
    """In float64, where a difference is a fault and not rounding."""
    model, (images, targets) = tiny_model(family).double(), tiny_batch(dtype=torch.float64)
    wanted = explainer(name, model)(images, targets)
    found = explainer(name, model.cuda())(images.cuda(), targets.cuda())
    assert found.is_cuda
    bound = 1e-8 if (name, family) in CANCELLING else 1e-9
    torch.testing.assert_close(found.cpu(), wanted, rtol=0, atol=bound * float(wanted.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_is_float32_and_tf32_is_not(family):
    """Logits differ by rounding from those of the processor; in TF32, which is to be asked for, by more."""
    model, (images, _) = tiny_model(family), tiny_batch()
    with torch.no_grad():
        wanted = model.double()(images.double())
        errors = []
        for precision in ("32-true", "tf32"):
            use_precision(precision)
            found = model.float().cuda()(images.cuda()).cpu().double()
            errors.append(float((found - wanted).abs().max() / wanted.abs().max()))
    use_precision("32-true")
    assert errors[0] < 1e-5
    assert errors[1] > 10 * errors[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every command's results by both devices."""
    folder = tmp_path_factory.mktemp("devices")
    every_command.prepare(folder)
    for device in ("cpu", "cuda"):
        more = ("--accelerator", device, "--devices", "1", "--quiet")
        assert every_command.main(folder, device, "64-true", "4", *more) == 0
    return folder


@pytest.mark.parametrize("command", list(every_command.COMMANDS))
def test_every_command_gives_the_scores_of_the_processor(folder, command):
    """In float64: in float32 values of an untrained network tie, on one processor or another."""
    found, wanted = (every_command.values(folder / device / "64-true" / command) for device in ("cuda", "cpu"))
    assert np.isfinite(wanted).any()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_leakage_is_told_alike(folder, tmp_path):
    words = ["--model", str(folder / "resnet"), "--setting", "difull", "dipart", "--tries", "8", "--quiet"]
    verdicts = []
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        assert leakage.main([*words, "--accelerator", device, "--out", str(out)]) == 0
        proofs = json.loads((out / "summary.json").read_text())["proofs"]
        verdicts.append([(proof["subject"], proof["verdict"]) for proof in proofs])
    assert verdicts[0] == verdicts[1]


@pytest.mark.parametrize("precision", ["tf32", "bf16-mixed", "16-mixed"])
def test_fewer_bits_leave_drops_as_they_are(folder, tmp_path, precision):
    words = ["--model", str(folder / "resnet"), "--limit", "8", "--attributions", "occlusion", "gradcam", "--quiet"]
    means = []
    for asked in ("32-true", precision):
        assert idsds.main([*words, "--precision", asked, "--out", str(tmp_path / asked)]) == 0
        summary = json.loads((tmp_path / asked / "summary.json").read_text())
        assert summary["settings"]["n_constant_drops"] == 0
        means.append({score["attribution"]: score["mean"] for score in summary["scores"]})
    for name, mean in means[0].items():
        assert abs(mean - means[1][name]) < 0.1, (name, mean, means[1][name])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("command", [patch_finetune, segmentation_finetune])
def test_training_sees_what_it_sees_on_a_processor(command, precision, tmp_path):
    segmentation = command is segmentation_finetune
    words = TRAINING if not segmentation else ["--model", "test_resnet", *TRAINING[2:]]
    for device, asked in (("cpu", "32-true"), ("cuda", precision)):
        where = ["--accelerator", device, "--devices", "1", "--out", str(tmp_path / device), "--precision", asked]
        assert command.main([*words, "--batch-size", "16", *where]) == 0
    for table in sorted((tmp_path / "cpu" / "deletions").glob("*.parquet")):
        wanted, found = pd.read_parquet(table), pd.read_parquet(tmp_path / "cuda" / "deletions" / table.name)
        assert found.drop(columns="pixels").equals(wanted.drop(columns="pixels"))
    weights = load_file(tmp_path / "cuda" / "model.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values() if tensor.is_floating_point())


@pytest.mark.parametrize("steps", ["", "--accumulate 2 --clip 1 --ema 0.9 --precision 16-mixed"])
def test_a_resumed_training_goes_on_as_if_never_stopped(steps, tmp_path):
    words = [*TRAINING, "--batch-size", "16", "--accelerator", "cuda", "--devices", "1", *steps.split()]
    whole, short = tmp_path / "whole", tmp_path / "short"
    assert patch_finetune.main([*words, "--out", str(whole)]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.module.PatchFineTuner.on_validation_epoch_start", _stop_in_second_epoch)
        assert patch_finetune.main([*words, "--out", str(short)]) != 0
    assert patch_finetune.main([*words, "--out", str(short), "--resume"]) == 0
    wanted, found = (load_file(folder / "model.safetensors") for folder in (whole, short))
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-4 * float(tensor.abs().max()) + 1e-7)


def _stop_in_second_epoch(module):
    if module.current_epoch == 1:
        raise KeyboardInterrupt
