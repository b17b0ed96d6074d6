"""What `eval.idsds` refuses, in one line and before anything is written; callables beside the named methods."""

import pytest
import torch

from checkpoints import load_checkpoint, save_checkpoint
from eval.idsds import COMMAND, IdsdsOptions, main
from faithfulness.attribution import create_attribution
from faithfulness.core import DeletionSpec, InputError, PatchGrid
from tests.reference.checkpoints import save_resnet
from tests.reference.networks import small_convnext


def score(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_resnet(tmp_path_factory.mktemp("model") / "resnet")


def test_a_callable_is_scored_like_any_method(checkpoint, tmp_path):
    options = IdsdsOptions(model=str(checkpoint), attributions=["ixg"], limit=8, out=tmp_path / "run")
    explain = create_attribution("ixg", load_checkpoint(checkpoint).model)
    summary = COMMAND.run(options, {"mine": lambda images, targets: 3 * explain(images, targets)}).summary
    means = {entry["attribution"]: entry["mean"] for entry in summary["scores"]}
    assert means["mine"] == pytest.approx(means["ixg"], abs=1e-9)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda images, targets: images[:, :1] * torch.nan, "NaN or infinite values in 8 of 8 maps"),
        (lambda images, targets: images[:3, :1], "expected float maps (8, C, h, w)"),
        (lambda images, targets: images.numpy(), "returned ndarray"),
    ],
)
def test_broken_maps_are_refused(checkpoint, tmp_path, broken, message):
    options = IdsdsOptions(model=str(checkpoint), attributions=["ixg"], limit=8, out=tmp_path / "run")
    with pytest.raises(InputError) as caught:
        COMMAND.run(options, {"mine": broken})
    assert message in str(caught.value)
    assert "mine" in str(caught.value)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["parts"]  # the drops are known now


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attributions", "igg"], "unknown attribution 'igg'; did you mean ig"),
        (["--attributions", "ig(step=3)"], "unknown parameter of ig 'step'"),
        (["--attributions", "ixg@midle"], "did you mean middle"),
        (["--grid", "5"], "trained with a 4×4 grid and fill zeros, asked for 5×5"),
        (["--fill", "mean"], "asked for 4×4 and mean"),
        (["--grid", "5", "--allow-out-of-domain"], "5×5 grid does not divide 64×64"),
        (["--model", "timm:test_convnext"], "was not trained with deletion"),
        (["--model", ""], "--model is needed"),
        (["--limit", "0"], "--limit must be at least 1"),
        (["--limit", "four"], "--limit: expected a whole number, got four"),
        (["--protocol", "incremental"], "--protocol: expected one of in-domain, single, got incremental"),
        (["--protocol", "single", "--allow-out-of-domain"], "--allow-out-of-domain has no effect"),
        (["--data", "imagefolder:nowhere"], "no folder nowhere"),
        (["--protocol", "single", "--pretrained", "--model", "timm:resnet18"], "no pretrained weights for resnet18"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(checkpoint, tmp_path, capsys, arguments, message):
    out = tmp_path / "run"
    assert score("--model", checkpoint, "--out", out, "--limit", "4", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()


def test_a_checkpoint_of_other_classes_is_refused(tmp_path, capsys):
    save_checkpoint(tmp_path / "m", small_convnext(5), deletion=DeletionSpec(), classes=list("abcde"), training={})
    assert score("--model", tmp_path / "m", "--out", tmp_path / "run") == 2
    assert "has 5 classes, digits (val) has 10" in capsys.readouterr().err
    save_checkpoint(
        tmp_path / "n",
        small_convnext(10),
        deletion=DeletionSpec(PatchGrid(2, 2)),
        classes=list("abcdefghij"),
        training={},
    )
    assert score("--model", tmp_path / "n", "--out", tmp_path / "run") == 2
    assert "'a' where the data has '0'" in capsys.readouterr().err


def test_a_diverged_model_is_named(tmp_path, capsys, diverged):
    arguments = ["--model", "timm:test_convnext", "--protocol", "single", "--limit", "3", "--out", tmp_path / "run"]
    assert score(*arguments, "--attributions", "ixg") == 2
    assert "test_convnext gives NaN or infinite logits for 3 of 3 images" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
