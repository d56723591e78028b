"""Sphinx extension: the tables of the benchmark page, read from what `make bench` measured (`reference/speed.json`)."""

from collections.abc import Iterable, Mapping
from typing import Any

from docutils import nodes
from results import results_of
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from husai.evidence import format_value


def peers(results: Mapping[str, Any]) -> list[list[str]]:
    """Return everyone's time a SAE-step, and that time in units of ours and of the encoder product."""
    head = ["Trainer", "A SAE-step", "SAE-steps a second", "Time, ours = 1", "Time, encoder product = 1", "MB a SAE"]
    rows = [
        [name, *map(format_value, (row["ms"], 1e3 / row["ms"]["value"], row["slower"], row["bounds"], row["memory"]))]
        for name, row in sorted(results["peers"].items(), key=lambda entry: entry[1]["ms"]["value"])
    ]  # fmt: skip
    return [head, *rows]


def parts(results: Mapping[str, Any]) -> list[list[str]]:
    """Return what a step is made of."""
    rows = [[name, format_value(time)] for name, time in results["parts"].items()]
    return [["Part", "CPU time"], *sorted(rows, key=lambda row: results["parts"][row[0]]["value"])]


def metrics(results: Mapping[str, Any]) -> list[list[str]]:
    """Return what comparing large dictionaries takes."""
    rows = [
        [row["what"], format_value(row["n"]), f"{format_value(row['median'])} {row['unit']}".strip(), spread(row)]
        for row in results["metrics"]
    ]
    return [["What", "Latents", "Median", "Range"], *rows]


def spread(row: Mapping[str, Any]) -> str:
    """Return the range of repeats; nothing where there was one."""
    return "" if row["low"] == row["high"] else f"{format_value(row['low'])} to {format_value(row['high'])}"


def machine(results: Mapping[str, Any]) -> list[list[str]]:
    """Return on what, with which versions and from which commit all this was measured."""
    found = results["provenance"]
    commit = found["commit"] + (" with uncommitted changes" if found["dirty"] else "")
    rows = {
        "machine": f"{found['machine']}, {found['threads']} threads",
        "load of the 15 minutes before the end": format_value(results["load"]),
        "commit": commit,
        "finished": found["finished"],
        "husai with": ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
        "beside": ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
        "scale": results["profile"],
    }
    return [["Measured", "on"], *[[name, text] for name, text in rows.items()]]


TABLES = {"peers": peers, "parts": parts, "metrics": metrics, "machine": machine}


class MeasuredDirective(SphinxDirective):
    """`{measured} peers`: one table of the benchmarks."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        head, *body = TABLES[self.arguments[0]](results_of(self.env, "speed"))
        group = nodes.tgroup(
            "",
            *[nodes.colspec(colwidth=1) for _ in head],
            nodes.thead("", cells(head)),
            nodes.tbody("", *map(cells, body)),
            cols=len(head),
        )
        return [nodes.container("", nodes.table("", group, classes=["colwidths-auto"]), classes=["full-width"])]


def cells(texts: Iterable[str]) -> nodes.row:
    """Return a table row."""
    return nodes.row("", *[nodes.entry("", nodes.paragraph(text=text)) for text in texts])


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("measured", MeasuredDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
