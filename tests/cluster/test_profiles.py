"""The profiles are accepted by Snakemake and its plugins, without a cluster."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from test_workflow import NOTEBOOKS, start


@pytest.mark.parametrize("executor", ["slurm", "kubernetes"])
def test_a_dry_run_takes_every_option_of_the_profile(executor: str, repository: Path) -> None:
    wanted = yaml.safe_load((repository / "workflow" / executor / "config.yaml").read_text()).get("envvars", [])
    env = dict.fromkeys(wanted, "2") | os.environ  # as make sets them
    env["PYTHONPATH"] = f"{repository}:{repository}/workflow:{repository}/.venv-cluster"
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--nolock", "--workflow-profile", f"workflow/{executor}"]
    done = subprocess.run(command, cwd=repository, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(stem in done.stdout + done.stderr for stem in NOTEBOOKS)
    profile = repository / "workflow" / executor / "config.yaml"
    wrong = repository / "wrong"
    wrong.mkdir()
    (wrong / "config.yaml").write_text(profile.read_text() + f"{executor}-no-such-option: 1\n")
    refused = subprocess.run([*command[:-1], "wrong"], cwd=repository, env=env, capture_output=True, text=True)
    assert refused.returncode != 0 and "no-such-option" in refused.stderr


class Api(BaseHTTPRequestHandler):
    """The part of the Kubernetes API that submits a job: notes what is asked for, and takes no job."""

    asked: list[dict]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body.get("spec"):
            self.asked.append(body)
        self.answer(403 if body.get("spec") else 201, body)

    def do_GET(self) -> None:
        self.answer(404, {})

    do_DELETE = do_PUT = do_GET

    def answer(self, status: int, body: dict) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None: ...


def test_what_kubernetes_is_asked_for(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster is here: a job as the plugin submits it is read from the request, and refused."""
    Api.asked = []
    server = HTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}], "users": [{"name": "u", "user": {}}],
    }  # fmt: skip
    (repository / "kube.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(repository / "kube.yaml"))
    out, _ = (process := start(repository, "paper", "EXECUTOR=kubernetes")).communicate(timeout=1800)
    server.shutdown()
    assert process.returncode != 0 and Api.asked, out
    pod = Api.asked[0]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"].startswith("python:3.11")
    assert container["resources"]["requests"]["cpu"] == "1900m"
    assert container["resources"]["requests"]["memory"] == "8000M"
    assert {"name": "husai", "mountPath": "/husai"} in container["volumeMounts"]
    assert {"PYTHONPATH", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"} <= {one["name"] for one in container["env"]}
    assert "snakemake" in container["args"][1] and str(repository) in container["args"][1]
