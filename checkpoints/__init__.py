"""Checkpoints that labs can pass to each other: weights with the deletion they were trained on."""

import runpy
import sys
from pathlib import Path

import lazy_loader

if sys.argv[:1] == ["-m"]:  # python -m checkpoints.NAME: a user's file may be in the way, even of `faithfulness`
    _shadows = Path(__file__).parents[1] / "faithfulness" / "core" / "shadows.py"
    runpy.run_path(str(_shadows))["refuse_as_command"]("checkpoints")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
