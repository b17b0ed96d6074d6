"""Show results of evaluations on one page that opens from disk, with the tables for papers and programs beside it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from faithfulness.core.cli import named_first, run_command
from faithfulness.core.errors import InputError
from faithfulness.core.files import check_out
from faithfulness.core.flags import check_values

if TYPE_CHECKING:
    from eval.frame.reported import Report
    from eval.frame.result import Result

KIND = "report"
"""What `report.json` says that it is."""
SCHEMA = 1


@dataclass(kw_only=True)
class ReportOptions:
    """Show the results of evaluations on one page: leaderboard, pictures, examples, and where each number is from.

    Args:
        results: folders of results, or folders above such, of any protocols; --results may be left out.
        out: where index.html goes, with all that it shows; results.csv, leaderboard.csv and leaderboard.tex too.
        title: of the page.
        overwrite: replace an earlier report in --out.

    Example:
        python -m eval.report runs/idsds/* runs/difull/* --out report
    """

    results: list[Path] = field(default_factory=list)
    out: Path
    title: str = "Faithfulness of attributions"
    overwrite: bool = False


def write_report(
    results: Sequence[str | Path | Result],
    out: str | Path,
    *,
    title: str = ReportOptions.title,
    overwrite: bool = False,
) -> Path:
    """Write a page over results: `write_report(["runs/idsds/a", "runs/difull/a"], "report")`.

    Args:
        results: folders, or folders above such, or what `evaluate` and `load_results` give.
        out: the folder that it goes to.
        title: of the page.
        overwrite: replace an earlier report there.
    Returns:
        The page to open.
    Raises:
        InputError: what isn't a result, or a folder that mustn't be written.
    """
    if isinstance(results, str | Path):
        raise InputError(f"expected several results, got {results}")
    from eval.frame.reported import Report, find_results

    out = Path(out).expanduser()
    found: list[Path | Result] = []
    for each in results:
        found += find_results([Path(each)]) if isinstance(each, str | Path) else [each]
    check_out(out, overwrite, kind=KIND, inputs=[place if isinstance(place, Path) else place.path for place in found])
    return write(Report(found, title), out)


def write(report: Report, out: Path) -> Path:
    """Write all that the page shows, and the page; what an earlier report left is removed. Returns the page."""
    from eval.frame.installing import install
    from faithfulness.core.locks import locked

    def write_files(new: Path) -> None:
        for name, make in report.files().items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            make(new / name)

    with locked(out):
        install(out, {"schema": SCHEMA, "protocol": KIND, **report.summary}, write_files)
    return out / "index.html"


def run(options: ReportOptions) -> int:
    """Write the report and say where it is; returns the exit status."""
    check_values(options)
    page = write_report(options.results, options.out, title=options.title, overwrite=options.overwrite)
    print(f"open {page} (beside it: results.csv, leaderboard.csv, leaderboard.tex, report.json)")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status. Words before the first flag are results."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(ReportOptions, run, named_first(words, "--results"))


if __name__ == "__main__":
    sys.exit(main())
