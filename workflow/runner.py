"""Run one notebook through papermill; name its parameters and the library files that it stands on.

python workflow/runner.py notebooks/22_x.ipynb notebooks/paper/22_x.yml book _build/paper
python workflow/runner.py 22 K=8 STEPS=100      # one notebook with parameters: `make nb`
"""

import ast
import functools
import hashlib
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import harness
import papermill
import yaml


def read_parameters(path: Path) -> dict[str, Any]:
    """Return the parameters of a YAML file; an empty file has none. ValueError: no YAML, or no names with values."""
    try:
        given = yaml.safe_load(path.read_text("utf-8"))
    except Exception as error:  # a hand-written date, number or tag may raise anything
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read; wanted lines of `name: value` ({reason})") from None
    given = {} if given is None else given
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"{path} holds a {type(given).__name__}; wanted lines of `name: value`")
    return given


def refuse_unknown(notebook: Path, given: dict[str, Any], source: Path | str) -> None:
    """Raise ValueError when `source` gives a parameter that the notebook does not declare."""
    known = sorted(papermill.inspect_notebook(notebook))
    for name in given.keys() - known:
        raise ValueError(f"{source} gives {name}, which {notebook} does not know; it knows {', '.join(known)}")


@functools.cache
def digest(path: str) -> str:
    """Return the SHA-256 of a file; read once a process, as every notebook stands on many of the same files."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def contents(paths: list[str]) -> str:
    """Return one hash of what files hold: unlike their dates it is the same whatever the clock did."""
    files = (f"{path} {digest(path) if os.path.exists(path) else ''}" for path in sorted(map(str, paths)))
    return "contents " + hashlib.sha256("\n".join(files).encode()).hexdigest()[:12]


@functools.cache
def imports() -> Any:
    """Return the import graph of the library."""
    import grimp

    return grimp.build_graph("husai", cache_dir=None)


def library(notebook: Path) -> list[str]:
    """Return the files of `husai` that the notebook imports, also through other modules, and the data files."""
    cells = [cell.source for cell in papermill.iorw.load_notebook_node(str(notebook)).cells if cell.cell_type == "code"]
    names: set[str] = set()
    for node in ast.walk(ast.parse("\n".join(cells))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    names &= imports().modules
    names = names.union(*map(imports().find_upstream_modules, names))
    paths = (Path(name.replace(".", "/")) for name in names)
    files = [path / "__init__.py" if path.is_dir() else path.with_suffix(".py") for path in paths]
    return sorted(map(str, [*files, *Path("husai").rglob("*.toml")]))


def run(notebook: Path, parameters: dict[str, Any], out: Path, build: Path) -> Path:
    """Execute the notebook into out/executed by way of build/partial; keep a failing copy in build/failed."""
    folders = build / "partial", build / "failed", out / "executed"
    partial, failed, done = (folder / notebook.name for folder in folders)
    for path in (partial, failed, done):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # a stale failure must not outlive a success, nor a success a failure
    os.environ["HUSAI_OUT"] = str(out.resolve())
    started, status = time.time(), 1
    try:
        papermill.execute_notebook(
            notebook, partial, parameters, kernel_name="python3", progress_bar=False, stderr_file=sys.stderr
        )
        status = 0
    except Exception as error:
        if partial.exists():
            os.replace(partial, failed)
        sys.exit(re.sub(r"\x1b\[[\d;]*m", "", f"{error}\nThe failing copy: {failed}"))
    finally:
        harness.command(build, notebook.stem, sys.argv, started, status)
    os.replace(partial, done)
    return done


def literal(text: str) -> Any:
    """Return the Python value that the text spells, or the text itself."""
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        return text


def run_one(stem: str, *assignments: str) -> None:
    """Run the notebook NB with NAME=VALUE parameters into _build/lab; PROFILE=paper starts from those of record."""
    sources = sorted(Path("notebooks").glob("[0-9][0-9]_*.ipynb"))
    notebook = next((path for path in sources if path.stem[:2] == stem), None)
    if notebook is None:
        sys.exit(f"NB={stem} names no notebook; wanted one of {', '.join(path.stem[:2] for path in sources)}")
    pairs = (assignment.partition("=") for assignment in assignments)
    given = {name.lower(): literal(value) for name, _, value in pairs}
    try:
        refuse_unknown(notebook, given, "the command line")
    except ValueError as error:
        sys.exit(str(error))
    record = Path("notebooks", str(given.get("profile")), f"{notebook.stem}.yml")
    if record.exists():  # with other parameters it is not the run of record
        given = read_parameters(record) | given | ({"profile": "lab"} if len(given) > 1 else {})
    print(f"The executed copy: {run(notebook, given, Path('_build/lab'), Path('_build/lab'))}")


if __name__ == "__main__":
    if sys.argv[1].endswith(".ipynb"):
        notebook, record, out, build = map(Path, sys.argv[1:])
        refuse_unknown(notebook, read_parameters(record), record)
        run(notebook, read_parameters(record), out, build)
    else:
        run_one(*sys.argv[1:])
