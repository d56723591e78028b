"""What a run leaves for whoever repeats it: where it ran (`preflight.json`), and what it ran (`commands.json`).

Both lie in `_build/<profile>/`; neither is read by anything, and neither holds a result.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import environment
from filelock import FileLock

WATCHED = ("torch", "numpy", "scipy", "numba", "scikit-learn", "transformers", "snakemake", "papermill", "jupyter-book")


def preflight(build: Path) -> dict[str, Any]:
    """Write and return what a run starts from: Python, versions, the lock, machine, memory, disk and git state."""
    lock = Path("requirements.lock")
    unmet = environment.unmet(Path(sys.prefix), environment.pins(lock)) if lock.exists() else ["requirements.lock"]
    found = {
        "started": now(),
        "python": platform.python_version(),
        "versions": {name: version for name in WATCHED if (version := installed(name))},
        "environment_satisfied": not unmet,
        "environment_lacks": unmet,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "disk_free_gib": round(shutil.disk_usage(".").free / 2**30, 1),
        "commit": git("rev-parse", "HEAD"),
        "uncommitted": git("status", "--porcelain").splitlines(),
    }
    write(build / "preflight.json", found)
    return found


def command(build: Path, name: str, arguments: list[str], started: float, status: int) -> None:
    """Add one finished command to commands.json, or replace that of an earlier run of the same name."""
    path = build / "commands.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(".commands.lock")):
        try:
            commands = json.loads(path.read_text())
        except (OSError, ValueError):
            commands = {}  # none yet, or damaged: nothing depends on what ran before
        commands[name] = {
            "command": arguments, "called_by": os.environ.get("HUSAI_COMMAND", ""), "commit": git("rev-parse", "HEAD"),
            "started": now(started), "seconds": round(time.time() - started, 1), "status": status,
        }  # fmt: skip
        write(path, commands)


def installed(name: str) -> str:
    """Return the version of a distribution, nothing where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def git(*arguments: str) -> str:
    """Return what git prints, nothing where it fails."""
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.rstrip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def now(seconds: float | None = None) -> str:
    """Return a time, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def write(path: Path, content: Any) -> None:
    """Write JSON under a temporary name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # what a full disk leaves
