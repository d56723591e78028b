"""The floors of the library: imports never point up, and the light modules stay light."""

import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

FLOORS = [
    "config recipes provenance evidence progress",
    "stats simulation resampling fitting tasks synthetic text similarity matching metrics consensus orbits "
    "objectives kernels artifacts shards prefixes fourier pairing knockoffs groups rules",
    "models grokking architectures saes formats nulls gate plots unmatched plants",
    "activations engines feed coupling calibration training health language",
    "study comparison contrasts frontier dynamics replication identifiability interventions benches report "
    "circuits ranks effects consistency subspaces fates pinning ablations sensitivity selection pulls "
    "centroids ensembles gains silenced language stress release axes pairs",
]
FLOOR = {f"husai.{name}": floor for floor, names in enumerate(FLOORS) for name in names.split()}
LIGHT = ["config", "provenance", "evidence", "stats", "gate", "plots"]
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """Return {module: the modules of the library that it imports}; a subpackage counts as one module."""
    graph = grimp.build_graph("husai", cache_dir=None)
    found: dict[str, set[str]] = {}
    for name in graph.modules - {"husai"}:
        module = ".".join(name.split(".")[:2])
        targets = {".".join(t.split(".")[:2]) for t in graph.find_modules_directly_imported_by(name)}
        found.setdefault(module, set()).update(targets - {"husai", module})
    return found


def test_every_module_has_a_floor(imports: dict[str, set[str]]) -> None:
    assert sorted(imports.keys() - FLOOR.keys()) == [], "give it a floor in FLOORS"


def test_imports_never_point_up_or_in_circles(imports: dict[str, set[str]]) -> None:
    up = [f"{a} imports {b}" for a, bs in imports.items() for b in bs if FLOOR[b] > FLOOR[a]]
    assert up == []
    list(TopologicalSorter(imports).static_order())  # raises CycleError


def test_only_engines_and_report_import_the_kernels(imports: dict[str, set[str]]) -> None:
    assert {a for a, bs in imports.items() if "husai.kernels" in bs} <= {"husai.engines", "husai.report"}


def test_the_package_itself_imports_nothing_of_the_library() -> None:
    assert grimp.build_graph("husai", cache_dir=None).find_modules_directly_imported_by("husai") == set()


@pytest.mark.parametrize("name", [n for n in LIGHT if any((ROOT / "husai" / at).exists() for at in (f"{n}.py", n))])
def test_light_modules_never_import_torch(name: str) -> None:
    code = f"import sys, husai.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
