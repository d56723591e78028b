"""What a stability report costs: python -m benchmarks.report [saes] [d_sae] [d_model] [inputs] [share in common].

It writes SAEs to a temporary folder, makes the report in a process of its own, and prints that one's seconds and peak
memory. Without arguments: 5 SAEs of 16,384 x 512, decoders only, 60 % of the features shared.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.timing import ROOT
from husai.artifacts import write_tensors
from husai.evidence import write_json

RUN = """
import json, resource, sys, time
start = time.perf_counter()
from husai import report
from husai.evidence import write_json
from pathlib import Path
folder, count, acts = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
found = report.evaluate([folder / f"sae_{i}" for i in range(count)], folder / "acts.safetensors" if acts else None)
write_json(folder / "report.json", found)
used = resource.getrusage(resource.RUSAGE_SELF)
row = next(row for row in found["scores"] if row["name"] == "hungarian_mcc")
print(json.dumps({"seconds": time.perf_counter() - start, "cpu_seconds": used.ru_utime + used.ru_stime,
                  "peak_MB": used.ru_maxrss / 1024, "report_MB": (folder / "report.json").stat().st_size / 2**20,
                  "hungarian_mcc": row["estimate"]["value"], "N0": row["N0"]["value"]["value"]}))
"""
CHUNK = 8192


def plant(folder: Path, seed: int, d_sae: int, d_model: int, shared: float) -> None:
    """Write a sparsify folder; its first rows are those of all seeds with some noise, the others its own."""
    core, own = (torch.Generator().manual_seed(s) for s in (0, seed + 1))
    rows = torch.empty(d_sae, d_model)
    for start in range(0, d_sae, CHUNK):
        part = rows[start : start + CHUNK]
        part.normal_(generator=own)
        same = torch.empty_like(part).normal_(generator=core)
        within = torch.arange(start, start + len(part)) < shared * d_sae
        part[within] = same[within] + 0.3 * part[within]
    rows = torch.nn.functional.normalize(rows, dim=1)
    zeros = {"encoder.bias": torch.zeros(d_sae), "b_dec": torch.zeros(d_model)}
    write_tensors(folder / "sae.safetensors", {"W_dec": rows, "encoder.weight": rows.clone(), **zeros})
    write_json(folder / "cfg.json", {"d_in": d_model, "num_latents": d_sae, "k": 32})


def measure(saes: int, d_sae: int, d_model: int, inputs: int = 0, shared: float = 0.6) -> dict[str, float]:
    """Return seconds, seconds of all cores, peak MB of the report's process, and a score beside its chance."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for seed in range(saes):
            plant(folder / f"sae_{seed}", seed, d_sae, d_model, shared)
        if inputs:
            draw = torch.Generator().manual_seed(1)
            write_tensors(folder / "acts.safetensors", {"x": torch.randn(inputs, d_model, generator=draw)})
        run = [sys.executable, "-c", RUN, name, str(saes), str(inputs)]
        return json.loads(subprocess.run(run, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    given = [float(text) if "." in text else int(text) for text in sys.argv[1:]]
    sizes = given + [5, 16_384, 512, 0, 0.6][len(given) :]
    for key, value in measure(*sizes).items():
        print(f"{key:14s} {value:.4g}")
