import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from faithfulness.backbones import create_backbone
from faithfulness.core import InputError
from faithfulness.data import CorruptImage, KeyedBatches, Samples, make_loader, normalize, open_data
from faithfulness.data.digits import SPLITS, DigitScenes, _sources, _split_sources, render_scene

CONFIG = {
    "input_size": (3, 32, 32),
    "interpolation": "bilinear",
    "mean": (0.5,) * 3,
    "std": (0.25,) * 3,
    "crop_pct": 1.0,
}


def test_scenes_depend_on_seed_split_and_index_alone():
    first = render_scene(0, "val", 5, 64)
    again = DigitScenes("val").scene(5)
    np.testing.assert_array_equal(first.image, again.image)
    assert first.labels == again.labels
    for other in (render_scene(1, "val", 5, 64), render_scene(0, "train", 5, 64), render_scene(0, "val", 6, 64)):
        assert np.abs(other.image.astype(int) - first.image).mean() > 5


def test_no_source_digit_is_shared_between_splits():
    splits = [set(_split_sources(split).tolist()) for split in SPLITS]
    assert not splits[0] & splits[1]
    assert len(splits[0] | splits[1]) == len(_sources()[1]) == 1797


@pytest.mark.parametrize("size", [32, 64, 100])
def test_any_size_shows_the_same_scene(size):
    scene, reference = render_scene(0, "val", 3, size), render_scene(0, "val", 3, 64)
    assert scene.image.shape == (3, size, size)
    assert scene.labels == reference.labels
    assert (scene.mask > 0).mean() == pytest.approx((reference.mask > 0).mean(), abs=0.03)


def test_the_mask_marks_the_digit():
    for index in range(20):
        scene = render_scene(0, "val", index, 64)
        mask = scene.mask > 0
        assert 0.02 < mask.mean() < 0.5
        inside = scene.image[:, mask].astype(float)
        assert inside.std(axis=1).mean() < scene.image.astype(float).std(axis=(1, 2)).mean()


def test_several_digits_have_different_classes_and_masks_of_their_own():
    for index in range(20):
        scene = render_scene(0, "train", index, 64, digits=(2, 4))
        assert 2 <= len(scene.labels) == len(set(scene.labels)) <= 4
        assert set(np.unique(scene.mask)) == set(range(len(scene.labels) + 1))


def test_classes_are_balanced():
    data = DigitScenes("train", size=16, count=1000)
    counts = np.bincount([data.label(i) for i in range(1000)], minlength=10)
    assert counts.min() > 60


def test_fingerprint_tells_data_apart():
    prints = {
        open_data("digits", split, size=size, seed=seed).fingerprint()
        for split, size, seed in (("val", 64, 0), ("val", 64, 1), ("train", 64, 0), ("val", 32, 0))
    }
    assert len(prints) == 4
    assert open_data("digits", "val").fingerprint() == open_data("digits", "val").fingerprint()


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("cat", "dog"):
            (tmp_path / split / kind).mkdir(parents=True)
            for number in range(6):
                pixels = rng.integers(0, 255, (40 + number, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / kind / f"{number}.png")
    return tmp_path


def test_a_folder_has_one_order_spread_over_classes(folder):
    data = open_data(f"imagefolder:{folder}")
    assert data.classes == ["cat", "dog"]
    assert len(data) == 12
    labels = [data.label(i) for i in range(12)]
    assert labels == [open_data(f"imagefolder:{folder}").label(i) for i in range(12)]
    assert 0 < sum(labels[:6]) < 6


def test_a_folder_of_classes_alone_will_do_for_scoring(folder):
    assert len(open_data(f"imagefolder:{folder / 'val'}")) == 12
    with pytest.raises(InputError, match=r"expected .*train/CLASS"):
        open_data(f"imagefolder:{folder / 'val'}", "train")


def test_imagenet_is_ordered_by_file_name(tmp_path):
    picture = Image.new("RGB", (8, 8))
    for number in range(1000):
        kind = tmp_path / "val" / f"n{(number * 7) % 1000:08d}"
        kind.mkdir(parents=True)
        picture.save(kind / f"ILSVRC2012_val_{number:08d}.png")
    data = open_data(f"imagenet:{tmp_path}")
    assert [data.label(i) for i in range(4)] == [0, 7, 14, 21]
    (tmp_path / "val" / "n00000000" / "ILSVRC2012_val_00000000.png").unlink()
    (tmp_path / "val" / "n00000000").rmdir()
    with pytest.raises(InputError, match="999 class folders"):
        open_data(f"imagenet:{tmp_path}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digit", "did you mean digits"),
        ("imagefolder:", "needs a folder"),
        ("imagefolder:nowhere", "no folder nowhere"),
        ("digits:somewhere", "takes no path"),
    ],
)
def test_bad_data_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        open_data(text)


def test_empty_folders_are_refused(folder):
    with pytest.raises(InputError, match="no images in"):
        open_data(f"imagefolder:{folder / 'val' / 'cat'}")
    (folder / "val" / "eel").mkdir()
    with pytest.raises(InputError, match=r"class folders without images .*eel"):
        open_data(f"imagefolder:{folder}")


def test_corrupt_images_are_named_or_counted(folder):
    broken = folder / "val" / "cat" / "3.png"
    broken.write_bytes(broken.read_bytes()[:200])
    data = open_data(f"imagefolder:{folder}")
    batches = KeyedBatches(len(data), 5, shuffle=False)
    with pytest.raises(CorruptImage, match=r"cat/3\.png.*--skip-corrupt"):
        list(make_loader(Samples(data, CONFIG, training=False), batches))
    loaded = list(make_loader(Samples(data, CONFIG, training=False, skip_corrupt=True), batches))
    assert sum(len(batch["image"]) for batch in loaded) == 11
    corrupt = torch.cat([batch["corrupt"] for batch in loaded])
    assert [data.path(i) for i in corrupt.tolist()] == [broken]


def test_evaluation_pixels_are_what_timm_makes_of_them(folder):
    from timm.data.transforms_factory import create_transform

    config = create_backbone("resnet10t", 2, input_size=32).data_config
    data = open_data(f"imagefolder:{folder}")
    batch = next(iter(make_loader(Samples(data, config, training=False), KeyedBatches(12, 12, shuffle=False))))
    expected = create_transform(**config, is_training=False)(data.image(4))
    torch.testing.assert_close(normalize(batch["image"], config)[4], expected, rtol=0, atol=1e-5)


def test_augmentation_is_keyed_by_seed_epoch_and_index(folder):
    data = open_data(f"imagefolder:{folder}", "train")
    samples = Samples(data, CONFIG, training=True, seed=3)
    torch.manual_seed(0)
    first = samples[2, 7]["image"]
    torch.manual_seed(1)
    assert torch.equal(samples[2, 7]["image"], first)
    assert not torch.equal(samples[3, 7]["image"], first)
    state = torch.random.get_rng_state()
    samples[2, 7]
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_training_batches_are_the_same_images_on_any_number_of_ranks(world):
    whole = KeyedBatches(50, 12, shuffle=True, seed=1)
    parts = [KeyedBatches(50, 12, shuffle=True, seed=1, rank=rank, world=world) for rank in range(world)]
    for sampler in (whole, *parts):
        sampler.set_epoch(2)
    merged = [[key for part in group for key in part] for group in zip(*parts, strict=True)]
    assert merged == list(whole)
    assert len(whole) == 4 == len(merged)
    whole.set_epoch(3)
    assert list(whole) != merged


@pytest.mark.parametrize("count", [1, 7, 8, 9])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_batches_keep_their_images_and_none_is_repeated(count, world):
    parts = [KeyedBatches(count, 4, shuffle=False, rank=rank, world=world) for rank in range(world)]
    seen = [batch for part in parts for batch in part]
    assert sorted(index for batch in seen for _, index in batch) == list(range(count))
    whole = list(KeyedBatches(count, 4, shuffle=False))
    assert sorted(seen) == sorted(whole)
    assert [len(part) for part in parts] == [len(list(part)) for part in parts]


def test_scenes_that_are_kept_do_not_go_to_loader_processes():
    data = DigitScenes("val", count=8)
    fresh = len(pickle.dumps(data))
    images = [data.image(index) for index in range(8)]
    assert len(pickle.dumps(data)) == fresh
    assert data._kept
    again = pickle.loads(pickle.dumps(data))
    assert all(torch.equal(again.image(index), image) for index, image in enumerate(images))


def test_batches_that_cannot_be_made_are_refused():
    with pytest.raises(InputError, match="multiple of 3 devices"):
        KeyedBatches(100, 10, shuffle=True, world=3)


def test_digits_are_augmented_by_key_alone():
    data = DigitScenes("train", count=8)
    images = torch.stack([data.image(i) for i in range(8)])
    keys = torch.arange(8) + 100
    changed = data.augment(images, keys)
    torch.testing.assert_close(data.augment(images[3:5], keys[3:5]), changed[3:5], rtol=0, atol=0)
    assert not torch.equal(data.augment(images, keys + 1), changed)
    for before, after in zip(images, changed, strict=True):
        upright = [after.float(), 255 - after.float()]
        mirrored = torch.from_numpy(np.pad(before, ((0, 0), (6, 6), (6, 6)), mode="reflect")).float()
        best = min(
            (one[list(order)] - mirrored[:, 6 + y : 70 + y, 6 + x : 70 + x]).abs().max()
            for one in upright
            for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
            for y in range(-6, 7)
            for x in range(-6, 7)
        )
        assert best == 0, "a shift, mirrored at the border, a permutation of channels and an inversion"


def test_a_label_that_is_had_without_drawing_is_that_of_the_scene():
    data = DigitScenes("val", count=50)
    labels = [data.label(index) for index in range(50)]
    assert labels == [data.scene(index).labels[0] for index in range(50)]
    assert len(set(labels)) == 10
