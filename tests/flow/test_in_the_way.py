"""What lies in the folder of a run and isn't the run's: nothing of it is lost, and the run says what is in its way."""

import json
import os

import pytest

from eval import idsds, merge
from tests.reference.checkpoints import save_resnet
from tests.reference.results import content

WORDS = ["--limit", "4", "--batch-size", "2", "--quiet"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_resnet(tmp_path_factory.mktemp("model") / "resnet")


@pytest.fixture
def run(checkpoint, tmp_path, monkeypatch, capsys):
    """Run into `tmp_path/NAME`: status, and what was said on stderr."""

    def call(*words, name="run", methods=("ixg",)):
        where = ["--model", str(checkpoint), "--out", str(tmp_path / name), "--attributions", *map(str, methods)]
        status = idsds.main([*where, *WORDS, *words])
        return status, capsys.readouterr().err

    return call


def test_files_of_ones_own_stay_wherever_they_are(run, tmp_path):
    assert run() == (0, "")
    out = tmp_path / "run"
    own = [out / name for name in ("parts/mine.parts", "parts/.gitignore", "notes.txt", "plots/mine.png", "parts/.a/x")]
    for path in own:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    assert run(methods=["ixg", "grad"]) == (0, "")
    assert [path.read_text() for path in own] == ["mine"] * len(own)


@pytest.mark.parametrize("name", ["plots", "per_image.parquet"])
def test_what_is_in_the_way_is_named_before_the_old_result_goes(run, tmp_path, name):
    assert run() == (0, "")
    out = tmp_path / "run"
    if name == "plots":
        (out / name).rename(tmp_path / "elsewhere")
        (out / name).symlink_to(tmp_path / "elsewhere")
    else:
        (out / name).unlink()
        (out / name).mkdir()
    before = (out / "summary.json").read_bytes()
    status, error = run()
    assert (status, error.count("\n")) == (2, 1)
    assert f"{out / name} is in the way of the result" in error
    assert (out / "summary.json").read_bytes() == before


def test_links_of_the_names_of_our_own_files_lead_nowhere(run, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("mine")
    assert run() == (0, "")
    out = tmp_path / "run"
    (out / ".new").symlink_to(tmp_path / "thesis")
    assert run() == (0, "")
    (out / "parts" / ".lock").symlink_to(tmp_path / "thesis" / "text")
    assert run()[0] in (1, 2)
    assert (tmp_path / "thesis" / "text").read_text() == "mine"


@pytest.mark.parametrize("text", ["", "[]", "[" * 200_000, "newer"])
def test_a_result_whose_record_cant_be_read_is_not_replaced_unasked(run, tmp_path, text):
    assert run() == (0, "")
    record, before = tmp_path / "run" / "parts" / "run.json", (tmp_path / "run" / "summary.json").read_bytes()
    if text == "newer":
        text = json.dumps(json.loads(record.read_text()) | {"newer": 1})
    record.write_text(text)
    status, error = run("--seed", "1")
    assert (status, error.count("\n")) == (2, 1)
    assert (tmp_path / "run" / "summary.json").read_bytes() == before
    assert run("--seed", "1", "--overwrite") == (0, "")


@pytest.mark.parametrize(
    "header", ["[" * 200_000, '{"a": [0, 1000000000000000, "b"]}', '{"a": [-5, 3, "b"]}', '{"a": 5}']
)
def test_a_header_that_lies_is_no_part(run, tmp_path, header):
    assert run() == (0, "")
    whole = content(tmp_path / "run")
    for path in (tmp_path / "run" / "parts").glob("*.parts"):
        path.write_bytes(header.encode() + b"\n" + path.read_bytes().partition(b"\n")[2])
    assert run() == (0, "")
    assert content(tmp_path / "run") == whole


def test_a_damaged_copy_of_a_shard_hides_no_whole_one(run, tmp_path):
    assert run(name="whole") == (0, "")
    for number in (1, 2):
        assert run("--shard", f"{number}/2", name=f"s{number}") == (0, "")
    (tmp_path / "s3").mkdir()
    (tmp_path / "s3" / "parts").mkdir()
    for path in (tmp_path / "s1" / "parts").iterdir():
        text = path.read_bytes()
        (tmp_path / "s3" / "parts" / path.name).write_bytes(text if path.name == "run.json" else text[:300])
    folders = [str(tmp_path / name) for name in ("s3", "s1", "s2", "s3")]
    assert merge.main(["--out", str(tmp_path / "all"), "--parts", *folders, "--quiet"]) == 0
    assert content(tmp_path / "all") == content(tmp_path / "whole")


def test_a_method_that_was_edited_is_not_put_in_place_of_the_old_one(run, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text("def f(images, targets):\n    return images\n")
    assert run(methods=[f"{plugin}:f"]) == (0, "")
    plugin.write_text("def f(images, targets):\n    return images * images.abs()\n")
    os.utime(plugin, ns=(1, 1))
    status, error = run(methods=[f"{plugin}:f"])
    assert status == 2
    assert f"{plugin}:f was edited" in error
    assert run("--overwrite", methods=[f"{plugin}:f"]) == (0, "")
