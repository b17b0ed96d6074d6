"""README.md, done as a reader does it: its commands and its Python, one after another, in a folder of their own.

Commands run in this process, small: `SMALL` says what is put behind each, and the last of two equal flags counts. What
needs things that aren't here is read by its command all the same (`NOT_HERE`). A command that no rule knows fails.
"""

import ast
import importlib
import re
import shutil
import sys
from contextlib import ExitStack, chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from faithfulness.__main__ import find_commands
from faithfulness.__main__ import main as faithfulness
from tests.reference.readme import ROOT, blocks_of, commands_of, inline_commands, links_of, made_by
from tests.reference.short_runs import undrawn

README = "README.md"
OTHERS = ["idsds", "difull", "dea", "eval", "training", "checkpoints"]
PACKAGES = [f"{folder}/README.md" for folder in OTHERS]

TRAIN = "--epochs 1 --batch-size 8"
GRIDS = "--grids 2 --confidence 0 --setting difull --attributions ixg gradcam --layers final"
SMALL = {
    "training.patch_finetune": TRAIN,
    "training.segmentation_finetune": f"{TRAIN} --train-images 16 --val-images 8",
    "eval.idsds": "--limit 4",
    "eval.incremental": "--limit 2 --steps 4 --attributions ixg",
    "eval.difull": GRIDS,
    "eval.mlatt": f"{GRIDS} --kernels 1 17",
    "eval.aggatt": GRIDS,
    "eval.leakage": "--setting difull --grids 1 --tries 1",
    "eval.dea": "--limit 1 --min-iou 0 --min-area 0 --region annotated --fractions 0.02",
    "eval.explain": "",
    "eval.report": "",
    "eval.compare": "",
    "checkpoints.release": "",
}
"""What is put behind the words of a command that is run."""
OF_DIGITS = {"training.patch_finetune": "--train-images 64 --val-images 16"}
"""The same, of a command without `--data`."""
ELSEWHERE = {
    "eval.merge": "tests/flow/test_shards.py",
    "eval.merge": "tests/flow/test_shards.py",
    "checkpoints.verify": "tests/flow/test_released.py",
    "checkpoints.convert": "tests/unit/test_convert.py",
    "benchmarks.findings": "benchmarks/findings.py",
}
"""Commands that are only read here, and where they are run."""
NOT_HERE = re.compile("imagenet:|voc:|sbd:|hfds:|torchvision:|hf-hub:|--push|PATH|NAME|FILE|DIR")
"""Words that ask for what a test hasn't: a command with such a word is read, and not run."""
SMALLER = {"resnet18": "test_convnext", "--pretrained": None}
"""Words that a test puts others for, or none."""
SCRIPTS = {"scripts/finetune.sbatch": ("training.patch_finetune", 0), "scripts/score_array.sbatch": ("eval.idsds", 2)}
"""A job's script -> the command that it calls, and how many words it takes itself."""


def read(module, words):
    """The command understands its words, and says what they settle."""
    return importlib.import_module(module).main([*words, "--print-config"])


def run(module, words):
    """The command does its work on little, if all that it needs is here."""
    if module not in SMALL and module not in ELSEWHERE:
        pytest.fail(f"no rule for {module}: say in {Path(__file__).name} how a test runs it")
    if module in ELSEWHERE or NOT_HERE.search(" ".join(words)):
        return read(module, words)
    own = [SMALLER.get(word, word) for word in words]
    more = "" if "--data" in words else OF_DIGITS.get(module, "")
    small = [word for word in own if word is not None] + f"{SMALL[module]} {more}".split()
    with undrawn():
        return importlib.import_module(module).main(small)


def python(words, carry_out):
    assert words[0] == "-m", words
    return carry_out(words[1], words[2:])


def console(words, carry_out):
    found = find_commands()
    if words[0] in found and "--help" not in words:
        return carry_out(f"{found[words[0]].package}.{found[words[0]].module}", words[1:])
    return faithfulness(words)


def make(words, carry_out):
    (target,) = words
    return max(done(command, carry_out) for command in commands_of(made_by(target), Path.cwd()))


def pip(words, carry_out):
    assert words == ["install", "."], "tests/flow/test_wheel.py installs a checkout, and nothing else"
    return 0


def sbatch(words, carry_out):
    """What a job's script is given reaches its command."""
    script = next(place for place, word in enumerate(words) if not word.startswith("-"))
    module, own = SCRIPTS[words[script]]
    assert f"python -m {module}" in (ROOT / words[script]).read_text()
    return read(module, words[script + 1 + own :])


PROGRAMS = {"python": python, "faithfulness": console, "make": make, "pip": pip, "sbatch": sbatch}


def done(command, carry_out=run):
    """The status of a command line, done by its program's rule."""
    if command[0] not in PROGRAMS:
        pytest.fail(f"no rule for {command[0]}")
    return PROGRAMS[command[0]](command[1:], carry_out)


def do(block, names):
    """A block of README, done; an AssertionError with what was said, where it doesn't work."""
    if block.name:
        Path(block.name).write_text(block.text)
    if block.language == "python":
        exec(compile(block.text, str(block), "exec"), names)
    elif block.language == "sh":
        for command in commands_of(block.text, Path.cwd()):
            said = StringIO()
            with redirect_stdout(said), redirect_stderr(said):
                status = done(command)
            assert status == 0, f"{' '.join(command)}\n{said.getvalue()}"


def lay(folder):
    """What a reader has beside a checkout: photographs, and one more."""
    shutil.copytree(ROOT / "checkpoints" / "released", folder / "checkpoints" / "released")
    shutil.copytree(ROOT / "examples" / "pictures", folder / "examples" / "pictures")
    generator = np.random.default_rng(0)
    for number in range(17):
        kind = ("cat", "dog")[number % 2]
        place = folder / "photos" / ("val" if number < 4 else "train") / kind
        place.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.jpg" if number < 16 else folder / "photo.jpg")


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """Block -> what went wrong with it, of all blocks of README in their order; None where nothing did."""
    folder, found, names = tmp_path_factory.mktemp("reader"), {}, {}
    lay(folder)
    with ExitStack() as stack:
        stack.enter_context(chdir(folder))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.syspath_prepend(str(folder))
        # what is proven of the heads is proven in tests of its own, and takes longest
        patch.setattr("difull.leakage.leakage_proofs", lambda *setting, **tries: [])
        patch.setattr("difull.influence_map", lambda *setting, **chunk: torch.ones(2, 2, dtype=torch.bool))
        known = set(sys.modules)
        for block in blocks_of(README):
            try:
                do(block, names)
                found[block] = None
            except (Exception, SystemExit, pytest.fail.Exception) as error:
                found[block] = error
        for name in set(sys.modules) - known:
            if (folder / f"{name}.py").is_file():
                del sys.modules[name]
    return found


@pytest.mark.parametrize("block", [block for block in blocks_of(README) if block.language], ids=str)
def test_what_readme_says_works(walked, block):
    if walked[block] is not None:
        raise walked[block]


def test_a_command_without_a_rule_fails():
    for command in (["python", "-m", "eval.news"], ["curl", "x"], ["make", "demo", "-j"]):
        with pytest.raises((pytest.fail.Exception, ValueError)):
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
