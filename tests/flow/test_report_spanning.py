"""What the page of a report says over several results: one point for each network; and explained pictures."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from checkpoints.release import release
from eval import compare as comparing
from eval import report as command
from eval.compare import compare
from eval.explain import explain
from eval.report import write_report
from faithfulness.core.errors import InputError
from faithfulness.core.files import write_json
from tests.reference.checkpoints import save_resnet
from tests.reference.report_folders import SCRIPT, draw
from tests.reference.result_folders import METHODS, edit_summary, noisy, ranked_table, write_result

PAIRS = (("target_deletion_drop", True), ("stability", True), ("passes_per_map", False))


def network(number, accuracy=None, images=40):
    model = {"name": f"net{number}", "sha256": str(number) * 64, "accuracy": accuracy or 0.6 + 0.1 * number}
    return {"model": model, "data": {"n_images": images}}


def score(name, layer, metric, mean, higher=True, **place):
    counts = {"mean": mean, "mean_defined": mean, "ci95": [mean, mean], "n": 9, "n_undefined": 0}
    return {"attribution": name, "layer": layer, "metric": metric, "higher_is_better": higher, **counts, **place}


def write_trade(folder, number, count=2):
    scores = [
        score(name, "final", metric, number + place, higher)
        for place, name in enumerate(("gpa", "a/mine.py:maps", "b/mine.py:maps")[:count])
        for metric, higher in PAIRS
    ]
    return write_result(folder, None, "dea", scores=scores, **network(number))


def write_matrix(folder, number):
    scores = [
        score(name, layer, "localization", 0.1 * number, setting=setting, scale=2)
        for setting in ("gridpg", "difull")
        for name in ("ixg", "gradcam")
        for layer in ("input", "final")
    ]
    write_result(folder, None, "difull", scores=scores, **network(number))
    edit_summary(folder, lambda summary: summary.update(protocol="mlatt"))
    return folder


def page_of(results, out):
    page = write_report(results, out)
    return page.read_text(encoding="utf-8"), json.loads((out / "report.json").read_text())


def test_several_results_of_one_network_are_one_point(tmp_path):
    """Of another number of images, say; of other data or settings, they are another question."""
    ways = [network(0), network(1), network(2), network(2, 0.95, images=20)]
    results = [write_result(tmp_path / str(i), ranked_table(noisy(i)), **how) for i, how in enumerate(ways)]
    other = network(3)
    other["data"] |= {"name": "other", "fingerprint": "4567"}
    results += [write_result(tmp_path / "other", ranked_table(noisy(5)), **other)]
    results += [write_result(tmp_path / "fill", ranked_table(noisy(6)), settings={"fill": "mean"}, **network(4))]
    text, found = page_of(results, tmp_path / "page")
    assert [(row["n_models"], row["results"]) for row in found["accuracy"]] == [(3, ["A", "B", "C"])] * len(METHODS)
    assert "3 models, results A, B, C (not D, of the same networks)" in text
    svg = (tmp_path / "page" / "pictures" / "accuracy-0.svg").read_text()
    assert [svg.count(f"<!-- net{number} -->") for number in range(5)] == [1, 1, 1, 0, 0]
    alike = compare(results[:4]).summary["accuracy"]
    assert [row["n_models"] for row in alike] == [3] * len(METHODS)


def test_segmentation_of_several_models_is_one_picture(tmp_path):
    results = [write_trade(tmp_path / str(number), number, count=3) for number in (1, 2)]
    text, _ = page_of(results, tmp_path / "page")
    assert "faithfulness, stability and cost on digits; 2 models, results A, B" in text
    svg = (tmp_path / "page" / "pictures" / "dea-0.svg").read_text()
    for words in (
        "stability (higher is better)",
        "forward and backward passes per map",
        "numbers are models: 1 net1; 2 net2",
    ):
        assert f"<!-- {words} -->" in svg
    assert "<!-- a/mine.py:maps@final -->" in svg  # the folder tells it from the other
    assert "<!-- b/mine.py:maps@final -->" in svg
    assert "<!-- gpa@final -->" in svg
    assert "a/<wbr>mine.py:<wbr>maps" in text
    one, _ = page_of(results[:1], tmp_path / "one")
    assert "dea-0.svg" not in one


def test_all_layers_of_several_models_are_one_picture_per_setting(tmp_path):
    results = [write_matrix(tmp_path / str(number), number) for number in (1, 2, 3)]
    text, _ = page_of(results, tmp_path / "page")
    assert "localization in gridpg 2×2 on digits, every method at every layer; 3 models" in text
    svg = (tmp_path / "page" / "pictures" / "mlatt-1.svg").read_text()
    assert [svg.count(f"<!-- net{number} -->") for number in range(5)] == [0, 1, 1, 1, 0]
    assert svg.count("<!-- 0.20 -->") == 4
    assert svg.count("<!-- 0.25 -->") >= 6  # chance


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    """Two pictures, one of whose names means harm."""
    folder = tmp_path_factory.mktemp("explained")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    explain(save_resnet(folder / "net"), [pixels, pixels], attributions="ixg", grid=[2, 2], out=folder / "out")
    edit = json.loads((folder / "out" / "explain.json").read_text())
    edit["images"][1]["predicted"] = SCRIPT
    write_json(folder / "out" / "explain.json", edit)
    return folder / "out"


def test_explained_pictures_are_sheets_of_the_page(explained, tmp_path):
    text, found = page_of([explained.parent], tmp_path / "page")
    assert "2 explained pictures" in text
    assert "Pictures of one&#39;s own" in text
    assert "the drops are out of its domain" in text
    assert text.count('class="opens" href="pictures/A-') == 2
    assert SCRIPT not in text
    assert (tmp_path / "page" / "pictures" / "A-0.png").read_bytes() == (
        explained / "pictures" / "picture-1.png"
    ).read_bytes()
    assert json.loads((tmp_path / "page" / "summaries" / "A.json").read_text())["images"][1]["predicted"] == SCRIPT
    assert found["explained"][0]["path"] == str(explained / "explain.json")
    result = write_result(tmp_path / "idsds", ranked_table(noisy(1)))
    both, _ = page_of([explained, result], tmp_path / "both")
    assert 'id="result-A"' in both
    assert 'id="result-B"' in both


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"finished": False}, "isn't finished"),
        ({"images": [{"name": "../x", "predicted": "a", "explained": "b"}]}, "no images that can be read"),
        ({"cautions": 5}, "no cautions that can be read"),
        ({"model": {}}, "no model name that can be read"),
    ],
)
def test_a_damaged_record_of_pictures_is_refused_in_a_line(explained, tmp_path, capsys, change, message):
    content = json.loads((explained / "explain.json").read_text())
    write_json(tmp_path / "own" / "explain.json", content | change)
    assert command.main([str(tmp_path / "own"), "--out", str(tmp_path / "page")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "page").exists()


class Killed(BaseException):
    """What nobody catches."""


def run_killed(module, words, moment, monkeypatch):
    """As SIGKILL would leave the folder when a file is about to get its name."""
    from eval.frame import installing

    replace = installing.os.replace

    def stop(source, target):
        if Path(target).name == moment:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(installing.shutil, "rmtree", lambda *_, **__: None)
        patch.setattr(installing.os, "replace", stop)
        patch.setattr("pathlib.Path.unlink", lambda *_, **__: None)
        module.main(words)


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("module", [command, comparing])
def test_the_next_call_goes_on_where_one_was_killed(tmp_path, capsys, monkeypatch, module):
    results = [write_result(tmp_path / name, ranked_table(noisy(i)), **network(i)) for i, name in enumerate("ab")]
    draw(results[0], "ranking")
    words, kind = [*map(str, results), "--out"], module.KIND
    assert module.main([*words, str(tmp_path / "whole")]) == 0
    whole, unfinished = files_of(tmp_path / "whole"), []
    table = {"report": "results.csv", "compare": "compare.csv"}[kind]
    for moment in (f"{kind}.json", table):
        out = tmp_path / f"killed before {moment}"
        run_killed(module, [*words, str(out)], moment, monkeypatch)
        assert ".lock" in files_of(out)
        record = out / f"{kind}.json"
        unfinished += [record.exists() and not json.loads(record.read_text())["finished"]]
        assert module.main([*words, str(out)]) == 0
        assert files_of(out) == whole
        run_killed(module, [*words, str(out), "--overwrite"], moment, monkeypatch)
        assert module.main([*words, str(out), "--overwrite"]) == 0
        assert files_of(out) == whole
    assert unfinished == [False, True]
    (tmp_path / "whole" / "pictures").mkdir(exist_ok=True)
    (tmp_path / "whole" / "pictures" / "A-0-mine.png").touch()
    assert module.main([*words, str(tmp_path / "whole"), "--overwrite"]) == 2
    assert "holds pictures/A-0-mine.png, which no run wrote" in capsys.readouterr().err


def test_a_refused_release_leaves_no_folder(tmp_path):
    write_json(tmp_path / "model" / "training.json", {})
    with pytest.raises(InputError):
        release(folder=tmp_path / "model", results=[], out=tmp_path / "new" / "deeper" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_sheets_of_a_files_function_are_found(tmp_path):
    labels = [("x/mine.py:maps", "input"), ("ixg", "input")]
    result = write_result(tmp_path / "a", ranked_table(noisy(1, methods=labels)))
    draw(result, "examples-difull-2x2-input-mine_py_maps", "examples-difull-2x2-input-ixg")
    text, _ = page_of([result], tmp_path / "page")
    rows = re.findall(r"<tr data-model.*?</tr>", text, re.DOTALL)
    assert [re.findall(r"examples-difull-2x2-input-(\w+)", row)[0] for row in rows] == ["ixg", "mine_py_maps"]


def test_points_that_arent_there_are_left_out(tmp_path):
    results = [write_trade(tmp_path / str(number), number) for number in (1, 2)]
    edit_summary(results[1], lambda summary: [each.update(mean=None, ci95=[None, None]) for each in summary["scores"]])
    text, found = page_of(results, tmp_path / "page")
    assert "dea-0.svg" in text
    assert sum(row["mean"] is None or math.isnan(row["mean"]) for row in found["leaderboard"]) == 6
