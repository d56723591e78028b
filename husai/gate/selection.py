"""Candidates for release: one a configuration, scored over its seeds, compared by bounds that need no pool.

A candidate is a configuration, never a seed: the best of several seeds is an optimistic draw. Its scores carry t
intervals over seeds, and candidates are compared by the ends of these intervals: by dominance (`front`), or by how far
each stands from fixed thresholds (`decisions.ranking`). Neither changes when other candidates join or leave.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from husai import stats
from husai.config import require
from husai.evidence import Estimate


@dataclass(frozen=True)
class Score:
    """One quantity of one candidate over its seeds, and what it was measured on."""

    estimate: Estimate
    """Mean over seeds with its t interval; its unit is part of what it means."""
    data: str
    """Digest (or name) of the evaluation data: scores of other data are another quantity."""
    definition: str
    """What was computed, in words: two definitions of one name are never compared."""


@dataclass(frozen=True)
class Candidate:
    """One configuration that could be released, as the SAEs of all its seeds."""

    name: str
    config: str
    """Fingerprint of the configuration without the seed."""
    digest: str
    """Hash of the weights of all seeds: what every piece of evidence must name."""
    seeds: tuple[int, ...]
    scores: Mapping[str, Score] = field(default_factory=dict)
    data: str = ""
    """Digest of the held-out inputs that are its own: no evidence of another kind of inputs."""

    def __post_init__(self) -> None:
        for argument in ("name", "config", "digest"):
            require(bool(getattr(self, argument)), argument, getattr(self, argument), "something: it identifies")
        require(len({*self.seeds}) == len(self.seeds), "seeds", self.seeds, "each seed once")


class Metric(NamedTuple):
    """What candidates are compared by."""

    name: str
    better: Literal["higher", "lower"] = "higher"


def over_seeds(values: Sequence[float], data: str, definition: str, unit: str = "") -> Score:
    """Return the score of one value a seed; ValueError: fewer than 3 seeds, a value that is not finite."""
    return Score(stats.mean(values, unit=unit), data, definition)


def summarised(mean: float, sd: float, n: int, data: str, definition: str, unit: str = "") -> Score:
    """Return the score of n seeds known by their mean and standard deviation: mean +- t(n - 1) sd / sqrt(n).

    ValueError: fewer than 3 seeds, not finite, no spread.
    """
    require(n >= 3, "n", n, stats.SEEDS_WANTED)
    require(math.isfinite(mean) and math.isfinite(sd), "mean, sd", (mean, sd), "finite values")
    require(sd > 0, "sd", sd, "a spread over seeds: without it a bound is the point itself")
    estimate = stats.interval(mean, sd / math.sqrt(n), n - 1.0, n, "mean over seeds", unit)
    return Score(estimate, data, definition)


def sound(estimate: Estimate) -> str:
    """Return what is wrong with an estimate as a t interval over seeds; empty when nothing is."""
    if not all(map(math.isfinite, (estimate.value, estimate.low, estimate.high))):
        return "the value is not a finite number"
    if estimate.n < 3:
        return f"n = {estimate.n}: no interval is honest with fewer than 3 seeds"
    if estimate.high <= estimate.low:
        return "the interval has no width: its bound is the point itself"
    if not re.search(r"\bt\(\d", estimate.method):  # a t interval names its degrees of freedom
        return f"the interval is not one of t over seeds (method: {estimate.method or 'not named'})"
    return ""


def bound(candidate: Candidate, metric: Metric) -> float:
    """Return the pessimistic end of a score's interval, its sign turned where lower is better.

    ValueError: no such score, an interval that is not `sound`.
    """
    known = f"one of {sorted(candidate.scores)}"
    require(metric.name in candidate.scores, f"candidate {candidate.name}: metric", metric.name, known)
    require(metric.better in ("higher", "lower"), f"metric {metric.name}: better", metric.better, "'higher' or 'lower'")
    estimate = candidate.scores[metric.name].estimate
    require(not sound(estimate), f"candidate {candidate.name}: {metric.name}", str(estimate), sound(estimate))
    return estimate.low if metric.better == "higher" else -estimate.high


def require_comparable(candidates: Sequence[Candidate], metrics: Sequence[Metric]) -> None:
    """Refuse candidates whose scores of one name differ in data, definition or unit."""
    for metric in metrics:
        for what in ("data", "definition", "unit"):
            found: dict[str, list[str]] = {}
            for candidate in candidates:
                score = candidate.scores.get(metric.name)
                require(score is not None, f"candidate {candidate.name}: metric", metric.name, "a score of it")
                assert score is not None
                value = score.estimate.unit if what == "unit" else getattr(score, what)
                found.setdefault(value, []).append(candidate.name)
            require(len(found) <= 1, f"{what} of {metric.name}", found, "one for all candidates: else never pooled")


def front(candidates: Sequence[Candidate], metrics: Sequence[Metric]) -> list[str]:
    """Return the names of the candidates that no other is at least as good as in every bound and better in one.

    Whether one candidate dominates another depends on these two alone. ValueError: `require_comparable`, `bound`.
    """
    require_comparable(candidates, metrics)
    bounds = {one.name: [bound(one, metric) for metric in metrics] for one in candidates}
    return [name for name in bounds if not any(_dominates(other, bounds[name]) for other in bounds.values())]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True)) and any(a > b for a, b in zip(one, other, strict=True))
