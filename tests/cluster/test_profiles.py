"""The profiles are accepted by Snakemake; that of Kubernetes runs where a stand-in for kubectl runs the containers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_slurm import SEEN, printed
from test_workflow import NOTEBOOKS, ran, start, value, write_notebook

KUBECTL = """#!/usr/bin/env python3
import json, os, subprocess, sys
from pathlib import Path

place = Path(os.environ["STAND_IN"])
if sys.argv[1] == "create":  # as a node would: the container's command with the container's environment alone
    text = sys.stdin.read()
    name = json.loads(text)["metadata"]["name"]
    (place / f"{name}.json").write_text(text)
    (box,) = json.loads(text)["spec"]["template"]["spec"]["containers"]
    env = {one["name"]: one["value"] for one in box["env"]}
    command = ["/bin/sh", "-c", f"{' '.join(box['command'])}; echo $? > {place / name}.code"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    subprocess.Popen(command, env=env, cwd=box["workingDir"], **quiet)
elif not (place / f"{sys.argv[3]}.json").exists():
    sys.exit("Error from server (NotFound): no such job")
else:
    code = place / f"{sys.argv[3]}.code"
    ended = code.read_text().strip() if code.exists() else ""
    print(json.dumps({"status": {"succeeded": 1} if ended == "0" else {"failed": 1} if ended else {"active": 1}}))
"""


@pytest.mark.parametrize("executor", ["slurm", "kubernetes"])
def test_a_dry_run_takes_every_option_of_the_profile(executor: str, repository: Path) -> None:
    path = f"{repository}:{repository}/workflow:{repository}/.venv-cluster"
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--nolock", "--workflow-profile", f"workflow/{executor}"]
    told = {"cwd": repository, "env": os.environ | {"PYTHONPATH": path}, "capture_output": True, "text": True}
    done = subprocess.run(command, **told)
    assert done.returncode == 0, done.stderr
    assert all(stem in done.stdout + done.stderr for stem in NOTEBOOKS)
    profile = repository / "workflow" / executor / "config.yaml"
    (repository / "wrong").mkdir()
    (repository / "wrong" / "config.yaml").write_text(profile.read_text() + f"{executor}-no-such-option: 1\n")
    refused = subprocess.run([*command[:-1], "wrong"], **told)
    assert refused.returncode != 0 and "no-such-option" in refused.stderr


@pytest.fixture
def kubectl(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the stand-in on the PATH; return the folder of what it was asked for."""
    place = tmp_path_factory.mktemp("kubectl")
    (place / "kubectl").write_text(KUBECTL)
    (place / "kubectl").chmod(0o755)
    monkeypatch.setenv("STAND_IN", str(place))
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    return place


def test_what_kubernetes_is_asked_for_runs_the_notebooks(repository: Path, kubectl: Path) -> None:
    write_notebook(repository, "11_a", NOTEBOOKS["11_a"] + SEEN)
    write_notebook(repository, "22_b", "missing = {}['the key']")
    out, _ = (process := start(repository, "paper", "EXECUTOR=kubernetes")).communicate(timeout=1800)
    assert process.returncode != 0 and "KeyError: 'the key'" in out and value(repository, "11_a") == 2, out
    write_notebook(repository, "22_b", NOTEBOOKS["22_b"])
    out, _ = (process := start(repository, "paper", "EXECUTOR=kubernetes")).communicate(timeout=1800)
    assert process.returncode == 0 and ran(out) == ["22_b", "book"], out
    assert printed(repository, "11_a")["OMP_NUM_THREADS"] == "2"

    asked = [json.loads(path.read_text()) for path in kubectl.glob("*.json")]
    assert len(asked) == 4 and len({one["metadata"]["name"] for one in asked}) == 4
    pod = asked[0]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"].startswith("python:3.11") and container["workingDir"] == str(repository)
    assert container["resources"]["requests"] == {"cpu": "2", "memory": "8000Mi"}
    assert container["volumeMounts"] == [{"name": "shared", "mountPath": "/husai"}]
    assert pod["volumes"] == [{"name": "shared", "persistentVolumeClaim": {"claimName": "husai"}}]
