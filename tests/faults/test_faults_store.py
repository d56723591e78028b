"""What is damaged on disk is noticed and made anew; what two runs want at once is made once."""

import json
import random
import shutil
import time
from pathlib import Path

import miniature
import pytest

from husai.artifacts import verify


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flipped(path: Path) -> None:
    content, draw = bytearray(path.read_bytes()), random.Random(path.name)
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def artifacts(root: Path) -> dict[str, dict[str, str]]:
    """Return the digest of every file of every sound artifact; the manifest has them, and the seconds of its making."""
    folders = [p for p in (root / "artifacts").glob("*/*") if p.is_dir() and not p.suffix]
    for folder in folders:
        verify(folder)
    manifests = {f.relative_to(root).as_posix(): json.loads((f / "manifest.json").read_text()) for f in folders}
    return {name: manifest["files"] for name, manifest in manifests.items()}


def forget(root: Path) -> None:
    """Remove what was made of the artifacts, so that they are read again."""
    for name in ("results", "executed"):
        shutil.rmtree(root / "book" / name)


DAMAGES = [
    (damage, kind)
    for damage in (flipped, truncated, Path.unlink)
    for kind in ("*.safetensors", "manifest.json", "*.json*", "cfg.json")
]


@pytest.mark.fault("a damaged artifact")
@pytest.mark.parametrize(("damage", "kind"), DAMAGES if miniature.LEVEL else DAMAGES[:1])
def test_a_damaged_artifact_is_made_anew(finished, repeat, damage, kind):
    before, damaged = artifacts(finished), []
    assert {name.split("/")[1] for name in before} == {"saes", "models"}
    for name in before:
        victims = sorted(p for p in (finished / name).rglob(kind) if p.name != "manifest.json" or kind == p.name)
        if victims:  # models have no cfg.json
            damage(random.Random(name).choice(victims))
            damaged.append(name)
    forget(finished)
    repeat(finished)
    assert artifacts(finished) == before
    assert [name for name in before if (finished / f"{name}.damaged").is_dir()] == damaged != []
    log = (finished / "_build/paper/logs/91_study.log").read_text()
    assert "is set aside and built anew" in log


@pytest.mark.fault("two runs of one profile at once")
def test_a_second_run_is_refused_and_the_first_unharmed(fresh, reference, repeat):
    first = miniature.Make(fresh)
    lock = fresh / "_build" / "paper" / "lock"
    while not (lock.exists() and lock.read_text()):
        time.sleep(0.05)
    code, out = miniature.make(fresh)
    assert code != 0 and f"another run of this profile is under way in this folder (process {lock.read_text()})" in out
    assert first.wait(timeout=900) == 0, first.said
    assert miniature.results(fresh) == reference.results["paper"]
    repeat(fresh)


@pytest.mark.fault("two profiles at once")
@pytest.mark.skipif(not miniature.LEVEL, reason="make faults runs it; here tests/test_artifacts.py has two processes")
def test_two_profiles_that_want_the_same_artifact_at_once_both_finish(fresh, reference, repeat):
    one = miniature.Make(fresh)
    other = miniature.Make(fresh, "paper", "PROFILE=full")
    assert (one.wait(timeout=900), other.wait(timeout=900)) == (0, 0), one.said + other.said
    for profile in miniature.PROFILES:
        assert miniature.results(fresh, profile) == reference.results[profile]
    assert artifacts(fresh) == artifacts(reference.root)  # once each
    repeat(fresh)


@pytest.mark.fault("a notebook that raises")
def test_a_notebook_that_raises_is_shown_and_mended(fresh, repeat):
    miniature.write_notebook(fresh, "92_models", miniature.MODELS + "\nraise RuntimeError('a slip of the pen')")
    code, out = miniature.make(fresh)
    assert code != 0 and "RuntimeError: a slip of the pen" in out and "Traceback" in out, out
    assert (fresh / "_build/paper/failed/92_models.ipynb").exists()
    assert {p.stem for p in (fresh / "book/executed").glob("*")} == {"91_study", "93_numbers"}
    assert not (fresh / "_build/html/index.html").exists()
    miniature.write_notebook(fresh, "92_models", miniature.MODELS)
    repeat(fresh)
    assert (fresh / "_build/html/index.html").exists()
