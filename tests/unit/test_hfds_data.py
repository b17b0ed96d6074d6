"""`hfds`: parquet files as the Hub has them: which are read, in what order, what is refused, workers, the Hub."""

import pickle
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from timm.data.imagenet_info import ImageNetInfo

from faithfulness.core import InputError
from faithfulness.data import CorruptImage, KeyedBatches, Samples, make_loader, open_data
from faithfulness.data import parquet as parquet_module
from faithfulness.data.hfds import by_class, content_digest, imagenet_ids
from faithfulness.data.hub_files import choose_files
from tests.reference.parquet_folders import CLASSES, features, make_hfds, painted, write_rows

CONFIG = {"input_size": (3, 8, 8), "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}


@pytest.fixture
def folder(tmp_path):
    return make_hfds(tmp_path / "pets")


def reds(data):
    return [data.image(index).getpixel((0, 0))[0] // 10 for index in range(len(data))]


def only(tmp_path, pictures, labels, **options):
    """A folder with one file for validation."""
    write_rows(tmp_path / "one/data/validation-00000-of-00001.parquet", pictures, labels, **options)
    return f"hfds:{tmp_path / 'one'}"


def test_rows_come_in_the_order_of_files_with_their_labels(folder):
    data = open_data(f"hfds:{folder}")
    assert (data.classes, len(data), data.split) == (CLASSES, 10, "val")
    assert reds(data) == list(range(10))
    assert [data.label(index) for index in range(10)] == [row % 3 for row in range(10)]
    assert data.example(7)[0].size == (47, 36)
    assert data.image(-1).size == data.image(9).size
    with pytest.raises(IndexError):
        data.image(10)


def test_it_is_what_pyarrow_reads_whole(folder):
    files = sorted((folder / "data").glob("train-*"))
    table = pa.concat_tables([pq.read_table(file) for file in files])
    data = open_data(f"hfds:{folder}", "train")
    assert [data.rows.read(row) for row in range(10)] == table["image"].combine_chunks().field("bytes").to_pylist()
    assert [data.label(index) for index in range(10)] == table["label"].to_pylist()


def test_rows_that_lie_by_class_are_spread(tmp_path):
    labels = sorted(row % 3 for row in range(24))
    data = open_data(only(tmp_path, [painted(row) for row in range(24)], labels))
    order = reds(data)
    assert sorted(order) == list(range(24)) != order
    assert [data.label(index) for index in range(24)] == [labels[row] for row in order]
    assert len({data.label(index) for index in range(8)}) == 3
    read = data.rows.read
    data.rows.read = lambda row: b"no picture" if row == 5 else read(row)
    with pytest.raises(CorruptImage, match="row 5 "):
        data.image(order.index(5))


def test_random_order_is_left_alone():
    rng = np.random.default_rng(0)
    assert not by_class(rng.integers(0, 1000, 50_000))
    assert not by_class(rng.integers(0, 2, 100))
    assert not by_class(np.zeros(1, int))
    assert by_class(np.repeat(np.arange(10), 5))


def test_corrupt_rows_are_named_by_file_and_row_or_counted(tmp_path):
    pictures = [painted(row) for row in range(9)]
    pictures[2], pictures[5], pictures[7] = b"", pictures[5][:40], None
    data = open_data(only(tmp_path, pictures, [row % 3 for row in range(9)]))
    with pytest.raises(CorruptImage, match=r"validation-00000-of-00001\.parquet, row 5 \(.*--skip-corrupt"):
        data.image(5)
    with pytest.raises(CorruptImage, match=r"row 7 \(the row holds no bytes"):
        data.image(7)
    samples = Samples(data, CONFIG, training=False, skip_corrupt=True)
    batches = list(make_loader(samples, KeyedBatches(9, 4, shuffle=False)))
    assert [index for batch in batches for index in batch["corrupt"].tolist()] == [2, 5, 7]
    assert [index for batch in batches for index in batch["index"].tolist()] == [0, 1, 3, 4, 6, 8]
    assert [label for batch in batches for label in batch["label"].tolist()] == [0, 1, 0, 1, 0, 2]


def test_a_row_group_that_changed_since_is_corrupt(folder):
    data = open_data(f"hfds:{folder}")
    file = folder / "data/validation-00001-of-00002.parquet"
    assert data.image(0) is not None
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(CorruptImage, match=r"validation-00001-of-00002\.parquet, row 1 \(.*no parquet file"):
        data.image(6)


def test_a_copy_for_another_process_takes_no_open_file_along(folder):
    data = open_data(f"hfds:{folder}")
    fresh = len(pickle.dumps(data))
    assert reds(data) == list(range(10))
    again = pickle.loads(pickle.dumps(data))
    assert len(pickle.dumps(data)) == fresh
    assert (reds(again), again.fingerprint()) == (reds(data), data.fingerprint())


def test_a_process_keeps_few_row_groups_and_files(folder, monkeypatch):
    monkeypatch.setattr(parquet_module, "KEPT", 1)
    monkeypatch.setattr(parquet_module, "_MOST_OPEN", 1)
    data = open_data(f"hfds:{folder}")
    assert reds(data) == list(range(10))
    assert (len(data.rows._kept), len(data.rows._open)) == (1, 1)


def test_a_row_group_that_is_too_large_is_refused_by_what_it_says(tmp_path, monkeypatch):
    where = only(tmp_path, [painted(row) for row in range(6)], [row % 3 for row in range(6)])
    monkeypatch.setattr(parquet_module, "LARGEST_GROUP", 100)
    with pytest.raises(InputError, match=r"row group 0 says that it holds 0 MiB, expected at most 0; write it again"):
        open_data(where)


def test_one_picture_for_every_row_is_unpacked_in_parts_and_never_whole(tmp_path, monkeypatch):
    """A dictionary of one entry: 20 kB in the file are 20 MB of rows."""
    picture = np.random.default_rng(0).bytes(20_000)
    where = only(tmp_path, [picture] * 1000, [row % 3 for row in range(1000)], group=1000)
    file = tmp_path / "one/data/validation-00000-of-00001.parquet"
    assert file.stat().st_size < 50_000
    monkeypatch.setattr(parquet_module, "LARGEST_GROUP", 2_000_000)
    monkeypatch.setattr(parquet_module, "_AT_ONCE", 200_000)
    data, before = open_data(where), pa.total_allocated_bytes()
    assert all(at_once <= 10 for *_, at_once in data.rows._groups)
    with pytest.raises(CorruptImage, match=r"row group unpacks to more than 1 MiB"):
        data.image(3)
    assert pa.total_allocated_bytes() - before < 3_000_000


def test_the_fingerprint_is_of_the_content_wherever_it_lies(folder, tmp_path):
    other = make_hfds(tmp_path / "copy")
    prints = [open_data(f"hfds:{path}").fingerprint() for path in (folder, other)]
    assert prints[0] == prints[1] != open_data(f"hfds:{folder}", "train").fingerprint()
    file = other / "data/validation-00000-of-00002.parquet"
    content, before = bytearray(file.read_bytes()), open_data(f"hfds:{other}").state(2)
    content[60] ^= 1
    file.write_bytes(content)
    assert open_data(f"hfds:{other}").fingerprint() != prints[0]
    assert open_data(f"hfds:{other}").state(2) != before


def test_of_a_large_file_beginning_middle_and_end_count(tmp_path):
    file = tmp_path / "large"
    with file.open("wb") as stream:
        stream.truncate((16 << 20) + 5)
    digests = {content_digest(file)}
    for place in (0, 8 << 20, (16 << 20) + 4):
        with file.open("r+b") as stream:
            stream.seek(place)
            stream.write(b"x")
        digests.add(content_digest(file))
    assert len(digests) == 4


@pytest.mark.parametrize(("picture", "label"), [("img", "label"), ("image", "labels"), ("img", "fine_label")])
def test_other_names_of_columns(tmp_path, picture, label):
    where = only(tmp_path, [painted(0)], [2], picture=picture, label=label, meta=features(CLASSES, picture, label))
    if label == "label":
        data = open_data(where)
    else:
        with pytest.warns(UserWarning, match=rf"pictures from the column {picture}, labels from {label}"):
            data = open_data(where)
    assert (data.label(0), data.classes) == (2, CLASSES)


def test_labels_that_are_texts_mean_the_same_in_every_split(tmp_path):
    root = tmp_path / "texts"
    for split, labels in (("train", ["eel", "cat", "dog"]), ("validation", ["eel", "dog", "eel"])):
        write_rows(root / f"{split}.parquet", [painted(row) for row in range(3)], labels, meta=None)
    train, val = (open_data(f"hfds:{root}", split) for split in ("train", "val"))
    assert train.classes == val.classes == CLASSES
    assert [val.label(index) for index in range(3)] == [2, 1, 2]


def test_texts_of_one_split_alone_are_said_to_be_its_own(tmp_path):
    labels = ["eel", "dog", "eel"]
    with pytest.warns(UserWarning, match=r"labels are texts and no other split is there, so the 2 classes are its own"):
        data = open_data(only(tmp_path, [painted(row) for row in range(3)], labels, meta=None))
    assert data.classes == ["dog", "eel"]


def test_texts_of_the_hub_are_refused_unless_every_split_is_there(tmp_path, monkeypatch):
    """What the classes are depends on all splits, and only the chosen one is fetched."""
    root, there = tmp_path / "texts", ["train.parquet", "validation.parquet"]
    for name, labels in zip(there, (["eel", "cat", "dog"], ["eel", "dog", "eel"]), strict=True):
        write_rows(root / name, [painted(row) for row in range(3)], labels, meta=None)
    siblings = [SimpleNamespace(rfilename=name) for name in there]
    hub = SimpleNamespace(repo_info=lambda *_, **__: SimpleNamespace(sha="abc", siblings=siblings))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(root))
    assert open_data("hfds:org/texts").classes == CLASSES
    (root / "train.parquet").rename(tmp_path / "train.parquet")
    refusal = r"labels are texts, so their numbers depend on all splits, of which only val is fetched; download it"
    with pytest.raises(InputError, match=refusal):
        open_data("hfds:org/texts")
    hub.repo_info = lambda *_, **__: (_ for _ in ()).throw(ConnectionError("no network"))
    with pytest.raises(InputError, match=refusal):
        open_data("hfds:org/texts")


def test_names_of_classes_from_the_card(tmp_path):
    where = only(tmp_path, [painted(0)], [1], meta=None)
    assert open_data(where).classes == ["0", "1"]
    names = "".join(f"          '{number}': {name}\n" for number, name in enumerate(CLASSES))
    card = "dataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n"
    card += f"      class_label:\n        names:\n{names}"
    (tmp_path / "one/README.md").write_text(f"---\n{card}---\n# Pets\n")
    assert open_data(where).classes == CLASSES
    (tmp_path / "one/README.md").write_text("---\n[[[\n---\n")
    assert open_data(where).classes == ["0", "1"]


def test_a_model_may_have_more_classes_than_labels_without_names_show(tmp_path):
    data = open_data(only(tmp_path, [painted(0)], [1], meta=None))
    before = data.fingerprint()
    assert data.suits(5)
    assert not data.suits(3)
    assert (len(data.classes), data.fingerprint()) == (5, before)


def test_imagenets_classes_have_the_ids_of_its_folders():
    info = ImageNetInfo("imagenet-1k")
    names = [info.label_name_to_description(wnid, detailed=False) for wnid in info.label_names()]
    names[517] = "crane2"
    ids = imagenet_ids(names)
    assert ids == sorted(ids)
    assert (names[0], ids[0]) == ("tench, Tinca tinca", "n01440764")
    assert imagenet_ids(sorted(names)) is imagenet_ids(names[:999]) is None


FILES = {
    ("data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"): ("data/validation", "validation"),
    ("train.parquet", "val.parquet"): ("val.parquet", "val"),
    ("default/partial-train/0000.parquet", "default/test/0000.parquet"): ("default/test", "test"),
    ("data/test-00000-of-00001-ab12.parquet", "valid/0.parquet"): ("valid/0", "valid"),
    ("a.parquet", ".cache/b.parquet"): ("a.parquet", None),
    ("train/x.parquet",): "no files of the split val .*it has train",
    ("s/val-0.parquet", "t/val-0.parquet"): "2 data sets; name one, as here/s",
    ("val-00000-of-00003.parquet", "val-00002-of-00003.parquet"): r"expected files 0 … 2 of 3 .*got 0, 2",
    ("x.jpg",): "no parquet files in here",
}


@pytest.mark.parametrize("names", FILES, ids="+".join)
def test_which_files_are_the_split(names):
    expected = FILES[names]
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            choose_files(names, "val", "here")
    else:
        chosen, _, word = choose_files(names, "val", "here")
        assert (len(chosen), chosen[0].startswith(expected[0]), word) == (1, True, expected[1])


def test_a_name_is_fetched_from_the_hub_and_later_found_without_it(folder, monkeypatch):
    asked = []

    class Hub:
        def repo_info(self, name, **options):
            asked.append((name, options["revision"]))
            files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet"))
            return SimpleNamespace(sha="abc", siblings=[SimpleNamespace(rfilename=file) for file in files])

    def snapshot(name, **options):
        asked.append((name, options["revision"], options.get("allow_patterns")))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    data = open_data("hfds:timm/pets@v1")
    files = [f"data/validation-0000{number}-of-00002.parquet" for number in (0, 1)]
    assert asked == [("timm/pets", "v1"), ("timm/pets", "abc", ["README.md", *files])]
    assert data.fingerprint() == open_data(f"hfds:{folder}").fingerprint()
    monkeypatch.setattr(Hub, "repo_info", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("no network")))
    assert len(open_data("hfds:timm/pets")) == 10
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: 1 / 0)
    with pytest.raises(InputError, match=r"no folder timm/pets, and no data set .*ConnectionError.*is there a network"):
        open_data("hfds:timm/pets")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hfds:", "hfds needs a folder of parquet files or a name on the Hub"),
        ("hfds:./nowhere", "no folder nowhere"),
        ("hfds:/a b", "no folder /a b"),
        ("wds:shards-{000..010}.tar", r"shards are streams.*use hfds:ORG/NAME"),
    ],
)
def test_what_is_no_data_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        open_data(text)
