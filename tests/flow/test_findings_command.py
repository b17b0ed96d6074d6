"""`python -m benchmarks.findings --quick`: from training to verdicts, and again without training."""

import json

import pytest

from benchmarks.findings.__main__ import main
from benchmarks.findings.claims import FINDINGS
from difull import Compositions
from faithfulness.core.errors import InputError

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("findings")
    main(out=folder, quick=True)
    return folder


def read(folder):
    return json.loads((folder / "findings.json").read_text(encoding="utf-8"))


def test_a_smoke_run_goes_through_all_protocols_and_claims_little(finished):
    record = read(finished)
    verdicts = {key: found["verdict"] for key, found in record["verdicts"].items()}
    assert set(verdicts) == {finding.key for finding in FINDINGS}
    assert verdicts["identity"] == "holds"  # as it must, trained or not
    assert verdicts["dea-cost"] == "holds"
    assert verdicts["smoothgrad"] == verdicts["gradient-difull"] == verdicts["dea-target"] == "undecided"
    assert verdicts["depth"] == verdicts["seeds"] == "not run"
    assert (
        record["quantities"]["identity: resnet10"]["effect"]
        > 1e4 * record["quantities"]["identity: resnet10-nobn-nobias"]["effect"]
    )


def test_the_same_command_goes_on_with_what_is_there(finished, monkeypatch, capsys):
    def trained_again(*given, **flags):
        raise AssertionError("trained again")

    monkeypatch.setattr("training.patch_finetune.finetune", trained_again)
    before = read(finished)
    main(out=finished, quick=True)
    after = read(finished)
    assert {**before, "seconds": 0} == {**after, "seconds": 0}
    assert "without bias terms and with a zero" in capsys.readouterr().out


def test_a_run_that_ends_early_has_verdicts_on_what_was_run(finished):
    before = read(finished)
    main(out=finished, quick=True, minutes=1e-9)
    record = json.loads((finished / "findings-partial.json").read_text(encoding="utf-8"))
    assert {found["verdict"] for found in record["verdicts"].values()} == {"not run"}
    assert record["cautions"] == ["stopped before resnet10: training, IDSDS: 0 s are over"]
    assert read(finished) == before  # a record of all steps stays


def test_grids_share_no_image_and_every_step_names_its_commit(finished):
    record = read(finished)
    for kind in ("distinct", "corners"):
        chosen = Compositions.load(finished / "grids" / "resnet10" / "chosen" / f"{kind}.parquet")
        assert chosen.one_use
        assert len(chosen) == record["settings"]["grids"]
    assert {"whole/resnet10", "deleted/resnet10", "idsds/resnet10", "dea", "grids/resnet10/rise"} <= set(
        record["steps"]
    )
    assert {commit for commits in record["steps"].values() for commit in commits} <= set(record["commits"])


def test_another_size_in_the_same_folder_is_refused(finished):
    before = read(finished)
    with pytest.raises(InputError, match=r"has idsds/resnet10 with limit 8, asked 15; pass another --out"):
        main(out=finished, quick=True, images=15)
    assert read(finished) == before
