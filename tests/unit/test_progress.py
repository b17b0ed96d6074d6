"""What long runs say, what a job may use of a machine, and locks."""

import io
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faithfulness.core import InputError, hardware
from faithfulness.core.hardware import check_devices, processors, share_workers
from faithfulness.core.locks import locked
from faithfulness.core.progress import Bar, Progress, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


def said(stream):
    return stream.getvalue().splitlines()


def test_a_phase_is_named_if_it_lasts():
    stream = io.StringIO()
    progress = Progress(stream=stream, slow=0.05, every=0.1)
    with progress.phase("loading"):
        pass
    assert said(stream) == []
    with progress.phase("loading"):
        time.sleep(0.4)
    assert said(stream)[0] == "loading …"
    assert said(stream)[1].startswith("loading … (")


def test_where_there_is_no_terminal_a_line_comes_again_and_again():
    stream = io.StringIO()
    with Progress(stream=stream, every=0.1).bar("images", 40, found=10) as bar:
        bar.at("ixg")
        bar.advance(6)
        time.sleep(0.25)
    first, *_ = said(stream)
    assert first.startswith("images: 16 of 40 (40 %), ")
    assert first.endswith(" left; ixg")
    assert "images/s" in first
    assert 2 <= len(said(stream)) <= 3


def test_a_terminal_shows_a_bar_and_the_method_at_work():
    stream = Terminal()
    with Progress(stream=stream).bar("images", 4, found=1) as bar:
        bar.at("gradcam")
        bar.advance(3)
    assert "images: 100%" in stream.getvalue()
    assert "4/4" in stream.getvalue()
    assert "gradcam" in stream.getvalue()


def test_quiet_says_nothing():
    stream = Terminal()
    progress = Progress(quiet=True, stream=stream, slow=0.01, every=0.01)
    with progress.phase("loading"), progress.bar("images", 4) as bar:
        bar.advance(1)
        time.sleep(0.05)
    progress.say("x")
    assert stream.getvalue() == ""
    assert progress.last == "images: 1 of 4, "


def test_an_error_ends_a_bar():
    stream = io.StringIO()
    with pytest.raises(KeyError), Progress(stream=stream, every=0.05).bar("images", 4):
        raise KeyError
    time.sleep(0.15)
    assert said(stream) == []


def test_what_was_done_before_doesnt_count_for_the_rate():
    bar = Bar("images", 100, found=50, start=time.monotonic() - 10)
    bar.advance(10)
    assert bar.line() == "images: 60 of 100 (60 %), 1 images/s, 40 s left"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0 s"), (89.0, "89 s"), (90.0, "2 min"), (3600.0, "60 min"), (7800.0, "2 h 10 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=4), st.integers(1, 64), st.integers(1, 256))
def test_loaders_share_what_processes_leave(batches, processes, count):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "processors", lambda: count)
        shares = share_workers(batches, processes)
    spare = max(0, min(count // processes - 1, hardware.MOST_WORKERS))
    assert sum(shares) <= spare
    assert all(0 <= share <= number for share, number in zip(shares, batches, strict=True))
    if max(batches) > spare and max(batches) > hardware.FEW_BATCHES:
        assert sum(shares) == spare


@pytest.mark.parametrize(
    ("count", "processes", "batches", "shares"),
    [
        (2, 1, [1000, 50], [1, 0]),  # two loaders on two processors: one worker in all
        (1, 1, [1000], [0]),
        (64, 8, [600, 25], [7, 0]),
        (16, 1, [5004, 196], [15, 0]),
        (16, 1, [30, 30], [8, 7]),
        (16, 1, [4, 4], [0, 0]),
        (128, 1, [500], [16]),
    ],
)
def test_shares_of_known_machines(monkeypatch, count, processes, batches, shares):
    monkeypatch.setattr(hardware, "processors", lambda: count)
    assert share_workers(batches, processes) == shares


def test_processors_are_those_of_the_job(monkeypatch, tmp_path):
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda pid: set(range(32)), raising=False)
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    assert processors() == 32
    (tmp_path / "cpu.max").write_text("800000 100000\n")
    assert processors() == 8
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    assert processors() == 4
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    assert (processors(), hardware.memory()) == (4, 1000000)


@pytest.mark.parametrize(
    ("devices", "accelerator", "nodes", "message"),
    [
        (0, "auto", 1, "--devices must be auto or a whole number"),
        ("2", "cpu", 1, "--devices must be auto or a whole number"),
        (True, "cpu", 1, "--devices must be auto"),
        (10**6, "cpu", 1, "the processors of this machine"),
        (1, "nope", 1, "--accelerator must be one of"),
        (1, "auto", 99, "--num-nodes 99 needs srun or torchrun"),
    ],
)
def test_hardware_that_isnt_there(monkeypatch, devices, accelerator, nodes, message):
    for name in hardware.LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=message):
        check_devices(devices, accelerator, nodes)
    check_devices("auto", "auto", 1)


def test_one_writer_or_many_who_share(tmp_path):
    folder = tmp_path / "a" / "b"
    with locked(folder), pytest.raises(InputError, match="another run is writing to"), locked(folder, shared=True):
        pass
    with (
        locked(folder, shared=True),
        locked(folder, shared=True),
        pytest.raises(InputError, match="another run"),
        locked(folder),
    ):
        pass
    with locked(folder):
        assert (folder / ".lock").read_text().startswith("process ")
        (folder / "kept").touch()
    assert [path.name for path in folder.iterdir()] == ["kept"]


def test_a_folder_that_stays_empty_is_gone_again(tmp_path):
    (tmp_path / "there").mkdir()
    for folder in (tmp_path / "a" / "b", tmp_path / "there"):
        with pytest.raises(InputError, match="refused"), locked(folder):
            raise InputError("refused")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_file_system_without_locks_is_written_to_all_the_same(tmp_path, monkeypatch):
    import errno

    from faithfulness.core import locks

    def unsupported(handle, kind):
        raise OSError(errno.EOPNOTSUPP, "no locks here")

    monkeypatch.setattr(locks.fcntl, "flock", unsupported)
    with locked(tmp_path), locked(tmp_path):
        (tmp_path / "x").touch()
