"""The sources' selection, re-enacted on the means and deviations that they print: what its choices rest on.

Their rule takes mean - 1.96 sd / sqrt(n) as the lower bound, stretches every metric to 0..1 over whichever candidates
are in the pool, and adds the stretched metrics with weights. `book/selection.toml` holds the reported values.
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from husai import stats
from husai.config import fingerprint, require
from husai.evidence import Estimate
from husai.gate.selection import Candidate, Metric, front, summarised
from husai.provenance import ROOT

METRICS = (Metric("sae"), Metric("ce"))


@dataclass(frozen=True)
class Reported:
    """One candidate as printed: means over seeds, their standard deviations where given."""

    name: str
    n: int
    sae: float
    """SAEBench: AUC of the probe less that of the model."""
    ce: float
    """CE-Bench: interpretability less that of a public SAE."""
    ev: float
    """Explained variance of the training data, as printed."""
    sae_sd: float = math.nan
    ce_sd: float = math.nan


def load(path: Path | None = None) -> tuple[list[Reported], list[Reported], dict[str, dict[str, float]]]:
    """Return the candidates of the five-seed frontier, those of other studies, and the two sets of weights."""
    entries: dict[str, Any] = tomllib.loads((path or ROOT / "book" / "selection.toml").read_text())
    rows = {kind: [Reported(name, **row) for name, row in entries[kind].items()] for kind in ("frontier", "elsewhere")}
    return rows["frontier"], rows["elsewhere"], entries["weights"]


def normal_bound(mean: float, sd: float, n: int) -> float:
    """Return mean - 1.96 sd / sqrt(n); the mean itself for one seed, or where no deviation is printed."""
    return mean if n == 1 or math.isnan(sd) else mean - 1.96 * sd / math.sqrt(n)


def scores(pool: Sequence[Reported], weights: Mapping[str, float]) -> dict[str, float]:
    """Return the sources' score of each candidate: the weighted sum of metrics stretched to 0..1 over the pool."""
    columns = {
        "sae": [normal_bound(row.sae, row.sae_sd, row.n) for row in pool],
        "ce": [normal_bound(row.ce, row.ce_sd, row.n) for row in pool],
        "ev": [row.ev for row in pool],
    }
    require({*weights} == {*columns}, "weights", sorted(weights), f"one for each of {sorted(columns)}")
    stretched = {name: _stretched(values) for name, values in columns.items()}
    return {row.name: sum(weights[m] * stretched[m][i] for m in columns) for i, row in enumerate(pool)}


def _stretched(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]


def choice(pool: Sequence[Reported], weights: Mapping[str, float]) -> str:
    """Return the candidate with the highest score by the sources' rule."""
    found = scores(pool, weights)
    return max(found, key=lambda name: found[name])


def candidates(rows: Sequence[Reported]) -> list[Candidate]:
    """Return the same candidates with t intervals, as `selection` compares them."""
    units = {"sae": ("16 probing data sets", "AUC less the model's", "AUC"),
             "ce": ("200 story pairs", "interpretability less a public SAE's", "CE-Bench")}  # fmt: skip
    return [
        Candidate(
            row.name, fingerprint(row.name), fingerprint([row.name, row.n]), tuple(range(row.n)),
            {m: summarised(getattr(row, m), getattr(row, f"{m}_sd"), row.n, *unit) for m, unit in units.items()},
        )
        for row in rows
    ]  # fmt: skip


def lead(one: Reported, other: Reported, metric: str) -> Estimate:
    """Return mean(one) - mean(other) of two groups of seeds known by mean and deviation.

    SE^2 = sd_1^2 / n_1 + sd_2^2 / n_2; t with the fewer seeds' degrees of freedom, n - 1, which is never too narrow.
    """
    error2 = sum(getattr(row, f"{metric}_sd") ** 2 / row.n for row in (one, other))
    n, gap = min(one.n, other.n), getattr(one, metric) - getattr(other, metric)
    return stats.interval(gap, math.sqrt(error2), n - 1.0, n, "difference of means over seeds", "")


def reenact(path: Path | None = None) -> dict[str, Any]:
    """Return what the sources' rule and ours choose among the reported candidates, and what each choice rests on."""
    frontier, elsewhere, weights = load(path)
    rows = {row.name: row for row in frontier}
    first, second = weights["first"], weights["second"]
    alone, pooled = scores(frontier, first), scores([*frontier, *elsewhere], first)
    chosen = front(candidates(frontier), METRICS)
    return {
        "topk_lcb": normal_bound(rows["topk"].sae, rows["topk"].sae_sd, rows["topk"].n),
        "relu_lcb": normal_bound(rows["relu"].sae, rows["relu"].sae_sd, rows["relu"].n),
        "alone_choice": choice(frontier, first),
        "pooled_choice": choice([*frontier, *elsewhere], first),
        "second_choice": choice([*frontier, *elsewhere], second),
        "second_alone_choice": choice(frontier, second),
        "alone_lead": alone["topk"] - alone["relu"],
        "pooled_lead": pooled["topk"] - pooled["relu"],
        "relu_lead_sae": lead(rows["relu"], rows["topk"], "sae"),
        "topk_lead_ce": lead(rows["topk"], rows["relu"], "ce"),
        "front": ", ".join(chosen),
        "front_size": len(chosen),
    }
