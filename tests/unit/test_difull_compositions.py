"""Choosing confident images and composing grids of them."""

import itertools

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from difull import Compositions, choose_confident, make_compositions
from difull.compositions import count_possible
from faithfulness.core import InputError
from tests.reference.grids import count_grids, most_grids_at_once

LABELS = np.array([0, 0, 0, 1, 1, 2, 3, 3])


@pytest.mark.parametrize("kind", ["distinct", "corners"])
@pytest.mark.parametrize("scale", [1, 2])
def test_possible_grids_are_counted_exactly(scale, kind):
    for labels in (LABELS, LABELS[:5], np.array([4, 4, 5, 6, 7, 7])):
        expected = 0 if scale == 1 and kind == "corners" else count_grids(labels.tolist(), scale, kind)
        assert count_possible(labels, scale, kind) == expected


def test_possible_3x3_grids():
    assert count_possible(np.arange(9), 3) == 362880
    assert count_possible(np.arange(8), 3) == 0
    assert count_possible(np.r_[np.arange(8), 0], 3, "corners") == 2 * 5040
    assert count_possible(np.repeat(np.arange(1000), 50), 3, "corners") > 10**30


@pytest.mark.parametrize("kind", ["distinct", "corners"])
@pytest.mark.parametrize("scale", [2, 3])
def test_grids_are_of_their_kind(scale, kind):
    labels = np.repeat(np.arange(10), 5)
    eligible = np.flatnonzero(np.arange(50) % 5 < 3)
    made = make_compositions(labels, eligible, scale, 60, kind, seed=3)
    assert made.indices.shape == (60, scale**2)
    assert np.array_equal(made.labels, labels[made.indices])
    assert np.isin(made.indices, eligible).all()
    assert len({tuple(grid) for grid in made.indices}) == 60
    for images, classes in zip(made.indices, made.labels, strict=True):
        assert len(set(images)) == scale**2
        if kind == "distinct":
            assert len(set(classes)) == scale**2
        else:
            assert classes[0] == classes[-1]
            assert len(set(classes)) == scale**2 - 1
    assert made.heads == (tuple(range(scale**2)) if kind == "distinct" else (0, scale**2 - 1))
    counts = np.bincount(made.labels.ravel(), minlength=10)
    assert counts.min() > 0.5 * counts.mean()


def test_the_seed_decides_and_a_longer_list_begins_alike():
    first, again, longer = (make_compositions(LABELS, np.arange(8), 2, n, seed=1) for n in (5, 5, 9))
    assert np.array_equal(first.indices, again.indices)
    assert np.array_equal(first.indices, longer.indices[:5])
    assert not np.array_equal(first.indices, make_compositions(LABELS, np.arange(8), 2, 5, seed=2).indices)


@pytest.mark.parametrize("kind", ["distinct", "corners"])
def test_every_possible_grid_is_found(kind):
    possible = count_possible(LABELS[1:], 2, kind)
    made = make_compositions(LABELS, np.arange(1, 8), 2, possible, kind)
    assert len({tuple(grid) for grid in made.indices}) == possible


SIZES = [sizes for classes in (3, 4, 5) for sizes in itertools.combinations_with_replacement(range(1, 5), classes)]


@pytest.mark.parametrize("kind", ["distinct", "corners"])
def test_grids_without_a_common_image_are_counted_exactly_and_all_found(kind):
    for sizes in SIZES:
        labels = np.repeat(np.arange(len(sizes)), sizes)
        possible = count_possible(labels, 2, kind, reuse=False)
        assert possible == most_grids_at_once(tuple(sizes), 4, kind), sizes
        if possible:
            for seed in range(3):
                made = make_compositions(labels, np.arange(len(labels)), 2, possible, kind, seed, reuse=False)
                assert made.one_use
                assert len(set(made.indices.ravel())) == 4 * possible
                for classes in made.labels:
                    assert len(set(classes)) == (4 if kind == "distinct" else 3)
                    assert kind == "distinct" or classes[0] == classes[-1]


@pytest.mark.parametrize("kind", ["distinct", "corners"])
def test_as_many_one_use_grids_as_possible_are_found_without_luck(kind, monkeypatch):
    monkeypatch.setattr("difull.one_use.TRIES", 0)  # every grid is planned, as where draws leave too few images
    generator = np.random.default_rng(0)
    for _ in range(300):
        scale = int(generator.choice([2, 3]))
        sizes = generator.integers(0, 12, size=generator.integers(scale**2 - 1, 16))
        labels = np.repeat(np.arange(len(sizes)), sizes)
        possible = count_possible(labels, scale, kind, reuse=False)
        if possible:
            made = make_compositions(labels, np.arange(len(labels)), scale, possible, kind, reuse=False)
            assert made.one_use
            assert len(made) == possible
            for classes in made.labels:
                assert len(set(classes)) == scale**2 - (kind == "corners")


@pytest.mark.parametrize("kind", ["distinct", "corners"])
@pytest.mark.parametrize("scale", [2, 3])
def test_one_use_grids_are_of_their_kind_and_draw_classes_evenly(kind, scale):
    labels = np.repeat(np.arange(20), 30)
    made = make_compositions(labels, np.arange(600), scale, 30, kind, seed=3, reuse=False)
    again = make_compositions(labels, np.arange(600), scale, 30, kind, seed=3, reuse=False)
    assert np.array_equal(made.indices, again.indices)
    other = make_compositions(labels, np.arange(600), scale, 30, kind, seed=4, reuse=False)
    assert not np.array_equal(made.indices, other.indices)
    assert made.about["reuse"] is False
    assert np.array_equal(made.labels, labels[made.indices])
    assert len(np.unique(made.indices)) == made.indices.size
    counts = np.bincount(made.labels.ravel(), minlength=20)
    assert counts.min() > 0.3 * counts.mean()
    assert not make_compositions(labels, np.arange(600), scale, 200, kind).one_use


def test_too_many_one_use_grids_are_refused_with_the_counts():
    with pytest.raises(InputError, match=r"9 distinct grids of 2×2 without a common image, but 8 .* allow 1$"):
        make_compositions(LABELS, np.arange(8), 2, 9, reuse=False)
    confidences = torch.eye(4)[LABELS]
    assert len(choose_confident(confidences, LABELS, scale=2, count=1, reuse=False)) == 8
    with pytest.raises(InputError, match="2 distinct grids of 2×2 without a common image"):
        choose_confident(confidences, LABELS, scale=2, count=2, reuse=False)


def test_what_cant_be_made_is_refused_with_the_counts():
    with pytest.raises(InputError, match=r"1000 corners grids of 2×2, but 8 .* in 4 classes \(3 .* allow 184"):
        make_compositions(LABELS, np.arange(8), 2, 1000, "corners")
    with pytest.raises(InputError, match=r"6 eligible images in 3 classes .* allow 0"):
        make_compositions(LABELS, np.arange(6), 2, 1)
    with pytest.raises(InputError, match="allow 0"):
        make_compositions(LABELS, [], 2, 1)
    with pytest.raises(InputError, match="must lie in 0 … 7"):
        make_compositions(LABELS, [3, 9], 2, 1)
    with pytest.raises(InputError, match="unknown kind of composition 'distnct'; did you mean distinct"):
        make_compositions(LABELS, np.arange(8), 2, 1, "distnct")


def test_a_search_that_finds_too_few_ends_and_says_so(monkeypatch):
    monkeypatch.setattr("difull.compositions.DRAWS_PER_GRID", 1)
    with pytest.raises(InputError, match=r"found only \d+ of 288 distinct grids in 288 draws"):
        make_compositions(LABELS, np.arange(8), 2, 288)


def test_saved_compositions_come_back(tmp_path):
    made = make_compositions(LABELS, np.arange(8), 2, 7, "corners", seed=5, about={"data": "digits", "threshold": 0.9})
    path = tmp_path / "compositions" / "corners-2.parquet"
    made.save(path)
    back = Compositions.load(path)
    assert np.array_equal(back.indices, made.indices)
    assert np.array_equal(back.labels, made.labels)
    assert (back.scale, back.kind, back.about) == (2, "corners", {"seed": 5, "data": "digits", "threshold": 0.9})
    assert list(pd.read_parquet(path).columns) == ["grid", "cell", "index", "label"]
    assert pd.read_parquet(path).query("grid == 2 and cell == 1")["index"].item() == made.indices[2, 1]
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    back.check(LABELS)


@pytest.mark.parametrize("dtype", ["int64", "int32", "float64"])
def test_a_table_that_pandas_wrote_loads_alike_in_any_order_of_its_rows(tmp_path, dtype):
    made = make_compositions(LABELS, np.arange(8), 2, 7, "corners", seed=5)
    path = tmp_path / "corners.parquet"
    made.save(path)
    meta = pq.read_schema(path).metadata
    assert [str(field.type) for field in pq.read_schema(path)] == ["int64"] * 4
    table = pa.Table.from_pandas(pd.read_parquet(path).astype(dtype).sample(frac=1, random_state=0))
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, **meta}), path)
    back = Compositions.load(path)
    assert np.array_equal(back.indices, made.indices)
    assert np.array_equal(back.labels, made.labels)
    assert back.indices.dtype == np.int64


@pytest.mark.parametrize("column", ["index", "label"])
def test_a_table_with_gaps_is_refused(tmp_path, column):
    path = tmp_path / "gaps.parquet"
    make_compositions(LABELS, np.arange(8), 2, 7).save(path)
    meta, frame = pq.read_schema(path).metadata, pd.read_parquet(path).astype("float64")
    frame.loc[3, column] = None
    pq.write_table(pa.Table.from_pandas(frame).replace_schema_metadata(meta), path)
    with pytest.raises(InputError, match="holds no compositions"):
        Compositions.load(path)


def test_compositions_of_other_data_are_refused(tmp_path):
    made = make_compositions(LABELS, np.arange(8), 2, 7)
    with pytest.raises(InputError, match="belong to other data"):
        made.check(np.roll(LABELS, 1))
    with pytest.raises(InputError, match="has only 3"):
        made.check(LABELS[:3])
    pd.DataFrame({"grid": [0]}).to_parquet(tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    for name in ("other.parquet", "text.parquet", "missing.parquet"):
        with pytest.raises(InputError, match="holds no compositions"):
            Compositions.load(tmp_path / name)


def probabilities(seed=0, models=2, images=40, classes=6):
    generator = torch.Generator().manual_seed(seed)
    right = torch.nn.functional.one_hot(torch.arange(images) % 6, 6)[:, :classes]
    return torch.softmax(2 * torch.randn(models, images, classes, generator=generator) + 2 * right, dim=2)


def test_confident_images_are_right_in_every_model():
    confidences, labels = probabilities(), np.arange(40) % 6
    chosen = choose_confident(confidences, labels, 0.3)
    expected = [
        i for i in range(40) if all(p[i].argmax() == labels[i] and p[i][labels[i]].item() >= 0.3 for p in confidences)
    ]
    assert chosen.tolist() == expected
    alone = choose_confident(confidences[0], labels, 0.3)
    assert set(chosen) < set(alone)


@pytest.mark.parametrize("kind", ["distinct", "corners"])
def test_too_few_images_say_at_which_threshold_it_would_do(kind):
    confidences, labels = probabilities(models=1), np.arange(40) % 6
    with pytest.raises(InputError, match=r"too few images for 3 \w+ grids of 2×2: \d+ of 40, in \d classes") as caught:
        choose_confident(confidences, labels, 0.999, scale=2, kind=kind, count=3)
    hint = float(str(caught.value).rpartition(" ")[2])
    chosen = choose_confident(confidences, labels, hint, scale=2, kind=kind, count=3)
    assert count_possible(labels[chosen], 2, kind) >= 3
    own = confidences[0].double().numpy()[np.arange(40), labels]
    above = chosen[own[chosen] > hint + 2e-6]
    assert count_possible(labels[above], 2, kind) < 3
    make_compositions(labels, chosen, 2, 3, kind)


def test_no_threshold_would_do_and_other_refusals():
    confidences, labels = probabilities(models=1)[0], np.arange(40) % 6
    few = "no threshold would do: each takes 9 classes, and images of 6 are classified rightly at all"
    with pytest.raises(InputError, match=few):
        choose_confident(confidences, labels, 0.5, scale=3)
    with pytest.raises(InputError, match="each takes 8 classes"):
        choose_confident(confidences, labels, 0.5, scale=3, kind="corners")
    with pytest.raises(InputError, match="no threshold would do"):
        choose_confident(1 - torch.eye(6)[labels], labels, 0.5)
    with pytest.raises(InputError, match=r"expected probabilities \(N, classes\)"):
        choose_confident(confidences[:, :3], labels)
    with pytest.raises(InputError, match="threshold must lie in"):
        choose_confident(confidences, labels, 1.5)
    with pytest.raises(InputError, match="expected whole numbers"):
        choose_confident(confidences, torch.from_numpy(labels) / 2)


def test_grids_cover_all_orders():
    made = make_compositions(np.arange(4), np.arange(4), 2, 24)
    assert {tuple(grid) for grid in made.indices} == set(itertools.permutations(range(4)))
