"""Checkpoints that labs can pass to each other: weights with the deletion they were trained on."""

from checkpoints.format import Checkpoint, load_checkpoint, save_checkpoint
from checkpoints.load import load_model
from checkpoints.segmentation import load_segmenter, save_segmenter

__all__ = [
    "Checkpoint",
    "load_checkpoint",
    "load_model",
    "load_segmenter",
    "save_checkpoint",
    "save_segmenter",
]
