"""The workflow on a toy repository: the real Makefile and Snakefile, tiny notebooks, a one-page book."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[1]
RECORD = """
import json, os
def record(stem, value):
    folder = os.path.join(os.environ["HUSAI_OUT"], "results")
    os.makedirs(folder, exist_ok=True)
    for name in (stem, stem + ".provenance"):
        with open(os.path.join(folder, name + ".json"), "w") as file:
            json.dump({"values": {"x": value}}, file)
"""
PAGES = {
    "husai/__init__.py": "",
    "husai/evidence.py": RECORD,
    "husai/plots.py": "SCALE = 1\n",
    "book/index.md": "# A page\n",
    "book/claims.toml": '[P1]\nnotebook = "22"\nstatement = "s"\n',
    "_toc.yml": "format: jb-book\nroot: index\n",
    "_config.yml": "title: toy\nauthor: nobody\nonly_build_toc_files: true\nexecute: {execute_notebooks: 'off'}\n"
    "sphinx: {config: {mathjax_path: none.js}}\n",
}
NOTEBOOKS = {
    "11_a": "from husai import evidence, plots\nevidence.record('11_a', k * plots.SCALE)",
    "13_controls": "from husai import evidence\nevidence.record('13_controls', k)",
    "22_b": "import time\nfrom husai import evidence\ntime.sleep(wait)\nevidence.record('22_b', k)",
}


def write_notebook(root: Path, stem: str, code: str) -> None:
    """Write a source notebook with the parameters k and wait."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    parameters = nbformat.v4.new_code_cell("k = 1\nwait = 0", metadata={"tags": ["parameters"]})
    nb.cells = [parameters, nbformat.v4.new_code_cell(code)]
    nbformat.write(nb, root / "notebooks" / f"{stem}.ipynb")


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """Return a toy repository whose notebooks write one number each."""
    for name, text in PAGES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("Makefile", "Snakefile", "requirements.lock", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")
    (tmp_path / "notebooks" / "paper").mkdir(parents=True)
    for stem, code in NOTEBOOKS.items():
        write_notebook(tmp_path, stem, code)
        (tmp_path / "notebooks" / "paper" / f"{stem}.yml").write_text("k: 2\n")
    return tmp_path


def start(toy: Path, *goals: str) -> subprocess.Popen:
    """Start make in a process group of its own, with nothing of the outer make in its environment."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "HUSAI", "PYTHONPATH"))}
    command = ["make", f"PY={sys.executable}", *(goals or ["paper"])]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=toy, env=env, start_new_session=True, **pipes)


def make(toy: Path, *goals: str) -> tuple[int, str]:
    """Run make to its end; return its exit status and what it printed."""
    process = start(toy, *goals)
    out, _ = process.communicate(timeout=120)
    return process.returncode, out


def ran(out: str) -> list[str]:
    """Return the jobs that started, in order of name."""
    return sorted(re.findall(r"^\S+ (\S+) +starts, because", out, re.M))


def value(toy: Path, stem: str) -> int:
    return json.loads((toy / "book" / "results" / f"{stem}.json").read_text())["values"]["x"]


def test_a_run_says_where_it_ran_and_what_it_ran(toy: Path) -> None:
    write_notebook(toy, "22_b", "missing = {}['x']")
    code, out = make(toy)
    assert code != 0, out
    build = toy / "_build" / "paper"
    found = json.loads((build / "preflight.json").read_text())
    assert found["python"].startswith("3.11") and found["versions"]["papermill"] and found["cores"] >= 1
    assert found["memory_gib"] > 0 and found["disk_free_gib"] > 0 and found["commit"] == ""  # no repository here
    assert found["environment_satisfied"] is (not found["environment_lacks"])
    commands = json.loads((build / "commands.json").read_text())
    assert {name: row["status"] for name, row in commands.items()} == {"11_a": 0, "13_controls": 0, "22_b": 1}
    assert commands["11_a"]["command"][1:] == [
        "notebooks/11_a.ipynb", "notebooks/paper/11_a.yml", "book", "_build/paper"
    ] and commands["11_a"]["called_by"] == "make paper"  # fmt: skip

    write_notebook(toy, "22_b", NOTEBOOKS["22_b"])
    code, out = make(toy)
    assert code == 0, out
    again = json.loads((build / "commands.json").read_text())
    assert again["22_b"]["status"] == 0 and again["book"]["status"] == 0 and again["11_a"] == commands["11_a"]


def test_follow_ups_run_alone(toy: Path) -> None:
    write_notebook(toy, "51_c", NOTEBOOKS["11_a"].replace("11_a", "51_c"))
    (toy / "notebooks" / "paper" / "51_c.yml").write_text("k: 2\n")
    code, out = make(toy, "followups")
    assert code == 0 and ran(out) == ["51_c"], out
    assert value(toy, "51_c") == 2 and not (toy / "book" / "results" / "11_a.json").exists()
    assert "Nothing to be done" in make(toy, "followups")[1]


def test_the_longest_starts_first(toy: Path) -> None:
    (toy / "book" / "reference").mkdir()
    for stem, seconds in {"31_short": 5.2, "32_long": 500, "33_new": None}.items():
        write_notebook(toy, stem, NOTEBOOKS["11_a"].replace("11_a", stem))
        (toy / "notebooks" / "paper" / f"{stem}.yml").write_text("k: 2\n")
        if seconds:
            (toy / "book" / "reference" / f"{stem}.provenance.json").write_text(json.dumps({"seconds": seconds}))
    code, out = make(toy, "paper", "CORES=2")
    assert code == 0, out
    started = re.findall(r"^\S+ (\S+) +starts, because", out, re.M)
    assert started[:3] == ["11_a", "32_long", "31_short"], "the one with the models, then by the reference run"


def test_only_what_changed_runs_again(toy: Path) -> None:
    code, out = make(toy)
    assert code == 0, out
    assert ran(out) == ["11_a", "13_controls", "22_b", "book"]
    assert "(4 of 4)" in out and f"The book: {toy}/_build/html/index.html" in out
    assert value(toy, "11_a") == 2

    (toy / "husai" / "plots.py").touch()
    code, out = make(toy)
    assert code == 0 and "Nothing to be done" in out and not ran(out), out

    (toy / "husai" / "plots.py").write_text("SCALE = 10\n")  # 11_a imports it, the others do not
    ledger = toy / "book" / "claims.toml"
    ledger.write_text(ledger.read_text().replace('"22"\nstatement = "s"', '"22"\nstatement = "t"'))
    code, out = make(toy)
    assert code == 0 and ran(out) == ["11_a", "22_b", "book"], out
    assert re.search(r"11_a +starts, because: .*husai/plots\.py", out)
    assert re.search(r"22_b +starts, because: its criteria in book/claims.toml changed", out)
    assert value(toy, "11_a") == 20


def test_an_unknown_parameter_is_refused_before_any_notebook_starts(toy: Path) -> None:
    (toy / "notebooks" / "paper" / "22_b.yml").write_text("k: 2\nkk: 3\n")
    code, out = make(toy)
    assert code != 0 and not ran(out), out
    assert "notebooks/paper/22_b.yml gives kk, which notebooks/22_b.ipynb does not know; it knows k, wait" in out
    code, out = make(toy, "nb", "NB=22", "STEPS=3")
    assert code != 0 and "the command line gives steps, which notebooks/22_b.ipynb does not know" in out
    code, out = make(toy, "nb", "NB=99")
    assert code != 0 and "NB=99 names no notebook; wanted one of 11, 13, 22" in out


def test_a_failing_notebook_stops_only_what_depends_on_it(toy: Path) -> None:
    write_notebook(toy, "13_controls", "missing = {}['the control']")
    code, out = make(toy)
    assert code != 0 and ran(out) == ["11_a", "13_controls"], out  # 22 waits for its controls
    assert "KeyError: 'the control'" in out and "missing = {}" in out
    failed = toy / "_build" / "paper" / "failed" / "13_controls.ipynb"
    assert failed.exists() and value(toy, "11_a") == 2
    assert not (toy / "book" / "executed" / "13_controls.ipynb").exists()
    code, out = make(toy, "nb", "NB=13")
    assert code != 0 and "KeyError: 'the control'" in out
    code, out = make(toy, "nb", "NB=11", "K=8")
    assert code == 0, out
    written = json.loads((toy / "_build" / "lab" / "results" / "11_a.json").read_text())
    assert written["values"]["x"] == 8 and value(toy, "11_a") == 2


def test_a_killed_run_resumes_and_a_second_run_waits_for_the_first(toy: Path) -> None:
    (toy / "notebooks" / "paper" / "22_b.yml").write_text("k: 2\nwait: 60\n")
    first = start(toy)
    partial = toy / "_build" / "paper" / "partial" / "22_b.ipynb"
    deadline = time.time() + 60
    while not partial.exists() and time.time() < deadline:
        time.sleep(0.1)
    code, out = make(toy)
    assert code != 0 and "another run of this profile is under way" in out and not ran(out), out

    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert not (toy / "book" / "executed" / "22_b.ipynb").exists()
    (toy / "notebooks" / "paper" / "22_b.yml").write_text("k: 2\nwait: 0\n")
    code, out = make(toy)
    assert code == 0 and "22_b" in ran(out) and "13_controls" not in ran(out), out
    assert value(toy, "22_b") == 2


def test_conda_pins_what_the_lock_pins() -> None:
    import environment

    spec = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert "python=3.11" in spec["dependencies"]
    (pip,) = (part["pip"] for part in spec["dependencies"] if isinstance(part, dict))
    assert pip[0] == "-c constraints.txt"
    conda: dict[str, str] = {}
    for line in pip[1:]:
        conda |= environment.pins(ROOT / line.removeprefix("-r "))
    lock = environment.pins(ROOT / "requirements.lock")
    assert conda == lock and len(lock) > 100
    assert environment.pins(ROOT / "constraints.txt").items() <= lock.items()


def test_an_active_environment_is_used_only_when_it_meets_every_pin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import environment

    info = tmp_path / "lib" / "python3.11" / "site-packages" / "torch-2.13.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0+cpu\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path))
    monkeypatch.delenv("CONDA_PREFIX", raising=False)

    Path("requirements.lock").write_text("# a comment\ntorch==2.13.0\n")
    environment.main()
    assert capsys.readouterr().out.strip() == str(tmp_path / "bin" / "python")

    Path("requirements.lock").write_text("torch==2.13.1\nnumpy==1\n")
    environment.main()
    out, err = capsys.readouterr()
    assert out.strip() == ".venv/bin/python" and "lacks torch==2.13.1 and 1 more" in err


def test_a_run_ends_with_a_table_of_seconds_and_verdicts(tmp_path: Path) -> None:
    judged = [("supported", "yes"), ("supported", "not run"), ("refuted", "no")]
    for stem, claims, seconds in (("11_a", judged[:1], 1.6), ("22_b", judged[1:], 60.2)):
        content = {"claims": {str(i): {"verdict": v, "reproduced": r} for i, (v, r) in enumerate(claims)}}
        (tmp_path / f"{stem}.json").write_text(json.dumps(content))
        (tmp_path / f"{stem}.provenance.json").write_text(json.dumps({"seconds": seconds}))
    command = [sys.executable, ROOT / "workflow" / "summary.py", tmp_path]
    head, *lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert head.split()[:3] == ["notebook", "seconds", "supported"]
    assert [line.split() for line in lines] == [
        ["11_a", "2", "1", "0", "0", "1", "of", "1"],
        ["22_b", "60", "1", "1", "0", "0", "of", "1"],
        ["all", "62", "2", "1", "0", "1", "of", "2"],
    ]
