"""The environment of SAEBench: hand SAEs and data over, have a script answer there, read its answers back.

`make env-evals` makes it, from `requirements-evals.lock`. Answers are kept as an artifact. Whatever is not as it was
handed over (model, answers, split, versions) is an error, never a number.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from husai import artifacts
from husai.config import require
from husai.evidence import ROOT, write_json
from husai.formats import write_sae_lens
from husai.saes import SAEBatch

NOT_RUN = "not run"
LOCK = ROOT / "requirements-evals.lock"
QUIET = {
    **dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "JAXTYPING_DISABLE"), "1"),
    **{"WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false", "MPLBACKEND": "Agg", "PYTHONPATH": ""},
    "OMP_NUM_THREADS": "1",
}
"""No network, no type checks (the newer beartype refuses SAEBench's own hints), one thread for many small fits."""
SECONDS = 4 * 3600
"""After which an answer is no longer waited for."""


def python(environment: str) -> Path | None:
    """Return the interpreter of an environment (a path, relative ones from the repository), None if none was made."""
    folder = ROOT / environment
    made = bool(environment) and (folder / "ready").exists() and (folder / "bin" / "python").exists()
    return folder / "bin" / "python" if made else None


def status(environment: str) -> str:
    """Return "run", or why not: for the page."""
    missing = f"{NOT_RUN}: there is no environment {environment or '(none named)'}, which `make env-evals` makes"
    return missing if python(environment) is None else "run"


def answers(
    environment: str, jobs: Sequence[Mapping[str, Any]], hand: Callable[[Path], None]
) -> list[dict[str, Any]] | None:
    """Return the answers of an environment to some jobs, in their order; None where there is no environment.

    `hand(folder)` writes the files that the jobs name. The answers are an artifact: of the jobs, of the bytes handed
    over, of the lock and of this code. ValueError: the script failed, or other versions answered than those locked.
    """
    interpreter = python(environment)
    if interpreter is None:
        return None
    with tempfile.TemporaryDirectory(prefix="husai-evals-") as scratch:
        folder = Path(scratch)
        hand(folder)
        write_json(folder / "jobs.json", list(jobs))
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        inputs = [f"{path.relative_to(folder)} {artifacts.digest(path)}" for path in files] + [artifacts.digest(LOCK)]

        def build(at: Path) -> None:
            write_json(at / "results.json", _ask(interpreter, folder))

        modules = ("benches.environment", "benches.saebench", "benches._inside")
        stored = artifacts.stored("evals", list(jobs), build, modules=modules, inputs=inputs)
    return json.loads((stored / "results.json").read_text())["results"]


def _ask(interpreter: Path, folder: Path) -> dict[str, Any]:
    command = [str(interpreter), str(Path(__file__).with_name("_inside.py")), str(folder)]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | QUIET, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    answer = folder / "results.json"
    if done.returncode or not answer.exists():
        raise ValueError(f"evals ended with {done.returncode}; wanted results.json: {done.stderr.strip()[-1500:]}")
    found = json.loads(answer.read_text())
    locked = dict(line.split("==") for line in LOCK.read_text().split() if "==" in line)
    came = {name: number.split("+")[0] for name, number in found["versions"].items()}
    wanted = {name: locked[name] for name in came}
    require(came == wanted, "versions of the environment", came, f"those of {LOCK.name}: {wanted}")
    return found


def names(saes: Mapping[str, SAEBatch]) -> list[str]:
    """Return the folder of every seed of every SAE, NAME_SEED."""
    return [f"{name}_{seed}" for name, batch in saes.items() for seed in batch.seeds]


def hand_saes(folder: Path, saes: Mapping[str, SAEBatch], model: str, hook: str) -> None:
    """Write every seed as the sae_lens folder of its name; ValueError: what sae_lens cannot express."""
    about = {"model_name": model, "hook_name": hook, "hook_layer": int(hook.split(".")[1]), "hook_head_index": None}
    about |= {"prepend_bos": False, "context_size": 1}
    each = (batch[i] for batch in saes.values() for i in range(len(batch)))
    for name, sae in zip(names(saes), each, strict=True):
        write_sae_lens(sae, folder / name, about)
