"""The stability report as one HTML file that asks for nothing: answers first, then everything that they rest on."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from husai import evidence
from husai.evidence import format_value
from husai.report import tables, words
from husai.report.figures import figures
from husai.report.protocol import SCHEMA
from husai.report.tables import missing
from husai.report.words import label, say

HERE = Path(__file__).parent
SECTIONS = {
    "answer": "The answer", "saes": "The SAEs", "scores": "Scores beside their nulls",
    "weighted": "Alive and frequent latents", "matched": "Matched and unmatched", "subspaces": "Subspaces",
    "features": "Every feature", "replication": "Will a feature come back?", "seeds": "SAEs needed",
    "width": "Effective rank, width and k", "limits": "What this cannot say", "files": "Files",
}  # fmt: skip
FIRST = 200
"""Rows of the table of features that are there without a script; with one, rows a page."""
PLAIN = ("mean_max_cosine", "hungarian_mcc")


def write(report: Mapping[str, Any], folder: Path, title: str = "Do these SAEs have the same features?") -> Path:
    """Write `index.html`, `stability-v1.json`, `features.csv` and `features.parquet` into a folder; return the page.

    Each file is written under a temporary name that is then renamed, the page last.
    """
    evidence.write_json(folder / "stability-v1.json", report)
    tables.write(report, folder)
    with tables.replaced(folder / "index.html") as path:
        path.write_text(render(report, title), encoding="utf-8")
    return folder / "index.html"


def render(report: Mapping[str, Any], title: str = "Do these SAEs have the same features?", rows: int = FIRST) -> str:
    """Return the page of a report of `stability-v1`: one file, no request, the table of features `rows` at a time.

    Names that a report brings along are escaped; what it does not have is shown with its reason.
    """
    columns = tables.texts(report)
    parts = [column["texts"].split(tables.SEPARATOR) for column in columns]
    size = len(report["features"]["sae"])
    descriptions = helps()
    return template().render(
        title=title,
        report=report,
        sections=SECTIONS,
        css=Markup((HERE / "page.css").read_text()),
        script=Markup((HERE / "page.js").read_text()),
        answers=words.answers(report),
        intervals="; ".join(methods(report, True)),
        none="; ".join(methods(report, False)),
        figures=figures(report),
        columns=[column | {"help": descriptions[column["key"]]} for column in columns],
        first=list(zip(*(part[:rows] for part in parts), strict=True)),
        absent=tables.absent(report),
        data={"columns": columns, "size": size, "page": rows},
        size=size,
        quality={} if missing(report["quality"]) else {row["sae"]: row for row in report["quality"]},
        **rows_of(report),
    )


@cache
def template() -> Template:
    """Return the page's template; anything that it is not given is an error, anything that it is given is escaped."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"missing": missing, "say": say}
    return environment.get_template("page.html")


def rows_of(report: Mapping[str, Any]) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of the page's tables, each with its name first."""
    named = [(label(row["name"], row["latents"], row["threshold"]), row) for row in report["scores"]]
    rank, have = report["effective_rank"], len(report["inputs"])
    return {
        "scores": [(name, row) for name, row in named if row["name"] in PLAIN],
        "weighted": [(name, row) for name, row in named if row["threshold"] is None],
        "shares": [(name, row) for name, row in named if row["threshold"] is not None],
        "subspaces": [(f"{say(row['rank'])}, {row['latents']} latents", row) for row in report["subspaces"]],
        "ranks": [("the activations", rank["activations"])]
        + [(f"the decoder of SAE {index}", row) for index, row in enumerate(rank["decoders"])],
        "seeds": [
            (label(row["score"], row["latents"], row["threshold"]), words.purpose(row), words.needed(row, have))
            for row in report["seeds_needed"]
            if row["latents"] == words.pick(report["scores"])["latents"]  # as the answer; the JSON has all
        ],
        "settings": [(key.replace("_", " "), setting(value)) for key, value in sorted(report["settings"].items())],
    }


def setting(value: Any) -> str:
    """Return a setting of the protocol as text."""
    return ", ".join(map(format_value, value)) if isinstance(value, list) else say(value)


def methods(report: Mapping[str, Any], bounded: bool) -> list[str]:
    """Return how the intervals of a report's scores were made, or why there is none."""
    entries = [row[key] for row in report["scores"] for key in ("estimate", "N0", "N2") if not missing(row[key])]
    entries = [entry.get("gap", entry) for entry in entries]
    return sorted({entry["method"] for entry in entries if words.bounded(entry) == bounded})


@cache
def helps() -> dict[str, str]:
    """Return what the schema says of each column of the table of features."""
    columns = json.loads(SCHEMA.read_text())["$defs"]["features"]["properties"]
    found = {}
    for key, column in columns.items():
        parts = [column, *column.get("oneOf", ())]
        found[key] = next((part["description"] for part in parts if "description" in part), "")
    return found
