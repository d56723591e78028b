"""A run that is killed at any moment, whole or in part, is completed by the next one as if nothing had happened."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import miniature
import psutil
import pytest

DRAWN = random.Random(2026)
GROUP = [DRAWN.random() for _ in range(20)]
"""When a run is killed, as a share of an undisturbed one."""
PARTS = [DRAWN.random() for _ in range(5)][: 5 if miniature.LEVEL else 1]


def descendants(process: subprocess.Popen) -> list[psutil.Process]:
    """Return every process below make that lives; kernels are in sessions of their own, but children still."""
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def named(process: subprocess.Popen, words: str) -> psutil.Process | None:
    """Return the first process below make whose command line holds these words."""
    for one in descendants(process):
        try:
            if words in " ".join(one.cmdline()):
                return one
        except psutil.Error:
            continue
    return None


@pytest.fixture
def run(fresh: Path) -> Iterator[miniature.Make]:
    """Start make; leave no process of it behind."""
    process = miniature.Make(fresh)
    yield process
    for one in descendants(process):
        one.kill()
    process.kill()
    process.wait()


@pytest.mark.fault("SIGKILL of the process group, five on the way")
@pytest.mark.parametrize("first", range(0, 20, 5))
def test_a_run_is_killed_again_and_again(tmp_path, reference, repeat, first):
    roots = (miniature.write(tmp_path / str(number)) for number in count())
    root, new, seconds = next(roots), True, reference.seconds
    for moment in GROUP[first : first + 5]:
        while (took := killed(root, moment * seconds)) is not None:  # it ended before that: no trial
            seconds = took if new else seconds  # other tests may have slowed the reference down
            root, new = next(roots), True
        new = False
        stands = miniature.results(root)
        assert stands == {name: reference.results["paper"][name] for name in stands}, "no file is half written"
    repeat(root)


def killed(root: Path, seconds: float, *goals: str) -> float | None:
    """Run make for so many seconds, then kill its group; return how long it took if it ended before."""
    process, start = miniature.Make(root, *goals), time.monotonic()
    with suppress(subprocess.TimeoutExpired):
        assert process.wait(timeout=seconds) == 0, process.said
        return time.monotonic() - start
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return None


@pytest.mark.skipif(not miniature.LEVEL, reason="takes a quarter of an hour: make faults runs it")
@pytest.mark.fault("SIGKILL of the process group")
@pytest.mark.parametrize("moment", GROUP, ids=lambda moment: f"{moment:.2f}")
def test_the_whole_group_is_killed(run, fresh, reference, repeat, moment):
    time.sleep(moment * reference.seconds)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    repeat(fresh)


@pytest.mark.fault("SIGKILL of a kernel")
@pytest.mark.parametrize("moment", PARTS, ids=lambda moment: f"{moment:.2f}")
def test_a_kernel_is_killed(run, fresh, reference, repeat, moment):
    time.sleep(moment * reference.seconds)
    while (kernel := named(run, "ipykernel_launcher")) is None and run.poll() is None:
        time.sleep(0.05)
    if kernel is not None:
        kernel.kill()
    run.wait(timeout=900)
    repeat(fresh)


@pytest.mark.fault("SIGKILL of Snakemake alone")
@pytest.mark.parametrize("moment", PARTS, ids=lambda moment: f"{moment:.2f}")
def test_snakemake_is_killed_and_what_it_started_lives_on(run, fresh, reference, repeat, moment):
    time.sleep(moment * reference.seconds)
    while (engine := named(run, "-m snakemake")) is None and run.poll() is None:
        time.sleep(0.05)
    orphans = []
    with suppress(psutil.NoSuchProcess, AttributeError):  # it may have ended by itself
        orphans = engine.children(recursive=True)
        engine.kill()
    run.wait(timeout=900)
    repeat(fresh)  # waits for the orphans, notebook by notebook, and takes nothing of theirs for its own
    assert psutil.wait_procs(orphans, timeout=60)[1] == []


@pytest.mark.skipif(miniature.LEVEL != "all", reason="takes an hour: make faults runs it")
@pytest.mark.fault("SIGKILL of the whole smoke run, three in turn")
def test_the_real_notebooks_at_their_smallest_scale(tmp_path):
    root = tmp_path / "repository"
    tracked = subprocess.run(["git", "ls-files"], cwd=miniature.ROOT, capture_output=True, text=True, check=True)
    for name in tracked.stdout.splitlines():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(miniature.ROOT / name, root / name)
    (root / "notebooks" / "smoke").mkdir()
    for path in (root / "notebooks").glob("*.ipynb"):
        (root / "notebooks" / "smoke" / f"{path.stem}.yml").touch()
    goals = ("paper", "PROFILE=smoke")
    start = time.monotonic()
    code, out = miniature.make(root, *goals)
    assert code == 0, out
    seconds, wanted = time.monotonic() - start, miniature.results(root, "smoke")
    for moment in [DRAWN.uniform(0.05, 0.8) for _ in range(3)]:  # one at its very end might come too late
        for name in ("_build/smoke", ".snakemake", "artifacts"):
            shutil.rmtree(root / name)
        assert killed(root, moment * seconds, *goals) is None
        code, out = miniature.make(root, *goals)
        assert code == 0, out
        assert miniature.results(root, "smoke") == wanted
