"""Print what a profile costs, notebook by notebook, before it is started: `make cost PROFILE=full`.

The basis is the reference run: the core-seconds of each of its trainings, and of what every notebook did beside. A
training grows by the power law of `trainings.py`. How many times more seeds, steps, latents a profile asks for is read
from the parameters of the two profiles; `FACTORS` says which parameter is what.
"""

import functools
import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import papermill
import runner
import trainings

COUNTED = ("seeds", "models", "conditions")
"""Factors of which a list gives its length; of the others it gives the sum of its numbers."""
FACTORS: dict[str, str | tuple[str, ...]] = {
    "seeds": "seeds", "few": "seeds", "relu_seeds": "seeds", "reference_seeds": "seeds", "number": "copies",
    "model_seeds": "models", "deep_seeds": "models", "truths": "models",
    "steps": "steps", "published_steps": "steps", "total": "steps", "published_training": ("steps", "batch"),
    "batch_size": "batch", "batch": "gpt_batch", "model_steps": "model_steps", "deep_steps": "model_steps",
    "task_steps": "model_steps", "tasks": "tasks",
    "width": "d_sae", "wide": "d_sae", "d_sae": "d_sae", "widths": "d_sae", "known_width": "d_sae",
    "known_widths": "d_sae", "published_widths": "d_sae", "elsewhere": "d_sae", "atoms": "d_sae",
    "text_width": "d_sae", "text_widths": "d_sae", "published": "d_sae", "null_widths": "d_sae", "shapes": "d_sae",
    "ks": "conditions", "published_ks": "conditions", "penalties": "conditions", "levels": "conditions",
    "weights": "conditions", "lambdas": "conditions", "published_lambdas": "conditions", "doses": "conditions",
    "sparsities": "conditions", "stages": "conditions", "exponents": "conditions", "cells": "conditions",
    "d_model": "d_model", "dims": "d_model", "p": "p", "samples": "data", "tokens": "data", "context": "context",
    "repeats": "draws", "draws": "draws", "planted": "draws", "sample": "draws", "spliced": "draws",
    "held_out": "draws", "probed": "draws", "documents": "draws", "benches": "draws", "texts": "draws",
    "shape": ("depth", "", "d_model", "mlp", "vocabulary", "context"), "sizes": ("vocabulary", "context"),
    "training": ("tasks", "gpt_steps", "gpt_batch"), "sae": ("d_sae", "", "steps"),
    "recipe": ("d_sae", "", "steps", ""), "addition": ("d_sae", "steps", ""),
    "text": ("data", "context", "d_sae", "steps", ""), "source": ("", "data", "context"),
    "scaling": ("", "", "d_sae", "", "steps"),
    "k": "", "known": "", "ranks": "", "bar": "", "tau": "", "relu": "", "n_layers": "", "rho": "", "layer": "",
    "parts": "", "shown": "", "published_scale": "d_sae", "published_shape": "d_sae",
}  # fmt: skip
OWN: dict[str, dict[str, str]] = {
    "11": {"steps": "model_steps"}, "12": {"steps": "model_steps"}, "34": {"model_steps": ""},
    "35": {"model_steps": "", "model_seeds": ""}, "37": {"d_model": "d_model d_sae"}, "62": {"steps": "gpt_steps"},
}  # fmt: skip
"""Notebooks where a name means something else, or something that an earlier notebook trained."""
GPT = ("models", "gpt_steps", "gpt_batch", "depth", "d_model", "mlp")
SETTING = (*GPT, "vocabulary", "context", "tasks")
RUNS = ("seeds", "models", "conditions", "copies")
BESIDE = (("data",), ("draws",), ("d_sae", "d_model"), ("depth", "d_model", "mlp"), ("p", "p"))
"""What work beside training may grow with: rows, draws, latents by dimensions, a forward pass, pairs of tokens."""

Sizes = dict[str, list[list[float]]]


class Range(NamedTuple):
    """What is expected, between the lowest and the highest that the basis allows."""

    low: float
    value: float
    high: float

    def plus(self, other: "Range") -> "Range":
        return Range(*(a + b for a, b in zip(self, other, strict=True)))


class Row(NamedTuple):
    """The cost of a notebook."""

    notebook: str
    core_seconds: Range
    gib: float
    not_counted: list[str]


def parameters(stem: str, profile: str) -> dict[str, Any]:
    """Return a notebook's parameters at a profile: its defaults, and what the profile's file gives."""
    source = Path(f"notebooks/{stem}.ipynb")
    defaults = {name: runner.literal(p["default"]) for name, p in papermill.inspect_notebook(source).items()}
    record = Path(f"notebooks/{profile}/{stem}.yml")
    return defaults | (runner.read_parameters(record) if record.exists() else {})


def leaves(value: Any) -> Iterator[float]:
    """Yield the numbers of a nested list."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def sizes(stem: str, given: dict[str, Any]) -> Sizes:
    """Return the numbers of every factor that a notebook's parameters give, a list a parameter."""
    found: Sizes = {}
    for name, value in given.items():
        meaning = OWN.get(stem[:2], {}).get(name, FACTORS.get(name, ""))
        for factors, content in [(meaning, value)] if isinstance(meaning, str) else zip(meaning, value, strict=False):
            for factor in factors.split():
                found.setdefault(factor, []).append(list(leaves(content)))
    return found


def growth(before: Sizes, after: Sizes, exponents: dict[str, float]) -> float:
    """Return how many times the work of `before` that of `after` is, by these factors."""
    ratio = 1.0
    for name, exponent in exponents.items():
        old, new = (amount(name, side.get(name, []), exponent) for side in (before, after))
        ratio *= new / old if old and new else 1
    return ratio


def amount(name: str, lists: list[list[float]], exponent: float) -> float:
    """Return the sum of the sizes of a factor, each to its power."""
    numbers = [float(len(one)) for one in lists] if name in COUNTED else [n for one in lists for n in one]
    return sum(number**exponent for number in numbers if number > 0)


def work(kind: str, before: Sizes, after: Sizes, law: trainings.Law) -> Range:
    """Return how many times what it took before one kind of work takes after."""
    if before == after:
        return Range(1, 1, 1)

    def times(exponents: dict[str, float]) -> float:
        return growth(before, after, exponents)

    if kind == "saes":  # at widths where arithmetic is all that counts, a training is linear in them
        each = dict.fromkeys(RUNS[1:], 1.0)
        value, steepest = times(each | law.exponents), times(each | {k: max(1.0, e) for k, e in law.exponents.items()})
        return Range(value / law.factor, value, max(value, steepest) * law.factor)
    if kind == "models":
        return Range(*[times({"models": 1, "model_steps": 1, "p": 2})] * 3)
    if kind == "gpts":  # texts need not fill the context
        low, high = times(dict.fromkeys(GPT, 1.0)), times(dict.fromkeys((*GPT, "context"), 1.0))
        return Range(low, math.sqrt(low * high), high)
    runs = times(dict.fromkeys(RUNS, 1.0))
    *_, second, first = sorted(math.prod(times({name: 1.0}) for name in names) for names in BESIDE)
    return Range(*sorted([runs, runs * first, runs * first * max(1.0, second)]))


def not_counted(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the parameters that differ and of which it is not known what they cost."""
    changed = (name for name in after if name != "profile" and before[name] != after[name])
    return sorted(name for name in changed if name not in FACTORS or "hf://" in str(after[name]))


def estimate(profile: str, table: list[dict[str, Any]]) -> list[Row]:
    """Return the cost of every notebook; what several of them train is paid by the first."""
    law = trainings.fitted(table)
    spent: dict[tuple[str, str], float] = defaultdict(float)
    for row in table:
        kind = {"calibrations": "saes", "saes": "saes", "models": "models", "gpts": "gpts"}.get(row["kind"], "beside")
        spent[row["notebook"], kind] += row["core_seconds"]
    found, taught, first = [], set(), {}
    for stem in sorted(path.stem for path in Path("notebooks").glob("[0-9][0-9]_*.ipynb")):
        given = parameters(stem, "paper"), parameters(stem, profile)
        before, after = (sizes(stem, one) for one in given)
        total = Range(0, 0, 0)
        for kind in ("saes", "models", "beside"):
            total = total.plus(Range(*(spent[stem[:2], kind] * n for n in work(kind, before, after, law))))
        if "shape" in given[1]:  # of language models: the first notebook trained those of the reference run
            first = first or before
            setting = json.dumps([after.get(name) for name in SETTING])
            seconds = sum(value for (_, kind), value in spent.items() if kind == "gpts") if setting not in taught else 0
            total = total.plus(Range(*(seconds * n for n in work("gpts", first, after, law))))
            taught.add(setting)
        found.append(Row(stem, total, memory(stem[:2], before, after, table), not_counted(*given)))
    return found


def memory(notebook: str, before: Sizes, after: Sizes, table: list[dict[str, Any]]) -> float:
    """Return GiB: one of Python and its libraries, and arrays of 4 bytes a number.

    SAEs in training are seven times their weights (gradients, two moments, three checkpoints); activations are held
    three times (given, standardised, codes); a language model's logits too.
    """

    def most(side: Sizes, name: str, default: float = 1.0) -> float:
        lists = side.get(name, [])
        numbers = [float(len(one)) for one in lists] if name in COUNTED else [n for one in lists for n in one]
        return max(numbers, default=default)

    rows = [row for row in table if row["notebook"] == notebook and row["kind"] == "saes"]
    d_model = max((r["d_model"] for r in rows), default=128.0) * most(after, "d_model") / most(before, "d_model")
    held = most(after, "p", 0.0) ** 2 + most(after, "data", 0.0)
    numbers = 7 * most(after, "seeds") * 2 * d_model * most(after, "d_sae") + 3 * held * d_model
    if "gpt_steps" in after:
        logits = (most(after, name) for name in ("models", "gpt_batch", "context", "vocabulary"))
        numbers += 3 * math.prod(logits)
    return 1 + 4 * numbers / 2**30


def hours(seconds: Range) -> str:
    """Return core-hours, with the lowest and the highest where these differ."""
    low, value, high = (f"{n / 3600:,.{0 if n >= 36000 else 2}f}" for n in seconds)
    return f"{value:>9}" if low == high else f"{value:>9}  ({low} to {high})"


def main() -> None:
    profile, table = sys.argv[1], trainings.read()
    law, rows = trainings.fitted(table), estimate(profile, table)
    print(f"Profile {profile}, with nothing trained before: core-hours (lowest to highest), memory")
    for row in rows:
        note = f"  not counted: {', '.join(row.not_counted)}" if row.not_counted else ""
        print(f"{row.notebook:38}{hours(row.core_seconds):38}{row.gib:6.1f} GiB{note}")
    print(f"{'all':38}{hours(functools.reduce(Range.plus, (row.core_seconds for row in rows)))}")
    grows = ", ".join(f"{name}^{exponent:.2f}" for name, exponent in law.exponents.items())
    count = sum(row["kind"] == "saes" for row in table)
    print(
        f"Basis: {count} SAE trainings of the reference run, whose core-seconds grow with {grows}.\n"
        f"For 8 notebooks of 10, the law of all others is right to within a factor of {law.factor:.1f}.\n"
        "Highest: exponents of at least 1. What is not training grows with seeds, models, conditions (lowest), and\n"
        "with that of data, draws, latents and model size that grows most (expected), or the two that do (highest).\n"
        "On cores of the machine that made the reference. GPU-hours: none, as no notebook moves its data to one."
    )


if __name__ == "__main__":
    main()
