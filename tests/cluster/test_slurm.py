"""The workflow through sbatch on a real SLURM of one node: values, a failing notebook, a kill, a GPU, the threads."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from test_workflow import NOTEBOOKS, ROOT, ran, start, value, write_notebook

pytestmark = pytest.mark.usefixtures("slurm")
GOALS = ("paper", "EXECUTOR=slurm")
SEEN = """
import os
for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES"):
    print(name, os.environ.get(name))
"""


def make(root: Path, *goals: str) -> tuple[int, str]:
    """Run make through SLURM to its end; return its exit status and what it printed."""
    process = start(root, *(goals or GOALS))
    out, _ = process.communicate(timeout=1800)
    return process.returncode, out


def printed(root: Path, stem: str) -> dict[str, str]:
    """Return the lines that a notebook printed, as pairs."""
    cells = json.loads((root / "book" / "executed" / f"{stem}.ipynb").read_text())["cells"]
    text = "".join("".join(out.get("text", "")) for cell in cells for out in cell.get("outputs", []))
    return dict(line.split(" ", 1) for line in text.splitlines())


def states() -> list[str]:
    """Return the state of every job that SLURM still remembers."""
    return subprocess.run(["squeue", "-h", "-t", "all", "-o", "%T"], capture_output=True, text=True).stdout.split()


def test_notebooks_run_as_jobs_with_two_threads_and_the_book_is_built(repository: Path) -> None:
    write_notebook(repository, "11_a", NOTEBOOKS["11_a"] + SEEN)
    before = states().count("COMPLETED")
    code, out = make(repository)
    assert code == 0, out
    assert ran(out) == ["11_a", "13_controls", "22_b", "book"] and "(4 of 4)" in out, out
    assert [value(repository, stem) for stem in NOTEBOOKS] == [2, 2, 2]
    assert states().count("COMPLETED") == before + 3
    seen = printed(repository, "11_a")
    assert seen["OMP_NUM_THREADS"] == seen["NUMBA_NUM_THREADS"] == "2" and seen["SLURM_JOB_ID"].isdigit(), seen
    assert (repository / "_build" / "paper" / "preflight.json").exists()
    assert "Nothing to be done" in make(repository)[1]


def test_a_failing_notebook_fails_the_run_and_the_others_go_on(repository: Path) -> None:
    write_notebook(repository, "13_controls", "missing = {}['the control']")
    code, out = make(repository)
    assert code != 0 and "KeyError: 'the control'" in out, out
    assert value(repository, "11_a") == 2 and not (repository / "book" / "executed" / "22_b.ipynb").exists()
    write_notebook(repository, "13_controls", NOTEBOOKS["13_controls"])
    code, out = make(repository)
    assert code == 0 and ran(out) == ["13_controls", "22_b", "book"], out


def test_a_killed_run_resumes_while_its_job_still_runs(repository: Path) -> None:
    """SLURM knows nothing of the kill: the notebook of before is still under way when it is asked for again."""
    (repository / "notebooks" / "paper" / "22_b.yml").write_text("k: 2\nwait: 40\n")
    first = start(repository, *GOALS)
    partial = repository / "_build" / "paper" / "partial" / "22_b.ipynb"
    deadline = time.time() + 900
    while not partial.exists():
        assert time.time() < deadline and first.poll() is None, first.communicate()
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert "RUNNING" in states()
    code, out = make(repository)
    assert code == 0 and "22_b" in ran(out) and "11_a" not in ran(out), out
    assert value(repository, "22_b") == 2 and not partial.exists()


def test_a_notebook_gets_the_gpu_that_the_profile_gives_it(repository: Path) -> None:
    """The commented example of the profile, made real: SLURM sets CUDA_VISIBLE_DEVICES for that notebook alone."""
    for stem in ("11_a", "22_b"):
        write_notebook(repository, stem, NOTEBOOKS[stem] + SEEN)
    profile = repository / "workflow" / "slurm" / "config.yaml"
    text = (ROOT / "workflow" / "slurm" / "config.yaml").read_text()
    example = re.search(r"^# (set-resources:\n(?:#  .*\n)+)", text, re.M)[1]
    example = "\n".join(line.removeprefix("# ") for line in example.splitlines() if "slurm_extra" not in line)
    asked = example.replace("('61', '62', '63', '64', '65')", "('22',)")
    (repository / "workflow").unlink()
    (repository / "workflow").mkdir()
    for path in (ROOT / "workflow").iterdir():
        if path.name != "slurm":
            (repository / "workflow" / path.name).symlink_to(path)
    profile.parent.mkdir()
    profile.write_text(f"{text}\n{asked}\n")
    code, out = make(repository)
    assert code == 0, out
    assert printed(repository, "22_b")["CUDA_VISIBLE_DEVICES"] == "0"
    assert printed(repository, "11_a")["CUDA_VISIBLE_DEVICES"] in ("None", "NoDevFiles", "")
