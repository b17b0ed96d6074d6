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
_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_PATHS = ("model", "baseline", "choose-with", "deletions", "compositions", "parts", "config", "out")
"""Flags that name folders and files."""
_SOURCES = ("timm:", "torchvision:", "hf-hub:")
_ABSOLUTE = re.compile(r"(?:^|(?<=[\s\"'`=(:,]))(?:(?:~|/[\w.+-]+)/[\w.+-]+|[A-Za-z]:\\\w)[^\s\"'`,;)]*")


def stand_in(text: str) -> str | None:
    """What stands for a text that names something on this machine; None where it names nothing here.

    >>> stand_in("imagefolder:/data/birds"), stand_in("/home/me/net.py:make"), stand_in("timm:resnet18")
    ('imagefolder:PATH', 'PATH/net.py:make', None)
    """
    kind, _, rest = text.partition(":")
    if kind in KINDS and rest:
        on_hub = kind == "hfds" and _HUB_ID.fullmatch(rest) and not _exists(rest)
        return None if on_hub else f"{kind}:PATH"
    found = FILE.match(text)
    if found is not None and not re.search(r"\s", found["path"]) and not text.startswith("PATH/"):
        return f"PATH/{Path(found['path']).name}{text[found.end('path') :]}"
    if text.startswith(_SOURCES) or "://" in text or "\n" in text:
        return None
    if re.match(r"/[\w.]|~/|\.{1,2}/|[A-Za-z]:\\", text) or ("/" in text and _exists(text)):
        return "PATH/" + re.split(r"[/\\]", text.rstrip("/"))[-1]
    return None


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


class Scrubber:
    """Replaces local paths in JSON-like content, everywhere alike.

    Args:
        known: texts and what stands for them: the model's path, its name.
    """

    def __init__(self, known: dict[str, str]):
        self.known = dict(known)

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
        found = self.known.get(word) or stand_in(word)
        path = flag in _PATHS and not word.startswith((*_SOURCES, "PATH/"))
        if found is None and path and ("/" in word or _exists(word)):
            found = f"PATH/{Path(word).name}"
        if found is not None:
            self.known.setdefault(word, found)
        if found is not None and path and _exists(word):  # tables call it by the last two parts of its path
            self.known.setdefault("/".join(Path(word).expanduser().resolve().parts[-2:]), Path(word).name)
        return found or word

    def clean(self, content: Any) -> Any:
        """Content without local paths; keys of mappings too."""
        if isinstance(content, dict):
            return {
                self.clean(key): self.command(value)
                if key == "command" and isinstance(value, str)
                else self.clean(value)
                for key, value in content.items()
            }
        if isinstance(content, list | tuple):
            return [self.clean(item) for item in content]
        return self.text(content) if isinstance(content, str) else content

    def text(self, text: str) -> str:
        """A text without local paths: itself one, or with some in it that are known or look like one."""
        if text in self.known:
            return self.known[text]
        if (found := stand_in(text)) is not None:
            return found
        for raw in sorted((raw for raw in self.known if "/" in raw), key=len, reverse=True):
            text = text.replace(raw, self.known[raw])
        return _ABSOLUTE.sub(lambda match: stand_in(match[0]) or match[0], text)


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
