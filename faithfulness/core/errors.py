"""The one exception that stands for a user's mistake, and the 'did you mean' of unknown names."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class InputError(ValueError):
    """Input that the suite refuses. Its message is one line: what was expected, what came."""


def near_matches(name: str, known: Iterable[str]) -> list[str]:
    """At most three names that begin with `name`, or look like it."""
    known = sorted(known)
    begun = [other for other in known if name and other.startswith(name)]
    alike = [other for other in difflib.get_close_matches(name, known, n=3, cutoff=0.5) if other not in begun]
    return (begun + alike)[:3]


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not registered, with its nearest neighbors among `known`."""
    known = sorted(known)
    near = near_matches(name, known)
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known[:40])}"
    return InputError(f"unknown {kind} {name!r}; {hint}")


LONGEST = 1000
"""Characters of a message: what people type may be a megabyte."""


def shown(text: str, longest: int = LONGEST) -> str:
    """Text as one line that any terminal can print: no control characters, its middle left out if it is long."""
    if len(text) > 4 * longest:
        text = text[: 2 * longest] + text[-longest:]
    line = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in " ".join(text.split())
    )
    kept = longest * 3 // 4
    return line if len(line) <= longest else f"{line[:kept]} … {line[-(longest - kept) :]}"


_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused", "Socket Timeout")
_OF_THE_MACHINE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE),
    *(errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EXDEV, errno.ENAMETOOLONG),
)


_NO_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, a device's or the machine's, doesn't suffice: torch has many words for it."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or (isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY))


def machine_failure(error: BaseException) -> str | None:
    """What is wrong with the machine, in a line, where an error says that: disk full, no memory, a lost process.

    None for errors of any other kind, which are bugs and deserve their traceback.
    """
    text = " ".join(str(error).split())
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}" if error.errno in _OF_THE_MACHINE else None
    if is_out_of_memory(error):
        return f"out of memory ({text[:120] or 'no more can be had'}); lower --chunk or --batch-size"
    if "DataLoader worker" in text and ("killed by signal" in text or "exited unexpectedly" in text):
        return f"{text[:120]}; was there enough memory? --workers 0 reads in this process"
    if any(words in text for words in _LOST):
        return "the connection to another process of this run is lost"
    if "EADDRINUSE" in text:
        return "another program has taken the port that the processes of this run were to meet at; run it again"
    if "No space left on device" in text:
        return text[:200]
    return None
