"""One configuration on all axes: what it says about itself, and what a benchmark says about it, seed by seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from husai import gains, nulls, stats
from husai.benches import probing
from husai.config import require
from husai.evidence import Estimate
from husai.study import Study, score_matrix


@dataclass(frozen=True, eq=False)
class Candidate:
    """SAEs of one configuration on one site, S seeds: on every axis one value a seed, or one a task and seed.

    ValueError: an axis that is neither [seeds] nor [tasks, seeds], or not finite.
    """

    name: str
    """How the configuration is called."""
    seeds: tuple[int, ...]
    """The SAEs' seeds."""
    values: Mapping[str, Float[np.ndarray, "*tasks seeds"]]
    """The values on every axis, seeds last."""
    tasks: tuple[str, ...] = ()
    """Names of the tasks, "one class | other"."""
    sound: bool = True
    """Whether the SAEs reconstruct, live and have their L0; the plateau is not asked for."""

    def __post_init__(self) -> None:
        shapes = ((len(self.seeds),), (len(self.tasks), len(self.seeds)))
        for axis, found in self.values.items():
            fits = found.shape in shapes and bool(np.isfinite(found).all())
            require(fits, axis, found.tolist(), f"finite values, {shapes[0]} or {shapes[1]}")

    def on(self, axis: str) -> Float[np.ndarray, "*tasks seeds"]:
        """Return the values on one axis; ValueError: an axis that was not measured."""
        require(axis in self.values, "axis", axis, f"one of {sorted(self.values)}")
        return self.values[axis]

    def estimate(self, axis: str) -> Estimate:
        """Return the mean with its interval (`over`)."""
        return over(self.on(axis), self.tasks)


def over(values: Float[np.ndarray, "*tasks seeds"], tasks: Sequence[str]) -> Estimate:
    """Return the mean with its interval: over seeds, or, where there is a value a task, over classes and seeds."""
    return stats.mean(values) if values.ndim == 1 else probing.over_classes(values, tasks)


def of(
    name: str, study: Study, external: Mapping[str, Sequence[float] | np.ndarray], tasks: Sequence[str] = ()
) -> Candidate:
    """Return a study as a candidate: "fvu", "l0" and "alive" on held-out activations, and what benchmarks gave it."""
    values = {axis: np.array(found, float) for axis, found in (study.by_seed | dict(external)).items()}
    return Candidate(name, study.seeds, values, tuple(tasks), gains.sound(study))


def beyond(studies: Mapping[Any, Study]) -> dict[Any, list[float]]:
    """Return how much more the seeds of every study agree than covariance-matched draws, at one number of latents.

    Mean max cosine of each seed's commonest latents, as many as the study with the fewest has alive in that seed,
    less that of as many draws (N2): the jackknife pseudo-values, whose mean is the mean over pairs. ValueError: other
    seeds or activations among the studies.
    """
    first = next(iter(studies.values()))
    for one in studies.values():
        require(one.seeds == first.seeds, "studies: seeds", one.seeds, f"one list for all, {first.seeds}")
        same = torch.equal(one.activations.mean, first.activations.mean)
        require(same, "studies", "other activations", "one site for all")
    counts = torch.stack([one.alive.sum(1) for one in studies.values()]).amin(0).tolist()
    root = first.activations.root
    rows = [nulls.coloured(root, n, seed) for n, seed in zip(counts, first.seeds, strict=True)]
    drawn = score_matrix("mean_max_cosine", rows)
    scores = {name: one.matrix("mean_max_cosine", one.commonest(counts)) for name, one in studies.items()}
    return {
        name: stats.pseudo_values(stats.square(found - drawn, str(name), 2)).tolist() for name, found in scores.items()
    }


def difference(a: Candidate, b: Candidate, axis: str) -> Estimate:
    """Return a - b on one axis, paired over tasks and seeds; ValueError: other seeds, or an axis that one lacks."""
    require(a.seeds == b.seeds, "b.seeds", b.seeds, f"{a.seeds}, those of a")
    return over(a.on(axis) - b.on(axis), a.tasks)


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
    return over(candidate.on(axis) - reference, candidate.tasks)


def trend(ladder: Sequence[Candidate], axis: str) -> Estimate:
    """Return the change of an axis for twice the L0 along a ladder of settings, by least squares, value by value.

    ValueError: fewer than two settings, an axis that one lacks, fewer than 3 seeds.
    """
    require(len(ladder) >= 2, "ladder", f"{len(ladder)} settings", "two or more to draw a line through")
    places = np.log2([rung.on("l0").mean() for rung in ladder])
    values = np.stack([rung.on(axis) for rung in ladder])
    slopes = np.polyfit(places, values.reshape(len(ladder), -1), 1)[0]
    return over(slopes.reshape(values.shape[1:]), ladder[0].tasks)


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
