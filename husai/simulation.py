"""How often intervals contain the truth and tests raise a false alarm, by simulation: what `stats` is checked with."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import stats as distributions

from husai.config import require, stream_seed
from husai.stats import SEEDS_WANTED, crossed, pairwise, permutation, pseudo_values


def coverage(
    n: int,
    rho: float,
    repeats: int = 2000,
    seed: int = 0,
    method: Literal["jackknife", "pair_bootstrap"] = "jackknife",
) -> float:
    """Return how often a nominal 95 % interval contains the truth when n seeds make pairs of correlation rho.

    Scores are a_i + a_j + e_ij, normal, pair variance 1, truth 0. `jackknife` is `stats.pairwise`; `pair_bootstrap`
    resamples the n(n-1)/2 pairs as if they were independent (1000 resamples, percentiles). ValueError: n < 3,
    rho outside [0, 1/2].
    """
    require(n >= 3, "n", n, SEEDS_WANTED)
    require(0 <= rho <= 0.5, "rho", rho, "a correlation of pairs that share a seed, 0 to 1/2")
    require(method in ("jackknife", "pair_bootstrap"), "method", method, "'jackknife' or 'pair_bootstrap'")
    rng = np.random.default_rng(stream_seed(seed, "stats/coverage"))
    effect = math.sqrt(rho) * rng.standard_normal((repeats, n))
    first, second = np.triu_indices(n, 1)
    noise = math.sqrt(1 - 2 * rho) * rng.standard_normal((repeats, len(first)))
    pairs = effect[:, first] + effect[:, second] + noise
    if method == "pair_bootstrap":
        weights = rng.multinomial(len(first), np.full(len(first), 1 / len(first)), size=1000) / len(first)
        low, high = np.percentile(pairs @ weights.T, (2.5, 97.5), axis=1)
        return float(((low <= 0) & (high >= 0)).mean())
    matrices = np.zeros((repeats, n, n))
    matrices[:, first, second] = matrices[:, second, first] = pairs
    phi = pseudo_values(matrices)
    half = distributions.t.ppf(0.975, n - 1) * phi.std(-1, ddof=1) / math.sqrt(n)
    return float((np.abs(phi.mean(-1)) <= half).mean())


def simulate(
    rng: np.random.Generator, seeds: int, *, models: int = 1, parts: Sequence[float | int] = (0, 0.3, 0, 0.4)
) -> np.ndarray:
    """Return [models, seeds, seeds] scores around 0; parts are the variances of model, seed, both, rest."""
    model, seed, both, rest = np.sqrt(parts)
    effect = seed * rng.standard_normal(seeds) + both * rng.standard_normal((models, seeds))
    noise = np.triu(rest * rng.standard_normal((models, seeds, seeds)), 1)
    level = model * rng.standard_normal((models, 1, 1))
    return level + effect[:, :, None] + effect[:, None, :] + noise + noise.swapaxes(1, 2)


def crossed_coverage(
    models: int,
    seeds: int,
    parts: Sequence[float | int],
    repeats: int = 1000,
    seed: int = 0,
    alone: bool = False,
) -> float:
    """Return how often a nominal 95 % interval of `stats.crossed` contains the truth of `simulate`d scores.

    `alone` takes `stats.pairwise` of the mean over models instead: an interval over SAE seeds, blind to models.
    """
    rng = np.random.default_rng(stream_seed(seed, "stats/crossed_coverage"))
    draws = (simulate(rng, seeds, models=models, parts=parts) for _ in range(repeats))
    found = (pairwise(x.mean(0)) if alone else crossed(x).estimate for x in draws)
    return float(np.mean([e.low <= 0 <= e.high for e in found]))


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
    rng = np.random.default_rng(stream_seed(seed, "stats/false_alarms"))
    parts = (0, rho, 0, 1 - 2 * rho)
    scores = np.stack([simulate(rng, 2 * n, parts=parts)[0] for _ in range(repeats)])
    if test == "permutation":
        p_values = np.array([permutation(matrix, n) for matrix in scores])
    else:
        first, second = np.triu_indices(n, 1)
        p_values = distributions.mannwhitneyu(scores[:, first, second], scores[:, first + n, second + n], axis=1).pvalue
    return float((p_values <= alpha).mean())
