"""READMEs say what is there: commands, flags, names, files. `test_wheel.py` does all that README.md says."""

import ast
import importlib.util
import re

import pytest

from tests.reference.reader import ELSEWHERE, NoRule, done, read
from tests.reference.readme import ROOT, blocks_of, commands_of, inline_commands, links_of

README = "README.md"
PACKAGES = [f"{folder}/README.md" for folder in ("idsds", "difull", "dea", "eval", "training", "checkpoints")]
WHOLE = ("idsds/README.md",)
"""Whose Python needs nothing that isn't there."""


@pytest.mark.parametrize("module", ELSEWHERE)
def test_what_is_only_read_is_run_elsewhere(module):
    assert re.search(rf"\b{module.rpartition('.')[2]}\b.*main", (ROOT / ELSEWHERE[module]).read_text())


def test_a_command_without_a_rule_fails():
    for command in (["python", "-m", "eval.news"], ["curl", "x"]):
        with pytest.raises(NoRule):
            done(command)


@pytest.mark.parametrize("file", [README, *PACKAGES])
def test_commands_in_the_text_are_known(file, capsys):
    for text in inline_commands(file):
        program, *words = commands_of(re.sub("…|\\.\\.\\.", "", text), ROOT)[0]
        if program == "make" or "<" in text:
            continue
        assert done([program, *words], understood) == 0, f"{text}: {capsys.readouterr().err}"


def understood(module, words):
    """The command is there, and knows the flags."""
    if module.startswith("benchmarks."):
        return int(importlib.util.find_spec(module) is None)
    return importlib.import_module(module).main([*words, "--help"])


@pytest.mark.parametrize("file", [README, *PACKAGES])
def test_every_command_stands_in_a_block_that_says_so(file):
    others = [block.text for block in blocks_of(file) if block.language not in ("sh", "python")]
    assert not [text for text in others if re.search("^(python|make|pip|faithfulness) ", text, re.MULTILINE)]


@pytest.mark.parametrize("file", PACKAGES)
def test_what_the_packages_say_is_understood(file, capsys):
    """Their commands are read; their Python runs, or what it imports is there, where images of one's own are needed."""
    for block in blocks_of(file):
        if block.language == "sh":
            for command in commands_of(block.text, ROOT):
                assert done(command, read) == 0, f"{' '.join(command)}: {capsys.readouterr().err}"
        elif block.language == "python":
            nodes = ast.parse(block.text).body
            if file not in WHOLE:
                nodes = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
            exec(compile(ast.Module(nodes, []), str(block), "exec"), {})


@pytest.mark.parametrize("file", [README, *PACKAGES, "CONTRIBUTING.md"])
def test_what_is_pointed_to_is_there(file):
    assert [link for link in links_of(file) if not ((ROOT / file).parent / link).exists()] == []
