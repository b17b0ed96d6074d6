import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import yaml

from faithfulness.core import InputError
from faithfulness.core.cli import called_as, run_command
from faithfulness.core.files import atomic_file, check_out, write_json

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Base:
    """Options of all.

    Args:
        batch_size: images per batch.
        lr: step size; the recipe's by default.
    """

    batch_size: int = 4
    lr: float | None = None


@dataclass
class Options(Base):
    """Try the command line.

    Whatever the first paragraph doesn't say.

    Args:
        names: some names, e.g. "ig(steps=20)|abs" or hf-hub:ORG/NAME, of which there may be more than fit into a line.
        switch: a switch.
        extra: anything.
        devices: how many.

    Example:
        faithfulness try --names a b \\
            --batch-size 8
    """

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "data": ("names", "not_of_this_command"),
        "hardware": ("devices", "batch-size"),
    }

    names: list[str] = field(default_factory=lambda: ["x", "y"])
    sizes: list[int] | None = None
    switch: bool = False
    extra: dict[str, Any] | None = None
    out: Path = Path("here")
    devices: int | Literal["auto"] = "auto"
    fill: Literal["zeros", "mean"] | None = field(default=None, metadata={"metavar": "FILL"})


class Resolved(Options):
    def resolved(self):
        return {"lr": self.lr or 0.5, "out": Path("there"), "sizes": (1, 2), "no_flag": 1}


def parse(*arguments, options=Options):
    found = []
    status = run_command(options, found.append, list(arguments))
    assert status == 0
    return found[0]


def printed(capsys, *arguments, options=Options, prog="faithfulness try"):
    assert run_command(options, None, list(arguments), prog) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments, options=Options):
    assert run_command(options, lambda made: pytest.fail("it ran"), list(arguments)) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    return told.err.removeprefix("error: ").rstrip("\n")


def test_the_forms_that_people_type():
    options = parse(
        *("--batch-size", "8", "--names", "ig(steps=20)|abs", "gradcam@middle", "--switch", "--sizes", "4", "-5"),
        *("--devices", "auto", "--lr", "-1e-3"),
    )
    assert options == Options(8, -1e-3, ["ig(steps=20)|abs", "gradcam@middle"], [4, -5], True)
    assert parse("--batch_size=9", "--switch=false", "--names=one") == Options(9, names=["one"])
    assert parse("--names", '["a", "b"]', "--extra.deep", "1", "--extra.er", "x").extra == {"deep": 1, "er": "x"}
    assert parse("--devices", "3").devices == 3
    assert parse("--names").names == []


def test_words_of_a_list_of_names_stay_words():
    assert parse("--names", "3", "05", "--sizes", "5").names == ["3", "05"]
    assert parse("--names=7").names == ["7"]


def test_a_config_file_is_overruled_by_flags(tmp_path):
    (tmp_path / "c.yaml").write_text("batch-size: 7\nnames: [x, y]\nlr: 1e-3\nextra: {a: 1e-3}\n")
    (tmp_path / "d.yaml").write_text("lr: 2\n")
    (tmp_path / "empty.yaml").touch()
    first, second, empty = (f"--config={tmp_path / name}" for name in ("c.yaml", "d.yaml", "empty.yaml"))
    expected = Options(7, 1e-3, ["x", "y"], switch=True, extra={"a": 1e-3, "b": 2})
    assert parse("--switch", first, "--extra.b", "2", empty) == expected
    assert parse("--batch-size", "5", first, second) == Options(5, 2.0, ["x", "y"], extra={"a": 1e-3})


@pytest.mark.parametrize("flag", ["--print-config", "--print_config"])
@pytest.mark.parametrize("options", [Options, Resolved])
def test_what_is_printed_can_be_read_again(tmp_path, capsys, flag, options):
    given = ["--batch-size", "3", "--extra.deep", "1e-5", "--names", "3", "yes"]
    text = printed(capsys, flag, *given, options=options)
    assert "batch_size: 3" in text
    (tmp_path / "c.yaml").write_text(text)
    again = parse("--config", str(tmp_path / "c.yaml"), options=options)
    asked = parse(*given, options=options)
    if options is Resolved:
        assert set(yaml.safe_load(text)) == set(vars(asked))
        assert (again.lr, again.out, again.sizes) == (0.5, Path("there"), [1, 2])
        again.lr, again.out, again.sizes = None, Path("here"), None
    assert again == asked


HELP = """\
usage: faithfulness try [--flag value ...]

Try the command line.

try:
  --lr X                  step size; the recipe's by default
  --sizes N ...
  --switch                a switch
  --extra.KEY VALUE       anything
  --out PATH              (default: here)
  --fill FILL

data:
  --names NAME ...        some names, e.g. "ig(steps=20)|abs" or hf-hub:ORG/NAME, of which there may
                          be more than fit into a line (default: x y)

hardware:
  --devices N|auto        how many (default: auto)
  --batch-size N          images per batch (default: 4)

every command:
  --config FILE           YAML file with any of these settings; flags win over it
  --print-config          print the settings as they will be used, in the form that --config reads,
                          and stop
  --help                  show this and stop

example:
  faithfulness try --names a b \\
      --batch-size 8
"""


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_read_from_the_docstring_in_groups(capsys, monkeypatch, flag):
    monkeypatch.setenv("COLUMNS", "100")
    assert printed(capsys, flag) == HELP
    monkeypatch.setenv("COLUMNS", "300")
    assert printed(capsys, "--lr", "2", flag) == HELP


def test_help_says_how_the_command_was_called(capsys):
    with called_as("faithfulness other"):
        assert "usage: faithfulness other [" in printed(capsys, "--help", prog=None)
    assert "\nother:\n" not in printed(capsys, "--help", prog=None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--batch-size x", "--batch-size: expected a whole number, got x"),
        ("--batch_size 4.5", "--batch-size: expected a whole number, got 4.5"),
        ("--lr high", "--lr: expected a number, got high"),
        ("--sizes 3 x", "--sizes: expected whole numbers, got 3 x"),
        ("--devices many", "--devices: expected a whole number or auto, got many"),
        ("--fill blur", "--fill: expected one of zeros, mean, got blur"),
        ("--switch maybe", "--switch: expected true or false, got maybe"),
        ("--extra 5", "--extra: expected KEY VALUE pairs, got 5"),
        ("--lr", "--lr takes one value, got none"),
        ("--extra.deep", "--extra.deep takes one value, got none"),
        ("--lr 1 2", "--lr takes one value, got 1 2"),
        ("--batchsize 3", "unknown flag --batchsize; did you mean --batch-size, --sizes?"),
        ("--batch 3", "unknown flag --batch; did you mean --batch-size, --switch?"),
        ("--print", "unknown flag --print; did you mean --print-config?"),
        ("--jkq", "unknown flag --jkq; see --help"),
        ("batch-size 3", "expected a flag, which begins with --, got 'batch-size'"),
        ("--config nowhere.yaml", "--config nowhere.yaml: no such file or directory"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(capsys, arguments, message):
    assert refused(capsys, *arguments.split()) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_size: x", "--batch-size: expected a whole number, got x (in FILE)"),
        ("batchsize: 3", "--config FILE: unknown setting 'batchsize'; did you mean batch_size, sizes?"),
        ("[1]", "--config FILE: expected lines `setting: value`, got [1]"),
        ("a: b: c", "--config FILE is not YAML: mapping values are not allowed in this context"),
    ],
)
def test_a_mistake_in_a_config_file_is_one_line(tmp_path, capsys, text, message):
    (tmp_path / "c.yaml").write_text(text)
    expected = message.replace("FILE", str(tmp_path / "c.yaml"))
    assert refused(capsys, "--config", str(tmp_path / "c.yaml")).startswith(expected)


def test_a_function_runs_with_what_its_signature_asks_for(capsys):
    def double(number: int, times: int = 2) -> int:
        """Multiply.

        Args:
            number: what to multiply.
            times: by how much.
        """
        return number * times

    assert run_command(double, arguments=["--number", "3"]) == 6
    assert refused(capsys, options=double) == "--number is needed: what to multiply."
    assert printed(capsys, "--number", "1", "--print-config", options=double) == "number: 1\ntimes: 2\n"


def test_a_mistake_is_one_line_and_status_two(capsys):
    def refuse(options):
        raise InputError("expected this, got that")

    assert run_command(Options, refuse, []) == 2
    assert capsys.readouterr().err == "error: expected this, got that\n"


def test_ctrl_c_has_its_own_status(capsys):
    def stop(options):
        raise KeyboardInterrupt

    assert run_command(Options, stop, []) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_error_of_a_loader_process_is_its_message_alone(capsys):
    def refuse(options):
        raise InputError(
            "Caught CorruptImage in DataLoader worker process 0.\nTraceback\ndata.base.CorruptImage: corrupt image x"
        )

    run_command(Options, refuse, [])
    assert capsys.readouterr().err == "error: corrupt image x\n"


def test_other_errors_keep_their_traceback():
    def fail(options):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        run_command(Options, fail, [])


def test_torch_waits_until_it_is_needed():
    """Importing the suite, its packages and the command line costs no torch."""
    code = (
        "import sys, faithfulness.core.cli, faithfulness.data, faithfulness.backbones, faithfulness.attribution\n"
        "import faithfulness.__main__, idsds, difull, dea, checkpoints, eval, training\n"
        "sys.exit(str({'torch', 'timm', 'pandas', 'matplotlib', 'lightning'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.strip() == ""


def test_files_are_written_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "a.json", {"x": float("nan"), "y": (1, 2)})
    assert (tmp_path / "a.json").read_text() == '{\n  "x": null,\n  "y": [\n    1,\n    2\n  ]\n}\n'
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert "null" in (tmp_path / "a.json").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_an_output_of_another_run_is_kept(tmp_path):
    out = tmp_path / "run"
    check_out(out)
    summary = {"schema": 1, "protocol": "idsds", "model": {"name": "m"}, "data": {"name": "d"}}
    write_json(out / "summary.json", summary)
    with pytest.raises(InputError, match=r"already holds a run \(idsds of m on d\).*--overwrite"):
        check_out(out)
    check_out(out, overwrite=True)
    (out / "summary.json").unlink()
    (out / "mine.txt").touch()
    with pytest.raises(InputError, match="files that are not a run's"):
        check_out(out, overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        check_out(out / "mine.txt")
