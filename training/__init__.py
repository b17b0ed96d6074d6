"""Training with deleted patches, so that deletion is in-domain when it is scored."""

import runpy
import sys
from pathlib import Path

if sys.argv[:1] == ["-m"]:  # python -m training.NAME: a user's file may be in the way, even of `faithfulness`
    _shadows = Path(__file__).parents[1] / "faithfulness" / "core" / "shadows.py"
    runpy.run_path(str(_shadows))["refuse_as_command"]("training")
