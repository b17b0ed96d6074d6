"""The image files below class folders, through links as well, and each real file once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torchvision.datasets.folder import IMG_EXTENSIONS

from faithfulness.core.errors import InputError

_ENDINGS = tuple(os.fsencode(ending) for ending in IMG_EXTENSIONS)


def class_files(root: Path) -> tuple[list[str], list[tuple[bytes, int]]]:
    """Class names, and the path below `root` and the label of each image, in no certain order.

    Links to folders and files are followed. One that leads to what is there already, or to a folder
    that holds the link, is left out, and a warning says how many were. Names are bytes, as the file
    system has them, whatever their encoding. Hard links are files of their own.

    Raises:
        InputError: no images, an empty class, a class whose name isn't UTF-8,
            a folder that can't be read, one file under two classes.
    """
    search = _Search(root)
    empty = set(range(len(search.classes))) - {label for _, label in search.files}
    if not search.files:
        raise InputError(f"no images in {root}; expected {root}/CLASS/*.jpg (one folder per class)")
    if empty:
        names = ", ".join(search.classes[label] for label in sorted(empty)[:5])
        raise InputError(f"class folders without images in {root}: {names}")
    if search.left_out:
        warnings.warn(
            f"links in {root} that lead to images that are there already: {search.left_out} left out, "
            "each file counts once",
            stacklevel=3,
        )
    return search.classes, search.files


class _Link(NamedTuple):
    """A link by its path below the root; real paths of the folders that hold it and those it was reached by."""

    path: bytes
    label: int
    holders: tuple[bytes, ...]


class _Search:
    """Walks what is really there first and then the links, sorted, so that a file keeps the same name everywhere."""

    def __init__(self, root: Path):
        self.root = os.fsencode(root)
        self.files: list[tuple[bytes, int]] = []
        self.left_out = 0
        self._owners: dict[bytes, int] = {}
        self._full: set[bytes] = set()
        self._linked: dict[bytes, int] = {}
        self._parents: dict[bytes, bytes] = {}
        self._folder_links: list[_Link] = []
        self._file_links: list[_Link] = []
        entries = [entry for entry in self._scan(b"") if os.path.isdir(entry.path) and not entry.name.startswith(b".")]
        names = {self._class_name(entry.name): entry for entry in entries}
        self.classes = sorted(names)
        real_root = os.path.realpath(self.root)
        for label, name in enumerate(self.classes):
            entry = names[name]
            if entry.is_symlink():
                self._folder_links.append(_Link(entry.name, label, (real_root,)))
            else:
                self._walk(entry.name, os.path.join(real_root, entry.name), label, ())
        self._follow_folder_links()
        self._follow_file_links()

    def _class_name(self, name: bytes) -> str:
        try:
            return name.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"the name of the class folder {name!r} in {os.fsdecode(self.root)} isn't UTF-8"
            ) from error

    def _scan(self, path: bytes) -> Iterator[os.DirEntry[bytes]]:
        folder = os.path.join(self.root, path)
        try:
            with os.scandir(folder) as entries:
                yield from entries
        except OSError as error:
            raise InputError(f"can't read the folder {os.fsdecode(folder)} ({error.strerror})") from error

    def _walk(self, path: bytes, real: bytes, label: int, holders: tuple[bytes, ...]) -> None:
        """Take the files of a folder and of those in it, and note the links."""
        folders = [(path, real)]
        while folders:
            path, real = folders.pop()
            if real in self._owners:
                inside = os.path.join(real, b"")
                if any(folder == real or folder.startswith(inside) for folder in self._full):
                    self._leave_out(path, label, self._owners[real])
                continue
            self._owners[real] = label
            for entry in self._scan(path):
                below = os.path.join(path, entry.name)
                if entry.is_symlink():
                    link = _Link(below, label, (real, *holders))
                    if os.path.isdir(entry.path):
                        self._folder_links.append(link)
                    elif is_image(entry.name):
                        self._file_links.append(link)
                elif entry.is_dir():
                    folders.append((below, os.path.join(real, entry.name)))
                elif is_image(entry.name):
                    self.files.append((below, label))
                    self._full.add(real)

    def _follow_folder_links(self) -> None:
        while self._folder_links:
            links, self._folder_links = sorted(self._folder_links), []
            for link in links:
                target = os.path.realpath(os.path.join(self.root, link.path))
                inside = os.path.join(target, b"")
                if any(holder == target or holder.startswith(inside) for holder in link.holders):
                    self.left_out += 1
                else:
                    self._walk(link.path, target, link.label, link.holders)

    def _follow_file_links(self) -> None:
        for link in sorted(self._file_links):
            target = self._target(link)
            folder, name = os.path.split(target)
            owner = self._owners.get(folder) if is_image(name) else None
            owner = self._linked.get(target) if owner is None else owner
            if owner is not None and os.path.exists(target):
                self._leave_out(link.path, link.label, owner)
            else:  # a link that leads nowhere is kept: it is a corrupt image, to be named when it is read
                self._linked[target] = link.label
                self.files.append((link.path, link.label))

    def _target(self, link: _Link) -> bytes:
        """The real path behind a link to a file; a million links that lead into few folders take seconds."""
        target = os.path.join(link.holders[0], os.readlink(os.path.join(self.root, link.path)))
        parent, name = os.path.split(target)
        if parent not in self._parents:
            self._parents[parent] = os.path.realpath(parent)
        real = os.path.join(self._parents[parent], name)
        return os.path.realpath(real) if name in (b"", b".", b"..") or os.path.islink(real) else real

    def _leave_out(self, path: bytes, label: int, owner: int) -> None:
        """Count what is there already under the same class; InputError if it is another one."""
        if label != owner:
            raise InputError(
                f"{os.fsdecode(os.path.join(self.root, path))} leads to images of class {self.classes[owner]}; "
                "a file has one class"
            )
        self.left_out += 1


def is_image(name: bytes) -> bool:
    """Whether a file is taken for a picture: by its ending, and not if it is hidden."""
    return name.lower().endswith(_ENDINGS) and not name.startswith(b".")
