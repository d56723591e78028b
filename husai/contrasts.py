"""Two conditions against each other: how much more the seeds of one agree than those of the other."""

from collections.abc import Hashable, Sequence

import numpy as np
import torch

from husai import groups, resampling
from husai.comparison import Comparison, at_equal_counts, drawn, summarise
from husai.config import require
from husai.evidence import Estimate
from husai.study import Study, score_matrix

STEADY = 0.02
"""Largest change of a difference over the last doubling of the steps: the margin within which scores are equal."""


def contrast(
    first: Sequence[Study], second: Sequence[Study], metric: str = "mean_max_cosine", *, latents: str = "alive"
) -> Estimate:
    """Return how much more the seeds of one condition agree than those of another, paired by model and SAE seed.

    The seed-by-seed scores of `second` are subtracted from those of `first` model by model, and the differences
    `summarise`d. k, width and recipe may differ. Taken at equal alive counts, the rarest latents of the side that has
    more being dropped; `latents="all"` keeps all. ValueError: other models, SAE seeds or activations.
    """
    require(len(first) == len(second) != 2, "second", f"{len(second)} models", f"those of first, {len(first)}; not two")
    for a, b in zip(first, second, strict=True):
        require(a.seeds == b.seeds, "second: seeds", b.seeds, f"those of first, {a.seeds}")
        require(torch.equal(a.activations.mean, b.activations.mean), "second", "other activations", "those of first")
    return summarise(_changes(first, second, metric, latents))


def over_groups(
    study: Study,
    base: Study,
    names: Sequence[Hashable],
    metric: str = "mean_max_cosine",
    *,
    latents: str = "alive",
) -> dict[str, Estimate | float | bool]:
    """Return how much more seeds agree than the same seeds of `base`, `within` and `between` groups of seeds.

    `names` says each seed's group: `groups.agreement` of the `contrast`, paired seed by seed. `drift` is what the
    change between groups gained over the last doubling of the steps, `steady` whether it is within `STEADY`;
    `within_steady` says it of the change within groups. In one model. ValueError: other seeds, no checkpoint half-way,
    and as `groups.agreement`.
    """
    require(base.seeds == study.seeds, "base: seeds", base.seeds, f"those of the study, {study.seeds}")
    half = [one.stopped(one.config.steps // 2) for one in (study, base)]
    sides = ([study], [base]), ([half[0]], [half[1]])
    now, then = (groups.agreement(_changes(*side, metric, latents)[0], names) for side in sides)
    drift = now.between.value - then.between.value
    steady = {"steady": abs(drift) < STEADY, "within_steady": abs(now.within.value - then.within.value) < STEADY}
    return {"within": now.within, "between": now.between, "drift": drift, **steady}


def difference(a: Comparison, b: Comparison) -> Estimate:
    """Return how much further beyond the same null one condition lies than another: gap of a - gap of b.

    Both have the same SAE seeds, and models in the same order; the gaps are subtracted pair by pair, and the interval
    is that of `summarise`. ValueError: other models or seeds, another metric, another null.
    """
    kinds = [(one.metric, one.null) for one in (a, b)]
    require(kinds[0] == kinds[1], "b", kinds[1], f"the metric and the null of a, {kinds[0]}")
    require(a.gaps.shape == b.gaps.shape, "b.gaps.shape", b.gaps.shape, f"the models and seeds of a, {a.gaps.shape}")
    return summarise(a.gaps - b.gaps)


def paired(first: Sequence[Study], second: Sequence[Study]) -> dict[str, Estimate | float | bool]:
    """Return the `contrast` of two conditions by both dictionary metrics, and whether training length decides it.

    `drift` is what the first contrast changed over the last doubling of the steps; `steady` says that it is within
    `STEADY`. ValueError: as `contrast`, or no checkpoint half-way.
    """
    found = contrast(first, second)
    then, there = ([study.stopped(study.config.steps // 2) for study in side] for side in (first, second))
    drift = found.value - contrast(then, there).value
    other = contrast(first, second, "hungarian_mcc")
    return {"difference": found, "hungarian_difference": other, "drift": drift, "steady": abs(drift) < STEADY}


def as_published(
    study: Study, other: Study | None = None, metric: str = "mean_max_cosine"
) -> dict[str, Estimate | float]:
    """Return how much more the seeds of a study agree than those of `other`, or than random ones, by all latents.

    `gap` has the jackknife's interval over seeds; `pairs` has that of the sources, pairs being resampled as if they
    were independent, and `bound` is their conservative lower bound; `times_wider` is the first interval's width over
    the second's. ValueError: other SAE seeds.
    """
    a, b = _sides(study, other, metric)
    gap, pairs = summarise((a - b)[None]), resampling.pair_bootstrap(a, b)
    times = (gap.high - gap.low) / (pairs.high - pairs.low)
    return {"gap": gap, "pairs": pairs, "bound": resampling.conservative_bound(a, b), "times_wider": times}


def along(study: Study, other: Study | None = None) -> dict[int, Estimate]:
    """Return the gap of `as_published` at every stored checkpoint after step 0, `{step: estimate}`."""
    stops = [at for at in study.steps if at]
    sides = [_sides(study.stopped(at), other.stopped(at) if other else None, "mean_max_cosine") for at in stops]
    return {at: summarise((a - b)[None]) for at, (a, b) in zip(stops, sides, strict=True)}


def _sides(study: Study, other: Study | None, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of all latents [seeds, seeds] of a study, and of `other` or else of random matrices."""
    require(other is None or other.seeds == study.seeds, "other: seeds", other and other.seeds, f"{study.seeds}")
    chance = other.scores(metric, "all") if other else score_matrix(metric, drawn(study, "N0", "all"))
    return study.scores(metric, "all"), chance


def _changes(first: Sequence[Study], second: Sequence[Study], metric: str, latents: str) -> np.ndarray:
    """Return the scores of one side less those of the other [models, S, S], at equal alive counts or of all latents."""
    require(latents in ("alive", "all"), "latents", latents, "'alive' or 'all'")
    if latents == "alive":
        matched, other = at_equal_counts(first, second, metric)
        return matched - other
    return np.stack([a.scores(metric, "all") - b.scores(metric, "all") for a, b in zip(first, second, strict=True)])
