"""ImageNet's validation pictures in one folder: labels of the devkit or of Kaggle's table, as of class folders."""

import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from faithfulness.core import InputError
from faithfulness.data import open_data
from faithfulness.data.folders import FolderData
from faithfulness.data.imagenet import DEVKIT, GROUND_TRUTH, KAGGLE, SOLUTION

RNG = np.random.default_rng(0)
WNIDS = [f"n{number:08d}" for number in RNG.choice(20_000_000, 1000, replace=False)]
"""In the order of the devkit's numbers, which isn't sorted."""
CHOSEN = [17, 1, 1000, 500, 17, 3]
"""The devkit's numbers of the pictures, in the order of their names."""


def lay_devkit(root, ids=WNIDS, chosen=CHOSEN, inner=5):
    """The devkit with `inner` nodes of the tree after the classes, as the true one has 860."""
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    synsets = np.zeros((len(ids) + inner, 1), kind)
    for place, wnid in enumerate([*ids, *(f"n{90_000_000 + number}" for number in range(inner))]):
        synsets[place, 0] = (float(place + 1), wnid, "a thing", float(place >= len(ids)))
    (root / DEVKIT).mkdir(parents=True)
    savemat(root / DEVKIT / "meta.mat", {"synsets": synsets})
    (root / DEVKIT / GROUND_TRUTH).write_text("".join(f"{number}\n" for number in chosen))


def lay_pictures(folder):
    folder.mkdir(parents=True)
    for number in range(len(CHOSEN)):
        Image.new("RGB", (8 + number, 8)).save(folder / f"ILSVRC2012_val_{number + 1:08d}.JPEG")


@pytest.fixture
def flat(tmp_path):
    root = tmp_path / "imagenet"
    lay_pictures(root / "val")
    lay_devkit(root)
    return root


def widths_and_classes(data):
    return [(data.image(index).width, data.classes[data.label(index)]) for index in range(len(data))]


def test_labels_are_the_places_of_the_sorted_ids(flat):
    data = open_data(f"imagenet:{flat}")
    assert data.classes == sorted(WNIDS)
    assert widths_and_classes(data) == [(8 + place, WNIDS[number - 1]) for place, number in enumerate(CHOSEN)]


def test_a_picture_has_the_label_that_it_has_in_class_folders(flat, tmp_path):
    other = tmp_path / "folders"
    for wnid in WNIDS:
        (other / "train" / wnid).mkdir(parents=True)
        (other / "train" / wnid / "x.JPEG").write_bytes(b"")
        (other / "val" / wnid).mkdir(parents=True)
        (other / "val" / wnid / "ILSVRC2012_val_99999999.JPEG").write_bytes(b"")
    for place, number in enumerate(CHOSEN):
        name = f"ILSVRC2012_val_{place + 1:08d}.JPEG"
        shutil.copy(flat / "val" / name, other / "val" / WNIDS[number - 1] / name)
    mine, theirs = open_data(f"imagenet:{flat}"), open_data(f"imagenet:{other}")
    assert mine.classes == theirs.classes == open_data(f"imagenet:{other}", "train").classes
    for index in range(len(CHOSEN)):
        assert (mine.path(index).name, mine.label(index)) == (theirs.path(index).name, theirs.label(index))


@pytest.mark.parametrize("given", ["val", "."])
def test_the_folder_itself_will_do_and_the_devkit_beside_it(flat, given):
    if given == ".":
        shutil.move(flat / DEVKIT.partition("/")[0], flat.parent)
    assert len(open_data(f"imagenet:{flat / given}")) == len(CHOSEN)
    with pytest.raises(InputError, match=r"no folder .*train"):
        open_data(f"imagenet:{flat / given}", "train")


def lay_solution(root, header="ImageId,PredictionString"):
    """As of Kaggle: every class must occur, so it has a row for each, and pictures of 1000 classes."""
    (root / KAGGLE / "val").mkdir(parents=True)
    rows = []
    for number, wnid in enumerate(WNIDS):
        name = f"ILSVRC2012_val_{number + 1:08d}"
        (root / KAGGLE / "val" / f"{name}.JPEG").write_bytes(b"")
        rows.append(f"{name},{wnid} 85 1 499 272 {WNIDS[0]} 1 2 3 4 \n")
    (root / SOLUTION).write_text(f"{header}\n" + "".join(reversed(rows)))


@pytest.mark.parametrize("below", ["", KAGGLE])
def test_kaggles_table(tmp_path, below):
    lay_solution(tmp_path)
    if below:
        shutil.move(tmp_path / SOLUTION, tmp_path / KAGGLE / SOLUTION)
    data = open_data(f"imagenet:{tmp_path / below}")
    assert [data.classes[data.label(index)] for index in range(len(data))] == WNIDS
    (tmp_path / KAGGLE / "val" / "ILSVRC2012_val_00000003.JPEG").rename(tmp_path / KAGGLE / "val" / "3.JPEG")
    with pytest.raises(InputError, match=r"says nothing of the picture 3$"):
        open_data(f"imagenet:{tmp_path / below}")


def test_the_same_pictures_are_the_same_data_in_every_layout(tmp_path):
    """Class folders, one folder with its devkit, and one with Kaggle's table: fingerprint, and what an index is."""
    kaggle, flat, folders = (tmp_path / name for name in ("kaggle", "flat", "folders"))
    lay_solution(kaggle)
    for number, file in enumerate((kaggle / KAGGLE / "val").iterdir()):
        file.write_bytes(bytes(number % 7))
    shutil.copytree(kaggle / KAGGLE / "val", flat / "val")
    lay_devkit(flat, chosen=range(1, 1001))
    for number, wnid in enumerate(WNIDS):
        (folders / "val" / wnid).mkdir(parents=True)
        shutil.copy(flat / "val" / f"ILSVRC2012_val_{number + 1:08d}.JPEG", folders / "val" / wnid)
    data = [open_data(f"imagenet:{root}") for root in (folders, flat, kaggle)]
    rows = [[(each.path(index).name, each.label(index)) for index in range(1000)] for each in data]
    assert rows[0] == rows[1] == rows[2]
    assert len({each.fingerprint() for each in data}) == 1
    assert data[0].fingerprint() == as_class_folders(data[0]).fingerprint()
    (flat / "val" / "ILSVRC2012_val_00000003.JPEG").write_bytes(bytes(99))
    assert open_data(f"imagenet:{flat}").fingerprint() != data[0].fingerprint()


def as_class_folders(data):
    """The same with the fingerprint of paths, which class folders had before and keep."""
    files = [(data.path(index), data.label(index)) for index in range(len(data))]
    return FolderData(data.name, data.split, data.root, data.classes, files)


def test_another_table_is_refused(tmp_path):
    lay_solution(tmp_path, header="a,b")
    with pytest.raises(InputError, match="expected columns ImageId and PredictionString"):
        open_data(f"imagenet:{tmp_path}")


def _bytes(name, content):
    return lambda root: (root / DEVKIT / name).write_bytes(content)


def _again(**options):
    def change(root):
        shutil.rmtree(root / DEVKIT)
        lay_devkit(root, **options)

    return change


def _folder_for(name):
    def change(root):
        (root / DEVKIT / name).unlink()
        (root / DEVKIT / name).mkdir()

    return change


WRONG = {
    "no devkit": (lambda root: shutil.rmtree(root / DEVKIT), rf"expected .*{DEVKIT} with {GROUND_TRUTH} and meta\.mat"),
    "no meta": (lambda root: (root / DEVKIT / "meta.mat").unlink(), r"can't read .*meta\.mat \(no such file"),
    "meta a folder": (_folder_for("meta.mat"), "not a regular file"),
    "meta of zeros": (_bytes("meta.mat", bytes(1000)), "can't read"),
    "meta of text": (_bytes("meta.mat", b"x" * 50), "can't read"),
    "fewer classes": (_again(ids=WNIDS[:900]), "names 900 classes; ImageNet has 1000"),
    "a class twice": (_again(ids=[*WNIDS[:999], WNIDS[0]]), "names 999 classes"),
    "no ids": (_again(ids=["cat", *WNIDS[1:]]), "names the class 'cat', expected a WordNet id"),
    "a picture missing": (lambda root: (root / "val/ILSVRC2012_val_00000003.JPEG").unlink(), "5 pictures, .* labels 6"),
    "a label missing": (_again(chosen=CHOSEN[:5]), "6 pictures, .* labels 5"),
    "a name of another kind": (
        lambda root: (root / "val/ILSVRC2012_val_00000003.JPEG").rename(root / "val/cat.JPEG"),
        "says nothing of the picture cat",
    ),
    "label 0": (_again(chosen=[0, *CHOSEN[1:]]), r"expected numbers 1 … 1000"),
    "label 1001": (_again(chosen=[1001, *CHOSEN[1:]]), r"expected numbers 1 … 1000"),
    "labels of text": (_bytes(GROUND_TRUTH, b"cat\n" * 6), "expected numbers"),
    "labels of bytes": (_bytes(GROUND_TRUTH, b"\xff" * 60), "expected numbers"),
    "labels a folder": (_folder_for(GROUND_TRUTH), "not a regular file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_in_one_line(flat, case):
    change, message = WRONG[case]
    change(flat)
    with pytest.raises(InputError, match=message) as caught:
        open_data(f"imagenet:{flat}")
    assert "\n" not in str(caught.value)
