"""Measure everything that the page "How fast, and against what" shows, and write it to book/reference/speed.json.

`make bench` runs it in the environment of the peers, on a machine that should do nothing else.
"""

import importlib.metadata
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import metrics
from benchmarks.contestants import CONTESTANTS, Setting, encoder_product, ours
from husai.evidence import Estimate, write_json
from husai.provenance import manifest

ROOT = Path(__file__).parents[1]
OURS, BOUND = "husai, 8 seeds at once", "encoder product alone"
PEERS = {"sparsify": "eai-sparsify", "dictionary_learning": "dictionary-learning", "SAELens": "sae-lens"}
STEPS = {"full": 256, "smoke": 8}
REPEATS = {"full": 9, "smoke": 3}
GROWTH = {  # what is varied around 128 / 1024 / 32, batch 256, 4 seeds
    "seeds": (1, 2, 4, 8, 16),
    "d_sae": (256, 512, 1024, 2048, 4096, 8192, 16384),
    "k": (4, 8, 16, 32, 64, 128),
    "batch": (64, 128, 256, 512, 1024, 2048, 4096),
}


def activations(n: int = 12_769, d_model: int = 128) -> torch.Tensor:
    """Return the data that everyone trains on: normal noise, which costs what any activations of that size cost."""
    return torch.randn(n, d_model, generator=torch.Generator().manual_seed(0))


def spread(values: Sequence[float], unit: str = "") -> Estimate:
    """Return median and range of interleaved repeats."""
    low, median, high = (float(np.quantile(values, q)) for q in (0, 0.5, 1))
    return Estimate(median, low, high, len(values), unit, f"median and range of {len(values)} interleaved runs")


def peers(scale: str) -> dict[str, dict[str, Estimate]]:
    """Return, for everyone: milliseconds a SAE-step, how often ours fits into it, and how often the bound does."""
    setting, steps = Setting(activations()), STEPS[scale]
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for repeat in range(REPEATS[scale] + 1):
        for name, run in CONTESTANTS.items():
            took = run(setting, steps)
            if repeat:  # the first turn loads and compiles
                seconds[name].append(took)
    return {
        name: {
            "ms": spread([1e3 * value for value in values], "ms"),
            "slower": spread(np.divide(values, seconds[OURS])),
            "bounds": spread(np.divide(values, seconds[BOUND])),
        }
        for name, values in seconds.items()
    }


def growth(scale: str) -> dict[str, dict[str, list[Any]]]:
    """Return milliseconds a SAE-step, ours and the bound's, as seeds, width, k and batch grow; five turns each."""
    found: dict[str, dict[str, list[Any]]] = {}
    turns = 5 if scale == "full" else 1
    for what, sizes in GROWTH.items():
        found[what] = {"size": list(sizes if scale == "full" else sizes[:3]), "ours": [], "bound": []}
        for size in found[what]["size"]:
            seeds = size if what == "seeds" else 4
            setting = Setting(activations(), **({what: size} if what != "seeds" else {}))
            steps = max(4, round(STEPS[scale] * 1024 * 256 / (setting.d_sae * setting.batch)))
            took = [(ours(setting, steps, seeds), encoder_product(setting, steps)) for _ in range(turns + 1)][1:]
            for name, values in zip(("ours", "bound"), zip(*took, strict=True), strict=True):
                found[what][name].append(plain(spread([1e3 * value for value in values], "ms")))
    return found


def memory(seeds: int = 16) -> float:
    """Return the MB a seed by which training `seeds` of them raises the peak of its process."""
    prepare = "from benchmarks.speed import Setting, activations, ours; x = Setting(activations()); ours(x, 2)"
    return metrics.peak_memory(prepare, f"ours(x, 512, {seeds})") / seeds


def plain(value: Any) -> Any:
    """Return estimates as mappings, as results files have them."""
    if isinstance(value, Estimate):
        return {name: getattr(value, name) for name in value.__dataclass_fields__}
    return {key: plain(entry) for key, entry in value.items()} if isinstance(value, Mapping) else value


def measure(scale: str) -> dict[str, Any]:
    """Return the results of all benchmarks; `scale` is "full", or "smoke" to see that they run."""
    found = peers(scale)
    values = {f"{name}.{what}": value for name, row in found.items() for what, value in row.items()}
    values |= {"memory": memory(16 if scale == "full" else 3), "repeats": REPEATS[scale], "steps": STEPS[scale]}
    return {
        "notebook": "speed",
        "profile": scale,
        "values": plain(values),
        "claims": {},
        "peers": plain(found),
        "growth": growth(scale),
        "metrics": metrics.rows(scale),
        "versions": {name: importlib.metadata.version(package) for name, package in PEERS.items()},
        "load": os.getloadavg()[2],
        "provenance": manifest({"scale": scale}, {}, 0.0),
    }


if __name__ == "__main__":
    scale = sys.argv[1] if len(sys.argv) > 1 else "full"
    target = ROOT / ("book/reference" if scale == "full" else f"_build/{scale}") / "speed.json"
    write_json(target, measure(scale))
    print(f"written: {target.relative_to(ROOT)}")
