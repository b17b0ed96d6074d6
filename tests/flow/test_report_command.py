"""`eval.report` on result folders made by hand: what the page and its tables hold, and what is refused."""

import base64
import hashlib
import html
import json
import math
import re

import pandas as pd
import pytest

from eval import load_results
from eval import report as command
from eval.frame.board import Column
from eval.frame.report_files import names_of
from eval.report import write_report
from faithfulness.core import InputError
from faithfulness.core.statistics import paired_tests
from tests.reference.report_folders import HOSTILE, SCRIPT, close, write_some
from tests.reference.result_folders import METHODS, edit_summary, noisy, ranked_table, scores_of, write_result


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The report of a few results, its folder, and theirs."""
    folder = tmp_path_factory.mktemp("report")
    results = write_some(folder / "runs")
    assert command.main([*map(str, results), "--out", str(folder / "page")]) == 0
    return folder / "page", results


def told(capsys, *words):
    """The one line of a refusal."""
    capsys.readouterr()
    assert command.main([*map(str, words)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    return said.err


def text_of(out):
    return (out / "index.html").read_text(encoding="utf-8")


def test_every_number_has_its_summary_and_command(made):
    out, results = made
    table = pd.read_csv(out / "leaderboard.csv", keep_default_na=False, na_values=[""])
    for folder in results:
        summary = json.loads((folder / "summary.json").read_text())
        own = table[table["summary"] == str(folder / "summary.json")]
        assert sorted(own["mean"].dropna()) == pytest.approx(
            sorted(score["mean"] for score in summary["scores"] if score["mean"] is not None)
        )
        assert len(own) == len(summary["scores"])
        assert set(own["command"].dropna()) <= {summary.get("command")}
    letters = re.findall(r'href="#result-([A-Z]+)"', text_of(out))
    assert set(letters) == set(re.findall(r'id="result-([A-Z]+)"', text_of(out))) == set("ABCDEF")
    copies = [json.loads((out / "summaries" / f"{letter}.json").read_text()) for letter in "ABCDEF"]
    assert copies == [json.loads((folder / "summary.json").read_text()) for folder in results]


def test_methods_share_a_letter_only_if_a_paired_test_cannot_tell_them_apart(made):
    out, results = made
    table = pd.read_csv(out / "leaderboard.csv")
    own = table[table["summary"] == str(results[0] / "summary.json")].set_index("attribution")
    values = {name: column for (name, _), column in close().items()}
    values["ixg"][3:5] = 0  # undefined images count 0 in this protocol's mean
    names, p_values = paired_tests(values)
    assert 0 < (p_values < 0.05).sum() < 6
    for row, a in enumerate(names):
        for column, b in enumerate(names):
            if a != b:
                shared = set(own.loc[a, "letters"]) & set(own.loc[b, "letters"])
                assert bool(shared) == bool(p_values[row, column] >= 0.05)
    assert own["rank"].to_dict() == {"gradcam": 1, "ig": 2, "ixg": 3}
    assert own.loc["ixg", "n_undefined"] == 2


def test_results_are_in_the_manner_of_timm(made):
    table = pd.read_csv(made[0] / "results.csv", keep_default_na=False, na_values=[""])
    assert [*table.columns[:6]] == ["model", "attribution", "layer", "data", "split", "img_size"]
    row = table[(table["model"] == "resnet10t") & (table["attribution"] == "gradcam")].iloc[0]
    wanted = load_results(made[1][0]).scores.set_index("attribution").loc["gradcam"]
    assert row["idsds"] == pytest.approx(wanted["mean"])
    assert row["idsds_low"] == pytest.approx(wanted["low"])
    assert (row["img_size"], row["accuracy"], row["idsds_rank"]) == (64, 0.9, 1)
    assert not math.isnan(row["difull_2x2_localization"])  # of the same model and data: one row
    assert table["idsds"].dropna().is_monotonic_decreasing


def test_a_metric_that_comes_later_has_its_column(tmp_path):
    later = write_result(tmp_path / "later", ranked_table(noisy(5), metric="sanity_of_maps"))
    edit_summary(later, lambda summary: summary.update(protocol="sanity"))
    out = write_report([later], tmp_path / "page").parent
    assert "sanity of maps" in text_of(out)
    assert "sanity_of_maps" in pd.read_csv(out / "results.csv")
    assert "sanity of maps" in (out / "leaderboard.tex").read_text()


def test_columns_of_two_protocols_have_names_of_their_own():
    a, b = Column("a", "a_b", None, None), Column("a_b", "a_b", None, None)
    c = Column("idsds (single)", "loss", "difull", 2)
    assert list(names_of([a, b, c]).values()) == ["a_b", "a_b_2", "idsds_single_difull_2x2_loss"]


def test_two_results_of_one_model_and_protocol_keep_rows_of_their_own(tmp_path):
    a = write_result(tmp_path / "a", ranked_table(noisy(1)))
    b = write_result(tmp_path / "b", ranked_table(noisy(2)), settings={"fill": "mean"})
    table = pd.read_csv(write_report([a, b], tmp_path / "page").parent / "results.csv")
    assert len(table) == 2 * len(METHODS)
    assert set(table["model"]) == {"resnet10t", "resnet10t · B"}


def test_what_is_shown_is_escaped(made):
    out, _ = made
    text = text_of(out)
    assert SCRIPT not in text
    for value in HOSTILE.values():
        assert value not in text
        assert html.escape(value, quote=True).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in text
    assert "49" not in re.findall(r"\{\{.{0,9}\}\}|7\*7|49x", text)
    assert text.count("<script>") == 1
    assert "onerror=&#34;" in text
    latex = (out / "leaderboard.tex").read_text()
    assert r"\textless{}script\textgreater{}" in latex
    assert all((out / name).is_file() for name in re.findall(r'(?:src|href)="((?:pictures|summaries)/[^"]*)"', text))


def test_nothing_is_run_or_loaded_but_its_own(made):
    text = text_of(made[0])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    for tag in ("script", "style"):
        content = re.search(rf"<{tag}>(.*)</{tag}>", text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src &#39;sha256-{digest}&#39;" in policy or f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not re.search(r"\son\w+=[\"']|\sstyle=", re.sub(r"<script>.*</script>", "", text, flags=re.DOTALL))


def test_pictures_have_alternative_text_and_tables_headers(made):
    text = text_of(made[0])
    pictures = re.findall(r"<img [^>]*>", text)
    assert len([picture for picture in pictures if re.search(r'alt="[^"]{20,}"', picture)]) == len(pictures) - 1
    assert 'id="viewer-picture" alt=""' in text  # filled in when it opens
    for table in re.findall(r"<table.*?</table>", text, re.DOTALL):
        assert re.search(r'<th scope="col"', table)
        assert re.search(r'<th scope="row"', table)


def test_chapters_verdicts_and_evidence(made):
    text = text_of(made[0])
    for heading in ("IDSDS", "Grids (DiFull, GridPG, DiPart)", "Segmentation (DEA)", "Accuracy against IDSDS"):
        assert heading in text
    assert "✓ passed: proven" in text
    assert "✗ LEAKS" in text
    assert "baseline base" in text
    assert "40 images: few" in text
    assert (made[0] / "pictures" / "accuracy-0.svg").read_text().startswith("<?xml")


def test_folders_above_results_are_searched(made, tmp_path):
    out, results = made
    assert command.main([str(results[0].parent), "--out", str(tmp_path / "all")]) == 0
    found = json.loads((tmp_path / "all" / "report.json").read_text())["results"]
    assert sorted(each["path"] for each in found) == sorted(map(str, results))
    assert len(json.loads((out / "report.json").read_text())["leaderboard"]) > 10


def test_an_earlier_report_is_replaced_only_if_asked(made, tmp_path, capsys):
    _, results = made
    out = tmp_path / "page"
    write_report(results, out)
    before = {file.relative_to(out): file.read_bytes() for file in out.rglob("*") if file.is_file()}
    assert "pass --overwrite" in told(capsys, results[0], "--out", out)
    assert {file.relative_to(out): file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    assert command.main([str(results[0]), "--out", str(out), "--overwrite"]) == 0
    assert {file.name for file in (out / "summaries").iterdir()} == {"A.json"}
    (out / "index.html").unlink()  # as a run leaves it that was killed
    assert command.main([str(results[0]), "--out", str(out), "--overwrite"]) == 0
    (out / "notes.txt").write_text("mine")
    assert "notes.txt, which no run wrote" in told(capsys, results[0], "--out", out, "--overwrite")


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("evidence", "none"),
        ("evidence", {"model": {"accuracy": "high"}}),
        ("proofs", {"a": 1}),
        ("cautions", 3),
        ("command", ["a"]),
        ("scores", [{**score, "n": "forty"} for score in scores_of(ranked_table(noisy(1)))]),
        ("scores", [{**score, "setting": ["difull"]} for score in scores_of(ranked_table(noisy(1)))]),
        ("tests", {"names": ["ixg", "ig", "gradcam@final"], "p": "all"}),
    ],
)
def test_a_damaged_summary_is_refused_in_a_line(tmp_path, capsys, section, value):
    folder = write_result(tmp_path / "a", ranked_table(noisy(1)))
    edit_summary(folder, lambda summary: summary.update({section: value}))
    assert f"no {section} that can be read" in told(capsys, folder, "--out", tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_mistakes_are_refused_in_a_line(made, tmp_path, capsys):
    _, results = made
    assert "expected folders of results, got none" in told(capsys, "--out", tmp_path / "page")
    assert "--out is needed" in told(capsys, results[0])
    (tmp_path / "empty").mkdir()
    assert "no summary.json" in told(capsys, tmp_path / "empty", "--out", tmp_path / "page")
    assert "holds no evaluation" in told(capsys, tmp_path / "missing", "--out", tmp_path / "page")
    assert "given twice" in told(capsys, results[0], results[0], "--out", tmp_path / "page")
    assert "lies inside" in told(capsys, results[0], "--out", results[0] / "page")
    assert "already holds a run" in told(capsys, results[0], "--out", results[1], "--overwrite")
    with pytest.raises(InputError, match="several results"):
        write_report(results[0], tmp_path / "page")
