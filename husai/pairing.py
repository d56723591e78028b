"""Two groups compared at equal covariates, by matched pairs; means over models crossed with SAE seeds."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from husai import stats
from husai.config import require
from husai.evidence import Estimate


def matched_pairs(
    first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"], covariates: Float[np.ndarray, "n c"], caliper: float
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Return as many pairs as there can be of one member of each group, no covariate more than `caliper` apart.

    Of all sets with the most pairs, the one with the smallest sum of distances max_c |x_ic - x_jc|; each member is in
    one pair at most, and there may be no pair. ValueError: overlapping groups, a caliper of 0 or less, NaN. Source:
    Rosenbaum (1989), optimal matching for observational studies.
    """
    require(not bool((first & second).any()), "second", "members of first among its own", "disjoint groups")
    require(caliper > 0, "caliper", caliper, "a distance above 0")
    require(bool(np.isfinite(covariates).all()), "covariates", "NaN or Inf", "finite numbers")
    left, right = np.flatnonzero(first), np.flatnonzero(second)
    distances = np.abs(covariates[left, None] - covariates[right]).max(2, initial=0)
    allowed = distances <= caliper
    forbidden = caliper * (min(distances.shape) + 1)  # dearer than any set of allowed pairs
    rows, columns = linear_sum_assignment(np.where(allowed, distances, forbidden))
    kept = allowed[rows, columns]
    return left[rows[kept]], right[columns[kept]]


def over_models(differences: Sequence[Sequence[np.ndarray]], *, unit: str = "") -> Estimate:
    """Return the mean difference with its interval over models; the pairs of all SAEs of a model are one mean.

    `differences` is {one value a pair} by model and SAE seed; a seed may have none, a model may not. n counts models.
    ValueError: fewer than 3 models, a model without a pair.
    """
    require(len(differences) >= 3, "differences", f"{len(differences)} models", "3 or more for an interval over them")
    pooled = [np.concatenate([np.atleast_1d(one) for one in model]) for model in differences]
    counts = [len(values) for values in pooled]
    require(min(counts) > 0, "differences", f"{counts} pairs", "at least one pair in every model")
    estimate = stats.mean([float(values.mean()) for values in pooled], unit=unit)
    return replace(estimate, method=estimate.method.replace("seeds", f"models, {sum(counts)} pairs"))


def across(values: ArrayLike) -> Estimate:
    """Return the mean of one value an SAE [models, seeds]: crossed from three models on, else over one model's seeds.

    ValueError: two models, fewer than 3 seeds, not finite.
    """
    table = np.asarray(values, float)
    wanted = "[models, seeds], one model or 3 and more"
    require(table.ndim == 2 and len(table) != 2, "values.shape", table.shape, wanted)
    if len(table) >= 3:
        return stats.crossed(table).estimate
    estimate = stats.mean(table[0])
    return replace(estimate, method=f"{estimate.method}, in this model")
