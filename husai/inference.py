"""The jackknife over seeds for any statistic, and how often tests that take pairs for seeds raise a false alarm."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import mannwhitneyu

from husai import stats
from husai.config import require, stream_seed
from husai.evidence import Estimate


def jackknife(statistic: Callable[[Sequence[int]], float], seeds: int, *, unit: str = "") -> Estimate:
    """Return a statistic of seeds 0..S-1 with its delete-one-seed jackknife interval, t(S-1).

    `statistic` is given the positions of the seeds that it may look at. SE^2 = (S-1)/S sum_i (theta_(-i) - mean)^2
    with theta_(-i) the statistic without seed i; around theta itself, not corrected for bias, as some statistics
    (all seeds but one) mean something else for fewer seeds. For a mean it is `stats.mean`, for a mean over pairs
    `stats.pairwise`. ValueError: fewer than 3 seeds, a value that is not finite. Source: Tukey (1958).
    """
    require(seeds >= 3, "seeds", seeds, stats.SEEDS_WANTED)
    every = list(range(seeds))
    whole = statistic(every)
    without = stats.vector([statistic(every[:i] + every[i + 1 :]) for i in every], "statistic", 1)
    error = math.sqrt((seeds - 1) * without.var())
    return stats.interval(whole, error, seeds - 1.0, seeds, "jackknife over seeds", unit)


def false_alarms(
    n: int,
    rho: float,
    repeats: int = 1000,
    seed: int = 0,
    test: Literal["mann_whitney", "permutation"] = "mann_whitney",
    alpha: float = 0.05,
) -> float:
    """Return how often a test at level alpha tells apart two conditions of n seeds each that do not differ.

    Scores a_i + a_j + e_ij of all pairs of 2n dictionaries, normal, pair variance 1, rho the correlation of two
    pairs that share a seed. `mann_whitney` compares the n(n-1)/2 pairs within one condition with those within the
    other as if they were independent; `permutation` is `stats.permutation`, the exact relabelling of dictionaries.
    ValueError: n outside 3..10, rho outside [0, 1/2], unknown test.
    """
    require(3 <= n <= 10, "n", n, "3 to 10 seeds a condition, so that all relabelings can be counted")
    require(0 <= rho <= 0.5, "rho", rho, "a correlation of pairs that share a seed, 0 to 1/2")
    require(test in ("mann_whitney", "permutation"), "test", test, "'mann_whitney' or 'permutation'")
    rng = np.random.default_rng(stream_seed(seed, "inference/false_alarms"))
    parts = (0, rho, 0, 1 - 2 * rho)
    scores = np.stack([stats.simulate(rng, 2 * n, parts=parts)[0] for _ in range(repeats)])
    if test == "permutation":
        p_values = np.array([stats.permutation(matrix, n) for matrix in scores])
    else:
        first, second = np.triu_indices(n, 1)
        p_values = mannwhitneyu(scores[:, first, second], scores[:, first + n, second + n], axis=1).pvalue
    return float((p_values <= alpha).mean())


def pair_sd(matrix: ArrayLike) -> float:
    """Return the standard deviation of the scores of pairs of different seeds, of `stats.seeds_needed`.

    `matrix` [S, S]. ValueError: as `stats.pairwise`.
    """
    scores = stats.square(matrix, "matrix", 2)
    return float(scores[np.triu_indices(len(scores), 1)].std(ddof=1))
