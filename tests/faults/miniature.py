"""A repository of three small notebooks on the real library, with the real Makefile, Snakefile and runner."""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).parents[2]
LEVEL = os.environ.get("HUSAI_FAULTS", "")
"""What runs: "" a few trials of every fault, "trials" all of them, "all" also three of the real notebooks."""
PAGES = {
    "book/index.md": "# A page\n",
    "_toc.yml": "format: jb-book\nroot: index\n",
    "_config.yml": "title: toy\nauthor: nobody\nonly_build_toc_files: true\nexecute: {execute_notebooks: 'off'}\n"
    "sphinx: {config: {mathjax_path: none.js}}\n",
}
STUDY = """
from husai import activations, artifacts, evidence, study
from husai.recipes import converged
from husai.tasks import sparse_dictionary

run = evidence.Run("91_study", globals())
truth = sparse_dictionary(16, 32, 3, 2000, seed=0)
acts = activations.split(truth.activations, seed=0, name="toy")
found = study.run({"x": (acts, converged(32, 3, steps))}, seeds)["x"]
run.update(found.quality)
run["score"] = float(found.scores("mean_max_cosine")[0, 1])
run.record(artifacts.opened())
"""
MODELS = """
from husai import artifacts, evidence, grokking
from husai.config import ModelConfig, TaskConfig

run = evidence.Run("92_models", globals())
folder = grokking.trained(TaskConfig(p=11), ModelConfig(d_model=16, d_mlp=32, steps=steps), seeds)
entries = grokking.curve(folder)
run.update({f"loss_{i}": loss for i, loss in enumerate(entries[-1]["held_out_loss"])})
run["entries"] = len(entries)
run.record(artifacts.opened())
"""
NUMBERS = """
from husai import evidence, stats

run = evidence.Run("93_numbers", globals())
run["mean"] = stats.mean([0.1, 0.2, 0.4])
run.record()
"""
NOTEBOOKS = {"91_study": STUDY, "92_models": MODELS, "93_numbers": NUMBERS}
STEPS = {"91_study": 200, "92_models": 100, "93_numbers": 1}
PROFILES = ("paper", "full")


def write_notebook(root: Path, stem: str, code: str) -> None:
    """Write a source notebook of one cell after its parameters."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    parameters = 'profile = "smoke"\nseeds = [0, 1, 2]\nsteps = 32'
    nb.cells = [
        nbformat.v4.new_code_cell(parameters, id="parameters", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(code.strip(), id="work"),
    ]
    nbformat.write(nb, root / "notebooks" / f"{stem}.ipynb")


def write(root: Path) -> Path:
    """Write the repository into a folder and return it."""
    for name, text in PAGES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name in ("Makefile", "Snakefile", "requirements.lock", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    for name in ("workflow", "husai"):
        (root / name).symlink_to(ROOT / name)
    for profile in PROFILES:
        (root / "notebooks" / profile).mkdir(parents=True)
    for stem, code in NOTEBOOKS.items():
        write_notebook(root, stem, code)
        for profile in PROFILES:
            (root / "notebooks" / profile / f"{stem}.yml").write_text(f"profile: {profile}\nsteps: {STEPS[stem]}\n")
    return root


class Make(subprocess.Popen):
    """A make in a process group of its own, with nothing of the outer make in its environment.

    `limit` is the size in bytes beyond which no file can grow, as on a full disk.
    """

    def __init__(self, root: Path, *goals: str, limit: int | None = None, **environment: str) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "HUSAI", "PYTHONPATH"))}
        env["HUSAI_ARTIFACTS"] = str(root / "artifacts")  # the library is a link, and would find its own
        command = ["make", f"PY={sys.executable}", *(goals or ["paper"])]
        narrow = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit is not None else None
        self.transcript = tempfile.TemporaryFile()  # a pipe would stay open while any orphan lives
        weakref.finalize(self, self.transcript.close)
        super().__init__(
            command, cwd=root, env=env | environment, start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=self.transcript, stderr=subprocess.STDOUT, preexec_fn=narrow,
        )  # fmt: skip

    @property
    def said(self) -> str:
        """What it has printed."""
        return os.pread(self.transcript.fileno(), 2**24, 0).decode(errors="replace")


def make(root: Path, *goals: str, **options: Any) -> tuple[int, str]:
    """Run make to its end; return its exit status and what it printed."""
    process = Make(root, *goals, **options)
    return process.wait(timeout=7200), process.said


def results(root: Path, profile: str = "paper") -> dict[str, bytes]:
    """Return the bytes of every results file of a profile; where they were made is no result."""
    folder = root / "book" / "results" if profile == "paper" else root / "_build" / profile / "book" / "results"
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.json")) if not p.name.endswith(".provenance.json")}
