"""README.md says what works: a reader does all of it in an empty folder, with a wheel of this checkout."""

import ast
import importlib
import json
import re

import pytest

from tests.reference.reader import ELSEWHERE, NoRule, done, read
from tests.reference.readme import ROOT, blocks_of, commands_of, inline_commands, links_of
from tests.reference.wheels import build_wheel, install_wheel, printed

README = "README.md"
PACKAGES = [f"{folder}/README.md" for folder in ("idsds", "difull", "dea", "eval", "training", "checkpoints")]
BLOCKS = blocks_of(README)


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """What went wrong with each block; where the packages were found."""
    programs = install_wheel(build_wheel(tmp_path_factory.mktemp("wheel")), tmp_path_factory.mktemp("environment"))
    code = f"import sys; sys.path.append({str(ROOT)!r}); from tests.reference.reader import main; main('../found.json')"
    folder = tmp_path_factory.mktemp("reader") / "empty"
    folder.mkdir()
    printed(programs / "python", "-P", "-c", code, folder=folder, OMP_NUM_THREADS="1")
    return json.loads((folder.parent / "found.json").read_text()) | {"environment": str(programs.parent)}


@pytest.mark.parametrize(
    "number", [n for n, block in enumerate(BLOCKS) if block.language], ids=lambda n: str(BLOCKS[n])
)
def test_what_readme_says_works(walked, number):
    assert walked["blocks"][number] is None


def test_it_was_the_wheel(walked):
    assert all(home.startswith(walked["environment"]) for home in walked["homes"])


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
        return int(not (ROOT / f"{module.replace('.', '/')}.py").is_file())
    return importlib.import_module(module).main([*words, "--help"])


@pytest.mark.parametrize("file", [README, *PACKAGES])
def test_every_command_stands_in_a_block_that_says_so(file):
    others = [block.text for block in blocks_of(file) if block.language not in ("sh", "python")]
    assert not [text for text in others if re.search("^(python|make|pip|faithfulness) ", text, re.MULTILINE)]


@pytest.mark.parametrize("file", PACKAGES)
def test_what_the_packages_say_is_understood(file, capsys):
    """Their commands are read, and the names that their Python imports are there."""
    for block in blocks_of(file):
        if block.language == "sh":
            for command in commands_of(block.text, ROOT):
                assert done(command, read) == 0, f"{' '.join(command)}: {capsys.readouterr().err}"
        elif block.language == "python":
            imports = [node for node in ast.parse(block.text).body if isinstance(node, ast.Import | ast.ImportFrom)]
            exec(compile(ast.Module(imports, []), str(block), "exec"), {})


@pytest.mark.parametrize("file", [README, *PACKAGES, "CONTRIBUTING.md"])
def test_what_is_pointed_to_is_there(file):
    assert [link for link in links_of(file) if not ((ROOT / file).parent / link).exists()] == []
