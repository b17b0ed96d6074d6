"""What a release is made of: pictures in folders, a short training on them, its evaluations."""

import json
import re

import numpy as np
from PIL import Image

from checkpoints.release_files import write_sums
from eval import idsds, incremental
from training.patch_finetune import main as train

QUICK = ["--limit", "8", "--quiet", "--attributions", "ixg", "gradcam"]


def lay_pictures(root):
    """Two classes of noise, one brighter, split into train and val."""
    random = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 8)):
        for kind, low in (("bright", 120), ("dark", 0)):
            (root / split / kind).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(low, low + 120, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / kind / f"{number}.png")
    return root


def lay_runs(root):
    """A network in two stages, `base` and `tuned`, and what was evaluated of the second."""
    data = f"imagefolder:{lay_pictures(root / 'pictures')}"
    common = ["--data", data, "--batch-size", "8", "--epochs", "1", "--workers", "0", "--quiet"]
    first = ["--model", "test_convnext", "--input-size", "32", "--deletion-probability", "0"]
    assert train(["--out", str(root / "base"), *first, *common]) == 0
    assert train(["--out", str(root / "tuned"), "--model", str(root / "base"), *common]) == 0
    model = ["--model", str(root / "tuned"), "--data", data, *QUICK]
    baseline = ["--baseline", str(root / "base")]
    assert idsds.main([*model, *baseline, "--out", str(root / "scored")]) == 0
    assert idsds.main([*model, "--fill", "mean", "--allow-out-of-domain", "--out", str(root / "filled")]) == 0
    assert incremental.main([*model, "--steps", "4", "--out", str(root / "curves")]) == 0
    return root


def resum(folder):
    """Write the sums of a folder anew, as whoever changes a file on purpose would."""
    (folder / "SHA256SUMS").unlink()
    write_sums(folder)


def in_card(old, new):
    """A change of a release's card: the first place that a pattern fits."""

    def change(folder):
        path = folder / "README.md"
        text = path.read_text()
        found = re.search(old, text)
        assert found is not None
        path.write_text(text[: found.start()] + new + text[found.end() :])

    return change


def in_summary(*keys, value):
    """A change of the summary of its IDSDS result."""

    def change(folder):
        path = folder / "results" / "idsds" / "summary.json"
        place = summary = json.loads(path.read_text())
        for key in keys[:-1]:
            place = place[key]
        assert place[keys[-1]] != value
        place[keys[-1]] = value
        path.write_text(json.dumps(summary))

    return change


def no_table(folder):
    """Take away the values by image of its IDSDS result."""
    (folder / "results" / "idsds" / "per_image.parquet").unlink()
