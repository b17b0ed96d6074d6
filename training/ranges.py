"""What the numbers among a training's flags may be. Nothing is loaded for it."""

from __future__ import annotations

import math
import os
from typing import Any

from faithfulness.core.errors import InputError, unknown_name

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
MOST_SEEDS = 2**63
_AT_LEAST = {
    "epochs": 1,
    "batch_size": 1,
    "accumulate": 1,
    "step_epochs": 1,
    "train_images": 1,
    "val_images": 1,
    "input_size": 1,
    "num_nodes": 1,
    "workers": 0,
}


def check_numbers(options: Any) -> None:
    """Raise InputError for counts, rates and seeds that mean nothing."""
    for name, least in _AT_LEAST.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise InputError(f"{_flag(name)} must be at least {least}, got {value}")
    for name, (low, high, words) in {
        "lr": (math.ulp(0.0), math.inf, "be above 0"),
        "weight_decay": (0.0, math.inf, "be at least 0"),
        "momentum": (0.0, 1.0, "lie in [0, 1)"),
        "clip": (math.ulp(0.0), math.inf, "be above 0"),
        "ema": (math.ulp(0.0), 1.0, "lie in (0, 1)"),
    }.items():
        value = getattr(options, name)
        if value is not None and not low <= value < high:
            raise InputError(f"{_flag(name)} must {words}, got {value}")
    if not 0 <= options.seed < MOST_SEEDS:
        raise InputError(f"--seed must be at least 0 and below 2**63, got {options.seed}")


def check_hardware(options: Any) -> None:
    """Raise InputError for accelerators that there aren't, and for what they can't do, as far as flags say it."""
    if options.accelerator not in ACCELERATORS:
        raise unknown_name("accelerator", options.accelerator, ACCELERATORS)
    if options.accelerator == "cpu" and options.precision == "16-mixed":
        raise InputError("--precision 16-mixed needs a GPU; a CPU has bf16-mixed")
    together = ("MASTER_ADDR", "SLURM_NTASKS", "TORCHELASTIC_RUN_ID", "OMPI_COMM_WORLD_SIZE", "LSB_JOBID")
    if options.num_nodes > 1 and not any(name in os.environ for name in together):
        raise InputError(
            f"--num-nodes {options.num_nodes} needs srun, torchrun, or MASTER_ADDR, MASTER_PORT and NODE_RANK in the "
            "environment: otherwise no node knows of the others"
        )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
