"""Where results go, what they say of their origin, and reading them again; a user's own files on the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from timm.models import register_model

from eval import aggatt, dea, difull, idsds, incremental, leakage, load_results, mlatt
from eval.frame.result import Result
from faithfulness.core import InputError
from tests.reference import own_code
from tests.reference.checkpoints import save_resnet
from tests.reference.own_code import SIDE, Net, Pictures, bright

FILE = own_code.__file__
OWN = ["--data", f"{FILE}:pictures", "--input-size", str(SIDE), "--accelerator", "cpu"]
SINGLE = ["--protocol", "single", "--attributions", "ixg", "--limit", "6"]
ANY_REGION = ["--min-iou", "0", "--min-area", "0", "--max-area", "1", "--region", "annotated"]


@register_model
def flow_test_net(pretrained=False, num_classes=3, **settings):
    """A network that a user registers with timm, without any further ado."""
    return Net(num_classes)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder that one works in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def summary_of(folder):
    return json.loads((Path(folder) / "summary.json").read_text())


def assert_same(one, other):
    assert one.summary == other.summary
    pd.testing.assert_frame_equal(one.scores, other.scores, check_exact=True)
    assert (one.per_image is None) == (other.per_image is None)
    if one.per_image is not None:
        pd.testing.assert_frame_equal(one.per_image, other.per_image, check_exact=True)
    assert str(one) == str(other)


OF_EACH = {
    "idsds": (idsds, "bright", ["--attributions", "ixg", "--protocol", "single"]),
    "incremental": (incremental, "bright", ["--attributions", "ixg", "--steps", "2"]),
    "difull": (difull, "bright", ["--attributions", "ixg", "--grids", "2"]),
    "mlatt": (mlatt, "bright", ["--attributions", "ixg", "--grids", "2", "--setting", "difull", "--kernels", "1"]),
    "aggatt": (aggatt, "bright", ["--attributions", "ixg", "--grids", "2"]),
    "leakage": (leakage, "bright", ["--grids", "1", "--tries", "1", "--setting", "difull"]),
    "dea": (dea, "dense", ["--attributions", "ixg", *ANY_REGION, "--fractions", "0.1", "0.2"]),
}
"""The command, the function of the file that makes its network, and its own flags."""


@pytest.mark.parametrize("name", OF_EACH)
def test_files_of_ones_own_on_the_command_line_and_the_result_read_again(folder, capsys, name):
    command, network, flags = OF_EACH[name]
    data = "scenes" if name == "dea" else "pictures"
    words = ["--model", f"{FILE}:{network}", *OWN, "--data", f"{FILE}:{data}", "--limit", "18", *flags]
    assert command.main(words) == 0
    out = Path("runs", name, f"own_code.{network}")
    printed = capsys.readouterr().out
    summary, result = summary_of(out), load_results(out)
    assert printed.startswith(f"{result}\nresults: {out} (summary.json, ")
    assert result.path == out
    assert summary["model"]["name"] == f"own_code.{network}"
    assert (summary["model"]["path"], summary["model"]["architecture"]) == (f"{FILE}:{network}", network)
    assert summary["data"]["name"] == f"{FILE}:{data}"
    assert summary["settings"]["limit"] == 18
    assert summary["command"].startswith(f"python -m eval.{name} --model {FILE}:{network} --data ")
    files = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]
    assert summary["files"] == sorted(name for name in files if not name.startswith("parts/"))
    assert command.main([*words, "--seed", "1", "--quiet"]) == 2
    error = capsys.readouterr().err
    assert f"--out {out} already holds a run: " in error
    assert "seed 0, now 1" in error
    assert error.count("\n") == 1
    assert command.main([*words, "--overwrite", "--seed", "1"]) == 0
    assert summary_of(out)["settings"]["seed"] == 1


def test_commands_run_one_after_the_other_on_two_checkpoints(folder):
    """No `--out` anywhere: a folder per protocol and model."""
    for name in ("first", "second"):
        save_resnet(folder / name / "resnet")
        for command, flags in ((idsds, []), (incremental, ["--steps", "1"])):
            words = ["--model", f"{name}/resnet", "--attributions", "ixg", "--limit", "2", *flags]
            assert command.main(words) == 0
    found = sorted(str(path.parent) for path in Path("runs").glob("*/*/summary.json"))
    assert found == [f"runs/{kind}/{name}-resnet" for kind in ("idsds", "incremental") for name in ("first", "second")]
    models = [summary_of(path)["model"] for path in found]
    assert [model["name"] for model in models] == ["first/resnet", "second/resnet"] * 2
    assert {model["architecture"] for model in models} == {"resnet10t"}


def test_the_folder_may_be_text_and_python_says_no_command(folder, capsys):
    options = {"input_size": SIDE, "protocol": "single", "attributions": ["ixg"], "limit": 6, "accelerator": "cpu"}
    result = idsds.evaluate(bright(), Pictures("float"), out="runs/x", **options)
    assert result.path == Path("runs/x")
    assert (Path("runs/x/plots/ranking.png").is_file(), capsys.readouterr().out) == (True, "")
    assert (result.summary["command"], result.summary["settings"]["limit"]) == (None, 6)
    assert summary_of("runs/x") == result.summary
    for folder in ("runs/x", Path("runs/x").resolve()):
        assert_same(load_results(folder), result)
    with pytest.raises(InputError, match="already holds a run"):
        idsds.evaluate(bright(), Pictures("float"), out="runs/x", **options)
    again = idsds.evaluate(bright(), Pictures("float"), out="runs/x", overwrite=True, **options)
    pd.testing.assert_frame_equal(again.per_image, result.per_image, check_exact=True)
    alone = idsds.evaluate(bright(), Pictures("float"), **options)
    pd.testing.assert_frame_equal(alone.per_image, result.per_image, check_exact=True)


@pytest.mark.parametrize("name", OF_EACH)
def test_every_result_is_read_as_it_was(folder, unchecked, name):
    command, network, flags = OF_EACH[name]
    data = own_code.scenes if name == "dea" else own_code.pictures
    words = iter(flags)
    options = {}
    for word in words:  # the same flags by their names in Python
        if word.startswith("--"):
            key = word.removeprefix("--").replace("-", "_")
            options[key] = []
        else:
            options[key].append(word)
    kinds = {"steps": int, "grids": int, "tries": int, "min_iou": float, "min_area": float, "max_area": float}
    lists = {"attributions": str, "setting": str, "kernels": int, "fractions": float}
    made = {
        key: [lists[key](value) for value in given] if key in lists else kinds.get(key, str)(given[0])
        for key, given in options.items()
    }
    result = command.evaluate(f"{FILE}:{network}", data, out="run", input_size=SIDE, limit=18, **made)
    assert isinstance(result, Result)
    assert_same(load_results("run"), result)


def test_a_network_that_is_registered_with_timm(folder, capsys):
    assert idsds.main(["--model", "timm:flow_test_net", *OWN, *SINGLE]) == 0
    summary = summary_of("runs/idsds/flow_test_net")
    assert (summary["model"]["name"], summary["model"]["path"]) == ("flow_test_net", "timm:flow_test_net")
    assert "single_deletion of flow_test_net on" in capsys.readouterr().out
    found = idsds.evaluate(
        "timm:flow_test_net", own_code.pictures, attributions="ixg", protocol="single", limit=6, input_size=SIDE
    )
    assert found.summary["model"] == summary["model"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no evaluation"),
        ("{", "holds no evaluation"),
        ("[]", "holds no evaluation"),
        ("{}", "holds no evaluation"),
        ('{"schema": 7, "scores": []}', "has schema 7, expected 1"),
        ('{"schema": 1, "scores": 5}', "holds no evaluation"),
        ('{"schema": 1, "scores": [5]}', "holds no evaluation"),
        ("[" * 100_000, "holds no evaluation"),
    ],
)
def test_what_is_no_result_is_said_in_one_line(folder, content, message):
    if content is not None:
        Path("summary.json").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        load_results(".")
    assert len(str(caught.value).splitlines()) == 1


def test_the_package_loads_what_is_asked_for():
    """`from eval import load_results` is all that one needs, and `import eval` costs nothing."""
    program = """
        import sys
        import eval
        assert not {"torch", "pandas", "matplotlib", "lightning"} & set(sys.modules)
        from eval import Result, load_results
        assert {"Result", "load_results"} <= set(dir(eval))
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    program = "\n".join(line.strip() for line in program.strip().splitlines())
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
