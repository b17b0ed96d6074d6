"""What people install: a wheel of this checkout, in an environment of its own, used beside files of theirs."""

import zipfile
from pathlib import Path

import pytest

from tests.reference.wheels import PACKAGES, ROOT, build_wheel, call, install_wheel, printed

TRAP = "raise RuntimeError('the file of the user ran')\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def place(wheel, tmp_path_factory):
    return install_wheel(wheel, tmp_path_factory.mktemp("environment"))


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


def test_what_is_in_the_way_is_named(place, user):
    folder = user("checkpoints.py")
    done = call(place / "python", "-m", "eval.idsds", "--help", folder=folder)
    begin = f"error: {folder}/checkpoints.py hides this suite's package checkpoints; "
    assert (done.returncode, done.stderr) == (2, f"{begin}run faithfulness idsds …, or from another folder\n")
    done = call(place / "faithfulness", "idsds", "--help", folder=folder, PYTHONPATH=str(folder))
    assert (done.returncode, done.stderr) == (2, f"{begin}rename it, or take its folder off PYTHONPATH\n")
