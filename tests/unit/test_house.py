"""Files and functions keep a size that can be read at once."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("faithfulness", "idsds", "difull", "dea", "checkpoints", "training", "eval", "benchmarks", "tests")
FILES = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
LONGEST_FILE, LONGEST_FUNCTION = 350, 60


def functions(text):
    """(name, lines) of every function, the functions inside it included."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [(node.name, (node.end_lineno or 0) - node.lineno + 1) for node in nodes]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_is_long(folder):
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in FILES}
    assert {n: long for n, long in lengths.items() if n.startswith(f"{folder}/") and long > LONGEST_FILE} == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_function_is_long(folder):
    found = {
        f"{file.relative_to(ROOT)} {name}": lines
        for file in FILES
        if file.relative_to(ROOT).parts[0] == folder
        for name, lines in functions(file.read_text())
        if lines > LONGEST_FUNCTION
    }
    assert found == {}


def test_lines_are_counted():
    assert functions("def a():\n    def b():\n        pass\n\n    return b\n") == [("a", 5), ("b", 2)]
