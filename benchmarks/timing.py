"""How time, memory and their spread are measured: one way for every benchmark."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from husai.evidence import Estimate

ROOT = Path(__file__).parents[1]


def interleaved(
    calls: Sequence[Callable[[], object]], repeats: int, clock: Callable[[], float] = perf_counter
) -> list[list[float]]:
    """Return the seconds of each call, run in turns, so that a busy moment of the machine meets all of them."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, times in zip(calls, seconds, strict=True):
            start = clock()
            call()
            times.append(clock() - start)
    return seconds


def spread(values: Sequence[float], unit: str = "") -> Estimate:
    """Return median and range of interleaved repeats."""
    low, median, high = (float(np.quantile(values, q)) for q in (0, 0.5, 1))
    return Estimate(median, low, high, len(values), unit, f"median and range of {len(values)} interleaved runs")


MEASURE = """
def memory(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024

{prepare}
open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far
before = memory("VmRSS")
{call}
print(memory("VmHWM") - before)
"""


def peak_memory(prepare: str, call: str) -> float:
    """Return by how many MB `call` raises the peak of a process that has run `prepare` (Linux)."""
    run = [sys.executable, "-c", MEASURE.format(prepare=prepare, call=call)]
    return float(subprocess.run(run, cwd=ROOT, check=True, capture_output=True).stdout.split()[-1])
