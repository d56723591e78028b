"""Tests write to temporary folders, and use as many threads as the notebooks do."""

import os
from collections.abc import Iterator

import jaxtyping
import pytest
import torch

collect_ignore = ["interop", "evals", "cluster"]  # need more than the environment: make interop, evals, cluster-test
os.environ.setdefault("MPLBACKEND", "Agg")
for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "2")


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep artifacts and results of the tests away from the repository's own."""
    folder = tmp_path_factory.mktemp("husai")
    monkeypatch.setenv("HUSAI_ARTIFACTS", str(folder / "artifacts"))
    monkeypatch.setenv("HUSAI_OUT", str(folder / "out"))


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Give every test the same draws, whichever tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Let the library's own refusals speak: the test-time type checker otherwise comes before them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
