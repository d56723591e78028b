"""A SLURM of one node, started in a temporary folder for these tests, and the toy repository of `test_workflow.py`."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from test_workflow import ROOT, toy

__all__ = ["toy"]
MUNGE = {
    "socket": "munge.socket", "key-file": "key", "pid-file": "munged.pid", "log-file": "munged.log",
    "seed-file": "seed",
}  # fmt: skip
DAEMONS = ("munged", "slurmctld", "slurmd")
CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
MpiDefault=none
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=64000 Gres=gpu:1
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def daemon(log: Path, *command: str) -> Iterator[None]:
    """Run a daemon in the foreground of a process of its own; end it by its process id."""
    with log.open("w") as file:
        running = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield
    finally:
        running.terminate()
        try:
            running.wait(30)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Start munge, slurmctld and slurmd: no accounting, four claimed cores, one claimed GPU. Return their folder."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])
    found = {name: shutil.which(name, path=path) for name in DAEMONS}
    if None in found.values() or os.getuid() != 0:
        pytest.skip("not run: SLURM is not installed here, or cannot be started (slurmd wants root)")
    folder, host = tmp_path_factory.mktemp("slurm"), socket.gethostname().partition(".")[0]
    for name in ("spool", "state", "bin"):
        (folder / name).mkdir()
    ports = free_port(), free_port()
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, host=host, ports=ports))
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")  # SLURM counts it; nothing computes on it
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o600)
    # a job step forgets SLURM_CONF, with every other variable of SLURM: the srun that starts it must know the file
    known = f"SLURM_CONF={folder}/slurm.conf exec {shutil.which('srun')}"
    (folder / "bin" / "srun").write_text(f'#!/bin/sh\n{known} "$@"\n')
    (folder / "bin" / "srun").chmod(0o755)
    patch = pytest.MonkeyPatch()
    patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    patch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{path}")
    munge = [f"--{option}={folder / name}" for option, name in MUNGE.items()]
    with ExitStack() as stack:
        stack.callback(patch.undo)
        stack.enter_context(daemon(folder / "munged.out", found["munged"], "--foreground", "--force", *munge))
        stack.enter_context(daemon(folder / "slurmctld.out", found["slurmctld"], "-D", "-c"))
        stack.enter_context(daemon(folder / "slurmd.out", found["slurmd"], "-D"))
        deadline = time.time() + 120
        while subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True).stdout.strip() != "idle":
            assert time.time() < deadline, (folder / "slurmctld.out").read_text()[-2000:]
            time.sleep(0.5)
        yield folder


@pytest.fixture
def repository(toy: Path) -> Path:
    """Return the toy repository with the plugins in place, and checks of SLURM's queue every few seconds."""
    lock = "requirements-cluster.lock"
    shutil.copy2(ROOT / lock, toy / lock)
    shutil.copy2(ROOT / "constraints.txt", toy / "constraints.txt")
    (toy / ".venv-cluster").symlink_to(ROOT / ".venv-cluster")
    return toy
