"""A wheel of this checkout, and an environment that holds it."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("faithfulness", "idsds", "difull", "dea", "checkpoints", "training", "eval")


def call(*words, folder, **variables):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= {"COLUMNS": "100", "HF_HUB_OFFLINE": "1", **variables}
    return subprocess.run([*map(str, words)], cwd=folder, env=environment, capture_output=True, text=True)


def printed(*words, folder, **variables):
    done = call(*words, folder=folder, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build_wheel(folder):
    """Built from a copy, so that nothing is left in the checkout: the packages, and what must not be installed."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in (*PACKAGES, "benchmarks", "tests"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source" / name)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
    printed(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, folder / "source", folder=folder)
    (built,) = folder.glob("faithfulness-*.whl")
    return built


def install_wheel(wheel, folder):
    """The programs of an environment that holds the wheel; what it depends on is borrowed from this one."""
    venv.create(folder, with_pip=False, symlinks=True)
    options = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python")
    printed(*pip, "install", *options, wheel, folder=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    # a .pth file that is found through another one isn't read, so this checkout's own stays out
    (site / "dependencies.pth").write_text("\n".join(borrowed) + "\n")
    return folder / "bin"
