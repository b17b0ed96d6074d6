"""`python -m benchmarks.drops`: what it says of drops beside rates of inference."""

import json

import pytest
import torch

from benchmarks import drops
from faithfulness.backbones import create_backbone
from faithfulness.backbones.timm_models import TimmBackbone
from faithfulness.core import InputError
from faithfulness.core.cli import run_command


def test_drops_are_timed_beside_rates_of_inference(tmp_path, monkeypatch, capsys):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network, **given: compiled.append(network) or network)
    flags = {"model": "test_resnet", "num-classes": 3, "input-size": 64, "images": 128, "rounds": 1, "repeats": 1}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    assert run_command(drops.main, arguments=[*words, "--compile", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "drops-test_resnet-cpu-compiled.json").read_text())
    assert [next(network.parameters()).dtype for network in compiled] == [torch.float32, torch.bfloat16]
    assert set(found["rates"]) == {"32-true", "32-true, compiled", "bf16-true", "bf16-true, compiled"}
    assert found["share"].keys() == found["rates"].keys()
    assert 0 < found["share"]["32-true"] < 2
    assert f"{found['passes_per_second']:.4g} passes/s" in capsys.readouterr().out


def test_what_a_run_takes_once_is_in_no_rate():
    """A start of 5 s, and 0.01 s a pass, of which an image that the evidence looks at has 19; then half as fast."""
    few, whole = [5 + 0.19 * 8, 5 + 0.38 * 8], [5 + 0.19 * 32, 5 + 0.38 * 32]
    found = drops.summary(few, whole, [{"32-true": 125.0}, {"32-true": 62.5}], (8, 32))
    assert found["share"]["32-true"] == pytest.approx(0.8)
    assert found["passes_per_second"] == pytest.approx(75)
    assert found["minutes_for_imagenet_val"] == pytest.approx((17 * 50_000 + 2 * 2048) / 75 / 60)


def test_passes_are_those_that_the_network_runs(monkeypatch):
    """Counted on the folded network and on the one whose features the evidence looks at."""
    ran = [0]

    def counted(run):
        def count(self, images):
            ran[0] += len(images)
            return run(self, images)

        return count

    for name in ("forward", "embed"):
        monkeypatch.setattr(TimmBackbone, name, counted(getattr(TimmBackbone, name)))
    network = create_backbone("test_resnet", 3, input_size=32).eval()
    seen = []
    for images in (4, 8):
        ran[0] = 0
        data = drops.Kept(torch.randn(images, 3, 32, 32), torch.zeros(images).long(), 3)
        drops.ours(network, data, ["random"], "32-true", 4)
        seen.append(ran[0])
    assert seen[1] - seen[0] == drops.passes_of(8) - drops.passes_of(4)


@pytest.mark.parametrize("times", [([2.0, 2.0], [3.0, 1.9]), ([2.0], [2.0])])
def test_times_that_say_nothing_are_refused(times):
    with pytest.raises(InputError, match="--images: 32 took no longer than 8"):
        drops.summary(*times, [{"32-true": 1.0}] * len(times[0]), (8, 32))


def test_images_that_fill_no_batches_are_refused():
    with pytest.raises(InputError, match="--images: expected a multiple of four batches of 8, got 40"):
        drops.main(images=40)
