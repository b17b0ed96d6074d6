"""A release: made, loaded by plain timm in a process without the suite, verified, found out where it is changed."""

import json
import os
import shutil

import pandas as pd
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from safetensors import safe_open

from checkpoints import load_model
from checkpoints.release import main as release
from checkpoints.verify import main as verify
from checkpoints.verify_files import check_card
from eval import load_results
from faithfulness.core import DeletionSpec
from tests.reference.releases import in_card, in_summary, lay_runs, no_table, resum

LICENSE = ["--license", "apache-2.0"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return lay_runs(tmp_path_factory.mktemp("secret-place"))


@pytest.fixture(scope="module")
def released(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("elsewhere") / "small"
    results = [str(runs / name) for name in ("scored", "filled", "curves")]
    assert release([str(runs / "tuned"), "--results", *results, "--out", str(out), *LICENSE]) == 0
    return out


@pytest.fixture
def changed(released, tmp_path):
    return shutil.copytree(released, tmp_path / "copy")


def test_no_file_names_a_local_path(released, runs):
    from checkpoints.results import texts_in

    places = (str(runs), str(runs.parent), "secret-place", os.getcwd(), str(released.parent))
    for path in filter(lambda path: path.is_file(), released.rglob("*")):
        text = "\n".join(texts_in(path))
        assert not [place for place in places if place in text], path
        assert not [place for place in places if place.encode() in path.read_bytes()], path


def test_a_training_folder_says_what_is_the_checkpoint(runs):
    card = (runs / "tuned" / "README.md").read_text()
    for words in ("| `lightning/` |", "| `last/` |", "checkpoints.release tuned", "imagefolder:PATH", "--model stage1"):
        assert words in card, words
    assert str(runs) not in card
    assert "This folder" not in (runs / "tuned" / "last" / "README.md").read_text()


def test_the_card_is_valid_and_whole(released):
    card = ModelCard.load(released / "README.md")
    data = card.data.to_dict()
    assert (data["license"], data["library_name"], data["pipeline_tag"]) == (
        *("apache-2.0", "timm"),
        "image-classification",
    )
    scores = load_results(released / "results" / "idsds").scores
    found = {
        (entry.metric_args["attribution"], entry.metric_args["layer"]): entry
        for entry in card.data.eval_results
        if entry.metric_args and entry.metric_type == "idsds"
    }
    assert len(found) == len(scores) == 4
    named = {(row.attribution, row.layer): (row.mean, [row.low, row.high]) for row in scores.itertuples()}
    last = load_results(released / "results" / "idsds-2").scores
    both = {key: [value] for key, value in named.items()}
    for row in last.itertuples():
        both[row.attribution, row.layer].append((row.mean, [row.low, row.high]))
    for key, entry in found.items():
        assert (entry.metric_value, entry.metric_args["ci95"]) in both[key]
    for words in ("in-domain?", "--out stage1", "--model stage1", "imagefolder:PATH", "Not tested", "Robin Hesse"):
        assert words in card.text, words
    assert "began as random numbers" in card.text


def test_what_is_recorded_is_what_was_released(released, runs):
    weights = (runs / "tuned" / "model.safetensors").read_bytes()
    assert (released / "model.safetensors").read_bytes() == weights
    with safe_open(released / "model.safetensors", "numpy") as file:
        told = file.metadata()
    assert (told["format"], told["architecture"]) == ("pt", "test_convnext")
    assert json.loads(told["deletion"]) == DeletionSpec().to_dict()
    record = json.loads((released / "training.json").read_text())
    assert record["license"] == "apache-2.0"
    assert record["base_model"]["sha256"] == load_model(str(runs / "base")).sha256
    before = pd.read_parquet(runs / "scored" / "per_image.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(released / "results" / "idsds" / "per_image.parquet"), before)
    assert load_model(str(released)).model(torch.ones(1, 3, 32, 32)).shape == (1, 2)


def test_a_release_verifies(released, runs, capsys):
    assert verify([str(released), "--data", f"imagefolder:{runs / 'pictures'}", "--sample", "6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    outcome = {line[:24].strip(): line for line in lines}
    assert " 0 of the largest" in outcome["loads without this suite"]
    for name in ("idsds again", "idsds-2 again", "incremental again"):
        assert "first 6 images" in outcome[name]
        assert " passed " in outcome[name]


def test_without_the_data_the_rest_is_checked(released, capsys, monkeypatch):
    monkeypatch.setattr("checkpoints.verify_runs._compare_plain", lambda *_: pytest.fail("only once"), raising=True)
    monkeypatch.setattr("checkpoints.verify_runs.in_timm", lambda config: False)
    assert verify([str(released)]) == 0
    said = capsys.readouterr().out
    assert "give them with --data" in said
    assert "4 not possible" in said


def test_other_data_are_told_apart(released, runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("checkpoints.verify_runs.in_timm", lambda config: False)
    other = shutil.copytree(runs / "pictures", tmp_path / "pictures")
    shutil.copy(other / "val" / "dark" / "0.png", other / "val" / "bright" / "0.png")
    assert verify([str(released), "--data", f"imagefolder:{other}"]) == 1
    assert "other data" in capsys.readouterr().out


def flip(folder):
    path = folder / "results" / "idsds" / "per_image.parquet"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def swap(folder):
    one, two = (folder / "results" / name / "per_image.parquet" for name in ("idsds", "idsds-2"))
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)


def link(folder):
    path = folder / "results" / "idsds" / "summary.json"
    path.rename(folder.parent / "summary.json")
    path.symlink_to(folder.parent / "summary.json")


def other_weights(folder):
    path = folder / "results" / "incremental" / "summary.json"
    summary = json.loads(path.read_text())
    summary["model"]["sha256"] = "0" * 64
    path.write_text(json.dumps(summary))


def other_license(folder):
    path = folder / "README.md"
    path.write_text(path.read_text().replace("license: apache-2.0", "license: mit"))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (in_card(r"\n      value: [0-9.]+", "\n      value: 0.999"), "model-index in its metadata"),
        (in_card(r"\| (-?[0-9.]+) \[", "| 0.777 ["), "it isn't what the records give: |"),
        (in_card(r"\| accuracy \| [0-9.]+ \|", "| accuracy | 0.9990 |"), "| accuracy | 0.9990 |"),
        (in_card(r"(?s)\n# .*", "\n"), "it lacks # small"),
        (in_summary("scores", 0, "ci95", value=[-0.9, 0.9]), "the summary says ci95 -0.9 … 0.9"),
        (in_summary("scores", 0, "mean_defined", value=0.123), "the summary says mean_defined 0.123"),
        (in_summary("scores", 0, "mean", value=None), "the summary says mean nothing"),
        (in_summary("scores", 0, "n_undefined", value=3), "the summary says n_undefined 3"),
        (in_summary("scores", 0, "n", value=7), "the summary says n 7"),
        (in_summary("model", "accuracy", value=0.123), "accuracy of the model is 0.123"),
        (no_table, "per_image.parquet is missing, and idsds has one"),
    ],
)
def test_what_was_changed_consistently_with_the_sums_is_found(changed, capsys, change, found):
    change(changed)
    resum(changed)
    assert verify([str(changed)]) == 1
    assert found in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "anew", "found"),
    [
        (flip, False, "results/idsds/per_image.parquet was changed"),
        (swap, False, "results/idsds-2/per_image.parquet was changed"),
        (swap, True, "the per-image values give"),
        (link, False, "results/idsds/summary.json is a link"),
        (link, True, "results/idsds/summary.json is a link"),
        (other_weights, True, "is of other weights: 000000000000"),
        (other_license, True, "license mit, training.json has apache-2.0"),
        (lambda folder: (folder / "training.json").unlink(), True, "training.json is missing"),
        (lambda folder: (folder / "README.md").unlink(), False, "README.md is missing"),
        (lambda folder: (folder / "pytorch_model.bin").write_bytes(b"x"), False, "pytorch_model.bin was added"),
        (lambda folder: (folder / "weights.pth").write_bytes(b"x"), True, "weights.pth has no place in a release"),
        (lambda folder: (folder / "README.md").write_text("/Users/me/x"), True, "license None"),
    ],
)
def test_what_was_changed_is_named(changed, capsys, change, anew, found):
    """With the sums as they were, and with sums that whoever changed it has written anew."""
    change(changed)
    if anew:
        resum(changed)
    assert verify([str(changed)]) == 1
    said = capsys.readouterr().out
    assert found in said
    assert "again" not in said


@pytest.mark.parametrize("line", [f"{'0' * 64}  ../x", f"{'0' * 64}  /etc/passwd", "what?"])
def test_sums_that_lead_elsewhere_are_refused(changed, capsys, line):
    (changed / "SHA256SUMS").write_text(f"{line}\n")
    assert verify([str(changed)]) == 2
    assert "SHA256SUMS, line 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "--license is needed"),
        (["--license", "apache2"], "did you mean apache-2.0"),
        ([*LICENSE, "--parent-license", "mit"], "says none, random weights already"),
        ([*LICENSE, "--results", "{runs}/base"], "holds no evaluation"),
        ([*LICENSE, "--results", "{runs}/scored", "{runs}/scored"], "twice"),
        ([*LICENSE, "--out", "{runs}/tuned/release"], "holds or lies in"),
        ([*LICENSE, "--out", "{runs}/pictures"], "files that are not a run's"),
        ([*LICENSE, "--pull-request"], "without --push"),
        ([*LICENSE, "--push", "no name"], "--push"),
        ([*LICENSE, "--push", "name"], "expected ORG/NAME"),
        ([*LICENSE, "--arch", "x.py:f"], "for networks of one's own"),
        ([*LICENSE, "--folder", "{runs}/base"], "expected the"),
        ([*LICENSE, "--folder", "{runs}"], "holds no checkpoint"),
    ],
)
def test_refusals_leave_nothing(runs, tmp_path, capsys, words, reason):
    before = {path.name for path in runs.iterdir()}
    given = ["--folder", "{runs}/tuned", "--results", "{runs}/scored", "--out", str(tmp_path / "out"), *words]
    assert release([word.format(runs=runs) for word in given]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
    assert {path.name for path in runs.iterdir()} == before


def test_an_unfinished_training_and_a_left_over_path_are_refused(runs, tmp_path, capsys):
    folder = shutil.copytree(runs / "tuned", tmp_path / "tuned")
    record = json.loads((folder / "training.json").read_text())
    record["cautions"] = ["seen in ~/secret/notes"]
    (folder / "training.json").write_text(json.dumps(record).replace('"cautions"', '"/a b/c": 1, "cautions"'))
    words = [str(folder), "--results", str(runs / "scored"), "--out", str(tmp_path / "out"), *LICENSE]
    assert release(words) == 0  # what looks like a path has a placeholder
    assert "secret" not in (tmp_path / "out" / "training.json").read_text()
    (folder / "training.json").unlink()
    assert release([*words, "--overwrite"]) == 2
    assert "isn't finished" in capsys.readouterr().err


def test_numbers_that_are_none_are_refused(runs, tmp_path, capsys):
    folder = shutil.copytree(runs / "scored", tmp_path / "scored")
    text = (folder / "summary.json").read_text()
    (folder / "summary.json").write_text(text.replace('"n_corrupt": 0', '"n_corrupt": NaN'))
    assert release([str(runs / "tuned"), "--results", str(folder), "--out", str(tmp_path / "out"), *LICENSE]) == 2
    assert "it holds NaN" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_release_of_restricted_weights_says_what_it_derives_from(runs, tmp_path, capsys):
    """As a converted file's record has it; its child can't be had under a permissive license."""
    folder = shutil.copytree(runs / "tuned", tmp_path / "tuned")
    record = json.loads((folder / "training.json").read_text())
    source = {"file": "net.pth.tar", "sha256": "1" * 64}
    base = {"name": "lab/net", "hub": True, "sha256": "2", "license": "cc-by-nc-4.0", "converted_from": source}
    (folder / "training.json").write_text(json.dumps(record | {"license": "cc-by-nc-4.0", "base_model": base}))
    words = [str(folder), "--results", str(runs / "scored"), "--out", str(tmp_path / "out")]
    assert release([*words, *LICENSE]) == 2
    assert "derives from weights under cc-by-nc-4.0" in capsys.readouterr().err
    assert release(words) == 0
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert (card.data.license, card.data.base_model) == ("cc-by-nc-4.0", "lab/net")
    assert "a derivative of others under cc-by-nc-4.0 (lab/net)" in card.text


def test_a_release_of_a_release_began_as_random_numbers_too(released, runs, tmp_path, capsys):
    words = [str(released), "--results", str(runs / "scored"), "--out"]
    assert release([*words, str(tmp_path / "small")]) == 0
    card = (tmp_path / "small" / "README.md").read_text()
    assert "began as random numbers" in card
    assert "derivative" not in card
    assert check_card(tmp_path / "small").outcome == "passed"


def test_a_release_is_replaced_as_a_whole(changed, runs, capsys):
    words = [str(runs / "tuned"), "--results", str(runs / "scored"), "--out", str(changed), *LICENSE]
    assert release(words) == 2
    assert "already holds a release" in capsys.readouterr().err
    (changed / "mine.txt").write_text("x")
    assert release([*words, "--overwrite"]) == 2
    assert "mine.txt, which is not of the release" in capsys.readouterr().err
    (changed / "mine.txt").unlink()
    assert release([*words, "--overwrite"]) == 0
    assert sorted(path.name for path in (changed / "results").iterdir()) == ["idsds"]
    assert [path.name for path in changed.parent.iterdir()] == ["copy"]


@pytest.mark.parametrize("pull_request", [False, True])
def test_push_uploads_the_folder_and_nothing_else(runs, tmp_path, capsys, monkeypatch, pull_request):
    calls = []

    class Commit:
        commit_url, pr_url = "https://hub/commit", "https://hub/pr"

    monkeypatch.setattr(HfApi, "create_repo", lambda self, *words, **flags: calls.append((words, flags)))
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **flags: calls.append(flags) or Commit())
    out, more = tmp_path / "out", ["--pull-request"] if pull_request else []
    results = ["--results", str(runs / "scored"), "--out", str(out)]
    assert release([str(runs / "tuned"), *results, *LICENSE, "--push", "lab/small", *more]) == 0
    *made, upload = calls
    assert [words for words, _ in made] == ([] if pull_request else [("lab/small",)])
    assert upload["delete_patterns"] == ["*"]  # old weights and code would fail the check of files
    assert (upload["repo_id"], upload["folder_path"], upload["create_pr"]) == ("lab/small", out, pull_request)
    assert ("https://hub/pr" if pull_request else "https://hub/commit") in capsys.readouterr().out
    assert "hf-hub:lab/small" in (out / "README.md").read_text()
    assert check_card(out).outcome == "passed"


def test_a_push_that_fails_says_what_is_there(runs, tmp_path, capsys):
    results = ["--results", str(runs / "scored"), "--out", str(tmp_path / "out")]
    assert release([str(runs / "tuned"), *results, *LICENSE, "--push", "lab/small"]) == 2  # no network in tests
    assert "can be pushed again" in capsys.readouterr().err
    assert (tmp_path / "out" / "SHA256SUMS").is_file()
