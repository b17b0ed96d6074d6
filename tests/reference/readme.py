"""What a README tells its reader to do: the blocks of code, and the commands that a shell makes of them."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECORD = r"""
PATH=/nowhere
command_not_found_handle() { printf '%s\0' "$@" >&2; printf '\n\0' >&2; }
"""
"""Bash reads what follows by its own rules (quotes, loops, patterns); programs are written down, not run."""
INLINE = re.compile(r"`((?:python -m|faithfulness|make|pip) [^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A block of code: its language, its text, and the heading that it stands under."""

    file: str
    language: str
    text: str
    heading: str

    def __str__(self) -> str:
        return f"{self.file}: {self.heading}: {self.text.strip().splitlines()[0][:60]}"

    @property
    def name(self) -> str | None:
        """The file that the block is to be saved as, if its first line says so: `# my_net.py`."""
        found = re.match(r"# (\w+\.py)\b", self.text)
        return found[1] if found else None


def blocks_of(file: str) -> list[Block]:
    """The fenced blocks of a document."""
    found, heading = [], ""
    for part in re.finditer(
        r"^#+ ([^\n]+)$|^```(\w*)\n(.*?)^```$", (ROOT / file).read_text(), re.MULTILINE | re.DOTALL
    ):
        if part[1]:
            heading = part[1]
        else:
            found.append(Block(file, part[2], part[3], heading))
    return found


def inline_commands(file: str) -> list[str]:
    """The commands that stand in the text."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / file).read_text(), flags=re.MULTILINE | re.DOTALL)
    return INLINE.findall(text)


def links_of(file: str) -> list[str]:
    """What a document points to in this repository, without the place in it."""
    found = re.findall(r"\]\(([^)#\s]+)[^)]*\)", (ROOT / file).read_text())
    return [link for link in found if "://" not in link]


def commands_of(text: str, folder: Path) -> list[list[str]]:
    """The words of every program that a shell would call in this folder."""
    done = subprocess.run(
        ["bash", "--norc", "-c", RECORD + text],
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert done.returncode in (0, 127), done.stderr
    return [line.strip("\0").split("\0") for line in done.stderr.split("\n\0") if line]


def made_by(target: str) -> str:
    """The commands of a target of the Makefile, once everything is installed."""
    words = ["make", "--dry-run", "--old-file", "install", target]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    text = subprocess.run(words, cwd=ROOT, env=plain, check=True, capture_output=True, text=True).stdout
    return text.replace(".venv/bin/", "")
