"""The audit on small repositories that the tests make: criteria before runs, verdicts again from the store."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import audit
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
CLAIM = """
[P1]
quantity = "x"
reported = "0"
source = "a paper"
notebook = "22"
statement = "x is above {bound}."
verdict = [{{ value = "x", rule = "above", threshold = {bound} }}]
"""


class Repository:
    """A git repository with a ledger and a reference run of one notebook."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "book" / "reference").mkdir(parents=True)
        self.git("init", "-q", "-b", "main")
        self.write("book/claims.toml", "")
        self.commit("start")

    def git(self, *arguments: str) -> str:
        names = {f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        run = ["git", "-c", "commit.gpgsign=false", *arguments]
        env = os.environ | names | {"GIT_CONFIG_GLOBAL": os.devnull}
        return subprocess.run(run, cwd=self.root, env=env, check=True, capture_output=True, text=True).stdout.strip()

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)

    def commit(self, message: str) -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def order(self, commit: str, bound: float = 0.0, dirty: bool = False) -> list[str]:
        """Return what the audit says of a run at a commit that was judged with this bound."""
        audit.criteria_at.cache_clear()
        audit.ledger_commits.cache_clear()
        judged = {"P1": {"criterion": self.criterion(bound), "verdict": "supported", "reproduced": "not run"}}
        return audit.order(self.root, "22_b", {"claims": judged}, {"commit": commit, "dirty": dirty})

    @staticmethod
    def criterion(bound: float) -> str:
        return audit.criterion(tomllib.loads(CLAIM.format(bound=bound))["P1"])


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_a_criterion_that_is_older_than_the_run_passes(repository: Repository) -> None:
    repository.write("book/claims.toml", CLAIM.format(bound=0.0))
    repository.commit("Criteria")
    run = repository.commit("Notebook")
    repository.write("book/claims.toml", CLAIM.format(bound=0.0) + CLAIM.format(bound=0.0).replace("P1", "P2"))
    repository.commit("Another claim")
    assert repository.order(run) == []


def test_a_criterion_of_the_same_commit_or_a_later_one_fails(repository: Repository) -> None:
    early = repository.commit("Notebook, run before its criterion")
    repository.write("book/claims.toml", CLAIM.format(bound=0.0))
    same = repository.commit("Criteria and notebook at once")
    assert repository.order(early) == [
        f"22_b: the criterion of P1 is not older than its run: not in the ledger of {early[:10]}"
    ]
    assert repository.order(same) == [f"22_b: the criterion of P1 is not older than its run: both are of {same[:10]}"]
    assert repository.order(repository.commit("Later")) == []


def test_a_criterion_moved_after_the_run_fails(repository: Repository) -> None:
    repository.write("book/claims.toml", CLAIM.format(bound=0.5))
    repository.commit("Criteria")
    run = repository.commit("Notebook")
    repository.write("book/claims.toml", CLAIM.format(bound=0.0))
    repository.commit("A bound that the run passes")
    (changed,) = repository.order(run, bound=0.5)
    assert "another criterion than the ledger's of today" in changed
    (younger,) = repository.order(run, bound=0.0)  # judged again, and the stored results rewritten
    assert "not older than its run" in younger


def test_a_criterion_written_on_a_branch_counts_once_it_is_merged(repository: Repository) -> None:
    repository.git("checkout", "-q", "-b", "side")
    repository.write("book/claims.toml", CLAIM.format(bound=0.0))
    repository.commit("Criteria")
    repository.git("checkout", "-q", "main")
    apart = repository.commit("Elsewhere")
    repository.git("merge", "-q", "--no-ff", "-m", "Merge", "side")
    assert len(repository.order(apart)) == 1
    assert repository.order(repository.commit("Run")) == []


def test_a_run_of_no_known_commit_or_with_changes_fails(repository: Repository) -> None:
    repository.write("book/claims.toml", CLAIM.format(bound=0.0))
    repository.commit("Criteria")
    run = repository.commit("Notebook")
    assert "not in this history" in repository.order("0" * 40)[0]
    assert "not recorded" in repository.order("")[0]
    assert repository.order(run, dirty=True) == ["22_b: its run had uncommitted changes"]


def test_bounds_that_are_not_older_than_the_run_fail(repository: Repository) -> None:
    repository.write("book/claims.toml", CLAIM.format(bound=0.0))
    repository.write("book/quality.toml", "a = 1")
    repository.write("book/gates.toml", "a = 1")
    same = repository.commit("Criteria and bounds")
    assert audit.bounds(repository.root, "22_b", same) == [
        f"22_b: book/quality.toml is not older than its run: both are of {same[:10]}"
    ]
    run = repository.commit("Notebook")
    assert repository.order(run) == [] and audit.bounds(repository.root, "75_c", run) == []
    repository.write("book/gates.toml", "a = 2")
    moved = repository.commit("A bound that the candidate passes")
    assert repository.order(run) == []  # 22 does not judge by the release gate
    assert audit.bounds(repository.root, "75_c", run) == [
        f"75_c: book/gates.toml was changed after its run, in {moved[:10]}"
    ]
    repository.git("checkout", "-q", run)
    apart = repository.commit("Elsewhere")
    repository.git("checkout", "-q", "main")
    assert "not an ancestor of the present one" in repository.order(apart)[0]


def test_a_run_that_writes_nothing_is_not_compared_with_the_reference(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.write("book/claims.toml", CLAIM.format(bound=0.0))
    repository.commit("Criteria")
    provenance = {"commit": repository.commit("Notebook"), "dirty": False, "config_hash": "c", "inputs": {}}
    reference = {"profile": "paper", "values": {}, "claims": {}}
    copied = repository.root / "out" / "results"
    copied.mkdir(parents=True)
    for name, entry in (("22_b.json", reference), ("22_b.provenance.json", provenance)):
        for folder in (repository.root / "book" / "reference", copied):
            (folder / name).write_text(json.dumps(entry))
    monkeypatch.setattr(audit, "again", lambda *_: "")  # ends well
    assert audit.audit(repository.root, "22_b", repository.root / "out") == [
        "22_b: ran again and wrote no 22_b.json and no 22_b.provenance.json"
    ]


NOTEBOOK = """from husai import artifacts, evidence, stats
import json
run = evidence.Run('22_b', globals())
def build(folder):
    (folder / 'x.json').write_text(json.dumps([shift + 0.1 * i for i in range(5)]))
folder = artifacts.stored('toy', 'x', build, modules=['config.base'])
run['x'] = stats.mean(json.loads((folder / 'x.json').read_text()))
run['shift'] = shift
run.record(artifacts.opened())"""


def test_verdicts_come_from_the_store_and_nothing_is_made(repository: Repository) -> None:
    """The whole audit: it holds, a value of the reference is edited, an artifact is altered, then gone."""
    root = repository.root
    shutil.copytree(ROOT / "husai", root / "husai", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "workflow", root / "workflow", ignore=shutil.ignore_patterns("__pycache__"))
    repository.write(".gitignore", "artifacts/\n_build/\n__pycache__/\nout/\n")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    parameters = nbformat.v4.new_code_cell("profile = 'smoke'\nshift = 0.0", metadata={"tags": ["parameters"]})
    nb.cells = [parameters, nbformat.v4.new_code_cell(NOTEBOOK)]
    repository.write("notebooks/22_b.ipynb", nbformat.writes(nb))
    repository.write("notebooks/paper/22_b.yml", "profile: paper\nshift: 1.0\n")
    repository.write("book/claims.toml", CLAIM.format(bound=0.0))
    repository.commit("Criteria")
    repository.commit("Notebook")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HUSAI", "PYTHONPATH", "GIT_"))}
    env |= {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}
    env |= {"PYTHONPATH": f"{root}:{root}/workflow", "HUSAI_ARTIFACTS": str(root / "artifacts")}

    def python(*arguments: str) -> tuple[int, str]:
        done = subprocess.run([sys.executable, *arguments], cwd=root, env=env, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    code, said = python("workflow/runner.py", "notebooks/22_b.ipynb", "notebooks/paper/22_b.yml", "out", "_build")
    assert code == 0, said
    for path in (root / "out" / "results").glob("*.json"):
        shutil.copy(path, root / "book" / "reference")
    code, said = python("workflow/audit.py", "22")
    assert (code, said.splitlines()[0]) == (0, "22_b: holds"), said

    reference = root / "book" / "reference" / "22_b.json"
    kept = json.loads(reference.read_text())
    edited = json.loads(reference.read_text())
    edited["claims"]["P1"]["verdict"] = "refuted"
    edited["values"]["shift"] = 2.0
    reference.write_text(json.dumps(edited))
    code, said = python("workflow/audit.py")
    assert code == 1 and "22_b: P1: verdict was refuted, is supported" in said and "shift: was 2.000, is 1.000" in said

    reference.write_text(json.dumps(kept))
    (stored,) = (root / "artifacts" / "toy").glob("*/x.json")
    text = stored.read_text()
    stored.write_text(text.replace("1.4", "9.4"))
    code, said = python("workflow/audit.py")
    assert code == 1 and "x.json is corrupt" in said
    shutil.rmtree(stored.parent)
    code, said = python("workflow/audit.py")
    assert code == 1 and "read-only, nothing is made" in said
    assert not list((root / "artifacts" / "toy").glob("[0-9a-f]*"))

    assert python("workflow/audit.py", "99")[0] == 2
    reference.unlink()
    assert "no reference run" in python("workflow/audit.py", "22")[1]


def test_numbers_come_apart_or_together() -> None:
    assert audit.chosen(["22", "54"]) == audit.chosen(["22 54"]) == audit.chosen(["22,54"]) == ["22", "54"]
