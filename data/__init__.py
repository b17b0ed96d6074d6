"""Data sets → images, labels, masks. A new one is a new file in this folder that registers itself."""

from core.registry import import_submodules
from data.base import DATA, CorruptImage, ImageData, open_data
from data.loading import Batch, KeyedBatches, Samples, make_loader, normalize

import_submodules(__name__, __path__)

__all__ = [
    "DATA",
    "Batch",
    "CorruptImage",
    "ImageData",
    "KeyedBatches",
    "Samples",
    "make_loader",
    "normalize",
    "open_data",
]
