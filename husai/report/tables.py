"""The features of a report as a table, one row a latent of every SAE: CSV, Parquet, and the text that a page shows."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from husai.evidence import format_value

KINDS = {
    "sae": "int64", "name": "string", "latent": "int64", "counted": "boolean", "matched": "int64",
    "best_cosine": "float64", "replication_probability": "float64", "firing_rate": "float64",
    "neighbour_cosine": "float64", "alignment": "float64", "norm": "float64", "dead": "boolean",
}  # fmt: skip
"""Columns in their order, and what they hold; `name` is that of the SAE, the others are those of the schema."""
TITLES = {
    "sae": "SAE", "latent": "Latent", "counted": "Counted", "matched": "Found in others", "best_cosine": "Best cosine",
    "replication_probability": "Replication probability", "firing_rate": "Firing rate",
    "neighbour_cosine": "Nearest in own SAE", "alignment": "Encoder with decoder", "norm": "Decoder norm",
    "dead": "Dead",
}  # fmt: skip
"""Heads of the table on the page; the name of an SAE stands in the list of SAEs."""
SEPARATOR = "|"


def missing(entry: Any) -> bool:
    """Return whether an entry of a report is a value that it does not have, and says why."""
    return isinstance(entry, Mapping) and entry.get("value", 0) is None and "reason" in entry


def frame(report: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row a latent, columns and types of `KINDS`; empty where the report has no value."""
    columns, names = report["features"], [entry["name"] for entry in report["inputs"]]
    size = len(columns["sae"])
    found = {
        "name": [names[index] for index in columns["sae"]],
        **{key: [None] * size if missing(column) else column for key, column in columns.items()},
    }
    return pd.DataFrame({key: pd.array(found[key], dtype=kind) for key, kind in KINDS.items()})


def write(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `features.csv` and `features.parquet` with the same values; neither is ever half-written."""
    table, paths = frame(report), [folder / "features.csv", folder / "features.parquet"]
    with replaced(paths[0]) as path:
        table.to_csv(path, index=False)
    with replaced(paths[1]) as path:
        table.to_parquet(path, index=False)
    return paths


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to; it is renamed to `path` when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def absent(report: Mapping[str, Any]) -> dict[str, str]:
    """Return {title: reason} of the columns that the report does not have."""
    columns = report["features"]
    return {title: columns[key]["reason"] for key, title in TITLES.items() if missing(columns[key])}


def texts(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the columns that the report has, as a page shows them: every cell formatted, joined by SEPARATOR.

    `number` says whether the cells are numbers, to be ordered as such. A single value that is null says "dead".
    """
    found = []
    for key, title in TITLES.items():
        column = report["features"][key]
        if not missing(column):
            cells = [("dead" if value is None else format_value(value)) for value in column]
            number = key != "sae" and not KINDS[key].startswith("bool")
            found.append({"key": key, "title": title, "number": number, "texts": SEPARATOR.join(cells)})
    return found
