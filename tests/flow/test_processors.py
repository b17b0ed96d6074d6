"""Two laboratories, one number: every command under other instruction sets, thread counts and batch sizes.

The variables take paths away from the libraries: ATen's vectors, oneDNN's convolutions, MKL's matrix
products. What a processor lacks, its libraries leave out, so this runs (and says less) anywhere.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.reference.every_command import COMMANDS, prepare, values

PLAIN = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
PROCESSORS = {"own": ({}, 4), "oldest, other batches": ({**PLAIN, "OMP_NUM_THREADS": "2"}, 3)}
"""Settings and the batch size, by name; the first is what the others are held against."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every run's results."""
    folder = tmp_path_factory.mktemp("processors")
    prepare(folder)
    for name, (settings, batch) in PROCESSORS.items():
        command = [sys.executable, "-m", "tests.reference.every_command", folder, name, batch, "64-true"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)} | settings
        subprocess.run([str(word) for word in command], env=environment, stdout=subprocess.DEVNULL, check=True)
    return folder


@pytest.mark.parametrize("processor", list(PROCESSORS)[1:])
@pytest.mark.parametrize("command", list(COMMANDS))
def test_in_float64_every_processor_and_batch_size_gives_the_same_scores(folder, processor, command):
    found, wanted = (values(folder / name / "64-true" / command) for name in (processor, "own"))
    assert np.isfinite(wanted).any()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
