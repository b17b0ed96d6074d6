"""Each protocol says which way its metrics point, without loading anything for it."""

import subprocess
import sys

import pytest

import dea
import difull
import idsds


def test_no_metric_belongs_to_two_protocols():
    tables = (idsds.METRICS, difull.METRICS, dea.METRICS)
    names = [name for table in tables for name in table]
    assert len(names) == len(set(names))
    assert all(isinstance(better, bool) for table in tables for better in table.values())


def test_stability_has_a_metric_for_each_perturbation():
    assert tuple(dea.PERTURBATIONS) == dea.PERTURBATION_NAMES
    assert {name for name in dea.METRICS if name.startswith("stability_")} == {
        f"stability_{name}" for name in dea.PERTURBATIONS
    }


@pytest.mark.parametrize("package", ["idsds", "difull", "dea"])
def test_the_directions_load_no_torch(package):
    code = f"import sys, {package}; {package}.METRICS; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
