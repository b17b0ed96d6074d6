"""What `--out` and `--overwrite` may touch, and that a result survives whatever happens before the next is complete."""

import json
from pathlib import Path

import pytest

from checkpoints import save_checkpoint
from eval.aggatt import AggattOptions
from eval.dea import DeaOptions
from eval.difull import DifullOptions
from eval.frame.folder import finish
from eval.frame.installing import install
from eval.idsds import IdsdsOptions, main
from eval.leakage import LeakageOptions
from eval.mlatt import MlattOptions
from faithfulness.core import DeletionSpec, InputError
from faithfulness.core.files import PARTS, check_out, write_json
from tests.reference.networks import small_convnext

OPTIONS = [IdsdsOptions, DifullOptions, MlattOptions, AggattOptions, LeakageOptions, DeaOptions]
KINDS = [*(options.protocol_name for options in OPTIONS), "training"]


def contents(folder):
    """The files below a folder, but for the parts that a run is made of."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != PARTS)
    return {path.relative_to(folder): path.read_bytes() for path in files}


def make_run(folder, kind):
    if kind == "training":
        write_json(folder / "settings.json", {})
    elif kind != "checkpoint":
        write_json(
            folder / "summary.json", {"schema": 1, "protocol": kind, "model": {"name": "m"}, "data": {"name": "d"}}
        )
    if kind in ("training", "checkpoint"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").touch()
    return folder


def test_every_evaluation_has_a_kind_of_its_own():
    assert len(set(KINDS)) == len(OPTIONS) + 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("held", [*KINDS, "checkpoint"])
def test_a_command_replaces_its_own_kind_only(tmp_path, kind, held):
    out = make_run(tmp_path / "run", held)
    if kind == held:
        check_out(out, True, kind=kind)
    else:
        with pytest.raises(InputError, match="already holds a"):
            check_out(out, True, kind=kind)
    with pytest.raises(InputError, match="already holds a"):
        check_out(out, kind=kind)


def test_an_empty_folder_and_a_new_one_are_free(tmp_path):
    check_out(tmp_path, kind="idsds")
    check_out(tmp_path / "a" / "b", kind="idsds", inputs=["timm:resnet18", "digits", None, ""])


@pytest.mark.parametrize("where", ["same", "inside", "above", "relative", "link", "behind a link", "data", "home"])
def test_out_keeps_clear_of_what_is_read(tmp_path, monkeypatch, where):
    model = make_run(tmp_path / "runs" / "model", "checkpoint")
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    out, given = {
        "same": (model, model),
        "inside": (model / "evaluation" / "first", model),
        "above": (tmp_path / "runs", model),
        "relative": (model, Path("runs/../runs/./model")),
        "link": (tmp_path / "link" / "model", model),
        "behind a link": (model, tmp_path / "link" / "model"),
        "data": (model / "evaluation", f"imagefolder:{model}"),
        "home": (Path("~/runs/model"), model),
    }[where]
    with pytest.raises(InputError, match="which is read"):
        check_out(out, True, kind="idsds", inputs=[given])
    check_out(tmp_path / "runs" / "modeling", True, kind="idsds", inputs=[given])


@pytest.mark.parametrize("name", ["notes.txt", "plots/mine.pdf", "old/summary.json"])
def test_a_foreign_file_stays(tmp_path, name):
    out = make_run(tmp_path / "run", "idsds")
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).touch()
    with pytest.raises(InputError, match=f"holds {name}, which no run wrote"):
        check_out(out, True, kind="idsds")


def test_what_the_summary_doesnt_list_stays(checkpoint, tmp_path):
    """A run knows its own files by name: a picture that somebody put beside its own isn't one of them."""
    out = tmp_path / "run"
    arguments = ["--model", str(checkpoint), "--attributions", "ixg", "--limit", "2", "--out", str(out), "--overwrite"]
    assert main(arguments) == 0
    assert json.loads((out / "summary.json").read_text())["files"] == [path.as_posix() for path in contents(out)]
    (out / "plots" / "mine.png").touch()
    before = contents(tmp_path)
    assert main(arguments) == 2
    assert contents(tmp_path) == before
    (out / "plots" / "mine.png").unlink()
    assert main(arguments) == 0


@pytest.mark.parametrize("files", [["*"], "*", 5, [1], ["../mine.txt"], {"mine.txt": 1}])
def test_a_summary_that_lists_odd_files_gives_nothing_away(tmp_path, files):
    out = make_run(tmp_path / "run", "idsds")
    write_json(out / "summary.json", {"schema": 1, "protocol": "idsds", "files": files})
    (out / "mine.txt").touch()
    with pytest.raises(InputError, match="which no run wrote"):
        check_out(out, True, kind="idsds")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "~nobody-of-that-name/x"])
def test_what_is_no_name_of_a_folder_is_refused(name):
    with pytest.raises(InputError, match="--out"):
        check_out(Path(name), kind="idsds")


def test_a_linked_folder_counts_as_foreign(tmp_path):
    out = make_run(tmp_path / "run", "idsds")
    (tmp_path / "pictures").mkdir()
    (out / "plots").symlink_to(tmp_path / "pictures")
    with pytest.raises(InputError, match="plots, which no run wrote"):
        check_out(out, True, kind="idsds")


def write_new(folder):
    (folder / "plots").mkdir()
    (folder / "plots" / "ranking.png").write_text("new")


def test_a_linked_run_is_replaced_where_it_lies(tmp_path):
    out = make_run(tmp_path / "run", "idsds")
    (tmp_path / "link").symlink_to(out)
    finish(tmp_path / "link", None, None, write_new, {"schema": 1, "protocol": "idsds"})
    assert (tmp_path / "link").is_symlink()
    assert (out / "plots" / "ranking.png").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "run"]


def test_what_came_in_the_meantime_is_kept_and_what_is_no_more_made_goes(tmp_path):
    out = make_run(tmp_path / "run", "idsds")
    (out / "plots").mkdir(exist_ok=True)
    (out / "plots" / "old.png").touch()
    listed = {"schema": 1, "protocol": "idsds", "files": ["plots/old.png", "../thesis.tex", "summary.json"]}
    write_json(out / "summary.json", listed)
    for path in (out / "thesis.tex", tmp_path / "thesis.tex"):
        path.write_text("text")
    finish(out, None, None, write_new, {"schema": 1, "protocol": "idsds"})
    assert (out / "thesis.tex").read_text() == (tmp_path / "thesis.tex").read_text() == "text"
    assert not (out / "plots" / "old.png").exists()
    assert json.loads((out / "summary.json").read_text())["files"] == ["plots/ranking.png", "summary.json"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "m"
    classes = [str(digit) for digit in range(10)]
    save_checkpoint(folder, small_convnext(10), deletion=DeletionSpec(), classes=classes, training={})
    return folder


@pytest.mark.parametrize("where", ["model", "inside", "checkpoint", "training"])
def test_the_command_touches_no_checkpoint(checkpoint, tmp_path, capsys, where):
    out = {"model": checkpoint, "inside": checkpoint / "idsds"}.get(where, tmp_path / "other")
    if where in ("checkpoint", "training"):
        make_run(out, where)
    before = contents(checkpoint), contents(tmp_path)
    arguments = ["--model", str(checkpoint), "--attributions", "ixg", "--limit", "2", "--out", str(out), "--overwrite"]
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: --out")
    assert (contents(checkpoint), contents(tmp_path)) == before


@pytest.mark.parametrize(
    "mistake",
    [["--data", "imagefolder:nowhere"], ["--model", "timm:resnet999"], ["--attributions", "igg"], ["--baseline", "no"]],
)
def test_a_mistake_leaves_the_old_result(checkpoint, tmp_path, mistake):
    out = tmp_path / "run"
    arguments = ["--model", str(checkpoint), "--attributions", "ixg", "--limit", "2", "--out", str(out), "--overwrite"]
    assert main(arguments) == 0
    before = contents(tmp_path)
    assert main([*arguments, *mistake]) == 2
    assert contents(tmp_path) == before
    assert main([*arguments, "--seed", "1"]) == 0
    assert contents(out).keys() == {path.relative_to("run") for path in before}


@pytest.mark.parametrize("finished", [True, False])
def test_a_record_that_names_files_behind_a_link_takes_none_of_them(tmp_path, finished):
    out, elsewhere = tmp_path / "report", tmp_path / "thesis"
    elsewhere.mkdir()
    (elsewhere / "precious.txt").write_text("mine")
    listed = ["report.json", "d/precious.txt", "old.csv"]
    write_json(out / "report.json", {"schema": 1, "protocol": "report", "finished": finished, "files": listed})
    (out / "old.csv").write_text("theirs")
    (out / "d").symlink_to(elsewhere)
    install(out, {"schema": 1, "protocol": "report"}, lambda new: (new / "index.html").write_text("new"))
    assert (elsewhere / "precious.txt").read_text() == "mine"
    assert (out / "d").is_symlink()
    assert sorted(path.name for path in out.iterdir()) == ["d", "index.html", "report.json"]
