#!/usr/bin/env python3
"""What Snakemake calls on Kubernetes, through kubectl: submit a notebook's job, ask for its state, delete jobs.

    python workflow/kubernetes/job.py submit image=... claim=... at=... memory=... minutes=... gpus=... SCRIPT
    python workflow/kubernetes/job.py status NAME
    workflow/kubernetes/job.py NAME NAME ...

Snakemake's own plugin for Kubernetes knows no shared volume: every pod would begin without `artifacts/` and train again
what another has trained.
"""

import json
import os
import subprocess
import sys
import uuid
from typing import Any

CARRIED = ("PATH", "PYTHONPATH", "HUSAI_", "OMP_", "NUMBA_", "MALLOC_")
"""A pod knows nothing of the environment that make prepared: the variables it is given."""


def job(name: str, script: str, asked: dict[str, str]) -> dict[str, Any]:
    """Return the Job that runs Snakemake's script with this folder's volume mounted, on two cores."""
    memory = {"memory": f"{asked['memory']}Mi"}
    gpus = {"nvidia.com/gpu": asked["gpus"]} if int(asked["gpus"]) else {}
    carried = {key: value for key, value in os.environ.items() if key.startswith(CARRIED)}
    container = {
        "name": "notebook", "image": asked["image"], "command": ["/bin/sh", script], "workingDir": os.getcwd(),
        "env": [{"name": key, "value": value} for key, value in sorted(carried.items())],
        "resources": {"requests": {"cpu": "2"} | memory | gpus, "limits": memory | gpus},
        "volumeMounts": [{"name": "shared", "mountPath": asked["at"]}],
    }  # fmt: skip
    volume = {"name": "shared", "persistentVolumeClaim": {"claimName": asked["claim"]}}
    pod = {"restartPolicy": "Never", "containers": [container], "volumes": [volume]}
    return {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "labels": {"app": "husai"}},
        "spec": {
            "backoffLimit": 0, "activeDeadlineSeconds": 60 * int(asked["minutes"]), "ttlSecondsAfterFinished": 86400,
            "template": {"spec": pod},
        },
    }  # fmt: skip


def kubectl(*arguments: str, given: str = "") -> subprocess.CompletedProcess:
    """Run kubectl; a failure is the caller's to judge."""
    return subprocess.run(["kubectl", *arguments], input=given, capture_output=True, text=True)


def submit(*arguments: str) -> str:
    """Submit a job and return its name."""
    *pairs, script = arguments
    name = f"husai-{uuid.uuid4().hex[:12]}"
    manifest = job(name, script, dict(pair.split("=", 1) for pair in pairs))
    done = kubectl("create", "-f", "-", given=json.dumps(manifest))
    if done.returncode:
        sys.exit(done.stderr)
    return name


def status(name: str) -> str:
    """Return success, failed or running; an API that does not answer says nothing about the job."""
    done = kubectl("get", "job", name, "-o", "json")
    if done.returncode:
        return "failed" if "NotFound" in done.stderr else "running"
    found = json.loads(done.stdout).get("status", {})
    return "success" if found.get("succeeded") else "failed" if found.get("failed") else "running"


def main() -> None:
    first, *others = sys.argv[1:]
    if first in ("submit", "status"):
        print({"submit": submit, "status": status}[first](*others))
    else:
        sys.exit(kubectl("delete", "job", "--ignore-not-found", first, *others).returncode)


if __name__ == "__main__":
    main()
