"""Imports go one way: read from the syntax trees of all packages, also inside functions and for type checkers."""

import pytest

from faithfulness.core.shadows import NEEDS
from tests.reference.imports import PACKAGES, Tree

CORE, DATA, BACKBONES, ATTRIBUTION, REPORT = (
    f"faithfulness.{room}" for room in ("core", "data", "backbones", "attribution", "report")
)
MAY_IMPORT = {
    CORE: (),
    DATA: (CORE,),
    BACKBONES: (CORE,),
    ATTRIBUTION: (CORE, BACKBONES),
    REPORT: (CORE,),
    "faithfulness": (CORE,),
    "idsds": (CORE, BACKBONES, ATTRIBUTION),
    "difull": (CORE, BACKBONES, ATTRIBUTION),
    "dea": (CORE, BACKBONES, ATTRIBUTION),
    "checkpoints": (CORE, DATA, BACKBONES),
    "training": (CORE, DATA, BACKBONES, "checkpoints", "difull"),
    "eval": ("faithfulness", CORE, DATA, BACKBONES, ATTRIBUTION, REPORT, "idsds", "difull", "dea", "checkpoints"),
}
"""Room -> other rooms that its modules may import."""
PROTOCOLS = ("idsds", "difull", "dea")


def room_of(module):
    """The room of a module of ours: the longest one that it lies in."""
    return max((room for room in MAY_IMPORT if f"{module}.".startswith(f"{room}.")), key=len)


def backward(tree):
    return [
        str(found)
        for found in tree.own()
        if room_of(found.module) not in (room_of(found.importer), *MAY_IMPORT[room_of(found.importer)])
    ]


def private(tree):
    return [
        str(found)
        for found in tree.own()
        if found.name.startswith("_")
        and not found.name.startswith("__")
        and room_of(found.module) != room_of(found.importer)
    ]


def importers(tree, library):
    return [found for found in tree.imports if found.module.partition(".")[0] == library]


def commands(tree):
    rooms = {module.rpartition(".")[0] for module in tree.modules}
    return {name for name in tree.modules if name.startswith("eval.") and name.count(".") == 1 and name not in rooms}


@pytest.fixture(scope="module")
def tree():
    return Tree()


def test_every_package_is_looked_at(tree):
    assert {module.partition(".")[0] for module in tree.modules} == set(PACKAGES)
    assert {room_of(module) for module in tree.modules} == set(MAY_IMPORT)


def test_imports_go_one_way(tree):
    assert backward(tree) == []


def test_no_module_imports_itself_through_others(tree):
    assert tree.cycle() == []


def test_private_names_stay_in_their_room(tree):
    assert private(tree) == []


def test_commands_import_no_other_command(tree):
    """Nor does what they share import one of them."""
    assert [str(found) for found in tree.own() if found.module in commands(tree)] == []


@pytest.mark.parametrize("library", ["matplotlib", "pandas", "lightning"])
def test_protocols_are_tensor_functions(tree, library):
    assert [str(found) for found in importers(tree, library) if room_of(found.importer) in PROTOCOLS] == []


def test_pictures_are_drawn_in_one_room(tree):
    assert [str(found) for found in importers(tree, "matplotlib") if room_of(found.importer) != REPORT] == []


@pytest.mark.parametrize("package", NEEDS)
def test_what_commands_need_is_what_may_hide_it(tree, package):
    """A package that they import, however deep, is one whose name a user's file must not take."""
    rooms, new = set(), {package}
    while new:
        rooms |= new
        new = {other for room in new for other in MAY_IMPORT[room]} - rooms
    assert {room.partition(".")[0] for room in rooms} == set(NEEDS[package])


@pytest.mark.parametrize(
    ("file", "text", "check"),
    [
        ("idsds/score.py", "import faithfulness.data\n", backward),
        ("idsds/score.py", "def late():\n    from difull import grid\n", backward),
        ("idsds/score.py", "if TYPE_CHECKING:\n    from eval.frame import run\n", backward),
        ("difull/grid.py", "from faithfulness.core.parts import _hidden\n", private),
        ("difull/grid.py", "from faithfulness import DATA\n", backward),
        ("faithfulness/core/parts.py", "from .more import x\n", lambda tree: tree.cycle()),
    ],
)
def test_the_rules_see_what_breaks_them(tmp_path, file, text, check):
    """Each rule is tried on a small suite that keeps it, and on the same with one bad line."""
    clean = {
        "faithfulness/__init__.py": "",
        "faithfulness/__init__.pyi": "from .data import DATA as DATA\n",
        "faithfulness/core/__init__.py": "",
        "faithfulness/core/parts.py": "",
        "faithfulness/core/more.py": "from faithfulness.core.parts import x, _y\n",
        "faithfulness/data/__init__.py": "from ..core import parts\n",
        "idsds/score.py": "from faithfulness.core import parts\n",
        "difull/grid.py": "import numpy\n",
        "eval/frame/run.py": "from faithfulness import DATA\n",
    }
    for name, content in clean.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert not check(Tree(tmp_path))
    (tmp_path / file).write_text(text)
    assert check(Tree(tmp_path))
