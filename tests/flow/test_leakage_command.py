"""`eval.leakage` as a command, and what the grid commands refuse."""

import pytest

from tests.reference.checkpoints import save_resnet
from tests.reference.grid_runs import run, save_compositions, summary_of


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_resnet(tmp_path_factory.mktemp("model") / "resnet")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return save_compositions(tmp_path_factory.mktemp("files"))


ARGUMENTS = ["--limit", "8", "--setting", "difull", "--tries", "3"]


def test_what_does_not_leak_passes(checkpoint, tmp_path):
    assert run("leakage", "--model", checkpoint, *ARGUMENTS, "--out", tmp_path / "clean") == 0
    summary = summary_of(tmp_path / "clean")
    assert summary["passed"]
    assert [entry["verdict"] for entry in summary["proofs"]] == ["proven"] * 4 + ["tested"]
    assert summary["settings"]["tries"] == summary["proofs"][0]["numbers"]["random_contents_tried"] == 3
    assert (tmp_path / "clean/plots/influence-2x2.png").is_file()


@pytest.mark.usefixtures("heads_left_out")
def test_a_fill_that_leaks_fails(checkpoint, tmp_path, capsys):
    assert run("leakage", "--model", checkpoint, *ARGUMENTS, "--fill", "blur", "--out", tmp_path / "blur") == 1
    failed = [proof for proof in summary_of(tmp_path / "blur")["proofs"] if not proof["passed"]]
    assert [proof["found"] for proof in failed] == [["fill 'blur' reads the deleted pixels"]]
    assert "fill 'blur' reads the deleted pixels" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flag",
    ["attributions ixg", "layers final", "confidence 0.5", "choose-with x", "compositions x", "devices 2", "workers 2"],
)
def test_leakage_refuses_flags_that_mean_nothing_to_it(checkpoint, tmp_path, capsys, flag):
    assert run("leakage", "--model", checkpoint, "--out", tmp_path / "run", *f"--{flag}".split()) == 2
    assert f"unknown flag --{flag.split()[0]};" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("difull", ["--setting", "difool"], "did you mean difull"),
        ("difull", ["--attributions", "igg"], "unknown attribution 'igg'; did you mean ig"),
        ("difull", ["--layers", "midle"], "did you mean middle"),
        ("difull", ["--scale", "1"], "--scale takes whole numbers of at least 2"),
        ("difull", ["--confidence", "2"], "--confidence must lie in"),
        ("difull", ["--compositions", "nowhere.parquet"], "nowhere.parquet holds no compositions"),
        ("difull", ["--compositions", "FILES", "--scale", "3"], "no corners grids of 3×3"),
        ("mlatt", ["--kernels", "4"], "--kernels takes odd numbers"),
        ("mlatt", ["--layers", "input"], "--layers must have final"),
        ("aggatt", ["--cell", "1"], "--cell 1 is not scored in corners grids of 2×2; scored: 0, 3"),
        ("leakage", ["--deletions", "nowhere"], "no record of deletions"),
        ("leakage", ["--limit", "3"], "a 2×2 grid needs 4 images"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(checkpoint, files, tmp_path, capsys, command, arguments, message):
    out = tmp_path / "run"
    arguments = [files if word == "FILES" else word for word in arguments]
    if command == "leakage" and "--limit" not in arguments:
        arguments += ["--limit", "4", "--setting", "difull"]
    assert run(command, "--model", checkpoint, "--out", out, "--quiet", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()
