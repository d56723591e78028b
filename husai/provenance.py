"""What made a result: command, commit, parameters, inputs, versions, machine; kept apart from the values."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from husai.config import fingerprint

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "numpy", "scipy", "matplotlib", "papermill", "jupyter-book")


def manifest(parameters: Mapping[str, Any], inputs: Mapping[str, str], seconds: float) -> dict[str, Any]:
    """Return the manifest of a run that took `seconds` with these parameters and input artifacts."""
    return {
        "command": os.environ.get("HUSAI_COMMAND") or " ".join(Path(part).name for part in sys.argv[:1]),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "config_hash": fingerprint(parameters),
        "parameters": dict(parameters),
        "inputs": dict(sorted(inputs.items())),
        "seeds": parameters.get("seeds", []),
        "versions": {"python": platform.python_version(), **_versions(PACKAGES)},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
        "seconds": round(seconds, 1),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _versions(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
