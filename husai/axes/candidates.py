"""One configuration on all axes: what it says about itself, and what a benchmark says about it, seed by seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64

from husai import comparison, stats
from husai.config import require
from husai.evidence import Estimate
from husai.study import Study


@dataclass(frozen=True)
class Candidate:
    """SAEs of one configuration on one site, S seeds: one value a seed on every axis, and the agreement of all pairs.

    ValueError: an axis without one finite value a seed, or an agreement that is not [seeds, seeds].
    """

    name: str
    """How the configuration is called."""
    address: str
    """The artifact that holds the SAEs, kind/hash: all values are of these and no others."""
    seeds: tuple[int, ...]
    """The SAEs' seeds."""
    values: Mapping[str, tuple[float, ...]]
    """One value a seed on every axis, in the order of `seeds`."""
    agreement: Float64[np.ndarray, "seeds seeds"] = field(repr=False, compare=False)
    """Mean max cosine of the alive decoder rows of every pair of seeds."""

    def __post_init__(self) -> None:
        for axis, found in self.values.items():
            fits = len(found) == len(self.seeds) and bool(np.isfinite(found).all())
            require(fits, axis, list(found), f"one finite value for each of {len(self.seeds)} seeds")
        shape = (len(self.seeds), len(self.seeds))
        require(self.agreement.shape == shape, "agreement.shape", self.agreement.shape, f"{shape}, [seeds, seeds]")

    def on(self, axis: str) -> np.ndarray:
        """Return the values on one axis [seeds]; ValueError: an axis that was not measured."""
        require(axis in self.values, "axis", axis, f"one of {sorted(self.values)}")
        return np.array(self.values[axis])

    def estimate(self, axis: str) -> Estimate:
        """Return the mean over seeds with its interval."""
        return stats.mean(self.on(axis))

    def record(self) -> dict[str, Any]:
        """Return the same as plain lists and numbers, for a file."""
        values = {axis: list(found) for axis, found in self.values.items()}
        return {
            "name": self.name, "address": self.address, "seeds": list(self.seeds), "values": values,
            "agreement": self.agreement.tolist(),
        }  # fmt: skip


def of(name: str, study: Study, external: Mapping[str, Sequence[float]] | None = None) -> Candidate:
    """Return a study as a candidate: its own axes, and those that a benchmark gave it, one value a seed.

    Own axes: "fvu", "l0" and "alive" on held-out activations; "agreement", the mean max cosine of alive rows between
    seeds; "gap_N0" and "gap_N2", the same less that of isotropic and of covariance-matched draws at equal counts. A
    score of pairs enters by its jackknife pseudo-values, whose mean is the mean over pairs. ValueError: fewer than 3
    seeds, or a benchmark with other numbers of values.
    """
    scores = study.scores("mean_max_cosine")
    pairs = {"agreement": scores}
    pairs |= {f"gap_{null}": comparison.compare([study], null).gaps[0] for null in ("N0", "N2")}
    values = {axis: stats.pseudo_values(stats.square(matrix, axis, 2)).tolist() for axis, matrix in pairs.items()}
    values |= study.by_seed | dict(external or {})
    folder = study.folder
    address = f"{folder.parent.name}/{folder.name}"
    plain = {axis: tuple(float(value) for value in found) for axis, found in values.items()}
    return Candidate(name, address, study.seeds, plain, np.array(scores, float))


def difference(a: Candidate, b: Candidate, axis: str) -> Estimate:
    """Return a - b on one axis, paired over their seeds; ValueError: other seeds, or an axis that one lacks."""
    require(a.seeds == b.seeds, "b.seeds", b.seeds, f"{a.seeds}, those of a")
    return stats.difference(a.on(axis), b.on(axis))


def excess(candidate: Candidate, ladder: Sequence[Candidate], axis: str) -> Estimate | None:
    """Return how much higher a candidate stands on an axis than a ladder of settings does at the same L0.

    The ladder is read off at the candidate's mean L0, linearly in log L0 between the two settings next to it, seed by
    seed; the difference is paired over seeds. None where the ladder does not span that L0: nothing is extrapolated.
    ValueError: fewer than two settings, other seeds.
    """
    rungs = sorted(ladder, key=lambda rung: rung.on("l0").mean())
    require(all(rung.seeds == candidate.seeds for rung in rungs), "ladder", "other seeds", f"{candidate.seeds}")
    l0, at = np.array([rung.on("l0").mean() for rung in rungs]), candidate.on("l0").mean()
    require(len(rungs) >= 2, "ladder", f"{len(rungs)} settings", "two or more to read off between")
    if not l0[0] <= at <= l0[-1]:
        return None
    upper = max(1, int(np.searchsorted(l0, at)))
    share = float(np.log(at / l0[upper - 1]) / np.log(l0[upper] / l0[upper - 1]))
    reference = (1 - share) * rungs[upper - 1].on(axis) + share * rungs[upper].on(axis)
    return stats.difference(candidate.on(axis), reference)


def trend(ladder: Sequence[Candidate], axis: str) -> Estimate:
    """Return the change of an axis for twice the L0 along a ladder of settings, by least squares, seed by seed.

    ValueError: fewer than two settings, an axis that one lacks, fewer than 3 seeds.
    """
    require(len(ladder) >= 2, "ladder", f"{len(ladder)} settings", "two or more to draw a line through")
    places = np.log2([rung.on("l0").mean() for rung in ladder])
    return stats.mean(np.polyfit(places, np.stack([rung.on(axis) for rung in ladder]), 1)[0])


def matched(candidate: Candidate, l0: float, tolerance: float = 0.1) -> bool:
    """Return whether every seed's L0 is within a share of the one wanted."""
    return bool((np.abs(candidate.on("l0") / l0 - 1) <= tolerance).all())


def front(candidates: Sequence[Candidate], axes: Mapping[str, int], sure: bool = False) -> list[str]:
    """Return the names of those that no other one beats on all axes: the Pareto front.

    `axes` says which way is better, 1 for up and -1 for down. One beats another by its means, better or equal on every
    axis and better on one; with `sure` only by paired 95 % intervals that lie on the better side of 0 on every axis,
    so that the front is larger. ValueError: no axis, a way other than 1 or -1, other seeds.
    """
    require(bool(axes) and set(axes.values()) <= {1, -1}, "axes", dict(axes), "axes, each with 1 or -1")

    def beats(a: Candidate, b: Candidate) -> bool:
        if sure:
            gaps = [(difference(a, b, axis), way) for axis, way in axes.items()]
            return all((gap.low if way > 0 else -gap.high) > 0 for gap, way in gaps)
        steps = [way * float(a.on(axis).mean() - b.on(axis).mean()) for axis, way in axes.items()]
        return min(steps) >= 0 and max(steps) > 0

    return [b.name for b in candidates if not any(beats(a, b) for a in candidates if a is not b)]
