"""One writer to a folder at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from faithfulness.core.errors import InputError

LOCK = ".lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)


@contextmanager
def locked(folder: Path, name: str = LOCK, *, shared: bool = False, of: Path | None = None) -> Iterator[None]:
    """Nobody else writes to the folder inside the block; made if it isn't there, and gone again if it stays empty.

    The lock is the operating system's and goes with the process, however that ends; the file that it is on is
    removed. A file system that has no locks is written to without one.

    Args:
        name: of the file that is locked, inside the folder.
        shared: others may hold the lock too, if they share it as well.
        of: what is written to, where that isn't the folder itself.
    Raises:
        InputError: another process writes there.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    path = folder / name
    try:
        handle = _acquire(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, of or folder)
        try:
            yield
        finally:
            if handle is not None:
                if not shared or _is_last(handle):
                    path.unlink(missing_ok=True)
                os.close(handle)
    finally:
        with suppress(OSError):  # one that isn't empty stays, and so do those above it
            for each in made:
                each.rmdir()


def _is_last(handle: int) -> bool:
    """Whether nobody else holds a shared lock."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _acquire(path: Path, kind: int, of: Path) -> int | None:
    """A handle that holds the lock; None where there are no locks."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except FileNotFoundError:  # whoever made the folder has left it empty, and it is gone
            continue
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(handle, 200).decode("utf-8", "replace").strip()
            os.close(handle)
            if error.errno in _UNSUPPORTED:
                return None
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            who = f" ({holder})" if holder else ""
            raise InputError(f"another run is writing to {of}{who}; wait for it, or choose another --out") from None
        try:  # whoever held it before may have removed the file in between
            current = os.stat(path).st_ino == os.fstat(handle).st_ino
        except FileNotFoundError:
            current = False
        if current:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {platform.node()}".encode(), 0)
            return handle
        os.close(handle)
