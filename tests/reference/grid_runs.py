"""The grid commands on grids that need no choosing, and what tests of them read."""

import json

import numpy as np
import pytest

from difull import make_compositions
from eval import aggatt, difull, leakage, mlatt
from faithfulness.data import open_data

COMMANDS = {"difull": difull, "mlatt": mlatt, "aggatt": aggatt, "leakage": leakage}
GRIDS = 5


def run(command, *arguments):
    """Exit status of a grid command."""
    return COMMANDS[command].main([str(argument) for argument in arguments])


def summary_of(folder):
    """`summary.json`, which must be strict JSON."""
    return json.loads((folder / "summary.json").read_text(), parse_constant=pytest.fail)


def save_compositions(folder):
    """Five grids of each kind, of the first 60 digits; returns the folder."""
    data = open_data("digits", "val")
    labels = np.array([data.label(index) for index in range(len(data))])
    for kind in ("distinct", "corners"):
        make_compositions(labels, np.arange(60), 2, GRIDS, kind).save(folder / f"{kind}.parquet")
    return folder
