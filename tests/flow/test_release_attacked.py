"""Releases that somebody has damaged, and folders that only look like one."""

import json
import shutil
from pathlib import Path

import pytest

from checkpoints.release import main as release
from checkpoints.verify import main as verify
from tests.reference.releases import resum

SHIPPED = Path(__file__).resolve().parents[2] / "checkpoints" / "released" / "digits-resnet10t"


def test_a_users_folder_with_sums_is_no_release(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"x")
    (tmp_path / "photos" / "SHA256SUMS").write_text(f"{'0' * 64}  mine.jpg\n")
    words = [str(SHIPPED), "--results", str(SHIPPED / "results" / "idsds"), "--overwrite"]
    assert release([*words, "--out", str(tmp_path / "photos")]) == 2
    assert "but no release" in capsys.readouterr().err
    assert (tmp_path / "photos" / "mine.jpg").is_file()


@pytest.mark.parametrize("damage", ["scores", "settings", "metric", "parquet", "card"])
def test_what_holds_something_else_fails_and_is_no_traceback(damage, tmp_path, capsys):
    folder = shutil.copytree(SHIPPED, tmp_path / "release")
    place = folder / "results" / "idsds"
    summary = json.loads((place / "summary.json").read_text())
    if damage == "parquet":
        (place / "per_image.parquet").write_bytes(b"")
    elif damage == "card":
        (folder / "README.md").write_bytes(b"\xff\xfe")
    else:
        for score in summary["scores"]:
            score["metric"] += " "
        summary |= {} if damage == "metric" else {damage: [5]}
        (place / "summary.json").write_text(json.dumps(summary))
    resum(folder)
    assert verify([str(folder)]) == 1
    assert "failed" in capsys.readouterr().out
