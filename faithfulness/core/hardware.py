"""What a machine has."""

from __future__ import annotations

import os

from faithfulness.core.errors import InputError


def check_devices(devices: int | str, accelerator: str) -> None:
    """Refuse more processes than there are processors: on a CPU nothing else would, before memory runs out."""
    most = max(2, os.cpu_count() or 1)
    if accelerator == "cpu" and isinstance(devices, int) and devices > most:
        raise InputError(f"--devices must be at most {most}, the processors of this machine, got {devices}")
