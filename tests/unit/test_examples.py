"""The examples in docstrings run, and every name of the public face has one."""

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
from pathlib import Path

import pytest
import torch

import checkpoints
import dea
import difull
import faithfulness
import idsds
from faithfulness.attribution import ATTRIBUTIONS
from faithfulness.core import PatchGrid

PACKAGES = ("faithfulness", "idsds", "difull", "dea", "checkpoints", "training", "eval")
FACE = {
    faithfulness: (
        *("PatchGrid", "DeletionSpec", "delete_cells", "Backbone", "create_backbone"),
        *("create_attribution", "list_attributions", "register_attribution"),
    ),
    idsds: ("output_drops", "rank_correlation", "incremental_deletion"),
    difull: (
        *("GridPG", "DiFull", "DiPart", "compose_grid", "localization_score", "impossible_attribution"),
        *("aggregate", "influence_map", "leakage_proof", "make_compositions"),
    ),
    dea: ("DualEvidence", "deletion_drops", "off_target_mass", "stability"),
    checkpoints: ("load_model",),
}


class Finder(doctest.DocTestFinder):
    """Finds functions behind a wrapper too, such as that of the shape checks."""

    def _from_module(self, module, object):
        return isinstance(object, property) or getattr(object, "__module__", None) == module.__name__


def modules_with_examples():
    """Names of the modules that have examples, read off their text."""
    found = []
    for package in PACKAGES:
        path = importlib.util.find_spec(package).submodule_search_locations
        for module in pkgutil.walk_packages(path, f"{package}."):
            file = Path(path[0]).joinpath(*module.name.split(".")[1:]).with_suffix(".py")
            if file.is_file() and ">>> " in file.read_text(encoding="utf-8"):
                found.append(module.name)
    return found


@pytest.fixture
def registered():
    """What an example registers is gone afterwards."""
    len(ATTRIBUTIONS)  # the suite's own methods register at the first look
    with pytest.MonkeyPatch.context() as patch:
        for part in ("_entries", "_spellings", "_aliases"):
            patch.setattr(ATTRIBUTIONS, part, dict(getattr(ATTRIBUTIONS, part)))
        yield


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_run(name, registered, capsys):
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    tests = [test for test in Finder().find(module) if test.examples]
    assert tests
    for test in tests:
        torch.manual_seed(0)
        runner.run(test)
    assert not runner.failures, capsys.readouterr().out


@pytest.mark.parametrize(("package", "name"), [(package, name) for package, names in FACE.items() for name in names])
def test_the_public_face_has_examples(package, name):
    assert has_example(getattr(package, name))


def test_a_grids_sum_has_an_example():
    assert has_example(PatchGrid.sum)


def has_example(thing):
    return bool(doctest.DocTestParser().get_examples(vars(inspect.unwrap(thing)).get("__doc__") or thing.__doc__ or ""))
