"""The evaluations that a release brings: read, held against its weights, and written without local paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.protocols import command_line, told_options
from checkpoints.release_files import PER_IMAGE, RESULTS, SUMMARY, WEIGHTS, read_json
from checkpoints.scrub import Scrubber, texts_of
from faithfulness.core.errors import InputError
from faithfulness.core.files import RUN, atomic_file, write_json
from faithfulness.core.results import SCHEMA

KEYS = ("schema", "protocol", "model", "data", "settings", "scores")


@dataclass(frozen=True)
class Evaluated:
    """An evaluation in its folder.

    Attributes:
        name: what the release calls it: the protocol, numbered where there are several.
        summary: the content of `summary.json`.
        options: the flags that it was run with and that aren't the default; None where nothing tells them.
    """

    name: str
    folder: Path
    summary: dict[str, Any]
    options: dict[str, Any] | None

    @property
    def protocol(self) -> str:
        """As the summary has it."""
        return str(self.summary["protocol"])

    @property
    def table(self) -> Path:
        """The per-image values."""
        return self.folder / PER_IMAGE


def read_results(folders: Sequence[Path], digest: str) -> list[Evaluated]:
    """The evaluations in folders; InputError for one that isn't finished, can't be read, or is of other weights."""
    found: list[Evaluated] = []
    for folder in folders:
        summary = read_summary(folder)
        scored = summary["model"].get("sha256")
        if scored != digest:
            of = f"weights {scored[:12]}…" if isinstance(scored, str) else "a network without a weight file"
            raise InputError(f"{folder} is of {of}, expected the {digest[:12]}… that are released")
        if any(found_before.folder.resolve() == folder.resolve() for found_before in found):
            raise InputError(f"--results names {folder} twice")
        protocol = str(summary["protocol"])
        number = sum(other.protocol == protocol for other in found) + 1
        name = protocol if number == 1 else f"{protocol}-{number}"
        recorded = read_json(folder / RUN).get("options") if (folder / RUN).is_file() else None
        options = told_options(protocol, recorded if isinstance(recorded, dict) else None, summary.get("command"))
        found.append(Evaluated(name, folder, summary, options))
    return found


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of an evaluation; InputError unless it is one of this suite."""
    if not (folder / SUMMARY).is_file():
        what = "an evaluation that isn't finished" if (folder / RUN).is_file() else "no evaluation"
        raise InputError(f"{folder} holds {what}: expected {SUMMARY}")
    summary = read_json(folder / SUMMARY)
    missing = [key for key in KEYS if key not in summary]
    if missing or summary["schema"] != SCHEMA or not isinstance(summary["model"], dict):
        raise InputError(f"{folder / SUMMARY} is none of this suite, schema {SCHEMA}: it lacks {', '.join(missing)}")
    return summary


def write_results(
    out: Path, results: Sequence[Evaluated], name: str, datasets: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Write summaries and per-image tables below `out`, without local paths; the summaries as they are there."""
    written = []
    for result in results:
        target = out / RESULTS / result.name
        scrubber = scrubber_of(result, name, datasets)
        summary = scrubber.clean(result.summary)
        summary["model"] = summary["model"] | {"path": name, "name": name}
        if result.options is not None:
            flags = {flag: _cleaned(scrubber, flag, value) for flag, value in result.options.items()}
            summary["command"] = command_line(result.protocol, {**flags, "model": name})
        summary["files"] = [SUMMARY]
        if result.table.is_file():
            write_table(result.table, target / PER_IMAGE, scrubber)
            summary["files"] = [PER_IMAGE, SUMMARY]
        write_json(target / SUMMARY, summary)
        written.append(summary)
    return written


def scrubber_of(result: Evaluated, name: str, datasets: Sequence[str] | None = None) -> Scrubber:
    """Knows how the evaluation calls the network, and every path that its flags name."""
    model = result.summary["model"]
    told = (model.get("path"), model.get("name"))
    scrubber = Scrubber({text: name for text in told if isinstance(text, str) and text}, datasets)
    evidence, baseline = result.summary.get("evidence"), str((result.options or {}).get("baseline"))
    for entry in evidence.values() if isinstance(evidence, dict) and not baseline.startswith("hf-hub:") else ():
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            scrubber.called(entry["name"])
    for flag, value in (result.options or {}).items():
        _cleaned(scrubber, flag, value)
    if isinstance(line := result.summary.get("command"), str):
        scrubber.command(line)
    return scrubber


def _cleaned(scrubber: Scrubber, flag: str, value: Any) -> Any:
    """A flag's value without local paths."""
    if isinstance(value, list | tuple):
        return [_cleaned(scrubber, flag, item) for item in value]
    return scrubber.word(str(value), flag.replace("_", "-")) if isinstance(value, str | Path) else value


def write_table(source: Path, target: Path, scrubber: Scrubber) -> None:
    """A per-image table, compressed, its texts without local paths; the numbers bit for bit."""
    import pandas as pd

    table = pd.read_parquet(source)
    for column in text_columns(table):
        table[column] = table[column].map(lambda value: scrubber.clean(plain(value)))
    table = table.rename(columns=scrubber.clean)
    table.attrs = scrubber.clean(table.attrs)
    with atomic_file(target) as temporary:
        table.to_parquet(temporary, compression="zstd")


def text_columns(table: Any) -> Iterator[str]:
    """The columns of a table that may hold text, alone or in lists."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    for column in table.columns:
        if not is_numeric_dtype(table[column]) and not is_bool_dtype(table[column]):
            yield column


def plain(value: Any) -> Any:
    """A value of a table, its arrays as lists."""
    import numpy as np

    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(item) for item in value]
    return value


def texts_in(path: Path) -> Iterator[str]:
    """All text in a file of a release."""
    if path.name == WEIGHTS:
        from checkpoints.header import read_metadata

        yield from texts_of(read_metadata(path))
    elif path.suffix == ".json":
        yield from texts_of(read_json(path))
    elif path.suffix == ".parquet":
        import pandas as pd

        table = pd.read_parquet(path)
        yield from texts_of([table.attrs, *map(str, table.columns), *map(str, table.index.names)])
        for column in text_columns(table.reset_index()):
            for value in table.reset_index()[column]:
                yield from texts_of(plain(value))
    else:
        yield path.read_text(encoding="utf-8")
