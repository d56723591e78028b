"""The law by which a training's seconds grow, fitted to the trainings of the reference run.

`python workflow/trainings.py book/results` writes these anew: part of `make reference`.
"""

import csv
import json
import math
import os
import struct
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

TABLE = Path("book/reference/trainings.csv")
CORES = 2
"""Those of the machine that makes the reference; a notebook's two threads fill them."""
SIZES = ("seeds", "steps", "batch", "d_sae", "d_model")
COLUMNS = ("notebook", "kind", "core_seconds", "architecture", "objective", *SIZES)


class Law(NamedTuple):
    """How the core-seconds of a training grow: an exponent a size, and how far off this is for a notebook left out."""

    exponents: dict[str, float]
    factor: float


def read(path: Path = TABLE) -> list[dict[str, Any]]:
    """Return the trainings of the reference run, each once, and what its notebooks took beside."""
    numbers = ("core_seconds", *SIZES)
    with path.open() as file:
        return [{k: float(v) if k in numbers and v else v for k, v in row.items()} for row in csv.DictReader(file)]


def fitted(table: list[dict[str, Any]]) -> Law:
    """Fit log core-seconds of SAE trainings to their log sizes, with a constant for every architecture and objective.

    The factor: for 8 notebooks of 10, the law of the others gives their sum of core-seconds to within it.
    """
    found = [row for row in table if row["kind"] == "saes"]
    kinds = sorted({(key, row[key]) for row in found for key in ("architecture", "objective")})
    rows = [[float(row[key] == value) for key, value in kinds] for row in found]
    x = np.hstack([np.log([[row[name] for name in SIZES] for row in found]), rows])
    y = np.log([row["core_seconds"] for row in found])
    notebooks = np.array([row["notebook"] for row in found])
    errors = []
    for name in sorted(set(notebooks)):
        left_out = notebooks == name
        weights = np.linalg.lstsq(x[~left_out], y[~left_out], rcond=1e-6)[0]
        errors.append(abs(math.log(np.exp(x[left_out] @ weights).sum() / np.exp(y[left_out]).sum())))
    exponents = np.linalg.lstsq(x, y, rcond=1e-6)[0][: len(SIZES)]
    return Law(dict(zip(SIZES, exponents.tolist(), strict=True)), math.exp(np.quantile(errors, 0.8)))


def measured(results: Path, store: Path) -> Iterator[dict[str, Any]]:
    """Yield a row an artifact, for the first notebook that opened it, then one a notebook for the rest of its time.

    A second of a notebook is the machine's cores, shared with the notebooks that ran beside it.
    """
    paths = sorted(results.glob("[0-9][0-9]_*.provenance.json"))
    runs = {path.name[:2]: json.loads(path.read_text()) for path in paths}
    cores = share([(finished(run) - run["seconds"], finished(run)) for run in runs.values()], CORES)
    seen: set[Path] = set()
    for notebook, run in runs.items():
        folders = [store / name for name in run["inputs"] if (store / name / "manifest.json").exists()]
        rest = run["seconds"]
        for folder in folders:
            manifest = folder / "manifest.json"
            seconds = json.loads(manifest.read_text())["seconds"]
            if finished(run) - run["seconds"] <= manifest.stat().st_mtime <= finished(run):
                rest -= seconds  # trained in this run
            if folder not in seen:
                spent = {"notebook": notebook, "kind": folder.parent.name, "core_seconds": cores * seconds}
                yield spent | sizes(folder)
            seen.add(folder)
        yield {"notebook": notebook, "kind": "beside", "core_seconds": cores * max(rest, 0.0)}


def finished(run: dict[str, Any]) -> float:
    """Return when a notebook ended, in seconds."""
    return datetime.fromisoformat(run["finished"]).timestamp()


def share(spans: list[tuple[float, float]], cores: int) -> float:
    """Return the cores that a span has on average, if those of one moment share them alike."""
    busy, last = 0.0, -math.inf
    for start, end in sorted(spans):
        busy += max(0.0, end - max(start, last))
        last = max(last, end)
    return cores * busy / sum(end - start for start, end in spans)


def sizes(folder: Path) -> dict[str, Any]:
    """Return what the law wants of SAEs; of anything else, nothing."""
    if folder.parent.name != "saes":
        return {}
    config, seeds, _ = json.loads((folder / "manifest.json").read_text())["config"]
    with next(folder.glob("step_*/sae_weights.safetensors")).open("rb") as file:
        shapes = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return {
        "architecture": config["sae"]["architecture"], "objective": config["objective"]["name"], "seeds": len(seeds),
        "steps": config["steps"], "batch": config["batch_size"], "d_sae": config["sae"]["d_sae"],
        "d_model": shapes["W_dec"]["shape"][-1],
    }  # fmt: skip


def main() -> None:
    rows = list(measured(Path(sys.argv[1]), Path(os.environ.get("HUSAI_ARTIFACTS") or "artifacts")))
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"core_seconds": round(row["core_seconds"], 1)} for row in rows)
    print(f"{TABLE}: {len(rows)} rows")


if __name__ == "__main__":
    main()
