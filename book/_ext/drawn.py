"""Sphinx extension: under every figure, the numbers that it shows, its drawing, and the cell that made it.

A figure without words for those who cannot see it gets them from its data. Where a notebook saved a figure but did
not show it, the drawing takes its place above the caption.
"""

import csv
from pathlib import Path
from typing import Any

from cells import anchor, saves
from docutils import nodes
from results import download, link, logger
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

FOLDERS = ("figures", "reference")


def sign(app: Sphinx, doctree: nodes.document) -> None:
    """Give every figure of the page its links, and its alternative text where it has none."""
    env, made = app.env, saves(Path(app.srcdir))
    names = {place: name for name, place in made.items()}
    for figure in list(doctree.findall(nodes.figure)):
        image, cell = next(iter(figure.findall(nodes.image)), None), cell_of(figure)
        if cell is not None:
            file = f"figures/{names.get((env.docname, cell['number']))}.svg"
        else:
            file = image["uri"] if image else ""
        if Path(file).parent.name not in FOLDERS or not (Path(app.srcdir) / file).exists():
            continue
        if image is None and cell is not None:
            image = put_in(env, figure, file)
            image["alt"] = cell["cell_metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
        data = next((Path(file).with_suffix(end) for end in (".csv", ".json") if there(env, file, end)), None)
        if data is None:
            where = f"wanted {Path(file).with_suffix('.csv')}: run its notebook again"
            logger.warning(f"{file}: no data beside the figure, {where}", location=figure)
            continue
        if image is not None and not image.get("alt"):
            image["alt"] = words_for(Path(app.srcdir) / data)
        links = [download(env, str(data), f"Data ({data.suffix[1:].upper()})"), download(env, file, "Drawing (SVG)")]
        figure += nodes.legend("", nodes.paragraph("", "", *between(*links, maker(env, file, made)), classes=["drawn"]))


def cell_of(figure: nodes.Element) -> nodes.Element | None:
    """Return the code cell that a figure stands in."""
    node = figure.parent
    while node is not None and node.get("nb_element") != "cell_code":
        node = node.parent
    return node


def there(env: BuildEnvironment, file: str, suffix: str) -> bool:
    """Return whether a file of another kind lies beside this one."""
    return (Path(env.srcdir) / file).with_suffix(suffix).exists()


def put_in(env: BuildEnvironment, figure: nodes.figure, file: str) -> nodes.image:
    """Show the saved drawing above the caption; what the cell showed instead goes before the figure."""
    shown = [child for child in figure.children if not isinstance(child, (nodes.caption, nodes.legend))]
    for child in shown:
        figure.remove(child)
        figure.parent.insert(figure.parent.index(figure), child)
    image = nodes.image(uri=file, candidates={"*": file})
    env.images.add_file(env.docname, file)
    figure.insert(0, image)
    return image


def maker(env: BuildEnvironment, file: str, made: dict[str, tuple[str, int]]) -> nodes.Node:
    """Return who made a figure, with a link to the cell."""
    if Path(file).stem not in made:
        return nodes.Text("Drawn from stored results" if file.startswith("figures") else "Drawn from these data")
    docname, cell = made[Path(file).stem]
    words = nodes.inline(text=f"Made in cell {cell} of notebook {Path(docname).name[:2]}")
    return link(env, docname, words, anchor(docname, cell))


def between(*parts: nodes.Node) -> list[nodes.Node]:
    """Return the parts with dots between them."""
    return [node for part in parts for node in (nodes.Text(" · "), part)][1:]


def words_for(data: Path) -> str:
    """Return what a figure shows, in words, from its data."""
    rows = list(csv.DictReader(data.read_text().splitlines())) if data.suffix == ".csv" else []

    def named(column: str) -> list[str]:
        return list(dict.fromkeys(row[column] for row in rows if row.get(column)))

    marks = {row["mark"] for row in rows}
    kind = "Table of values" if "cell" in marks else "Bars" if "bar" in marks else "Plot"
    axes = " against ".join(", ".join(named(f"{side}_axis")) for side in "yx" if named(f"{side}_axis"))
    parts = [f"{kind} of {axes}" if axes else kind]
    for word, names in (("panels", named("panel")), ("rows", named("y_name")), ("series", named("series"))):
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        parts += [f"{word}: {', '.join(names[:8])}{more}"] if names else []
    return "; ".join(parts) + "."


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-read", sign, priority=600)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
