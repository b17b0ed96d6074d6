"""CONTRIBUTING's example of a new protocol, tried as a newcomer would: one folder, one short file in `eval/`."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

DRAWN = True

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("faithfulness", "idsds", "difull", "dea", "checkpoints", "training", "eval")
AGREEMENT = '''"""Agreement with mine."""


def agreement(maps, images, sharpness):
    """Mean of the map, times the sharpness: (B, C, h, w) -> (B,)."""
    return maps.mean(dim=(1, 2, 3)) * sharpness
'''


@pytest.fixture(scope="module")
def example():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    return next(block for block in blocks if "COMMAND = Command(" in block)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, example):
    folder = tmp_path_factory.mktemp("checkout")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "eval" / "mine.py").write_text(example)
    (folder / "mine").mkdir()
    (folder / "mine" / "__init__.py").write_text(AGREEMENT)
    return folder


def call(folder, *words):
    return subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=300)


def test_its_file_is_short(example):
    assert len(example.splitlines()) < 120


def test_it_is_a_command_with_help_and_a_line_in_the_overview(checkout):
    shown = call(checkout, "-m", "faithfulness", "mine", "--help").stdout
    assert "how strict the agreement is (default: 1.0)" in " ".join(shown.split())
    assert "--precision" in shown
    assert "Score attributions by their agreement with mine." in call(checkout, "-m", "faithfulness", "--help").stdout


def test_it_scores_ranks_writes_and_shows(checkout):
    words = ["--model", "timm:test_convnext", "--limit", "24", "--attributions", "grad", "gradcam", "--sharpness", "2"]
    done = call(checkout, "-m", "eval.mine", *words)
    assert done.returncode == 0, done.stderr
    assert "sharpness 2" in done.stdout
    folder = checkout / "runs" / "mine" / "test_convnext"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["settings"]["sharpness"] == 2
    assert {score["attribution"] for score in summary["scores"]} == {"grad", "gradcam", "edge", "random"}
    assert set(summary["tests"]["names"]) == {"grad", "gradcam@final", "edge", "random"}
    table = pd.read_parquet(folder / "per_image.parquet")
    assert len(table) == 24 * 4
    assert {path.name for path in (folder / "plots").iterdir()} == {"ranking.png", "distribution.png", "tests.png"}
