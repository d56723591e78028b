"""Every verdict again, from the stored artifacts and not from stored numbers: `make audit`, or `make audit NB="22 54"`.

Each notebook runs a second time at its parameters of record. The store may only be read: what it lacks is an error, not
a reason to train, and what it has is verified by checksum. The new judgements and values are compared with those of
`book/reference`, and each criterion must have stood in the ledger before the commit whose run it judged.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import drift

from husai.evidence import Claim

LEDGER = "book/claims.toml"
GATES, QUALITY = "book/gates.toml", "book/quality.toml"
"""What decides beside the ledger: the release gate where 75 judges by it, quality wherever SAEs are judged."""
RELEASE = "75"


def git(root: Path, *arguments: str) -> str | None:
    """Return what git prints, None where it fails."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def criterion(entry: Mapping[str, Any]) -> str:
    """Return the hash of a ledger entry's statement, reproduce and verdict, as `record` writes it."""
    fields = {"statement": entry.get("statement", ""), "reproduce": entry.get("reproduce", {})}
    return Claim("", "", "", "", "", **fields, verdict=tuple(entry.get("verdict", ()))).criterion


@cache
def criteria_at(root: Path, commit: str) -> dict[str, str]:
    """Return {claim: hash of its criterion} as the ledger stood at a commit; empty where there was no ledger."""
    text = git(root, "show", f"{commit}:{LEDGER}")
    return {name: criterion(entry) for name, entry in tomllib.loads(text or "").items()}


def bounds(root: Path, stem: str, commit: str) -> list[str]:
    """Return which files of bounds that a notebook judges by are not older than its run, or were changed since."""
    found = []
    for path in [QUALITY, *[GATES] * (stem[:2] == RELEASE)]:
        last = git(root, "rev-list", "-1", "HEAD", "--", path)
        if not last:
            continue
        if git(root, "merge-base", "--is-ancestor", last, commit) is None:
            found.append(f"{stem}: {path} was changed after its run, in {last[:10]}")
        elif last == git(root, "rev-parse", commit):
            found.append(f"{stem}: {path} is not older than its run: both are of {last[:10]}")
    return found


@cache
def ledger_commits(root: Path, commit: str) -> tuple[str, ...]:
    """Return the commits that changed the ledger up to and with this one, the oldest first."""
    found = git(root, "rev-list", "--topo-order", "--reverse", "--full-history", commit, "--", LEDGER) or ""
    return tuple(found.split())


def order(root: Path, stem: str, reference: Mapping[str, Any], provenance: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the order of criteria and run: nothing, if every criterion is the older.

    The commit in which the criterion that judged first stood in the ledger must be a strict ancestor of the commit
    that ran, which must hold it still; and it must be the ledger's criterion of today.
    """
    commit = str(provenance.get("commit", ""))
    if not commit or git(root, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}") is None:
        return [f"{stem}: the commit of its run, {commit or 'not recorded'}, is not in this history"]
    if git(root, "merge-base", "--is-ancestor", commit, "HEAD") is None:
        return [f"{stem}: the commit of its run, {commit[:10]}, is not an ancestor of the present one"]
    late = "is not older than its run"
    found = [f"{stem}: its run had uncommitted changes"] if provenance.get("dirty") is not False else []
    found += bounds(root, stem, commit)
    today = {name: criterion(entry) for name, entry in tomllib.loads((root / LEDGER).read_text()).items()}
    for name, judged in reference["claims"].items():
        used = judged["criterion"]
        first = next((c for c in ledger_commits(root, commit) if criteria_at(root, c).get(name) == used), None)
        if today.get(name) != used:
            found.append(f"{stem}: {name} was judged by another criterion than the ledger's of today")
        if first is None or criteria_at(root, commit).get(name) != used:
            found.append(f"{stem}: the criterion of {name} {late}: not in the ledger of {commit[:10]}")
        elif first == commit:
            found.append(f"{stem}: the criterion of {name} {late}: both are of {commit[:10]}")
    return found


def again(root: Path, stem: str, out: Path) -> str:
    """Run a notebook at its parameters of record from the store alone; return what went wrong, empty if nothing did."""
    command = [sys.executable, "workflow/runner.py", f"notebooks/{stem}.ipynb", f"notebooks/paper/{stem}.yml"]
    threads = {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}  # the values depend on it
    env = os.environ | threads | {"HUSAI_STORE": "read-only", "HUSAI_COMMAND": "make audit"}
    done = subprocess.run([*command, str(out), str(out / "build")], cwd=root, env=env, capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if "Error" in line]
    return lines[-1] if lines else f"exit status {done.returncode}"


def audit(root: Path, stem: str, out: Path) -> list[str]:
    """Return all that is wrong with one notebook's reference results."""
    folder = root / "book" / "reference"
    paths = folder / f"{stem}.json", folder / f"{stem}.provenance.json"
    if not all(path.exists() for path in paths):
        return [f"{stem}: no reference run, with its provenance, in book/reference"]
    reference, provenance = (json.loads(path.read_text()) for path in paths)
    found = order(root, stem, reference, provenance)
    if reference["profile"] != "paper":
        found.append(f"{stem}: its reference is of the {reference['profile']} profile, wanted paper")
    written = [out / "results" / path.name for path in paths]
    for path in written:
        path.unlink(missing_ok=True)  # else a run that writes nothing is compared with the reference itself
    if trouble := again(root, stem, out):
        return [*found, f"{stem}: did not run again: {trouble}"]
    if missing := [path.name for path in written if not path.exists()]:
        return [*found, f"{stem}: ran again and wrote no {' and no '.join(missing)}"]
    now, made_by = (json.loads(path.read_text()) for path in written)
    if made_by["config_hash"] != provenance["config_hash"]:
        found.append(f"{stem}: its parameters of record are not those of the reference run")
    read = [f"input {key}: was {old}, is {new}" for key, old, new in drift.inputs(provenance, made_by)]
    return found + [f"{stem}: {line}" for line in [*read, *drift.words(reference, now)]]


def main(*numbers: str) -> int:
    """Audit the notebooks with these numbers, all unless given; print what is wrong, return 1 if anything is."""
    root, out = Path.cwd(), Path("_build/audit").resolve()
    stems = sorted(path.stem for path in (root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    unknown = [number for number in numbers if number not in {stem[:2] for stem in stems}]
    if unknown or not stems:
        print(f"NB={' '.join(unknown)} names no notebook; wanted some of {', '.join(stem[:2] for stem in stems)}")
        return 2
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(root / "book" / "reference", out / "results")  # a notebook may read another's results
    found: list[str] = []
    for stem in stems if not numbers else [stem for stem in stems if stem[:2] in numbers]:
        troubles = audit(root, stem, out)
        found += troubles
        print("\n".join(troubles) or f"{stem}: holds", flush=True)
    print(f"{len(found)} differences from the reference; the runs lie in {out}" if found else "The reference holds.")
    return 1 if found else 0


def chosen(arguments: Sequence[str]) -> list[str]:
    """Return the notebook numbers of a command line: one argument a number, or several in one."""
    return [number for argument in arguments for number in argument.replace(",", " ").split()]


if __name__ == "__main__":
    sys.exit(main(*chosen(sys.argv[1:])))
