"""Check a release: its files, what it says of itself, that it loads without this suite, and its scores."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from checkpoints.release_files import read_sums
from faithfulness.core.cli import named_first, run_command
from faithfulness.core.errors import InputError
from faithfulness.core.flags import check_values

if TYPE_CHECKING:
    from checkpoints.verify_files import Check


@dataclass(kw_only=True)
class VerifyOptions:
    """Check a release: files, records, results, card, loading, scores of a sample; exit status 1 if a check fails.

    Args:
        folder: the release; --folder itself may be left out. From the Hub: hf download ORG/NAME --local-dir FOLDER.
        sample: how many of a result's images are scored again, the first ones.
        data: the data that the results are of, as imagefolder:PATH, where they don't come with this suite.
        own_code: run the code that the release brings, if its network needs some.

    Example:
        python -m checkpoints.verify releases/demo
        python -m checkpoints.verify releases/resnet50 --data imagenet:PATH --sample 256
    """

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {}

    folder: Path
    sample: int = 64
    data: str | None = None
    own_code: bool = False


def verify(options: VerifyOptions) -> list[Check]:
    """All checks in their order; InputError for a folder that is no release."""
    from checkpoints.verify_files import (
        FAILED,
        IMPOSSIBLE,
        Check,
        check_card,
        check_paths,
        check_record,
        check_results,
        check_sums,
    )

    check_values(options)
    if options.sample < 1:
        raise InputError(f"--sample must be at least 1, got {options.sample}")
    folder = Path(options.folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"no folder at {folder}")
    read_sums(folder)
    found = check_sums(folder)
    broken = any(check.outcome == FAILED for check in found)
    if any("link" in check.detail or "missing" in check.detail for check in found):
        return [*found, Check("all else", IMPOSSIBLE, "the files aren't all there")]
    for name, check in (
        ("record", check_record),
        ("results", check_results),
        ("card", check_card),
        ("paths", check_paths),
    ):
        found += readable(name, check, folder)
    if broken or any(check.outcome == FAILED for check in found):
        return [*found, Check("loading, scores", IMPOSSIBLE, "the files aren't those that were released")]

    from checkpoints.verify_runs import check_loading, check_scores

    code = code_of(folder)
    found += check_loading(folder, code, options.own_code)
    if code is None or options.own_code:
        found += check_scores(folder, options.data, options.sample, code)
    return found


def readable(name: str, check: Callable[[Path], Check | Iterable[Check]], folder: Path) -> list[Check]:
    """A check's lines; one that failed where the files hold something else than a release's do."""
    from safetensors import SafetensorError
    from yaml import YAMLError

    from checkpoints.verify_files import FAILED, Check

    try:
        made = check(folder)
        return [made] if isinstance(made, Check) else list(made)
    except (AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        reason = error
    except (SafetensorError, YAMLError) as error:
        reason = error
    text = " ".join(str(reason).split())[:100]
    return [Check(name, FAILED, f"it can't be read ({type(reason).__name__}: {text})")]


def code_of(folder: Path) -> str | None:
    """FILE.py:function of a network that the release brings the code of; None for any other."""
    from checkpoints.release_files import CONFIG, read_json

    config = read_json(folder / CONFIG)
    file = next(iter(sorted(folder.glob("*.py"))), None)
    return f"{file.name}:{config['architecture']}" if config.get("own") and file else None


def run(options: VerifyOptions) -> int:
    """Check and print; returns the exit status."""
    from checkpoints.verify_files import FAILED, PASSED
    from checkpoints.verify_runs import REASON
    from faithfulness.core.tables import WIDTH, format_table, wrap

    found = verify(options)
    print(format_table(("check", "", "found"), [(check.name, check.outcome, check.detail) for check in found], "<<<"))
    if any(check.name.endswith(" again") for check in found):
        print(wrap(f"{REASON}.", WIDTH))
    counts = {name: sum(check.outcome == name for check in found) for name in (PASSED, FAILED)}
    rest = len(found) - sum(counts.values())
    print(f"{counts[PASSED]} passed, {counts[FAILED]} failed, {rest} not possible")
    return 1 if counts[FAILED] else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(VerifyOptions, run, named_first(words, "--folder"))


if __name__ == "__main__":
    sys.exit(main())
