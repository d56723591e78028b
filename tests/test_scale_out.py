"""A study on a Dask cluster of separate processes is the serial study to the byte, even where a worker is killed."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import environment
import psutil
import torch
from distributed import Client

from husai import activations, study
from husai.recipes import converged
from husai.tasks import sparse_dictionary

ROOT = Path(__file__).parents[1]
SEEDS = (0, 1, 2)
PATIENCE = 300.0
SECONDS = re.compile(rb'"seconds": [0-9.]+')


@contextmanager
def process(module: str, *arguments: str) -> Iterator[subprocess.Popen]:
    """Run a module of `distributed.cli` as a process of its own, killed at the end.

    A worker must compute with the threads of this process: they are part of an artifact's address.
    """
    threads = str(torch.get_num_threads())
    env = os.environ | {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments]
    running = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[Client, list[subprocess.Popen]]]:
    """Start a scheduler and two workers of one thread; a worker that dies is not replaced."""
    address = folder / "scheduler.json"
    quiet = ("--scheduler-file", str(address), "--no-dashboard")
    with ExitStack() as stack:
        stack.enter_context(process("dask_scheduler", *quiet, "--host", "127.0.0.1", "--port", "0"))
        until(address.exists)
        alone = ("--nthreads", "1", "--no-nanny", "--memory-limit", "0", "--local-directory", str(folder))
        workers = [stack.enter_context(process("dask_worker", *quiet, *alone)) for _ in range(2)]
        client = stack.enter_context(Client(scheduler_file=str(address)))
        client.wait_for_workers(2, timeout=PATIENCE)
        yield client, workers


def until(condition) -> None:
    """Wait for a condition."""
    deadline = time.time() + PATIENCE
    while not condition():
        assert time.time() < deadline, "waited too long"
        time.sleep(0.01)


def under_way(worker: subprocess.Popen) -> list[Path]:
    """Return the artifacts, unfinished and begun, whose locks a worker holds."""
    locks = [Path(file.path) for file in psutil.Process(worker.pid).open_files() if file.path.endswith(".lock")]
    folders = [lock.with_name(lock.stem.removeprefix(".") + ".partial") for lock in locks]
    return [folder for folder in folders if (folder / "log.jsonl").exists()]


def kill_at_work(worker: subprocess.Popen, killed: list[str]) -> None:
    """Kill a worker while it holds an unfinished artifact; what it held is noted."""
    while not killed:
        until(lambda: under_way(worker))
        psutil.Process(worker.pid).suspend()  # so that what is seen now is what the kill finds
        killed += [folder.name for folder in under_way(worker)]
        if not killed:
            psutil.Process(worker.pid).resume()
    worker.kill()


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a store but its locks; of manifests all but the seconds that the making took."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    bytes_of = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return {
        name: SECONDS.sub(b"", content) if name.endswith("manifest.json") else content
        for name, content in bytes_of.items()
    }


def test_a_cluster_that_loses_a_worker_gives_the_serial_study_to_the_byte(tmp_path, monkeypatch):
    """Every stored file is compared; the killed worker held an artifact that was begun and not finished."""
    values = sparse_dictionary(16, 32, 3, 4_000, seed=0).activations
    acts = activations.split(values, seed=0, name="toy")
    conditions = {k: (acts, converged(32, k, steps=1500)) for k in (2, 3, 4, 5, 6, 7)}

    monkeypatch.setenv("HUSAI_ARTIFACTS", str(tmp_path / "cluster"))  # the workers inherit it
    killed: list[str] = []
    with cluster(tmp_path) as (client, workers):
        threading.Thread(target=kill_at_work, args=(workers[0], killed), daemon=True).start()
        spread = study.run(conditions, SEEDS, executor=client.get_executor())
        assert len(killed) == 1 and len(client.scheduler_info()["workers"]) == 1
    scores = {k: one.quality for k, one in spread.items()}

    monkeypatch.setenv("HUSAI_ARTIFACTS", str(tmp_path / "serial"))
    alone = study.run(conditions, SEEDS)
    stored = contents(tmp_path / "serial")
    assert sum(name.endswith(".safetensors") for name in stored) == 3 * len(conditions)
    assert f"saes/{killed[0].removesuffix('.partial')}/manifest.json" in stored, "made again by the other worker"
    assert contents(tmp_path / "cluster") == stored
    assert scores == {k: one.quality for k, one in alone.items()}


def test_the_plugins_for_clusters_stand_beside_the_environment_and_shadow_nothing_of_it():
    main, cluster = (environment.pins(ROOT / f"requirements{name}.lock") for name in ("", "-cluster"))
    assert {"snakemake-executor-plugin-slurm", "snakemake-executor-plugin-cluster-generic"} <= cluster.keys()
    assert not main.keys() & cluster.keys()
