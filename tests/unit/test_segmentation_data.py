"""VOC, SBD and digit scenes with masks: real torchvision loaders, joint resizing, refusals."""

import numpy as np
import pytest
import torch
from PIL import Image

from faithfulness.core import InputError
from faithfulness.data import KeyedBatches, SegmentationSamples, make_loader, open_segmentation_data
from faithfulness.data.base import CorruptImage
from faithfulness.data.digits import DigitScenes, render_scene
from tests.reference.segmentation_folders import SIZES, drawn_mask, make_sbd, make_voc

CONFIG = {"input_size": (3, 32, 32)}


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    return make_voc(tmp_path_factory.mktemp("voc"))


@pytest.fixture(scope="module")
def sbd(tmp_path_factory):
    return make_sbd(tmp_path_factory.mktemp("sbd"))


def test_voc_masks_are_the_drawn_ones_whether_palette_or_grayscale(voc):
    data = open_segmentation_data(f"voc:{voc}", "val")
    assert (len(data), len(data.classes), data.classes[15]) == (4, 21, "person")
    for number in range(4):
        torch.testing.assert_close(data.mask(number), torch.from_numpy(drawn_mask(number)).long())
        image = data.image(number)
        assert (image.mode, image.size) == ("RGB", SIZES[number])
    assert len(open_segmentation_data(f"voc:{voc}", "train")) == 2


@pytest.mark.parametrize("below", ["VOCdevkit", "VOCdevkit/VOC2012"])
def test_the_inner_folders_of_voc_will_do(voc, below):
    data = open_segmentation_data(f"voc:{voc / below}", "val")
    assert len(data) == 4
    assert data.fingerprint() == open_segmentation_data(f"voc:{voc}", "val").fingerprint()


def test_sbd_trains_on_train_noval(sbd):
    train, val = (open_segmentation_data(f"sbd:{sbd}", split) for split in ("train", "val"))
    assert train.files[0][0].name == "train_noval_0.jpg"
    assert val.files[0][0].name == "val_0.jpg"
    torch.testing.assert_close(train.mask(1), torch.from_numpy(drawn_mask(1)).long())
    assert train.fingerprint() != val.fingerprint()


def test_digit_masks_hold_the_scenes_digits():
    data = open_segmentation_data("digits", "val", size=48, count=12)
    counts = set()
    for index in range(12):
        scene = render_scene(0, "val", index, 48, (2, 4))
        image, mask = data.example(index)
        np.testing.assert_array_equal(image, scene.image)
        found = set(mask.unique().tolist()) - {0}
        assert found == {label + 1 for label in scene.labels}
        for number, label in enumerate(scene.labels, 1):
            np.testing.assert_array_equal(mask == label + 1, scene.mask == number)
        counts.add(len(found))
    assert counts == {2, 3, 4}
    assert data.classes[0] == "background"
    assert data.classes[7] == "6"


def test_the_fingerprint_of_single_digits_is_what_it_was():
    one = DigitScenes("val", 32, count=3)
    assert next(iter(one.identity())) == "digits/1/0/val/32/3"
    assert one.fingerprint() != DigitScenes("val", 32, count=3, digits=(2, 4)).fingerprint()


def test_image_and_mask_are_resized_together(voc):
    samples = SegmentationSamples(open_segmentation_data(f"voc:{voc}", "val"), CONFIG, training=False)
    for index in range(4):
        sample = samples[0, index]
        assert (sample["image"].dtype, sample["image"].shape) == (torch.uint8, (3, 32, 32))
        rows, cols = (((np.arange(32) + 0.5) * side / 32).astype(int) for side in SIZES[index][::-1])
        mask = drawn_mask(index)
        wanted = torch.from_numpy(mask[rows][:, cols]).long()
        # torch's "nearest" takes the pixel at the upper left of a target pixel, not at its center.
        assert (sample["label"] == wanted).float().mean() > 0.85
        assert set(sample["label"].unique().tolist()) <= set(mask.ravel().tolist())
        assert type(sample["image"]) is type(sample["label"]) is torch.Tensor


def test_training_moves_mask_and_image_alike():
    class Painted(type(open_segmentation_data("digits", size=32, count=1))):
        """The picture is its own mask, so that any difference after the transform shows."""

        def example(self, index):
            mask = super().example(index)[1]
            return mask.to(torch.uint8).expand(3, -1, -1).contiguous(), mask

    samples = SegmentationSamples(Painted("train", 32, count=8), CONFIG, training=True)
    moved = 0
    for index in range(8):
        sample = samples[3, index]
        again = samples[3, index]
        assert torch.equal(sample["image"], again["image"])
        image = sample["image"][0].long()
        image = image if (image <= 10).all() else 255 - image
        assert torch.equal(image, sample["label"])
        moved += not torch.equal(sample["label"], samples.source.example(index)[1])
    assert moved > 4


def test_batches_come_from_the_shared_loader(voc):
    samples = SegmentationSamples(open_segmentation_data(f"voc:{voc}", "val"), CONFIG, training=False)
    batches = list(make_loader(samples, KeyedBatches(4, 3, shuffle=False)))
    assert [tuple(batch["label"].shape) for batch in batches] == [(3, 32, 32), (1, 32, 32)]
    assert torch.cat([batch["index"] for batch in batches]).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("text", "split", "message"),
    [
        ("vocs:x", "val", "did you mean voc"),
        ("voc", "val", "voc needs a folder: --data voc:PATH"),
        ("voc:nowhere", "val", "no folder nowhere"),
        ("voc:{tmp}", "val", "is no Pascal VOC 2012; expected VOCdevkit/VOC2012"),
        ("sbd:{tmp}", "train", "train_noval.txt (torchvision's list"),
        ("sbd:{tmp}", "val", "is no SBD; expected img/*.jpg"),
        ("voc:{voc}", "test", "unknown split 'test' of voc"),
        ("digits:x", "val", "takes no path"),
    ],
)
def test_a_wrong_root_is_one_clear_line(voc, tmp_path, text, split, message):
    with pytest.raises(InputError) as caught:
        open_segmentation_data(text.format(tmp=tmp_path, voc=voc), split)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.fromarray(drawn_mask(0)[:-3]), "val_0.png has 120×87 pixels, its image 120×90"),
        (Image.fromarray(drawn_mask(0) // 16 + 16), "val_0.png has label 31, expected 0 … 20 or 255"),
        (Image.fromarray(drawn_mask(0)).convert("RGB"), "val_0.png has mode RGB; a mask is a palette or grayscale"),
        (None, "can't read"),
    ],
)
def test_a_mask_that_does_not_fit_is_named_and_counted(tmp_path, mask, message):
    root = make_voc(tmp_path, [("val", 2)])
    file = root / "VOCdevkit/VOC2012/SegmentationClass/val_0.png"
    if mask is None:
        file.write_bytes(b"no image")
    else:
        mask.save(file)
    data = open_segmentation_data(f"voc:{root}", "val")
    with pytest.raises(CorruptImage) as caught:
        data.mask(0)
    assert message in str(caught.value)
    samples = SegmentationSamples(data, CONFIG, training=False, skip_corrupt=True)
    (batch,) = make_loader(samples, KeyedBatches(2, 2, shuffle=False))
    assert (batch["index"].tolist(), batch["corrupt"].tolist()) == ([1], [0])


@pytest.mark.parametrize("length", [0, 3, 100, 200, 300])
def test_a_truncated_mask_of_sbd_is_corrupt(tmp_path, length):
    root = make_sbd(tmp_path, [("val", 1)])
    file = root / "cls" / "val_0.mat"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(CorruptImage, match=r"can't read .*val_0\.mat"):
        open_segmentation_data(f"sbd:{root}", "val").mask(0)


def test_missing_files_and_empty_lists_are_refused(tmp_path):
    root = make_voc(tmp_path, [("val", 2), ("train", 0)])
    with pytest.raises(InputError, match=r"the train list of voc:.* is empty"):
        open_segmentation_data(f"voc:{root}", "train")
    (root / "VOCdevkit/VOC2012/JPEGImages/val_1.jpg").unlink()
    with pytest.raises(InputError, match=r"1 files that the val list of .* names are missing: .*val_1.jpg"):
        open_segmentation_data(f"voc:{root}", "val")
