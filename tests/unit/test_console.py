"""The console command: what it finds, how it runs it, and files of the user's that are in the way."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import faithfulness.__main__ as console
from faithfulness.core import shadows
from faithfulness.core.cli import program
from faithfulness.core.help import COLUMN

ROOT = Path(__file__).resolve().parents[2]
COMMAND = '"""Score {0}.\n\nMore of it.\n"""\n\n\ndef main(arguments=None):\n    return 0\n'


def run(*arguments, folder=ROOT, path=ROOT):
    """Python with these arguments in a folder, with this checkout (or what `path` says) on PYTHONPATH."""
    environment = {**os.environ, "PYTHONPATH": str(path), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.fixture
def suite(tmp_path):
    """A small suite that stands where this one does: two packages of commands, with files that are none."""
    for name in ("eval/idsds.py", "eval/own_score.py", "training/patch_finetune.py", "training/other_finetune.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(COMMAND.format(Path(name).stem))
    (tmp_path / "eval" / "__init__.py").write_text('"""Commands."""\n')
    (tmp_path / "eval" / "frame").mkdir()
    (tmp_path / "eval" / "frame" / "run.py").write_text(COMMAND.format("nothing"))
    (tmp_path / "eval" / "helper.py").write_text("import nowhere\n")
    (tmp_path / "training" / "recipe.py").write_text(COMMAND.format("nothing"))
    return tmp_path


def test_commands_are_found_where_a_module_has_a_main(suite):
    commands = console.find_commands(suite)
    assert {name: (command.package, command.module) for name, command in commands.items()} == {
        "idsds": ("eval", "idsds"),
        "own-score": ("eval", "own_score"),
        "finetune": ("training", "patch_finetune"),
        "other-finetune": ("training", "other_finetune"),
    }
    assert commands["own-score"].summary == "Score own_score."


def test_overview_has_a_line_for_each(suite, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = console.overview(console.find_commands(suite))
    assert text.startswith("usage: faithfulness COMMAND ")
    assert (
        "\n\nevaluate:\n  idsds                   Score idsds.\n  own-score               Score own_score.\n\n" in text
    )
    assert "\n\ntrain:\n  other-finetune          Score other_finetune.\n  finetune  " in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_command_gets_its_arguments_and_its_name(monkeypatch, capsys):
    class Module:
        @staticmethod
        def main(arguments):
            print(program(), arguments)
            return 7

    command = console.Command("idsds", "eval", "idsds", "")
    monkeypatch.setattr(console, "find_commands", lambda: {"idsds": command})
    monkeypatch.setitem(sys.modules, "eval.idsds", Module)
    assert console.main(["idsds", "--limit", "3"]) == 7
    assert capsys.readouterr().out == "faithfulness idsds ['--limit', '3']\n"
    assert console.main(["idsd"]) == 2
    assert capsys.readouterr().err == "error: unknown command 'idsd'; did you mean idsds?\n"
    assert console.main(["--version"]) == 0
    assert console.main([]) == 0
    assert console.main(["--help"]) == 0


def test_all_commands_are_there():
    known = {"idsds", "incremental", "difull", "mlatt", "aggatt", "leakage", "dea", "finetune", "segmentation-finetune"}
    known |= {"convert"}
    commands = console.find_commands()
    assert known <= set(commands)
    assert [name for name, command in commands.items() if not command.summary] == []


def test_help_of_every_command_reads_well_and_loads_nothing_heavy():
    code = (
        "import contextlib, io, json, sys, faithfulness.__main__ as console\n"
        "texts = {}\n"
        "for name in console.find_commands():\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as text:\n"
        "        assert console.main([name, '--help']) == 0\n"
        "    texts[name] = text.getvalue()\n"
        "heavy = {'torch', 'timm', 'pandas', 'matplotlib', 'lightning'} & set(sys.modules)\n"
        "print(json.dumps([texts, sorted(heavy)]))\n"
    )
    done = run("-c", code)
    texts, heavy = json.loads(done.stdout or "[{}, []]")
    assert done.returncode == 0, done.stderr
    assert heavy == []
    for name, text in texts.items():
        lines = text.splitlines()
        assert lines[0].startswith("usage: faithfulness ")
        assert max(map(len, lines)) <= 100, name
        assert "null" not in text
        flags = [line for line in lines if line.startswith("  --")]
        assert [flag for flag in flags if "_" in flag.split()[0]] == []
        bare = [flag for flag, after in pairwise(lines) if flag in flags and not _told(flag, after)]
        assert bare == [], name


def _told(line, after):
    return line[COLUMN - 2 : COLUMN] == "  " or after.startswith(" " * COLUMN)


@pytest.fixture
def own(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", ["checkpoints.py", "idsds.py", "faithfulness.py", "difull/__init__.py"])
def test_a_file_in_the_way_is_named(own, name):
    (own / name).parent.mkdir(exist_ok=True)
    (own / name).write_text("raise RuntimeError('the file of the user ran')\n")
    found = own / name.removesuffix("/__init__.py")
    done = run("-m", "eval.idsds", "--help", folder=own)
    package = name.removesuffix(".py").removesuffix("/__init__")
    expected = (
        f"error: {found} hides this suite's package {package}; run faithfulness idsds …, or from another folder\n"
    )
    assert (done.stderr, done.stdout, done.returncode) == (expected, "", 2)


def test_the_console_command_names_what_is_on_pythonpath(own, monkeypatch, capsys):
    (own / "checkpoints.py").touch()
    monkeypatch.syspath_prepend(str(own))
    monkeypatch.delitem(sys.modules, "checkpoints", raising=False)
    with pytest.raises(SystemExit) as refused:
        shadows.refuse_shadows("eval", "rename it")
    assert refused.value.code == 2
    assert capsys.readouterr().err == (
        f"error: {own}/checkpoints.py hides this suite's package checkpoints; rename it\n"
    )


def test_what_a_command_does_not_need_may_be_called_anything(own):
    """`training` isn't for scoring, nor `idsds` for training; folders that are no packages hide nothing."""
    for name in ("core.py", "data.py", "backbones.py", "training.py", "checkpoints/a.ckpt", "idsds/scores.csv"):
        (own / name).parent.mkdir(exist_ok=True)
        (own / name).write_text("raise RuntimeError('the file of the user ran')\n")
    code = (
        "import sys; sys.argv = ['-m']; sys.orig_argv = ['python', '-m', 'eval.idsds']; import eval, idsds, checkpoints"
    )
    assert run("-c", code, folder=own).returncode == 0


def test_a_notebook_imports_what_it_likes(own):
    """Only a command is refused: `import eval` beside a file of the same name as a package is the user's affair."""
    (own / "dea.py").touch()
    done = run("-c", "import eval, training, dea; print(dea.__file__)", folder=own)
    assert (done.stdout, done.returncode) == (f"{own}/dea.py\n", 0)
