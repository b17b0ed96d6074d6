"""Class folders: links, names in any encoding, one compact table; files of every depth, scaled or refused."""

import hashlib
import os
import pickle
import struct
import tracemalloc
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from faithfulness.core import InputError
from faithfulness.data import CorruptImage, KeyedBatches, Samples, make_loader, open_data, open_segmentation_data
from faithfulness.data.folders import FolderData, read_image
from faithfulness.data.pictures import to_rgb
from tests.reference.segmentation_folders import make_voc


def paint(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Eight images: four of a cat, four of a dog."""
    root = tmp_path / "pets"
    for number in range(4):
        paint(root / "val" / "cat" / f"{number}.png", number)
        paint(root / "val" / "dog" / f"{number}.png", 10 + number)
    return root


def paths(data):
    return [data.path(index).relative_to(data.root).as_posix() for index in range(len(data))]


@pytest.mark.parametrize("target", [".", "..", "../..", "../../..", "sub", "0.png", "sub/deep.png"])
def test_a_link_to_what_is_there_already_counts_nothing_twice(folder, target):
    cat = folder / "val" / "cat"
    paint(cat / "sub" / "deep.png", 7)
    plain = open_data(f"imagefolder:{folder}")
    (cat / ("link.png" if target.endswith("png") else "link")).symlink_to(target)
    (cat / "sub" / "up").symlink_to("../..")
    with pytest.warns(UserWarning, match=r"^links in .*val that lead to .*: 2 left out") as caught:
        data = open_data(f"imagefolder:{folder}")
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert len(data) == 9
    assert paths(data) == paths(plain)
    assert data.fingerprint() == plain.fingerprint()


def test_links_to_files_and_folders_outside_are_followed_once(folder, tmp_path):
    cat, store = folder / "val" / "cat", tmp_path / "store"
    for name in ("a.png", "b.png", "deeper/c.png"):
        paint(store / "cats" / name)
    Image.new("RGB", (8, 8)).save(store / "blob0123", "PNG")
    (store / "cats" / "all").symlink_to(store)
    (cat / "more").symlink_to(store / "cats")
    (cat / "again").symlink_to(store / "cats" / "deeper")
    (cat / "x.png").symlink_to(store / "blob0123")
    (cat / "y.png").symlink_to("../../../store/blob0123")
    (folder / "val" / "eel").symlink_to(store / "eels")
    paint(store / "eels" / "1.png")
    with pytest.warns(UserWarning, match=r": 3 left out"):
        data = open_data(f"imagefolder:{folder}")
    assert data.classes == ["cat", "dog", "eel"]
    linked = {"cat/again/c.png", "cat/more/a.png", "cat/more/b.png", "cat/x.png", "eel/1.png"}
    assert set(paths(data)) == linked | {f"{kind}/{n}.png" for kind in ("cat", "dog") for n in range(4)}
    real = [os.path.realpath(data.path(index)) for index in range(len(data))]
    assert len(set(real)) == len(real)
    assert all(data.classes[data.label(i)] == path.partition("/")[0] for i, path in enumerate(paths(data)))


def test_linked_class_folders_alone_are_no_reason_to_warn(folder, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "val").symlink_to(folder / "val")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert paths(open_data(f"imagefolder:{linked}")) == paths(open_data(f"imagefolder:{folder}"))
        other = tmp_path / "other"
        for kind in ("cat", "dog"):
            (other / "val").mkdir(parents=True, exist_ok=True)
            (other / "val" / kind).symlink_to(folder / "val" / kind)
        assert paths(open_data(f"imagefolder:{other}")) == paths(open_data(f"imagefolder:{folder}"))


@pytest.mark.parametrize(("link", "target"), [("dog/a.png", "cat/0.png"), ("dog/cats", "cat"), ("tiger", "cat")])
def test_one_file_under_two_classes_is_refused(folder, link, target):
    (folder / "val" / link).symlink_to(folder / "val" / target)
    with pytest.raises(InputError, match=rf"{link}.* leads to images of class cat; a file has one class"):
        open_data(f"imagefolder:{folder}")


def test_one_outside_file_under_two_classes_is_refused(folder, tmp_path):
    paint(tmp_path / "outside.png")
    for kind in ("cat", "dog"):
        (folder / "val" / kind / "new.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(InputError, match=r"dog/new\.png leads to images of class cat"):
        open_data(f"imagefolder:{folder}")


def test_links_that_lead_nowhere_are_corrupt_images(folder):
    cat = folder / "val" / "cat"
    (cat / "gone.png").symlink_to("nowhere.png")
    (cat / "self.png").symlink_to("self.png")
    data = open_data(f"imagefolder:{folder}")
    assert len(data) == 10
    assert len(data.fingerprint()) == 16
    with pytest.raises(CorruptImage, match=r"gone\.png"):
        data.image(paths(data).index("cat/gone.png"))


def test_names_that_are_no_utf8_survive(folder):
    name = os.path.join(os.fsencode(folder / "val" / "cat"), b"caf\xe9.png")
    with open(name, "wb") as file:
        Image.new("RGB", (8, 8), (9, 9, 9)).save(file, "PNG")
    data = pickle.loads(pickle.dumps(open_data(f"imagefolder:{folder}")))
    (index,) = [i for i in range(len(data)) if os.fsencode(data.path(i)) == name]
    assert data.image(index).getpixel((0, 0)) == (9, 9, 9)
    assert data.fingerprint() == open_data(f"imagefolder:{folder}").fingerprint()


def test_order_and_fingerprint_are_those_of_the_names(folder):
    data = open_data(f"imagefolder:{folder}")
    names = sorted(
        (path.relative_to(data.root).as_posix() for path in data.root.rglob("*.png")),
        key=lambda name: hashlib.sha256(name.encode()).digest(),
    )
    assert paths(data) == names
    lines = ["imagefolder/val/cat,dog"]
    lines += [f"{name}/{int(name[0] == 'd')}/{(data.root / name).stat().st_size}" for name in names]
    assert data.fingerprint() == hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()[:16]


def test_the_fingerprint_looks_at_the_files_once(folder, monkeypatch):
    data = open_data(f"imagefolder:{folder}")
    seen, stat = [], os.stat
    monkeypatch.setattr("os.stat", lambda path, **rest: seen.append(path) or stat(path, **rest))
    assert data.fingerprint() == data.fingerprint()
    assert len([path for path in seen if str(path).endswith(".png")]) == 8


def made_up(count):
    root = Path("/data/imagenet/train")
    files = ((root / f"n{i % 1000:08d}" / f"n{i % 1000:08d}_{i}.JPEG", i % 1000) for i in range(count))
    return FolderData("imagenet:/data/imagenet", "train", root, [f"n{i:08d}" for i in range(1000)], files)


def test_a_large_folder_is_one_small_table():
    count = 20_000
    tracemalloc.start()
    data = made_up(count)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    pickled = pickle.dumps(data)
    assert held < 80 * count + 1e6
    assert len(pickled) < 80 * count
    again = pickle.loads(pickled)
    for index in (0, 1, 999, 12_345, count - 1):
        name = f"n{index % 1000:08d}"
        assert again.path(index) == Path(f"/data/imagenet/train/{name}/{name}_{index}.JPEG")
        assert again.label(index) == index % 1000
    assert again.path(-1) == again.path(count - 1)
    with pytest.raises(IndexError):
        again.path(count)


class _Storage(Dataset):
    """What a worker has of the table: whether it lies in shared memory, and what it says."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        return self.source._names.is_shared(), str(self.source.path(index)), self.source.label(index)


def test_workers_share_the_table(folder):
    data = open_data(f"imagefolder:{folder}")
    loader = DataLoader(_Storage(data), batch_size=None, num_workers=1, multiprocessing_context="spawn")
    seen = list(loader)
    assert [tuple(row) for row in seen] == [(True, str(data.path(i)), data.label(i)) for i in range(8)]


def png(pixels):
    """A PNG of 16 bits a channel, written by its specification."""
    height, width, channels = pixels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def planar_tiff(pixels):
    """16-bit color in three separate planes, written by the specification of TIFF 6.0."""
    height, width, _ = pixels.shape
    planes = [pixels[..., channel].astype("<u2").tobytes() for channel in range(3)]
    size, extra = len(planes[0]), 8 + 2 + 10 * 12 + 4
    first = extra + 6 + 12 + 12
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, extra), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 3, extra + 6), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 3, extra + 18), (284, 3, 1, 2)]
    content = b"II*\0" + struct.pack("<IH", 8, 10) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    content += struct.pack("<3H", 16, 16, 16) + struct.pack("<3I", *(first + size * plane for plane in range(3)))
    return content + struct.pack("<3I", size, size, size) + b"".join(planes)


RAMP = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)


def tiff(pixels, **tags):
    file = BytesIO()
    Image.fromarray(pixels).save(file, "TIFF", tiffinfo=tags.get("info", {}))
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("gray.png", png(RAMP[..., None])),
        ("color.png", png(np.stack([RAMP, RAMP, RAMP], axis=-1))),
        ("transparent.png", png(np.stack([RAMP, RAMP, RAMP, RAMP[::-1]], axis=-1))),
        ("little.tif", tiff(RAMP)),
        ("big.tiff", tiff(RAMP.astype(">u2"))),
        ("white_is_zero.tif", tiff(65535 - RAMP, info={262: 0})),
        ("gray.pgm", b"P5\n8 8\n65535\n" + RAMP.astype(">u2").tobytes()),
        ("twelve_bits.pgm", b"P5\n8 8\n4095\n" + (RAMP // 16).astype(">u2").tobytes()),
        ("color.ppm", b"P6\n8 8\n65535\n" + np.stack([RAMP] * 3, axis=-1).astype(">u2").tobytes()),
        ("float.tif", tiff((RAMP / 65535).astype(np.float32))),
    ],
)
def test_deep_images_are_scaled_to_what_they_show(folder, name, content):
    """Held against the same picture at 8 bits; Pillow takes the upper byte of color, up to 1 below."""
    file = folder / "val" / "cat" / name
    file.write_bytes(content)
    data = open_data(f"imagefolder:{folder}")
    picture = data.image(paths(data).index(f"cat/{name}"))
    assert picture.mode == "RGB"
    wanted = (RAMP / 65535 * 255)[..., None].repeat(3, axis=2)
    assert np.abs(np.asarray(picture) - wanted).max() <= 1


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("bright.tif", tiff(np.full((8, 8), 200, np.float32)), "floating point outside [0, 1]"),
        ("signed.tif", tiff(np.full((8, 8), -0.5, np.float32)), "floating point outside [0, 1]"),
        ("nan.tif", tiff(np.full((8, 8), np.nan, np.float32)), "floating point outside [0, 1]"),
        ("long.tif", tiff(np.full((8, 8), 70000, np.int32)), "integers of more than 16 bits"),
        ("planes.tif", planar_tiff(np.stack([RAMP] * 3, axis=-1)), "16 bits in separate planes"),
        ("short.tif", tiff(np.full((8, 8), 1, np.int32)), "integers of more than 16 bits"),
    ],
)
def test_values_without_a_white_are_refused_and_counted(folder, name, content, reason):
    (folder / "val" / "cat" / name).write_bytes(content)
    data = open_data(f"imagefolder:{folder}")
    with pytest.raises(CorruptImage) as caught:
        data.image(paths(data).index(f"cat/{name}"))
    assert name in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    config = {"input_size": (3, 8, 8), "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    samples = Samples(data, {**config, "crop_pct": 1.0}, training=False, skip_corrupt=True)
    (batch,) = make_loader(samples, KeyedBatches(9, 9, shuffle=False))
    assert (len(batch["index"]), len(batch["corrupt"])) == (8, 1)


def test_pillow_misreads_sixteen_bits_in_planes():
    """Why they are refused: bytes come out as pixels. Once this fails, they may be read."""
    pixels = np.asarray(Image.open(BytesIO(planar_tiff(np.stack([RAMP] * 3, axis=-1)))))
    assert np.abs(pixels[..., 0] - RAMP / 257).max() > 50


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_dropped_as_documented(tmp_path, mode):
    picture = Image.new("RGBA", (8, 8), (200, 200, 200, 0))
    file = tmp_path / "x.png"
    if mode == "P":
        picture.convert("RGB").quantize(4).save(file, transparency=0)
    else:
        picture.convert(mode).save(file)
    assert read_image(file).getpixel((3, 3)) == (200, 200, 200)


@pytest.mark.parametrize("floating", [False, True])
def test_pictures_of_segmentation_are_read_by_the_same_rules(tmp_path, floating):
    root = make_voc(tmp_path, [("val", 1)])
    file = root / "VOCdevkit/VOC2012/JPEGImages/val_0.jpg"
    width, height = Image.open(file).size
    gray = np.full((height, width), 32768, np.uint16)
    file.write_bytes(tiff(gray.astype(np.float32) if floating else gray))
    data = open_segmentation_data(f"voc:{root}", "val")
    if floating:
        with pytest.raises(CorruptImage, match=r"val_0\.jpg.*floating point"):
            data.image(0)
    else:
        assert data.image(0).getpixel((5, 5)) == (128, 128, 128)


def test_twelve_bits_have_a_white_of_their_own():
    """As cameras write them: Pillow hands the values over as they are, in 16 bits."""
    picture = Image.fromarray(np.array([[0, 2048, 4095]], dtype=np.uint16))
    picture.tag_v2 = {258: (12,), 262: 1}
    assert np.asarray(to_rgb(picture))[0, :, 0].tolist() == [0, 128, 255]
