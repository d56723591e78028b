"""The source notebooks keep the house's rules: short, without outputs, with known parameters of record."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
import runner
import yaml

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@each_notebook
def test_a_notebook_is_short_and_clean(path: Path) -> None:
    nb = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(nb)  # with nbformat 4.5: every cell has an id of its own
    assert (nb.nbformat, nb.nbformat_minor) >= (4, 5)
    assert nb.metadata.kernelspec.name == "python3" and nb.metadata.kernelspec.language == "python"
    assert len(nb.cells) <= 12
    assert len({cell.id for cell in nb.cells}) == len(nb.cells)
    assert [cell.id for cell in nb.cells if len(cell.source.splitlines()) > 10] == []
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    assert [cell.id for cell in code if cell.outputs or cell.execution_count] == []
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1


@each_notebook
def test_a_notebook_defines_nothing_and_loops_over_no_seeds(path: Path) -> None:
    code = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    nodes = list(ast.walk(ast.parse("\n".join(code))))  # no magics either
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    assert [node.name for node in nodes if isinstance(node, definitions)] == []
    assert re.findall(r"\bfor\s+\w*seed\w*\s+in\b", "\n".join(code)) == []


@each_notebook
@pytest.mark.parametrize("profile", ["paper", "full"])
def test_parameters_of_record_are_known(path: Path, profile: str) -> None:
    record = FOLDER / profile / f"{path.stem}.yml"
    given = yaml.safe_load(record.read_text())
    runner.refuse_unknown(path, given, record)
    defaults = {name: entry["default"] for name, entry in papermill.inspect_notebook(path).items()}
    assert runner.literal(defaults["profile"]) == "smoke", "the defaults are the smoke scale"
    assert given["profile"] == profile
    kinds = {name: (type(value), type(runner.literal(defaults[name]))) for name, value in given.items()}
    numbers = ((int, float), (float, int))
    assert {name: pair for name, pair in kinds.items() if pair[0] is not pair[1] and pair not in numbers} == {}


def test_numbers_name_one_notebook_each_and_every_yml_has_its_notebook() -> None:
    stems = [path.stem for path in NOTEBOOKS]
    assert [stem for stem in stems if not re.fullmatch(r"\d\d_[a-z0-9_]+", stem)] == []
    assert len({stem[:2] for stem in stems}) == len(stems)
    assert {path.stem for path in FOLDER.glob("*/*.yml")} <= set(stems)


@pytest.mark.parametrize("stem", ["13_positive_and_negative_controls", "21_metrics_and_nulls"])
def test_the_same_parameters_give_the_same_bytes(stem: str, tmp_path: Path) -> None:
    """Twice from nothing: what was trained the first time is out of reach the second time."""
    found = []
    for turn in ("first", "second"):
        places = {"HUSAI_OUT": str(tmp_path / turn), "HUSAI_ARTIFACTS": str(tmp_path / turn / "artifacts")}
        (tmp_path / turn).mkdir()
        command = [sys.executable, "-m", "papermill", FOLDER / f"{stem}.ipynb", tmp_path / "executed.ipynb"]
        subprocess.run(command, env=os.environ | places, check=True, capture_output=True, cwd=FOLDER.parent)
        found.append((tmp_path / turn / "results" / f"{stem}.json").read_bytes())
    assert found[0] == found[1]
