"""The page of what changed since the reference run, on planted drift."""

import copy
import json
import re
from typing import Any

import pytest
from test_book import GAP, STEM, Project, project

__all__ = ["project"]
PARTS = ("summary", "notebooks", "judgements", "drifted", "within", "listed")
PAGE = "# T\n\n" + "".join(f"## {part}\n\n```{{changes}} {part}\n```\n\n" for part in PARTS)


@pytest.fixture
def runs(project: Project) -> tuple[dict[str, Any], Project]:
    """Return the results of the build, and the project, which keeps the same ones as its reference run."""
    (project.source / "reference").mkdir()
    made_by = {"commit": "a" * 40, "finished": "then", "config_hash": "c", "inputs": {"x": "1"}}
    (project.source / "results" / f"{STEM}.provenance.json").write_text(json.dumps(made_by))
    for path in (project.source / "results").iterdir():
        (project.source / "reference" / path.name).write_text(path.read_text())
    return json.loads((project.source / "results" / f"{STEM}.json").read_text()), project


def parts(runs: tuple[dict[str, Any], Project], **provenance: Any) -> dict[str, str]:
    """Return the text of each part of the page after this build's results were written as they now are."""
    results, project = runs
    folder = project.source / "results"
    (folder / f"{STEM}.json").write_text(json.dumps(results))
    made_by = json.loads((folder / f"{STEM}.provenance.json").read_text())
    (folder / f"{STEM}.provenance.json").write_text(json.dumps(made_by | provenance))
    page, warnings = project.build(PAGE)
    assert warnings == ""
    sections = re.findall(r'<section id="(\w+)">(.*?)</section>', page.partition('<section id="t">')[2], re.S)
    return {name: " ".join(re.sub(r"<[^>]+>", " ", text).split()) for name, text in sections}


def test_a_build_that_is_the_reference_run_changed_nothing(runs: tuple[dict[str, Any], Project]) -> None:
    found = parts(runs)
    assert "Nothing changed: 3 values of 1 notebook are those of the reference run to the byte" in found["summary"]
    assert "0 notebooks ran again since the reference run; the results of 1 notebook are" in found["summary"]
    assert found["notebooks"].endswith(f"{STEM} 3 3 0 0 0 0 0 0")
    for part in PARTS[2:]:
        assert found[part].endswith("None.")


def test_planted_drift_is_told_apart(runs: tuple[dict[str, Any], Project]) -> None:
    results, _ = runs
    values = results["values"]
    values["gap"] = {**GAP, "value": 0.23, "n": 4}  # inside the interval, of fewer seeds
    values["steps"] = 1500
    del values["converged"]
    values["late"] = 1.5
    results["claims"]["P1"]["verdict"] = "supported"
    found = parts(runs, finished="now", commit="b" * 40, config_hash="d", inputs={"x": "2"})
    assert "Of 2 values that both runs have, in 1 notebook, 0 are the same" in found["summary"]
    assert "1 moved by no more than is called drift, and 1 drifted." in found["summary"]
    assert "1 judgement turned; 1 value came and 1 went." in found["summary"]
    assert "parameters of record are not those of the reference run: 22." in found["summary"]
    assert f"1 notebook ran again since the reference run, at commit {'b' * 10}." in found["summary"]
    assert found["notebooks"].endswith(f"{STEM} 4 0 1 1 1 1 1 1")
    assert found["judgements"].endswith("22 P1 verdict refuted supported")
    assert found["drifted"].endswith("22 steps 1,400 1,500 none")
    assert found["within"].endswith("22 gap 0.210 [0.180, 0.240] 0.230 [0.180, 0.240] overlap; another n")
    assert found["listed"].endswith("22 converged yes none none 22 late none 1.500 none")


@pytest.mark.parametrize("low, high, beside", [(0.23, 0.35, "overlap"), (0.25, 0.35, "apart")])
def test_a_drifted_estimate_says_how_the_intervals_lie(
    runs: tuple[dict[str, Any], Project], low: float, high: float, beside: str
) -> None:
    runs[0]["values"]["gap"] = {**GAP, "value": 0.3, "low": low, "high": high}
    assert parts(runs)["drifted"].endswith(beside)


def test_another_scale_is_never_compared(runs: tuple[dict[str, Any], Project]) -> None:
    runs[0]["profile"] = "smoke"
    runs[0]["values"]["steps"] = 2
    found = parts(runs)
    assert "Results of another scale are never compared with the reference run." in found["summary"]
    assert "Not compared: 1 notebook (other scale: smoke here, paper in the reference run)." in found["summary"]
    assert all(found[part].endswith("Not compared.") for part in PARTS[1:])


def test_a_notebook_that_only_one_run_has_is_named_and_not_counted(runs: tuple[dict[str, Any], Project]) -> None:
    other = copy.deepcopy(runs[0]) | {"notebook": "31_other"}
    (runs[1].source / "reference" / "31_other.json").write_text(json.dumps(other))
    found = parts(runs)
    assert "Nothing changed: 3 values of 1 notebook" in found["summary"]
    assert "Not compared: 1 notebook (not run in this build)." in found["summary"]


def test_an_unknown_part_is_an_error(runs: tuple[dict[str, Any], Project]) -> None:
    assert "no such part" in runs[1].build("# T\n\n```{changes} everything\n```\n")[1]
