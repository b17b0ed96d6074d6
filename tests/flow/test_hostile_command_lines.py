"""A mistake in a command line, a settings file, an attribution or own code: one line, status 2, no file appears."""

import contextlib
import io
import os
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import faithfulness.__main__ as console
from benchmarks import attribution as benchmark
from eval import idsds
from faithfulness.attribution import create_attribution
from faithfulness.core import InputError
from faithfulness.core.cli import run_command
from tests.reference import hostile_code as code
from tests.reference.checkpoints import save_resnet
from tests.reference.hostile_lines import CONFIGS, LINES, SPECS
from tests.reference.networks import plain_cnn

SMALL = (
    "--protocol",
    "single",
    "--limit",
    "4",
    "--batch-size",
    "2",
    "--accelerator",
    "cpu",
    "--quiet",
    "--attributions",
    "ixg",
)
OFTEN = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(save_resnet(tmp_path_factory.mktemp("hostile") / "checkpoint"))


@pytest.fixture(autouse=True)
def as_users_run_it(unchecked):
    """Without checks of shapes and types by annotation, which would speak first."""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to stand in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FAITHFULNESS_TRACEBACK", raising=False)
    return tmp_path


def call(main, words):
    """Status, and what came on stderr."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        status = main([*words])
    return status, errors.getvalue()


def refused(folder, main, words, says, keeps=False):
    """The one line of a refusal, which left nothing behind; but for finished parts, where it `keeps` some."""
    before, start = sorted(folder.rglob("*")), time.process_time()
    status, line = call(main, words)
    assert status == 2, line
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert line[:-1].isprintable()
    assert len(line) < 1100
    assert says in line
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path not in before}
    allowed = {"out", "out/parts", "out/parts/run.json"} if keeps else set()
    assert {name for name in left if not (keeps and name.endswith(".parts"))} <= allowed
    assert time.process_time() - start < 30
    return line


@pytest.mark.parametrize(("words", "says"), LINES, ids=lambda value: repr(value)[:40])
def test_a_command_line(here, checkpoint, words, says):
    words = [checkpoint if word == "CHECKPOINT" else word for word in words]
    refused(here, idsds.main, ["--out=out", "--accelerator=cpu", "--attributions=ixg", "--model=no/such", *words], says)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_settings_file(here, name):
    content, says = CONFIGS[name]
    (here / "settings").write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(here, idsds.main, ["--config", "settings", "--out", "out"], says)


def test_a_settings_file_that_is_none(here):
    os.mkfifo(here / "pipe")
    (here / "folder").mkdir()
    refused(here, idsds.main, ["--config", "pipe"], "a pipe")
    refused(here, idsds.main, ["--config", "folder"], "is a directory")


def test_references_that_stand_for_little_are_read(here):
    (here / "settings").write_text("\ufeffattributions: &some [ixg, grad]\nlayers: *some\n")
    assert call(idsds.main, ["--config", "settings", "--print-config"]) == (0, "")


@pytest.mark.parametrize("text", SPECS, ids=lambda text: repr(text)[:40])
def test_an_attribution(here, checkpoint, text):
    words = ["--model", checkpoint, *SMALL, "--out", "out", f"--attributions={text}"]
    if "\udcff" in text:
        refused(here, idsds.main, words, SPECS[text])
        return
    with pytest.raises(InputError) as error:
        create_attribution(text, plain_cnn())
    assert SPECS[text] in str(error.value)
    if len(text) < 20:
        refused(here, idsds.main, words, SPECS[text])


@pytest.mark.parametrize(
    ("flag", "text", "name", "says"),
    [("--attributions", code.METHODS, *pair) for pair in code.OF_METHODS.items()]
    + [("--model", code.NETWORKS, *pair) for pair in code.OF_NETWORKS.items()]
    + [("--data", code.SAMPLES, *pair) for pair in code.OF_SAMPLES.items()],
    ids=lambda value: repr(value)[:30],
)
def test_own_code(here, checkpoint, flag, text, name, says):
    (here / "own.py").write_text(text)
    line = refused(
        here, idsds.main, ["--model", checkpoint, *SMALL, "--out", "out", flag, f"own.py:{name}"], says, True
    )
    assert "Traceback" not in line


@pytest.mark.parametrize("name", code.FILES)
@pytest.mark.parametrize("flag", ["--attributions", "--data", "--model"])
def test_a_file_of_own_code(here, checkpoint, flag, name):
    content, says = code.FILES[name]
    (here / "own.py").write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(here, idsds.main, ["--model", checkpoint, *SMALL, "--out", "out", flag, "own.py:f"], says)


def test_a_folder_and_a_pipe_hold_no_code(here, checkpoint):
    (here / "folder.py").mkdir()
    os.mkfifo(here / "pipe.py")
    for file in ("folder.py:f", "pipe.py:f", "a\0b.py:f"):
        for flag in ("--attributions", "--data", "--model"):
            refused(here, idsds.main, ["--model", checkpoint, *SMALL, "--out", "out", flag, file], "")


def test_the_traceback_of_own_code_is_there_for_who_asks(here, checkpoint, monkeypatch):
    (here / "own.py").write_text(code.METHODS)
    words = ["--model", checkpoint, *SMALL, "--out", "out", "--attributions", "own.py:fails"]
    assert "FAITHFULNESS_TRACEBACK=1" in refused(here, idsds.main, words, "own.py, line 9", True)
    monkeypatch.setenv("FAITHFULNESS_TRACEBACK", "1")
    status, text = call(idsds.main, words)
    assert status == 2
    assert "Traceback (most recent call last)" in text
    assert text.splitlines()[-1].startswith("error: own.py:fails: ZeroDivisionError")


def test_ctrl_c_in_own_code_stays_one(here, checkpoint):
    (here / "own.py").write_text("def f(images, targets):\n    raise KeyboardInterrupt\n")
    status, _ = call(idsds.main, ["--model", checkpoint, *SMALL, "--out", "out", "--attributions", "own.py:f"])
    assert status == 130
    assert [path.name for path in (here / "out").iterdir()] == ["parts"]  # the drops, which were finished before


def test_an_error_of_a_loader_process_in_own_data_is_one_line(here, checkpoint):
    (here / "own.py").write_text(code.SAMPLES)
    words = ["--model", checkpoint, *SMALL, "--workers", "1", "--out", "out", "--data", "own.py:fails_later"]
    refused(here, idsds.main, words, "IndexError")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["idsd"], "did you mean idsds"),
        (["nope"], "unknown command"),
        ([""], "unknown command"),
        (["idsds\n"], "unknown command"),
        (["\udcff"], "udcff"),
        (["x" * 10_000], "unknown command"),
        (["--nope"], "unknown command"),
        (["idsds", "--nope"], "unknown flag"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_command(here, words, says):
    refused(here, console.main, words, says)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(("--images", value) for value in ("0", "-5", "x")),
        *(("--input-size", value) for value in ("0", "-4")),
        *(("--device", value) for value in ("nope", "", "meta", "cuda:99")),
        *(("--seed", value) for value in ("-1", "9" * 40)),
        *((flag, "0") for flag in ("--chunk", "--single", "--repeats", "--num-classes")),
        *(("--attributions", value) for value in ("nope", "ig(steps=0)")),
        ("--model", "nope"),
        ("--layer", "nope"),
    ],
)
def test_a_benchmark(here, flag, value):
    words = ["--attributions", "ixg", "--out", "out", flag, value]
    refused(here, lambda words: run_command(benchmark.main, arguments=words), words, "")


VALUES = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=12), st.binary(max_size=4)
).map(repr)
PARAMETERS = st.sampled_from(["steps", "samples", "noise", "masks", "probability", "kernel", "baseline", "chunk", "x"])


@OFTEN
@given(st.sampled_from(["ig", "sg", "rise", "occlusion", "s-ixg"]), st.lists(st.tuples(PARAMETERS, VALUES), max_size=2))
def test_any_parameters_are_taken_or_refused(name, arguments):
    text = f"{name}({','.join(f'{key}={value}' for key, value in arguments)})"
    with contextlib.suppress(InputError):
        create_attribution(text, plain_cnn())


@OFTEN
@given(st.text(alphabet="ig(steps=5)|absrelu+mth@ .,'\"[]\n\0²٣\udcff", max_size=30))
def test_any_text_is_an_attribution_or_refused(text):
    with contextlib.suppress(InputError):
        create_attribution(text, plain_cnn())


@OFTEN
@given(
    st.lists(
        st.sampled_from(["--limit", "--grid", "--seed", "--attributions", "--resume", "--model-args.x"])
        | st.text(max_size=8)
    )
)
def test_any_words_are_settings_or_one_line(words):
    status, line = call(idsds.main, ["--print-config", *words])
    assert (status, line) == (0, "") or (status == 2 and line.count("\n") == 1), (status, line)


@OFTEN
@given(st.binary(max_size=60) | st.text(alphabet="limtsed:&*[]{}!<-? \n'\"#|>%@1.", max_size=60).map(str.encode))
def test_any_file_is_settings_or_one_line(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "settings.yaml"
    file.write_bytes(content)
    status, line = call(idsds.main, ["--print-config", "--config", str(file)])
    assert (status, line) == (0, "") or (status == 2 and line.count("\n") == 1), (status, line)
