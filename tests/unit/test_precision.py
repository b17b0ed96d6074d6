"""Float32 is IEEE unless TF32 is asked for, in every command, and without a warning."""

import warnings

import pytest
import torch

from eval import idsds
from eval.idsds import SingleDeletion
from faithfulness.core.precision import ieee, use_precision
from training import patch_finetune

BACKENDS = (torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul)


@pytest.fixture(autouse=True)
def ieee_afterwards():
    yield
    use_precision("32-true")


@pytest.mark.parametrize(("precision", "wanted"), [("32-true", "ieee"), ("bf16-mixed", "ieee"), ("tf32", "tf32")])
def test_settings_of_both_generations_agree(precision, wanted):
    """Libraries read the older settings; torch raises an error where they contradict the newer ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for first in ("tf32", "32-true"):
            use_precision(first)
            assert use_precision(precision) == ("32-true" if precision == "tf32" else precision)
    assert {backend.fp32_precision for backend in BACKENDS} == {wanted}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.backends.cudnn.allow_tf32 == (wanted == "tf32")
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            pass


@pytest.mark.parametrize("before", [["tf32", "tf32", "none"], ["ieee", "tf32", "tf32"], ["tf32"] * 3, ["ieee"] * 3])
def test_a_block_of_ieee_leaves_each_backend_as_it_was(before):
    """The first is torch's own default, the second a mixture of a caller's."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    for name, flag in ((cudnn, before[0] == "tf32"), (products, before[2] == "tf32")):
        name.allow_tf32 = flag
    for backend, precision in zip(BACKENDS, before, strict=True):
        backend.fp32_precision = precision
    for _ in range(2):
        with ieee():
            assert {backend.fp32_precision for backend in BACKENDS} == {"ieee"}
            assert not cudnn.allow_tf32
        assert [backend.fp32_precision for backend in BACKENDS] == before
        if before[0] == before[1]:
            assert (cudnn.allow_tf32, products.allow_tf32) == (before[0] == "tf32", before[2] == "tf32")


def test_drops_are_ieee_whatever_was_asked(tmp_path, monkeypatch):
    seen, look = [], SingleDeletion.logits

    def logits(self, network, name, images):
        seen.append({backend.fp32_precision for backend in BACKENDS})
        return look(self, network, name, images)

    monkeypatch.setattr(SingleDeletion, "logits", logits)
    words = ["--model", "timm:test_convnext", "--protocol", "single", "--attributions", "random", "--limit", "2"]
    assert idsds.main([*words, "--precision", "tf32", "--out", str(tmp_path / "run")]) == 0
    assert seen == [{"ieee"}]
    assert {backend.fp32_precision for backend in BACKENDS} == {"tf32"}


@pytest.mark.parametrize("asked", ["32-true", "tf32"])
def test_commands_set_it(tmp_path, asked):
    evaluation = ["--model", "timm:test_convnext", "--protocol", "single", "--attributions", "random", "--limit", "2"]
    training = ["--model", "test_convnext", "--train-images", "16", "--val-images", "4", "--batch-size", "16"]
    training += ["--epochs", "1", "--accelerator", "cpu"]
    for name, command, arguments in (
        ("evaluation", idsds, evaluation),
        ("training", patch_finetune, training),
    ):
        use_precision("tf32" if asked == "32-true" else "32-true")
        assert command.main([*arguments, "--precision", asked, "--out", str(tmp_path / name)]) == 0
        assert {backend.fp32_precision for backend in BACKENDS} == {"tf32" if asked == "tf32" else "ieee"}
