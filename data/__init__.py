"""Data sets → images, labels, masks. A new one is a new file in this folder that registers itself."""

from core.registry import import_submodules
from data.base import DATA, CorruptImage, ImageData, IndexedData, open_data
from data.loading import Batch, KeyedBatches, KeyedSamples, Samples, make_loader, normalize
from data.segmentation import SEGMENTATION_DATA, SegmentationData, SegmentationSamples, open_segmentation_data

import_submodules(__name__, __path__)

__all__ = [
    "DATA",
    "SEGMENTATION_DATA",
    "Batch",
    "CorruptImage",
    "ImageData",
    "IndexedData",
    "KeyedBatches",
    "KeyedSamples",
    "Samples",
    "SegmentationData",
    "SegmentationSamples",
    "make_loader",
    "normalize",
    "open_data",
    "open_segmentation_data",
]
