"""Folders laid out as Pascal VOC 2012 and SBD, from scikit-image's photographs and drawn masks."""

import numpy as np
from PIL import Image
from scipy.io import savemat
from skimage import data as photographs

SIZES = [(120, 90), (96, 128), (75, 75), (130, 100)]


def photograph(number):
    """A picture (width × height of SIZES): color, color, grayscale, color."""
    source = (photographs.astronaut, photographs.chelsea, photographs.camera, photographs.coffee)[number % 4]()
    return Image.fromarray(source).resize(SIZES[number % 4])


def drawn_mask(number):
    """A disk of one class, a box of another, and a void rim: uint8 (height, width)."""
    width, height = SIZES[number % 4]
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), np.uint8)
    mask[height // 2 :, : width // 2] = 1 + number
    disk = (y - height / 3) ** 2 + (x - 2 * width / 3) ** 2
    mask[disk < (width / 4) ** 2] = 255
    mask[disk < (width / 5) ** 2] = 15
    return mask


def make_voc(root, counts=(("train", 2), ("val", 4))):
    """Palette PNG masks; the last one is grayscale."""
    base = root / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / folder).mkdir(parents=True)
    palette = np.arange(768, dtype=np.uint8)[::-1].tolist()
    for split, count in counts:
        names = [f"{split}_{number}" for number in range(count)]
        for number, name in enumerate(names):
            photograph(number).save(base / "JPEGImages" / f"{name}.jpg")
            mask = Image.fromarray(drawn_mask(number))
            if number != 3:
                mask.putpalette(palette)
            mask.save(base / "SegmentationClass" / f"{name}.png")
        (base / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def make_sbd(root, counts=(("train_noval", 2), ("val", 2))):
    """Masks as the benchmark's .mat files hold them: GTcls.Segmentation."""
    for folder in ("img", "cls"):
        (root / folder).mkdir(parents=True)
    for split, count in counts:
        names = [f"{split}_{number}" for number in range(count)]
        for number, name in enumerate(names):
            photograph(number).save(root / "img" / f"{name}.jpg")
            savemat(root / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": drawn_mask(number)}})
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return root
