"""What people install: a wheel of this checkout, in an environment of its own, used beside files of theirs."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.reference.readme import blocks_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("faithfulness", "idsds", "difull", "dea", "checkpoints", "training", "eval")
BLOCKS = blocks_of("README.md")
TRAP = "raise RuntimeError('the file of the user ran')\n"


def call(*words, folder, **variables):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= {"COLUMNS": "100", "HF_HUB_OFFLINE": "1", **variables}
    return subprocess.run([*map(str, words)], cwd=folder, env=environment, capture_output=True, text=True)


def printed(*words, folder, **variables):
    done = call(*words, folder=folder, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing is left in the checkout: the packages, and what must not be installed."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in (*PACKAGES, "benchmarks", "tests"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source" / name)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
    printed(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, folder / "source", folder=folder)
    (built,) = folder.glob("faithfulness-*.whl")
    return built


@pytest.fixture(scope="module")
def place(wheel, tmp_path_factory):
    """The programs of an environment that holds the wheel; what it depends on is borrowed from this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    options = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python")
    printed(*pip, "install", *options, wheel, folder=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    # a .pth file that is found through another one isn't read, so this checkout's own stays out
    (site / "dependencies.pth").write_text("\n".join(borrowed) + "\n")
    return folder / "bin"


@pytest.fixture
def user(tmp_path):
    """A user's folder with these files, none of which may run."""

    def make(*names, text=TRAP):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return make


def test_nothing_else_is_installed_at_top_level(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    for package in PACKAGES:
        here = {
            str(file.relative_to(ROOT))
            for file in (ROOT / package).rglob("*")
            if file.suffix in (".py", ".pyi", ".md", ".html", ".css", ".js")
            and file.is_file()
            and "released" not in file.parts  # the shipped checkpoints come with a clone
        }
        assert here <= set(names)


def test_it_is_the_wheel_that_is_imported(place, user):
    code = "import eval, faithfulness, idsds; print(faithfulness.__file__, eval.__file__, idsds.__file__)"
    found = printed(place / "python", "-c", code, folder=user()).split()
    assert all(Path(file).is_relative_to(place.parent) for file in found)
    assert printed(place / "faithfulness", "--version", folder=user()).split()[0] == "faithfulness"


@pytest.mark.parametrize("names", [("core.py", "data.py", "backbones.py", "attribution.py"), ("data/__init__.py",)])
def test_everyday_names_are_free(place, user, names):
    folder = user(*names)
    for command in (("python", "-m", "eval.idsds"), ("faithfulness", "idsds")):
        assert "usage: " in printed(place / command[0], *command[1:], "--help", folder=folder)
    code = "from faithfulness import PatchGrid; import faithfulness.data, checkpoints; print(PatchGrid(4, 4))"
    assert "4" in printed(place / "python", "-c", code, folder=folder)


def test_a_module_of_the_users_is_the_users(place, user):
    folder = user("data/loader.py", text="MINE = 1\n")
    code = "import data.loader, faithfulness.data; print(data.loader.MINE, faithfulness.data.open_data.__name__)"
    assert printed(place / "python", "-c", code, folder=folder) == "1 open_data\n"


@pytest.mark.parametrize("command", ["idsds", "finetune"])
@pytest.mark.parametrize(
    "names",
    [("eval.py", "checkpoints/last.py", "training/loop.py"), ("checkpoints/__init__.py", "training/__init__.py")],
)
def test_the_console_command_runs_anywhere(place, user, command, names):
    folder = user(*names)
    assert printed(place / "faithfulness", command, "--help", folder=folder).startswith(
        f"usage: faithfulness {command} "
    )


def test_a_command_works_beside_files_of_the_same_names(place, user):
    folder = user("eval.py", "checkpoints/__init__.py", "training/loop.py", "core.py", "data/__init__.py")
    assert "gradcam" in printed(place / "faithfulness", "idsds", "--list-attributions", folder=folder)


def test_folders_that_are_no_packages_are_in_nobodys_way(place, user):
    folder = user("checkpoints/last.py", "training/loop.py", "idsds/run.py")
    assert "usage: " in printed(place / "python", "-m", "eval.idsds", "--help", folder=folder)
    assert "usage: " in printed(place / "python", "-m", "training.patch_finetune", "--help", folder=folder)


def test_the_notebook_runs_in_an_empty_folder(place, user):
    """From top to bottom; what it shows is what it is kept with, by kind, and names no path of a machine."""
    notebook, runner = ROOT / "examples" / "first_look.ipynb", ROOT / "tests" / "reference" / "notebooks.py"
    kept = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    made = json.loads(printed(place / "python", runner, notebook, folder=user(), OMP_NUM_THREADS="1"))["cells"]
    assert [kinds_of(cell) for cell in kept] == [kinds_of(cell) for cell in made]
    assert sum(kinds_of(cell).count("image/png") for cell in kept) == 2
    assert notebook.stat().st_size < 400_000
    texts = " ".join(text for cell in kept for text in texts_in(cell))
    assert not re.search(r"(?<![\w.])/(home|root|tmp|usr|work|Users)/", texts)


def kinds_of(cell):
    """How a cell's outputs look."""
    return [kind for output in cell.get("outputs", ()) for kind in output.get("data", {output["output_type"]: None})]


def texts_in(cell):
    """The text of a cell and of its outputs, without pictures."""
    yield "".join(cell["source"])
    for output in cell.get("outputs", ()):
        shown = {"text": output.get("text", []), **output.get("data", {})}
        yield from ("".join(text) for kind, text in shown.items() if kind != "image/png")


def test_what_is_in_the_way_is_named(place, user):
    folder = user("checkpoints.py")
    done = call(place / "python", "-m", "eval.idsds", "--help", folder=folder)
    begin = f"error: {folder}/checkpoints.py hides this suite's package checkpoints; "
    assert (done.returncode, done.stderr) == (2, f"{begin}run faithfulness idsds …, or from another folder\n")
    done = call(place / "faithfulness", "idsds", "--help", folder=folder, PYTHONPATH=str(folder))
    assert (done.returncode, done.stderr) == (2, f"{begin}rename it, or take its folder off PYTHONPATH\n")


@pytest.fixture(scope="module")
def readme(place, tmp_path_factory):
    """What came of doing all of README, in an empty folder; nothing but the tests is taken from this checkout."""
    folder = tmp_path_factory.mktemp("reader") / "empty"
    folder.mkdir()
    code = f"import sys; sys.path.append({str(ROOT)!r}); from tests.reference.reader import main; main('../found.json')"
    printed(place / "python", "-P", "-c", code, folder=folder, OMP_NUM_THREADS="1")
    return json.loads((folder.parent / "found.json").read_text())


@pytest.mark.parametrize("number", [n for n, each in enumerate(BLOCKS) if each.language], ids=lambda n: str(BLOCKS[n]))
def test_what_readme_says_works(readme, number):
    assert readme["blocks"][number] is None


def test_the_reader_had_the_wheel(readme, place):
    assert all(Path(home).is_relative_to(place.parent) for home in readme["homes"])
