"""Sphinx extension: the code cells of a notebook are numbered as in its source, can be linked to, and fold.

Every cell's code stands in a `<details>`, which needs no script. What computes is open and what only draws is folded,
as the notebook's own tag `hide-input` says; of two cells of parameters, those that the run used are open. `saves`
says which cell made which figure.
"""

import ast
import functools
import json
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from results import EXECUTED
from sphinx.application import Sphinx

INJECTED = "injected-parameters"


class Folded(nodes.General, nodes.Element):
    """Content below a line, `summary`, that shows and hides it; `open` at first or not."""


def visit_folded(translator: Any, node: Folded) -> None:
    state = {"open": "open"} if node["open"] else {}
    translator.body.append(translator.starttag(node, "details", **state))
    translator.body.append(f"<summary>{escape(node['summary'])}</summary>\n")


def depart_folded(translator: Any, node: Folded) -> None:
    translator.body.append("</details>\n")


def nothing(translator: Any, node: Folded) -> None:
    """Leave the content as it is, where a page cannot fold."""


def fold(app: Sphinx, doctree: nodes.document) -> None:
    """Number the code cells of an executed notebook and put their code into folds."""
    docname = app.env.docname
    if not docname.startswith(EXECUTED):
        return
    cells = [cell for cell in doctree.findall(nodes.container) if cell.get("nb_element") == "cell_code"]
    injected = [cell["cell_index"] for cell in cells if INJECTED in tags(cell)]
    for cell in cells:
        number = cell["cell_index"] + 1 - sum(index < cell["cell_index"] for index in injected)
        cell["number"] = number
        cell["ids"].append(anchor(docname, "parameters" if INJECTED in tags(cell) else number))
        code = cell.children[0] if cell.children else cell
        if code.get("nb_element") != "cell_code_source":
            continue
        if cell.get("hide_mode") == "input":
            del cell["hide_mode"]
        replaced = "parameters" in tags(cell) and bool(injected)
        summary = f"Cell {number}" + ": parameters, by default" * replaced
        folded = Folded(summary="Parameters of this run" if INJECTED in tags(cell) else summary, classes=["code"])
        folded["open"] = not replaced and "hide-input" not in tags(cell)
        cell.replace(code, folded)
        folded += code


def tags(cell: nodes.Element) -> list[str]:
    """Return the tags of a cell."""
    return list(cell["cell_metadata"].get("tags", []))


def anchor(docname: str, cell: int | str) -> str:
    """Return a cell's address on its page; no other page of the book has the same."""
    return f"cell-{docname.removeprefix(EXECUTED)[:2]}-{cell}"


def saves(source: Path) -> dict[str, tuple[str, int]]:
    """Return the page and the cell that saved each figure, by the figure's name."""
    found = {}
    for path in sorted((source / EXECUTED).glob("[0-9][0-9]_*.ipynb")):
        for name, cell in saves_in(path, path.stat().st_mtime_ns):
            found[name] = (EXECUTED + path.stem, cell)
    return found


@functools.cache
def saves_in(path: Path, changed: int) -> list[tuple[str, int]]:
    """Return the figures that an executed notebook saved, each with its cell; `changed` keeps the memory fresh."""
    cells = json.loads(path.read_text())["cells"]
    own = [cell for cell in cells if INJECTED not in cell["metadata"].get("tags", [])]
    code = [(number, "".join(cell["source"])) for number, cell in enumerate(own, 1) if cell["cell_type"] == "code"]
    calls = [
        (number, node) for number, text in code for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)
    ]
    return [
        (node.args[1].value, number)
        for number, node in calls
        if ast.unparse(node.func) == "plots.save" and isinstance(node.args[1], ast.Constant)
    ]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_node(Folded, html=(visit_folded, depart_folded), latex=(nothing, nothing), text=(nothing, nothing))
    app.connect("doctree-read", fold, priority=400)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
