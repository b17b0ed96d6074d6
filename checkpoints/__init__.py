"""Checkpoints that labs can pass to each other: weights with the deletion they were trained on."""

from checkpoints.format import Checkpoint, load_checkpoint, save_checkpoint
from checkpoints.load import load_model

__all__ = ["Checkpoint", "load_checkpoint", "load_model", "save_checkpoint"]
