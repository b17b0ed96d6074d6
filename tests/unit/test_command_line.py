from dataclasses import dataclass, field
from pathlib import Path

import pytest

from core import InputError
from core.cli import run_command, tidy_arguments
from core.results import atomic_directory, atomic_file, check_out, write_json


@dataclass
class Options:
    """Options.

    Args:
        batch_size: images per batch.
        names: some names.
        switch: a switch.
        extra: anything.
    """

    batch_size: int = 4
    names: list[str] = field(default_factory=list)
    sizes: list[int] | None = None
    switch: bool = False
    extra: dict | None = None
    out: Path = Path("here")

    def method(self):
        return self.batch_size


def parse(*arguments):
    found = []
    status = run_command(Options, found.append, list(arguments))
    assert status == 0
    return found[0]


def test_the_forms_that_people_type():
    options = parse(
        "--batch-size", "8", "--names", "ig(steps=20)|abs", "gradcam@middle", "--switch", "--sizes", "4", "5"
    )
    assert options == Options(8, ["ig(steps=20)|abs", "gradcam@middle"], [4, 5], True)
    assert parse("--batch_size=9", "--switch=false", "--names=one") == Options(9, ["one"])
    assert parse("--names", '["a", "b"]', "--extra.deep", "1").names == ["a", "b"]


def test_config_file_and_its_printing(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("batch_size: 7\nnames: [x, y]\n")
    assert parse("--config", str(tmp_path / "c.yaml"), "--switch") == Options(7, ["x", "y"], switch=True)
    with pytest.raises(SystemExit):
        run_command(Options, None, ["--batch-size", "3", "--print_config"])
    assert "batch_size: 3" in capsys.readouterr().out


def test_help_says_what_flags_mean(capsys):
    with pytest.raises(SystemExit):
        run_command(Options, None, ["--help"])
    assert "images per batch" in capsys.readouterr().out


def test_a_mistake_is_one_line_and_status_two(capsys):
    def refuse(options):
        raise InputError("expected this, got that")

    assert run_command(Options, refuse, []) == 2
    assert capsys.readouterr().err == "error: expected this, got that\n"


def test_an_error_of_a_loader_process_is_its_message_alone(capsys):
    def refuse(options):
        raise InputError(
            "Caught CorruptImage in DataLoader worker process 0.\nTraceback\ndata.base.CorruptImage: corrupt image x"
        )

    run_command(Options, refuse, [])
    assert capsys.readouterr().err == "error: corrupt image x\n"
    with pytest.raises(SystemExit):
        run_command(Options, None, ["--nonsense"])


def test_other_errors_keep_their_traceback():
    def fail(options):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        run_command(Options, fail, [])


def test_lists_end_at_the_next_flag():
    assert tidy_arguments(Options, ["--names", "a", "b", "--switch", "--sizes", "3"]) == [
        "--names", '["a", "b"]', "--switch", "true", "--sizes", "[3]"
    ]  # fmt: skip


def test_words_of_a_list_of_names_stay_words():
    assert parse("--names", "3", "05", "--sizes", "5").names == ["3", "05"]
    assert parse("--names=7").names == ["7"]


def test_files_are_written_whole_or_not_at_all(tmp_path):
    write_json(tmp_path / "a.json", {"x": float("nan"), "y": (1, 2)})
    assert (tmp_path / "a.json").read_text() == '{\n  "x": null,\n  "y": [\n    1,\n    2\n  ]\n}\n'
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert "null" in (tmp_path / "a.json").read_text()
    with pytest.raises(ZeroDivisionError), atomic_directory(tmp_path / "run") as folder:
        (folder / "half").touch()
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_an_output_of_another_run_is_kept(tmp_path):
    out = tmp_path / "run"
    check_out(out)
    with atomic_directory(out) as folder:
        write_json(folder / "summary.json", {"protocol": "idsds", "model": {"name": "m"}, "data": {"name": "d"}})
    with pytest.raises(InputError, match=r"already holds a run \(idsds of m on d\).*--overwrite"):
        check_out(out)
    check_out(out, overwrite=True)
    (out / "summary.json").unlink()
    (out / "mine.txt").touch()
    with pytest.raises(InputError, match="files that are not a run's"):
        check_out(out, overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        check_out(out / "mine.txt")
