"""Checkpoint folders of untrained networks: what a command does with them is the same."""

from checkpoints import save_checkpoint
from faithfulness.backbones import create_backbone
from faithfulness.core import DeletionSpec
from tests.reference.networks import small_resnet

DIGITS = [str(digit) for digit in range(10)]
OTHER_LOOKS = {"mean": (0.1, 0.4, 0.7), "std": (0.5, 0.9, 0.3)}
"""Of images that are normalized otherwise than those of the networks here."""


def save_resnet(folder):
    """A network for the digits that says it was trained with deletion; returns the folder."""
    save_checkpoint(folder, small_resnet(10), deletion=DeletionSpec(), classes=DIGITS, training={})
    return folder


def save_other_sized(folder, backbone=None):
    """A network for digits of another size and normalization, which never saw deletion; returns the folder."""
    backbone = backbone or create_backbone("test_convnext", 10, input_size=32).eval()
    backbone.data_config |= {"input_size": (3, 32, 32), **OTHER_LOOKS}
    save_checkpoint(folder, backbone, deletion=None, classes=DIGITS, training={})
    return folder
