"""Two laboratories, one number: every command under other instruction sets, thread counts and batch sizes.

The variables take paths away from the libraries: ATen's vectors, oneDNN's convolutions, MKL's matrix
products. What a processor lacks, its libraries leave out, so this runs (and says less) anywhere.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from checkpoints import save_checkpoint, save_segmenter
from difull import make_compositions
from faithfulness.core import DeletionSpec
from faithfulness.data import open_data
from tests.reference.every_command import COMMANDS
from tests.reference.networks import small_resnet
from tests.reference.tiny_models import tiny_segmenter

PLAIN = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
PROCESSORS = {
    "own": ({}, 4),
    "oldest": (PLAIN, 4),
    "other batches": ({"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "2"}, 3),
}
"""Settings and the batch size, by name; the first is what the others are held against."""
KEYS = ["setting", "scale", "cell", "index", "class", "attribution", "layer", "metric", "kernel"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every run's results, of untrained networks whose outputs and maps are those of no special case."""
    folder = tmp_path_factory.mktemp("processors")
    classes = [str(digit) for digit in range(10)]
    save_checkpoint(folder / "resnet", small_resnet(10), deletion=DeletionSpec(), classes=classes, training={})
    segmenter = tiny_segmenter()
    save_segmenter(
        folder / "segmenter", segmenter, deletion=DeletionSpec(), classes=["background", *classes], training={}
    )
    data = open_data("digits", "val")
    labels = np.array([data.label(index) for index in range(40)])
    (folder / "compositions").mkdir()
    for kind in ("distinct", "corners"):
        make_compositions(labels, np.arange(40), 2, 2, kind).save(folder / "compositions" / f"{kind}.parquet")
    for name, (settings, batch) in PROCESSORS.items():
        command = [sys.executable, "-m", "tests.reference.every_command", folder, name, batch, "64-true"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)} | settings
        subprocess.run([str(word) for word in command], env=environment, stdout=subprocess.DEVNULL, check=True)
    return folder


def values(folder, processor, precision, command):
    """The per-image values of a run, in order of what they are of."""
    run = folder / processor / precision / command
    if command == "aggatt":  # writes no table, but the mean maps of its bins
        with np.load(run / "bins.npz") as bins:
            maps = np.concatenate([bins[key].ravel() / np.nanmax(bins[key]) for key in sorted(bins)])
        scores = [entry["mean"] for entry in json.loads((run / "summary.json").read_text())["scores"]]
        return np.concatenate([maps, scores])
    table = pd.read_parquet(run / "per_image.parquet")
    return table.sort_values([key for key in KEYS if key in table])["value"].to_numpy()


@pytest.mark.parametrize("processor", list(PROCESSORS)[1:])
@pytest.mark.parametrize("command", list(COMMANDS))
def test_in_float64_every_processor_and_batch_size_gives_the_same_scores(folder, processor, command):
    found, wanted = (values(folder, name, "64-true", command) for name in (processor, "own"))
    assert np.isfinite(wanted).any()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
