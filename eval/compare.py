"""Hold results against each other: paired differences, agreement of protocols, and the published numbers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faithfulness.core.cli import named_first, run_command
from faithfulness.core.errors import InputError
from faithfulness.core.files import check_formats, check_out
from faithfulness.core.flags import check_values

if TYPE_CHECKING:
    import pandas as pd

    from eval.frame.result import Result
    from faithfulness.report.style import Figure

KIND = "compare"
"""What `compare.json` says that it is."""
SCHEMA = 1


@dataclass(kw_only=True)
class CompareOptions:
    """Hold the results of evaluations against each other: paired differences, and how the orders of methods agree.

    Args:
        results: folders of results, the first of each protocol being the reference; --results may be left out.
        across_layers: pair an attribution that has one layer in each result, another one in either.
        published: show the published numbers, also where no result is given.
        seed: keys which images are drawn anew for the intervals.
        out: where compare.json, compare.csv and pictures go; they aren't written by default.
        overwrite: replace an earlier comparison in --out.
        format: kinds of picture files, any of png, pdf and svg.

    Example:
        python -m eval.compare runs/idsds/resnet18 runs/idsds/resnet50 --out runs/compared
    """

    results: list[Path] = field(default_factory=list)
    across_layers: bool = False
    published: bool = False
    seed: int = 0
    out: Path | None = None
    overwrite: bool = False
    format: list[str] = field(default_factory=lambda: ["png"])


@dataclass(repr=False)
class Comparison:
    """What holding results against each other found.

    Attributes:
        summary: the content of `compare.json`; eval/README.md has its keys.
    """

    summary: dict[str, Any]

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per paired difference: protocol, reference, other, the method, means, interval, p, counts, …"""
        from eval.frame.comparison_text import table_of

        return table_of(self.summary)

    def plot(self, metric: str | None = None) -> Figure:
        """Differences and intervals of a metric, the first one by default; InputError where there are none."""
        from eval.frame.comparison_text import pictures_of

        pictures = pictures_of(self.summary)
        chosen = next((draw for (_, name, *_), draw in pictures.items() if metric in (None, name)), None)
        if chosen is None:
            raise InputError(f"no differences in {metric or 'any metric'}")
        return chosen()

    def __str__(self) -> str:
        """The text that the command prints."""
        from eval.frame.comparison_text import report

        return report(self.summary)

    def __repr__(self) -> str:
        return f"<comparison of {len(self.summary['results'])} results, {len(self.table)} paired differences>"


def compare(
    results: Sequence[str | Path | Result],
    *,
    across_layers: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
    format: Sequence[str] = ("png",),
) -> Comparison:
    """Hold results against each other: `compare(["runs/a", "runs/b"]).table`.

    Args:
        results: folders, or what `evaluate` and `load_results` give; the first of each protocol is the reference.
        across_layers: pair an attribution that has one layer in each result, another one in either.
        seed: keys which images are drawn anew for the intervals.
        out: a folder for `compare.json`, `compare.csv` and pictures.
        overwrite: replace an earlier comparison there.
        format: kinds of picture files, any of png, pdf and svg.
    Raises:
        InputError: what isn't a result, or results that can't be compared, with the reason.
    """
    if isinstance(results, str | Path):
        raise InputError(f"expected several results, got {results}")
    places = [getattr(each, "path", each) for each in results]
    options = CompareOptions(
        results=[Path(place) for place in places if isinstance(place, str | Path)],
        across_layers=across_layers,
        seed=seed,
        out=None if out is None else Path(out),
        overwrite=overwrite,
        format=list(format),
    )
    check_options(options)
    return _compare(results, options)


def check_options(options: CompareOptions) -> None:
    """Raise InputError for values that can't be used, and for a folder that mustn't be written."""
    check_values(options)
    check_formats(options.format)
    if not 0 <= options.seed < 2**63:
        raise InputError(f"--seed must lie in 0 … 2^63 - 1, got {options.seed}")
    if options.out is not None:
        options.out = Path(options.out).expanduser()
        check_out(options.out, options.overwrite, kind=KIND, inputs=options.results)


def _compare(results: Sequence[str | Path | Result], options: CompareOptions) -> Comparison:
    """Read, compare, and write."""
    from eval.frame.comparing import compared
    from faithfulness.core.files import jsonable

    found = compared(results, options.across_layers, options.seed)
    comparison = Comparison(jsonable({"schema": SCHEMA, "protocol": KIND, **found}))
    if options.out is not None:
        write(comparison, options.out, options.format)
    return comparison


def write(comparison: Comparison, out: Path, formats: Sequence[str]) -> None:
    """Write `compare.csv`, pictures and `compare.json`; what an earlier comparison left is removed."""
    from eval.frame.comparison_text import file_name, pictures_of
    from eval.frame.installing import install
    from faithfulness.core.locks import locked
    from faithfulness.report import save_figure

    def write_files(new: Path) -> None:
        comparison.table.to_csv(new / "compare.csv", index=False)
        for key, draw in pictures_of(comparison.summary).items():
            figure = draw()
            for kind in dict.fromkeys(formats):
                save_figure(figure, new / "plots" / f"{file_name(key)}.{kind}")

    with locked(out):
        install(out, comparison.summary, write_files)


def run(options: CompareOptions) -> int:
    """Compare and show; returns the exit status."""
    from eval.frame.comparison_text import published_table

    check_options(options)
    if options.results or not options.published:
        print(_compare(options.results, options))
        if options.out is not None:
            print(f"results: {options.out} (compare.json, compare.csv, plots)")
    if options.published:
        print(published_table())
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status. Words before the first flag are results."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(CompareOptions, run, named_first(words, "--results"))


if __name__ == "__main__":
    sys.exit(main())
