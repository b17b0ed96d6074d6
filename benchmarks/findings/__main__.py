"""Whether the published findings hold for a small family of networks on embedded data.

    python -m benchmarks.findings                       # about 90 min of one core; the same command goes on
    python -m benchmarks.findings --scale night         # more images, grids, masks and epochs: a night on two cores
    python -m benchmarks.findings --quick               # a smoke run: it decides little
    python -m benchmarks.findings --record FILE         # judges a record again, and runs nothing

Every finding of the three papers gets a verdict: it holds, it does not hold, or this size can't tell. The range that
counts as "holds" stands in benchmarks/findings/claims.py, and was fixed before the run.
"""

from __future__ import annotations

import json
import re
import sys
from itertools import chain
from pathlib import Path
from typing import Literal

from faithfulness.core.cli import run_command
from faithfulness.core.errors import InputError
from faithfulness.core.files import write_json

HOME = Path(__file__).resolve().parents[1]
"""Of the record that is committed, and of the README with its table."""


def main(
    out: Path | None = None,
    scale: Literal["quick", "hour", "night"] = "hour",
    quick: bool = False,
    images: int | None = None,
    grids: int | None = None,
    minutes: float = 1e6,
    record: Path | None = None,
    publish: bool = False,
) -> None:
    """Train the family, score it by all protocols, and say of each finding whether it holds.

    Args:
        out: folder for checkpoints, results and findings.json, runs/findings/SCALE by default; the same command goes
            on with what is there, one of another size is refused.
        scale: how large the study is.
        quick: the same as --scale quick.
        images: scored by IDSDS, if not the scale's own.
        grids: per setting, if not the scale's own.
        minutes: after which no further step is begun; what wasn't run has no verdict.
        record: judge this findings.json instead of running anything.
        publish: write the record to benchmarks/results and its tables into benchmarks/README.md; refused unless all
            of it was made by commits.
    """
    from benchmarks.findings.tables import replaced, section, terminal_table

    size = "quick" if quick else scale
    made = judged_again(record) if record else run(out or Path("runs/findings") / size, size, images, grids, minutes)
    print(terminal_table(made))
    if publish:
        check_committed(made)
        write_json(HOME / "results" / "findings.json", made)
        readme = HOME / "README.md"
        readme.write_text(replaced(readme.read_text(encoding="utf-8"), section(made)), encoding="utf-8")


def judged_again(file: Path) -> dict:
    """A record with the verdicts that its numbers have now; InputError for what is none."""
    from benchmarks.findings.judging import verdicts_of

    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {**found, "commits": list(found["commits"]), "verdicts": verdicts_of(found)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"--record {file} is no findings.json of this command") from error


def check_committed(record: dict) -> None:
    """InputError unless all of a record was made by commits, with no file changed."""
    commits = {record["environment"]["commit"], *record["commits"], *chain(*record["steps"].values())}
    wrong = sorted(commit for commit in commits if not re.fullmatch("[0-9a-f]{40}", commit))
    if wrong:
        raise InputError(f"--publish needs a record that was made by commits alone, got {', '.join(wrong)}")


def run(out: Path, scale: str, images: int | None, grids: int | None, minutes: float) -> dict:
    """The study's record."""
    from dataclasses import replace

    from benchmarks.findings.family import SCALES
    from benchmarks.findings.study import Study
    from faithfulness.core.checks import check_count

    for name, count in (("--images", images), ("--grids", grids)):
        if count is not None:
            check_count(name, count)
    if not minutes > 0:
        raise InputError(f"--minutes must be more than 0, got {minutes:g}")
    size = SCALES[scale]
    given = {"images": images, "grids": grids}
    size = replace(size, **{name: value for name, value in given.items() if value is not None})
    return Study(scale, size, out, minutes * 60).run()


if __name__ == "__main__":
    sys.exit(run_command(main))
