"""What `--data` names, and a data set of the user's own, opened."""

from __future__ import annotations

from typing import Any

from faithfulness.core.plugin_files import is_in_file
from faithfulness.core.registry import Registry
from faithfulness.data.base import DATA, ImageData, IndexedData
from faithfulness.data.own import OwnImages, OwnMasks, open_own
from faithfulness.data.segmentation import SEGMENTATION_DATA, SegmentationData


def open_data(
    data: Any, split: str = "val", *, size: int | None = None, seed: int = 0, count: int | None = None
) -> ImageData:
    """Open what `--data` names, or a data set of one's own.

    Args:
        data: `digits`, `imagefolder:PATH`, `imagenet:PATH`, `hfds:PATH` or `hfds:ORG/NAME` (parquet files, as on the
            Hugging Face Hub), or `path/to/file.py:function`, where function(split) or function() returns a data set.
            A data set is an `ImageData`, or any torch `Dataset` of (image, label): the image a PIL picture, pixels
            uint8 (3, H, W), or float (3, H, W), already normalized and of the model's size; the label an int. From
            Python also a dict of one per split, or a function of the split.
        split: "train" or "val".
        size: side in pixels of data that are rendered, their own by default; others are resized by the transforms.
        seed, count: which scenes and how many of them, for data that are rendered.
    Raises:
        InputError: unknown data set, missing or empty folder, a data set that isn't one of these.
    """
    if not isinstance(data, str) or is_in_file(data):
        return open_own(data, split, size, ImageData, OwnImages)
    kind, _, path = data.partition(":")
    return DATA[kind](path or None, split=split, size=size, seed=seed, count=count)


def open_segmentation_data(
    data: Any, split: str = "val", *, size: int | None = None, seed: int = 0, count: int | None = None
) -> SegmentationData:
    """Open what `--data` names, or a data set of one's own, with a class for every pixel.

    Args:
        data: `digits`, `voc:PATH`, `sbd:PATH`, or one's own as in `open_data`: any torch `Dataset` of (image, mask),
            masks int64 (H, W) with 255 as void, or a `SegmentationData`.
        split, size, seed, count: as `open_data`.
    Raises:
        InputError: unknown data set or split, a folder that isn't laid out as the data set is.
    """
    if not isinstance(data, str) or is_in_file(data):
        return open_own(data, split, size, SegmentationData, OwnMasks)
    kind, _, path = data.partition(":")
    return SEGMENTATION_DATA[kind](path or None, split=split, size=size, seed=seed, count=count)


def is_rendered(data: Any, kinds: Registry[Any] = DATA) -> bool:
    """Whether data are rendered, as far as their kind says; what only opening them would show isn't known here.

    `kinds` is the registry in which a text's kind is looked up.
    """
    if isinstance(data, str):
        return not is_in_file(data) and bool(getattr(kinds[data.partition(":")[0]], "rendered", False))
    return isinstance(data, IndexedData) and data.rendered
