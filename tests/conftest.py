"""Shared by all tests: one thread per process, and a way to reach the suite's own checks."""

import os
from contextlib import nullcontext

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # on processors that are shared, threads that spin take ten times as long
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jaxtyping
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def unchecked():
    """Shape annotations are off, as they are for users, so that the suite's own checks speak."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module", autouse=True)
def pictures(request):
    """Pictures, which take longest, are drawn for those files of tests that look at them, and say `DRAWN = True`."""
    from tests.reference.undrawn import undrawn

    with nullcontext() if getattr(request.module, "DRAWN", False) else undrawn():
        yield


@pytest.fixture
def alone():
    """What a run with processes leaves behind in this one goes: how they meet, and their group."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture
def diverged(monkeypatch):
    """Every network that a command loads has an infinite weight."""
    import eval.frame.run

    load = eval.frame.run.load_named

    def load_diverged(*arguments, **keywords):
        checkpoint = load(*arguments, **keywords)
        with torch.no_grad():
            next(checkpoint.model.parameters()).mul_(torch.inf)
        return checkpoint

    monkeypatch.setattr(eval.frame.run, "load_named", load_diverged)


@pytest.fixture
def heads_left_out(monkeypatch):
    """What is proven of the heads has its own tests, and takes a minute."""
    monkeypatch.setattr("difull.leakage.leakage_proofs", lambda *setting, **tries: [])
    monkeypatch.setattr("difull.influence_map", lambda *setting, **chunk: torch.ones(2, 2, dtype=torch.bool))
