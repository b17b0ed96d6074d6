"""Which parquet files are a split of a data set, in a folder or on the Hugging Face Hub, and what its card says."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

from faithfulness.core.errors import InputError, shown

_WORDS = {"train": ("train", "training"), "val": ("validation", "valid", "val", "dev", "test", "eval")}
"""What files of a split are called, the first that there are."""
_LARGEST_CARD = 10 << 20


class Source(NamedTuple):
    """The files of a split, below a folder, in order; `others` are the other ones of the data set there."""

    folder: Path
    files: list[str]
    others: list[str]

    def paths(self, *, all_splits: bool = False) -> list[Path]:
        """Where the files are."""
        return [self.folder / name for name in (*self.files, *(self.others if all_splits else ()))]


def _word(name: str) -> str | None:
    """The split that a file's name begins with, or a folder above it is called."""
    path = PurePosixPath(name.lower())
    words = (re.split(r"[-_.]", path.name)[0], *reversed(path.parts[:-1]))
    known = [word for each in _WORDS.values() for word in each]
    return next((word for word in words if word in known), None)


def _set_of(name: str) -> str:
    """The folder that tells data sets in one repository apart, as `cropped_digits` of `cropped_digits/train-…`."""
    parts = PurePosixPath(name).parts[:-1]
    return "/".join(part for part in parts if part.lower() not in ("data", *_WORDS["train"], *_WORDS["val"]))


def choose_files(names: Iterable[str], split: str, where: str) -> tuple[list[str], list[str], str | None]:
    """The files of a split among those of a data set, the other ones, and what the files call the split.

    Args:
        names: paths below the data set's folder.
        where: what `--data` called it, for messages.
    Raises:
        InputError: no such split, a shard that is missing, several data sets.
    """
    if split not in _WORDS:
        raise InputError(f"unknown split {split!r} of hfds; known: train, val")
    names = sorted(name for name in names if name.endswith(".parquet") and not _hidden(name))
    if not names:
        raise InputError(f"no parquet files in {where}; expected data/train-*.parquet, as the Hub has them")
    words = {name: _word(name) for name in names}
    there = {word for word in words.values() if word}
    word = next((word for word in _WORDS[split] if word in there), None)
    if word is None and (there or split == "train"):
        have = ", ".join(sorted(there)) or names[0]
        raise InputError(f"{where} has no files of the split {split} ({' or '.join(_WORDS[split])}); it has {have}")
    chosen = [name for name in names if words[name] == word]
    sets = sorted({_set_of(name) for name in chosen})
    if len(sets) > 1:
        raise InputError(f"{where} holds {len(sets)} data sets; name one, as {where}/{next(filter(None, sets))}")
    _check_complete(chosen, where)
    others = [name for name in names if name not in chosen and words[name] and _set_of(name) == sets[0]]
    return chosen, others, word


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _check_complete(names: Sequence[str], where: str) -> None:
    """Raise InputError where names count their files, and some are missing."""
    counted = [found for name in names if (found := re.search(r"-(\d{5})-of-(\d{5})", name))]
    expected = {int(found[2]) for found in counted}
    numbers = {int(found[1]) for found in counted}
    if counted and (len(expected) > 1 or len(counted) < len(names) or numbers != set(range(max(expected)))):
        raise InputError(
            f"{where}: expected files 0 … {max(expected) - 1} of {max(expected)} like {names[0]}, got "
            f"{shown(', '.join(map(str, sorted(numbers))), 60)}"
        )


def local_files(folder: Path) -> list[str]:
    """The parquet files below a folder, as paths there; links to folders aren't followed."""
    found = []
    for root, _, files in os.walk(folder):
        found += [(Path(root) / name).relative_to(folder).as_posix() for name in files if name.endswith(".parquet")]
    return found


def download_split(text: str, split: str) -> tuple[Path, bool]:
    """The folder that holds a split of a data set on the Hub, fetched once; without a network, what was fetched.

    Also whether the data set's other splits are known to be there as well.
    """
    from huggingface_hub import HfApi, snapshot_download

    name, _, revision = text.partition("@")
    parts = name.split("/")
    repository, inside = "/".join(parts[:2]), "/".join(parts[2:])
    asked = {"repo_type": "dataset", "revision": revision or None}
    try:
        info: Any = HfApi().repo_info(repository, **asked)
        below = f"{inside}/" if inside else ""
        names = [file.rfilename[len(below) :] for file in info.siblings if file.rfilename.startswith(below)]
        chosen, others, _ = choose_files(names, split, f"hfds:{text}")
        wanted = ["README.md", *(f"{below}{file}" for file in chosen)]
        folder = snapshot_download(repository, repo_type="dataset", revision=info.sha, allow_patterns=wanted)
    except InputError:
        raise
    except Exception as error:  # of the network, in whichever library this version of huggingface_hub uses
        try:
            folder = snapshot_download(repository, **asked, local_files_only=True)
        except Exception:
            raise InputError(
                f"no folder {text}, and no data set of that name can be had from the Hub ({type(error).__name__}); is "
                "there a network, and for gated data a login (hf auth login)?"
            ) from error
        return Path(folder) / inside, False
    return Path(folder) / inside, all((Path(folder) / inside / name).is_file() for name in others)


def card_features(folder: Path) -> dict[str, Any] | None:
    """What the card of a data set, README.md, says of its columns; None where it says nothing that can be read."""
    for card in (folder / "README.md", folder.parent / "README.md"):
        if card.is_file() and card.stat().st_size <= _LARGEST_CARD:
            try:
                _, front, _ = re.split(r"^---\s*$", card.read_text(encoding="utf-8"), maxsplit=2, flags=re.MULTILINE)
                told = yaml.load(front, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
                about = _about(told["dataset_info"], folder.name)
                return {column["name"]: _feature(column["dtype"]) for column in about["features"]}
            except (yaml.YAMLError, OSError, ValueError, LookupError, TypeError, RecursionError):
                continue
    return None


def _about(found: Any, name: str) -> Any:
    """Of what a card says of several data sets, that on the one of the folder's name, or else on the first."""
    if not isinstance(found, list):
        return found
    return next((one for one in found if one["config_name"] == name), found[0])


def _feature(kind: Any) -> dict[str, Any]:
    """A column's type in the words of the files' own metadata."""
    if isinstance(kind, dict) and isinstance(kind.get("class_label"), dict):
        return {"_type": "ClassLabel", "names": kind["class_label"].get("names")}
    return {"_type": "Image" if kind == "image" else "Value"}
