"""Put together what others can use and trust: weights, card, results, digests; and push it to the Hub."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from checkpoints.release_files import (
    CARD,
    CODE,
    CONFIG,
    SUMS,
    TRAINING,
    WEIGHTS,
    files_of,
    read_json,
    read_sums,
    write_sums,
)
from checkpoints.scrub import Scrubber, left_over
from faithfulness.core.cli import named_first, run_command
from faithfulness.core.errors import InputError
from faithfulness.core.files import check_out, files_in, write_json
from faithfulness.core.flags import check_values, make_options
from faithfulness.core.locks import locked


@dataclass(kw_only=True)
class ReleaseOptions:
    """Make a folder that others can load, verify and trust; timm and the Hub read it.

    Args:
        folder: checkpoint folder, of a training or of checkpoints.convert; --folder itself may be left out.
        results: folders of its evaluations.
        out: folder to write.
        license: of the release, as the Hub calls it: apache-2.0, cc-by-nc-4.0, ...; the parent's by default.
        parent_license: of the weights that it was trained from, where its record doesn't say; none for random ones.
        datasets: what the Hub calls the training data.
        arch: path/to/file.py:function that makes a network of one's own; the file goes into the release.
        push: ORG/NAME to upload it to, too.
        pull_request: as a pull request.
        overwrite: replace the release in --out.

    Example:
        python -m checkpoints.release runs/mine --results runs/idsds/mine --out mine --license mit
    """

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "license": ("license", "parent_license"),
        "hub": ("datasets", "push", "pull_request"),
        "output": ("out", "overwrite"),
    }

    folder: Path
    results: list[Path]
    out: Path
    license: str | None = None
    parent_license: str | None = None
    datasets: list[str] | None = None
    arch: str | None = None
    push: str | None = None
    pull_request: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        self.folder, self.out = Path(self.folder).expanduser(), Path(self.out).expanduser()
        self.results = [Path(folder).expanduser() for folder in self.results]

    @property
    def name(self) -> str:
        """What the release is called."""
        return self.push.partition("/")[2] if self.push else self.out.resolve().name


def release(options: ReleaseOptions | None = None, **flags: Any) -> Path:
    """Make a release with `ReleaseOptions`, or with its flags; returns its folder.

    Raises:
        InputError: an unfinished training, results of other weights, a license that the parent's doesn't allow, weights
            that are NaN, a local path that would be handed on, a folder that must not be written.
    """
    options = options or make_options(ReleaseOptions, **flags)
    check_values(options)
    if options.push:
        from checkpoints.push import check_name

        check_name(options.push)
    elif options.pull_request:
        raise InputError("--pull-request has no effect without --push")
    check_target(options.out, [options.folder, *options.results], options.overwrite)
    check_finished(options.folder)
    target = options.out.resolve()
    with locked(target.parent, f".{target.name}.lock", of=options.out):
        check_target(options.out, [options.folder, *options.results], options.overwrite)
        with replacing(options.out) as new:
            _write(options, new)
    return options.out


def check_finished(folder: Path) -> None:
    """Raise InputError unless a folder holds a checkpoint with its record."""
    if not (folder / TRAINING).is_file():
        if (folder / "settings.json").is_file():
            raise InputError(
                f"the training in {folder} isn't finished; the command that began it goes on with --resume"
            )
        if (folder / WEIGHTS).is_file():
            raise InputError(f"{folder} has no {TRAINING}: nothing says how its weights came to be")
        raise InputError(f"{folder} holds no checkpoint")


def check_target(out: Path, inputs: Sequence[Path], overwrite: bool) -> None:
    """Raise InputError unless `out` is free, or holds a release that may be replaced, and is none of the inputs."""
    target = out.resolve()
    for path in inputs:
        source = path.resolve()
        if target == source or source in target.parents or target in source.parents:
            raise InputError(f"--out {out} is, holds or lies in {path}, which is read; choose another folder")
    if not (target / SUMS).is_file():
        check_out(out, kind="release")
        return
    if not overwrite:
        raise InputError(
            f"--out {out} already holds a release; choose another folder, or pass --overwrite to replace it"
        )
    listed = read_sums(target)
    if not {WEIGHTS, CONFIG, TRAINING, CARD} <= {*listed}:
        raise InputError(f"--out {out} holds {SUMS}, but no release; choose another folder")
    foreign = next((name for name in files_of(target) if name not in listed), None)
    if foreign is not None:
        raise InputError(f"--out {out} holds {foreign}, which is not of the release; choose another folder")


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """An empty folder beside `out`, which takes its place when the block ends well; nothing is left of it otherwise."""
    target = out.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    aside = new.with_name(f"{new.name}.replaced")
    try:
        yield new
        new.chmod(0o755)
        if target.exists():
            target.rename(aside)
        new.rename(target)
    except BaseException:
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)


def _write(options: ReleaseOptions, new: Path) -> None:
    """All files of the release, into an empty folder."""
    from checkpoints.format import read_folder
    from checkpoints.licenses import chosen_license, license_fields
    from checkpoints.lineage import UNKNOWN
    from checkpoints.release_card import Facts, release_card
    from checkpoints.results import read_results, write_results

    config, training, digest = read_folder(options.folder)
    training = read_json(options.folder / TRAINING) | (training or {})
    recorded = training.get("license", UNKNOWN)
    license, parent = chosen_license(recorded, options.license, options.parent_license)
    if "parent_license" in training and training["parent_license"] is None and license == recorded:
        parent = None  # a release of weights that began as random numbers, once more
    results = read_results(options.results, digest)
    code = _copy_code(options, config, new)
    shutil.copyfile(options.folder / WEIGHTS, new / WEIGHTS)
    if config.get("task") != "segmentation" and not config.get("own"):
        config["pretrained_cfg"] = config["pretrained_cfg"] | {"license": license}
    scrubber = scrubber_of_record(training, options)
    record = scrubber.clean(training) | {"license": license, "parent_license": parent}
    config = {key: value if key == "label_names" else scrubber.clean(value) for key, value in config.items()}
    write_json(new / CONFIG, config)
    write_json(new / TRAINING, record)
    _check_loads(config, new, new / code if code else None)
    summaries = dict(
        zip(
            [result.name for result in results],
            write_results(new, results, options.name, options.datasets),
            strict=True,
        )
    )
    hub, named = options.push, license_fields(license)
    facts = Facts(options.name, hub, config, record, summaries, named, parent, options.datasets, code)
    (new / CARD).write_text(release_card(facts), encoding="utf-8")
    check_clean(new, [options.folder, *options.results, options.out])
    write_sums(new)


def scrubber_of_record(training: dict[str, Any], options: ReleaseOptions) -> Scrubber:
    """Takes the local paths out of the record of a training."""
    scrubber = Scrubber({str(options.folder): options.name}, options.datasets)
    settings = training.get("settings")
    model = settings.get("model") if isinstance(settings, dict) else None
    if isinstance(model, str) and training.get("parent_sha256") and not model.startswith("hf-hub:"):
        scrubber.model[model] = f"PATH/{Path(model).name}"
    return scrubber


def _copy_code(options: ReleaseOptions, config: dict[str, Any], new: Path) -> str | None:
    """Bring the code of a network of the user's own into the release; `FILE.py:function`, or None for any other."""
    from faithfulness.core.plugin_files import file_of, function_name, is_in_file

    if not config.get("own"):
        if options.arch:
            raise InputError(f"--arch is for networks of one's own; {options.folder} is a {config['architecture']}")
        return None
    if not options.arch or not is_in_file(options.arch):
        raise InputError(
            f"{options.folder} holds weights of a network of one's own, which nobody can load without its code; name "
            f"it, and the file goes into the release: --arch path/to/file.py:{config['architecture']}"
        )
    source = Path(file_of(options.arch)).expanduser()
    if not source.is_file():
        raise InputError(f"no file {source}; expected --arch path/to/file.py:function")
    if not CODE.fullmatch(source.name):
        raise InputError(f"--arch: expected a file called like a module, as my_net.py, got {source.name}; rename it")
    shutil.copyfile(source, new / source.name)
    return f"{source.name}:{function_name(options.arch)}"


def _check_loads(config: dict[str, Any], new: Path, code: Path | None) -> None:
    """Raise InputError unless the released weights are numbers that the network takes, made by the released code."""
    from checkpoints import load_model, load_segmenter

    load = load_segmenter if config.get("task") == "segmentation" else load_model
    load(new, arch=None if code is None else str(code))


def check_clean(new: Path, read: Sequence[Path]) -> None:
    """Raise InputError for a local path in any file of a release."""
    from checkpoints.results import texts_in

    roots = {str(path) for folder in read for path in (folder.resolve(), folder.resolve().parent)}
    roots |= {str(Path.cwd()), str(Path.home()), str(new)}
    for name in files_in(new):
        found = left_over(texts_in(new / name), roots)
        if found is not None:
            raise InputError(f"{name} of the release would hand on the local path {found!r}; nothing was written")


def run(options: ReleaseOptions) -> int:
    """Make the release, say what is in it, and push it; returns the exit status."""
    from faithfulness.core.tables import format_table

    out = release(options)
    rows = [(name, f"{(out / name).stat().st_size / 1000:.1f} kB") for name in files_in(out)]
    print(format_table(("file", "size"), rows))
    print(f"release: {out}; python -m checkpoints.verify {shlex.quote(str(out))} checks it")
    if options.push:
        from checkpoints.push import push

        print(f"pushed: {push(out, options.push, options.pull_request)}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return run_command(ReleaseOptions, run, named_first(words, "--folder"))


if __name__ == "__main__":
    sys.exit(main())
