"""A data set of the user's own, by object, function and file; data that say what they are."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from faithfulness.core import InputError
from faithfulness.data import (
    KeyedBatches,
    Samples,
    SegmentationSamples,
    is_rendered,
    make_loader,
    normalize,
    open_data,
    open_segmentation_data,
)
from faithfulness.data.digits import DigitScenes
from tests.reference import own_code
from tests.reference.own_code import SIDE, Pictures, Scenes

CONFIG = {"input_size": (3, SIDE, SIDE), "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.25,) * 3}
CONFIG |= {"crop_pct": 1.0, "crop_mode": "center"}
FILE = own_code.__file__


def batch_of(data, training=False, samples=Samples, config=CONFIG):
    loader = make_loader(samples(data, config, training=training), KeyedBatches(len(data), 8, shuffle=False))
    return next(iter(loader))


def test_data_say_what_they_are():
    digits, scenes = open_data("digits", "val", count=3), open_segmentation_data("digits", count=3)
    for data in (digits, scenes):
        assert (data.rendered, data.default_size, data.workers) == (True, 64, 0)
        assert data.at_size(64) is data
        small = data.at_size(32)
        assert small.image(1).shape == (3, 32, 32)
        assert data.image(1).shape == (3, 64, 64)
    assert digits.fractions is None
    assert scenes.fractions == tuple(percent / 200 for percent in range(1, 9))
    assert torch.equal(digits.at_size(32).image(2), DigitScenes("val", 32).image(2))
    assert digits.at_size(32).fingerprint() == open_data("digits", "val", size=32, count=3).fingerprint()
    assert [is_rendered(text) for text in ("digits", "imagefolder:nowhere", "x/digits.py:digits")] == [
        True,
        False,
        False,
    ]
    with pytest.raises(InputError, match="did you mean digits"):
        is_rendered("digitz")


@pytest.mark.parametrize("kind", ["pil", "pixels", "float"])
def test_any_torch_data_set_is_data(kind):
    source = Pictures(kind)
    data = open_data(source)
    assert (data.name, data.classes, len(data), data.rendered) == ("Pictures", ["0", "1", "2"], 24, False)
    assert [data.label(index) for index in range(5)] == [0, 1, 2, 0, 1]
    batch = batch_of(data)
    assert batch["label"].tolist() == [index % 3 for index in range(8)]
    pixels = Pictures("pixels")[4][0]
    if kind == "float":
        assert batch["image"].dtype == torch.float32
        assert torch.equal(normalize(batch["image"], CONFIG)[4], source[4][0]), "normalized twice"
        assert torch.equal(batch_of(data, training=True)["image"], batch["image"])
    else:
        assert torch.equal(batch["image"][4], pixels)
        torch.testing.assert_close(normalize(batch["image"], CONFIG)[4], (pixels / 255 - 0.5) / 0.25)
        assert not torch.equal(batch_of(data, training=True)["image"], batch["image"])


def test_pixels_are_resized_and_floats_are_not():
    big = CONFIG | {"input_size": (3, 32, 32)}
    assert batch_of(open_data(Pictures("pixels")), config=big)["image"].shape == (8, 3, 32, 32)
    with pytest.raises(InputError, match=r"normalized images \(3, 16, 16\), the model takes \(3, 32, 32\)"):
        batch_of(open_data(Pictures("float")), config=big)
    with pytest.raises(InputError, match=r"normalized images \(3, 16, 16\)"):
        batch_of(open_segmentation_data(Scenes("float")), samples=SegmentationSamples, config=big)


def test_normalize_passes_floats_in_any_type():
    images = torch.randn(2, 3, 4, 4)
    assert torch.equal(normalize(images, CONFIG), images)
    assert torch.equal(normalize(images, CONFIG, torch.float64), images.double())


def test_the_fingerprint_is_of_the_samples():
    prints = {open_data(Pictures(kind, seed=seed)).fingerprint() for kind in ("pil", "pixels") for seed in (0, 1)}
    assert len(prints) == 4
    assert open_data(Pictures()).fingerprint() == open_data(Pictures()).fingerprint()


class Counted(Pictures):
    """Counts how often a sample is read."""

    reads = 0

    def __getitem__(self, index):
        type(self).reads += 1
        return super().__getitem__(index)


def test_classes_come_from_the_data_set_and_a_sample_is_read_once():
    source = Counted()
    source.name, source.classes, source.targets = "mine", ["red", "green", "blue"], [index % 3 for index in range(24)]
    data = open_data(source)
    assert (data.name, data.classes, data.label(2), Counted.reads) == ("mine", ["red", "green", "blue"], 2, 0)
    batch_of(data)
    assert Counted.reads == 8


def test_data_by_function_and_by_file():
    for data in (f"{FILE}:pictures", own_code.pictures, {"train": Pictures(seed=0), "val": Pictures(seed=1)}):
        train, val = (open_data(data, split) for split in ("train", "val"))
        assert torch.equal(train.image(3), Pictures(seed=0)[3][0])
        assert torch.equal(val.image(3), Pictures(seed=1)[3][0])
    assert len(open_data(f"{FILE}:one_for_both")) == len(open_data(Pictures)) == 24
    assert open_data(f"{FILE}:pictures").name == f"{FILE}:pictures"
    again = pickle.loads(pickle.dumps(open_data(f"{FILE}:pictures", "train")))
    assert torch.equal(again.image(3), Pictures(seed=0)[3][0])
    digits = open_data("digits", count=4)
    assert open_data(digits) is digits
    assert open_data(digits, size=32).size == 32


def test_masks_of_ones_own():
    data = open_segmentation_data(f"{FILE}:scenes", "train")
    assert data.classes == ["0", "1", "2"]
    batch = batch_of(data, samples=SegmentationSamples)
    assert batch["image"].shape == (8, 3, SIDE, SIDE)
    assert torch.equal(batch["label"][4], Scenes()[4][1])
    with pytest.raises(InputError, match="as its mask, expected int64"):
        open_segmentation_data(Pictures())
    with pytest.raises(InputError, match="is DigitScenes, expected SegmentationData"):
        open_segmentation_data(open_data("digits", count=4))


class Odd(Dataset):
    classes = ("a", "b")

    def __init__(self, *samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


PIXELS = torch.zeros(3, 4, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Odd(), "Odd .val. is empty"),
        (Odd((PIXELS, 0, 1)), "is 3 values, expected two"),
        (Odd(PIXELS), "is Tensor, expected two"),
        (Odd((PIXELS[:1], 0)), r"has torch.uint8 \(1, 4, 4\) as its image"),
        (Odd((np.zeros((4, 4, 3)), 0)), "has ndarray"),
        (Odd((PIXELS, 0.5)), "has float 0.5 as its label, expected an integer"),
        (Odd((PIXELS, 2)), "has label 2, expected 0 … 1"),
        (Odd((PIXELS, 0), (PIXELS.float(), 0)), "mixes pixels, uint8, and normalized images, float"),
        (3, "int gives int, expected a data set"),
        ({"train": Pictures()}, "unknown split of the data 'val'"),
        (f"{FILE}:three", "own_code.py:three gives int, expected a data set"),
        (f"{FILE}:nothing", "unknown function of .*own_code.py 'nothing'"),
        (f"{FILE}", "names no function; expected path/to/file.py:function"),
        ("nowhere.py:f", "no file .*nowhere.py"),
    ],
)
def test_what_is_no_data_set_is_refused_in_a_line(data, message):
    with pytest.raises(InputError, match=message) as raised:
        opened = open_data(data)
        for index in range(len(opened)):
            opened.example(index)
    assert "\n" not in str(raised.value)


def test_tensors_will_do():
    images, labels = torch.rand(6, 3, SIDE, SIDE), torch.arange(6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = open_data(TensorDataset(images, labels))
        assert torch.equal(batch_of(data)["image"], images)
    assert len(data.classes) == 6
