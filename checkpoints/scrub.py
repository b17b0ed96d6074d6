"""Local paths in records, commands and tables: put placeholders there, and find those that are left."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from faithfulness.core.plugin_files import FILE

KINDS = ("imagefolder", "imagenet", "voc", "sbd", "hfds")
"""What `--data` may begin with; a path follows, of `hfds` also a name on the Hub."""
OF_MACHINE = ("accelerator", "devices", "num_nodes", "strategy", "workers", "quiet")
"""Flags that another machine may need otherwise, and that change no choice."""
_HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)*(@\S+)?")
_PATHS = (
    *("", "model", "baseline", "choose-with", "deletions", "compositions", "parts", "config", "out", "path"),
    *("folder", "file", "results", "recipe"),
)
"""Flags, and keys of records, that name folders and files; a word of a command before any flag does, too."""
_SOURCES = ("timm:", "torchvision:", "hf-hub:")
_TAIL = r"[^\s\"'`,;)\]}>|]*"
_MORE = rf"(?:(?: [^\s\"'`,;:()\[\]{{}}<>|/\\]+){{1,3}}[/\\]{_TAIL})*"
"""A path goes on over up to three blanks, as long as a slash follows."""
_PART = r"(?=[\w.+-]*[^\W\d])[\w.+-]+"
_BEFORE = r"(?:^|(?<=[\s\"'`=(:,\[{<|;@>])|^-[A-Za-z]|(?<=[\s\"'`=(]-[A-Za-z]))"
_FORMS = (
    r"(?<=[\"'`])/[^\"'`\n/]+/[^\"'`\n]*(?=[\"'`])",
    rf"file:/+{_TAIL}{_MORE}",
    rf"{_BEFORE}(?:~[^\W\d][\w.-]*|~|/[\w.+-]+)/[\w.+-]+{_TAIL}{_MORE}",
    rf"(?:^|(?<=[\s=(:,]))/{_PART}{_TAIL}{_MORE}",
    rf"(?<!\w)[A-Za-z]:[\\/]+\w{_TAIL}{_MORE}",
    rf"(?<!\\)\\{{2,}}[\w.-]{{2,}}\\+[\w$.-]{{2,}}{_TAIL}{_MORE}",
)
_ABSOLUTE = re.compile("|".join(_FORMS))
"""In quotes, an address of a file, below the root or a home, one part, a drive, a share."""
_BEGINS = re.compile(r"/[\w.]|~(?:[^\W\d][\w.-]*)?/|\.{1,2}/|[A-Za-z]:[\\/]|\\\\\w|file:/")


def stand_in(text: str, datasets: Iterable[str] = ()) -> str | None:
    """What stands for a text that names something on this machine; None where it names nothing here.

    What is on the disk doesn't matter. `hfds:` may be followed by a folder or by a name, which look alike: it is a
    name only if it is one of `datasets`.

    >>> stand_in("imagefolder:/data/birds"), stand_in("/Users/me/net.py:make"), stand_in("timm:resnet18")
    ('imagefolder:PATH', 'PATH/net.py:make', None)
    """
    kind, _, rest = text.partition(":")
    if kind in KINDS and rest:
        named = kind == "hfds" and _HUB_NAME.fullmatch(rest) is not None
        return (
            None if named and any(re.match(rf"{re.escape(name)}(/|@|$)", rest) for name in datasets) else f"{kind}:PATH"
        )
    found = FILE.match(text)
    if found is not None and not re.search(r"\s", found["path"]) and not text.startswith("PATH/"):
        return f"PATH/{_last(found['path'])}{text[found.end('path') :]}"
    if text.startswith(_SOURCES) or "\n" in text or ("://" in text and not text.startswith("file:")):
        return None
    return f"PATH/{_last(text)}" if _BEGINS.match(text) else None


def _last(path: str, count: int = 1) -> str:
    """The last parts of a path, of any system."""
    return "/".join(re.split(r"[/\\]+", path.rstrip("/\\"))[-count:])


def _is_path(text: str) -> bool:
    return "/" in text or "\\" in text or text.startswith("~")


class Scrubber:
    """Replaces local paths in JSON-like content, everywhere alike.

    Args:
        known: texts that call the model, its path and its name, and what stands for them. One that is a plain word
            is replaced only where it is the model: elsewhere it may be anything.
        datasets: names on the Hub that may follow `hfds:`.
    """

    def __init__(self, known: dict[str, str], datasets: Iterable[str] | None = None):
        self.model = dict(known)
        self.known = {text: name for text, name in known.items() if _is_path(text)}
        self.datasets = tuple(datasets or ())

    def command(self, line: str) -> str:
        """A command line with placeholders; what its words stand for is known from then on."""
        try:
            words, flag, made = shlex.split(line), "", []
        except ValueError:  # no command line after all
            return self.text(line)
        for word in words:
            if word.startswith("--"):
                name, equals, value = word.partition("=")
                flag = name.lstrip("-").replace("_", "-")
                made.append(f"{name}={self.word(value, flag)}" if equals else word)
            else:
                made.append(self.word(word, flag))
        return shlex.join(made)

    def word(self, word: str, flag: str) -> str:
        """The value of a flag; what stands for it is known from then on."""
        if flag == "model" and word in self.model:
            return self.model[word]
        if word in self.known:
            return self.known[word]
        if word.startswith((*_SOURCES, "PATH/")):
            return word
        found, code, path = stand_in(word, self.datasets), FILE.match(word), flag in _PATHS
        if code is not None:  # whose folders may have blanks in their names
            found = f"PATH/{_last(code['path'])}{word[code.end('path') :]}"
        if found is None and path and _is_path(word):
            found = f"PATH/{_last(word)}"
        if found is None:
            return self.text(word)
        self.known.setdefault(word, found)
        kind, _, rest = word.partition(":")
        if kind in KINDS and _is_path(rest):
            self.known.setdefault(rest, "PATH")
        elif path and code is None and "/" in _last(word, 2):
            self.called(_last(word, 2))
        return found

    def called(self, name: str) -> None:
        """Tables call a checkpoint by the last two parts of its path: what they call it is known from then on."""
        if _is_path(name) and not name.startswith("PATH/"):
            self.known.setdefault(name, _last(name))

    def clean(self, content: Any) -> Any:
        """Content without local paths; keys of mappings too."""
        if isinstance(content, dict):
            return {self.clean(key): self._value(str(key), value, content) for key, value in content.items()}
        if isinstance(content, list | tuple):
            return [self.clean(item) for item in content]
        return self.text(content) if isinstance(content, str) else content

    def _value(self, key: str, value: Any, entry: dict[Any, Any]) -> Any:
        """What stands beside a key, by the role that the key gives it."""
        flag = key.replace("_", "-")
        if key == "command" and isinstance(value, str):
            return self.command(value)
        if flag and flag in _PATHS and isinstance(value, str):
            return self.word(value, flag)
        if flag and flag in _PATHS and isinstance(value, list | tuple):
            return [self.word(item, flag) if isinstance(item, str) else self.clean(item) for item in value]
        path = entry.get("path")
        if key == "name" and isinstance(value, str) and isinstance(path, str) and not path.startswith(_SOURCES):
            self.called(value)
        return self.clean(value)

    def text(self, text: str) -> str:
        """A text without local paths: itself one, or with some in it that are known or look like one."""
        if text in self.known:
            return self.known[text]
        if (found := stand_in(text, self.datasets)) is not None:
            return found
        for raw in sorted(self.known, key=len, reverse=True):
            if raw in text:
                text = re.sub(rf"(?<![\w.-]){re.escape(raw)}(?![\w-])", lambda _, raw=raw: self.known[raw], text)
        return _ABSOLUTE.sub(lambda match: stand_in(match[0]) or f"PATH/{_last(match[0])}", text)


def texts_of(content: Any) -> Iterator[str]:
    """Every text in JSON-like content."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from texts_of(key)
            yield from texts_of(value)
    elif isinstance(content, list | tuple):
        for item in content:
            yield from texts_of(item)


def left_over(texts: Iterable[str], roots: Iterable[str]) -> str | None:
    """The first local path in texts: one of `roots`, or what looks like an absolute path; None without any."""
    roots = [root for root in roots if len(Path(root).parts) > 2]
    for text in texts:
        for root in roots:
            if root in text:
                return text[text.index(root) :][:120]
        if found := _ABSOLUTE.search(text):
            return found[0][:120]
    return None
