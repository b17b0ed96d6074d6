"""Shards of a run, and `eval.merge`, which makes one result of them."""

from pathlib import Path

import pytest

from eval import merge
from tests.reference.checkpoints import save_resnet
from tests.reference.results import content
from tests.reference.short_runs import runs_below, whole_result


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_resnet(tmp_path_factory.mktemp("model") / "resnet")


@pytest.fixture
def run(checkpoint, tmp_path, capsys):
    return runs_below(checkpoint, tmp_path, capsys)


@pytest.fixture(scope="module")
def whole(checkpoint, tmp_path_factory):
    return whole_result(checkpoint, tmp_path_factory.mktemp("whole") / "run")


def test_shards_make_the_whole(run, whole, tmp_path, capsys):
    out = tmp_path / "run"
    assert run("--shard", "1/2") == (0, "")
    assert not (out / "summary.json").exists()
    assert merge.main(["--out", str(out)]) == 2
    assert "1 of 3 batches of images are missing (numbers 1" in capsys.readouterr().err
    assert run("--shard", "2/2") == (0, "")
    assert merge.main(["--out", str(out), "--quiet"]) == 0
    assert "idsds of" in capsys.readouterr().out
    assert content(out) == whole


def test_shards_from_several_folders(run, whole, tmp_path, capsys):
    for number in (1, 2, 3):
        assert run("--shard", f"{number}/3", name=f"shard{number}") == (0, "")
    folders = [str(tmp_path / f"shard{number}") for number in (1, 2, 3)]
    assert merge.main(["--out", str(tmp_path / "all"), "--parts", *folders[:2], "--quiet"]) == 2
    assert "1 of 3 batches of images are missing (numbers 2" in capsys.readouterr().err
    capsys.readouterr()
    assert merge.main(["--out", str(tmp_path / "all"), "--parts", *folders, "--quiet"]) == 0
    assert content(tmp_path / "all") == whole
    assert run("--seed", "1", "--shard", "1/3", name="other") == (0, "")
    capsys.readouterr()
    assert merge.main(["--out", str(tmp_path / "x"), "--parts", folders[0], str(tmp_path / "other")]) == 2
    assert "is of another run than" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no parts"),
        ("[]", "holds no parts"),
        ('{"protocol": "os", "settings": {}, "methods": [], "options": {}}', "unknown protocol 'os'"),
        ('{"protocol": "../x", "settings": {}, "methods": [], "options": {}}', "unknown protocol"),
        ('{"protocol": "idsds", "settings": {}, "methods": [], "options": {"nope": 1}}', "unknown option"),
        ('{"protocol": "idsds", "settings": {}, "methods": [], "options": {"model": ""}}', "--model is needed"),
        ('{"protocol": 5, "settings": {}, "methods": [], "options": {}}', "holds no parts"),
    ],
)
def test_a_folder_that_isnt_a_run_isnt_merged(tmp_path, capsys, text, said):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "run.json").write_text(text)
    assert merge.main(["--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert [path.name for path in Path(tmp_path).iterdir()] == ["parts"]
