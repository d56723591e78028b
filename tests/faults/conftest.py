"""What the fault tests share: an undisturbed run to compare with, and the table of faults that were survived."""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import miniature
import pytest
from filelock import FileLock

TABLE = Path(__file__).parents[2] / "_build" / "faults.json"
rows: dict[str, dict[str, int]] = {}


@dataclass(frozen=True)
class Reference:
    """An undisturbed run."""

    root: Path
    """Its repository."""
    seconds: float
    """How long `make paper` took."""
    results: dict[str, dict[str, bytes]]
    """{profile: {results file: its bytes}}."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(name): the row of the fault table in which the test counts")


@pytest.fixture(autouse=True)
def counted(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> None:
    """Hand the fault's name to the report, which is all that reaches the summary."""
    if mark := request.node.get_closest_marker("fault"):
        record_property("fault", mark.args[0])


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Return one undisturbed run, the same for all workers; the profiles differ by their names alone."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    root, seconds = shared / "undisturbed" / "repository", shared / "undisturbed" / "seconds"
    with FileLock(shared / "undisturbed.lock"):
        if not seconds.exists():
            miniature.write(root)
            start = time.monotonic()
            code, out = miniature.make(root)
            assert code == 0, out
            seconds.write_text(str(time.monotonic() - start))
    paper = miniature.results(root)
    assert len(paper) == len(miniature.NOTEBOOKS)
    full = {name: content.replace(b'"profile": "paper"', b'"profile": "full"') for name, content in paper.items()}
    return Reference(root, float(seconds.read_text()), {"paper": paper, "full": full})


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """Return a repository in which nothing has run."""
    return miniature.write(tmp_path / "repository")


@pytest.fixture
def finished(reference: Reference, tmp_path: Path) -> Path:
    """Return a copy of the undisturbed run, dates included."""
    return Path(shutil.copytree(reference.root, tmp_path / "repository", symlinks=True))


@pytest.fixture
def repeat(reference: Reference) -> Callable[..., str]:
    """Return what runs a repository again, without any fault, and compares: it returns what make printed."""

    def run(root: Path, profile: str = "paper", **environment: str) -> str:
        goals = ("paper",) if profile == "paper" else ("paper", f"PROFILE={profile}")
        code, out = miniature.make(root, *goals, **environment)
        assert code == 0, out
        assert miniature.results(root, profile) == reference.results[profile], out
        return out

    return run


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count a test under its fault: survived, or not, or not run."""
    name = dict(report.user_properties).get("fault")
    if name and (report.when == "call" or report.outcome != "passed" and report.when == "setup"):
        row = rows.setdefault(str(name), {"trials": 0, "survived": 0, "not run": 0})
        row["not run" if report.skipped else "trials"] += 1
        row["survived"] += report.passed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, and write it where `make faults` says."""
    if not rows:
        return
    terminalreporter.section("faults")
    for name, row in sorted(rows.items()):
        missing = f", {row['not run']} not run" if row["not run"] else ""
        terminalreporter.write_line(f"{name:60} {row['survived']:3} of {row['trials']:3} survived{missing}")
    if miniature.LEVEL:
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
