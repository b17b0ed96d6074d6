"""A reader of README.md, who does its commands and its Python, one after another, in an empty folder.

Commands run in this process, small: `SMALL` says what is put behind each, and the last of two equal flags counts. What
needs things that aren't here is read by its command all the same (`NOT_HERE`). What no rule knows is a mistake.
"""

import importlib
import json
import re
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from faithfulness.__main__ import find_commands
from faithfulness.__main__ import main as faithfulness
from tests.reference.readme import ROOT, blocks_of, commands_of, made_by
from tests.reference.undrawn import undrawn

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
    "checkpoints.verify": "tests/flow/test_released.py",
    "checkpoints.convert": "tests/unit/test_convert.py",
}
"""Commands that are only read here, and where they are run."""
NOT_HERE = re.compile("imagenet:|voc:|sbd:|hfds:|torchvision:|hf-hub:|--push|PATH|NAME|FILE|DIR")
"""Words that ask for what a test hasn't: a command with such a word is read, and not run."""
SMALLER = {"resnet18": "test_convnext", "--pretrained": None}
"""Words that a test puts others for, or none."""
SCRIPTS = {"scripts/finetune.sbatch": ("training.patch_finetune", 0), "scripts/score_array.sbatch": ("eval.idsds", 2)}
"""A job's script -> the command that it calls, and how many words it takes itself."""


class NoRule(AssertionError):
    """A command that nothing says how to do."""


def read(module, words):
    """The command understands its words, and says what they settle."""
    return importlib.import_module(module).main([*words, "--print-config"])


def run(module, words):
    """The command does its work on little, if all that it needs is here."""
    if module not in SMALL and module not in ELSEWHERE:
        raise NoRule(f"no rule for {module}: say in {Path(__file__).name} how a test runs it")
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
        raise NoRule(f"no rule for {command[0]}")
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


def walk():
    """What went wrong with each block of README, in their order; None where nothing did."""
    found, names = [], {}
    for block in blocks_of("README.md"):
        try:
            do(block, names)
            found.append(None)
        except (Exception, SystemExit) as error:  # told of this block, by whom asks
            found.append(f"{type(error).__name__}: {error}")
    return found


def main(file):
    lay(Path.cwd())
    sys.path.insert(0, str(Path.cwd()))  # as of a notebook that is beside one's own files
    with pytest.MonkeyPatch.context() as patch:
        # what is proven of the heads is proven in tests of its own, and takes longest
        patch.setattr("difull.leakage.leakage_proofs", lambda *setting, **tries: [])
        patch.setattr("difull.influence_map", lambda *setting, **chunk: torch.ones(2, 2, dtype=torch.bool))
        found = walk()
    homes = sorted(
        {str(Path(str(sys.modules[name].__file__)).parents[1]) for name in ("faithfulness", "idsds", "training")}
    )
    Path(file).write_text(json.dumps({"blocks": found, "homes": homes}))


if __name__ == "__main__":
    main(sys.argv[1])
