"""Measure everything that the page "How fast, and against what" shows, and write it to book/reference/speed.json.

`make bench` runs it in the environment of the peers, on a machine that should do nothing else.
"""

import importlib.metadata
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks import metrics
from benchmarks.contestants import CONTESTANTS, SAES, Setting, encoder_products, ours
from benchmarks.parts import parts
from benchmarks.timing import ROOT, peak_memory, spread
from husai import grokking
from husai.config import ModelConfig, TaskConfig
from husai.evidence import Estimate, write_json
from husai.provenance import manifest

OURS, BOUND = "husai, 8 seeds at once", "encoder product, a seed a thread"
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


def peers(scale: str) -> dict[str, dict[str, Any]]:
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
            took = [(ours(setting, steps, seeds), encoder_products(setting, steps)) for _ in range(turns + 1)][1:]
            for name, values in zip(("ours", "bound"), zip(*took, strict=True), strict=True):
                found[what][name].append(plain(spread([1e3 * value for value in values], "ms")))
    return found


PREPARE = """
from benchmarks.contestants import CONTESTANTS, Setting, ours
from benchmarks.speed import activations
run, x = CONTESTANTS["{name}"], activations()
run(Setting(x, 64, 4), 2)  # loads and compiles
setting = Setting(x)
"""


def memory(name: str, call: str, saes: int) -> float:
    """Return the MB a SAE by which training `saes` of them raises the peak of its process."""
    return peak_memory(PREPARE.format(name=name), call) / saes


def grokking_time(steps: int) -> dict[str, Any]:
    """Return what the book's three one-layer transformers take: seconds, and steps to 99.9 % of the held-out pairs."""
    task, config = TaskConfig(), ModelConfig(steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        started = perf_counter()
        grokking.train(task, config, [0, 1, 2], Path(folder))
        seconds = perf_counter() - started
        reached = grokking.reached(grokking.curve(Path(folder)))
    steps_text = ", ".join(str(step or "never") for step in reached)
    return {"grokking_steps": steps_text, "grokking_all": steps, "grokking_seconds": seconds}


def plain(value: Any) -> Any:
    """Return estimates as mappings, as results files have them."""
    if isinstance(value, Estimate):
        return asdict(value)
    return {key: plain(entry) for key, entry in value.items()} if isinstance(value, Mapping) else value


def measure(scale: str) -> dict[str, Any]:
    """Return the results of all benchmarks; `scale` is "full", or "smoke" to see that they run."""
    found = peers(scale)
    values: dict[str, Any] = {f"{name}.{what}": value for name, row in found.items() for what, value in row.items()}
    for name, saes in SAES.items():
        found[name]["memory"] = memory(name, "run(setting, 32)", saes)
    many = 16 if scale == "full" else 3
    values |= {"memory": memory(OURS, f"ours(setting, 512, {many})", many)}
    values |= {"repeats": REPEATS[scale], "steps": STEPS[scale]}
    values |= grokking_time(700 if scale == "full" else 2)
    return {
        "notebook": "speed",
        "profile": scale,
        "values": plain(values),
        "claims": {},
        "peers": plain(found),
        "growth": growth(scale),
        "parts": plain({name: spread(times, "ms") for name, times in parts(20 * REPEATS[scale]).items()}),
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
