"""The sources' intervals, which resample pairs of seeds as if they were independent: kept to show what they miss."""

import numpy as np
from numpy.typing import ArrayLike

from husai.config import stream_seed
from husai.evidence import Estimate
from husai.stats import square

RESAMPLES = 10_000


def pair_bootstrap(matrix: ArrayLike, other: ArrayLike | None = None, *, seed: int = 0) -> Estimate:
    """Return the mean over pairs of seeds, less that of `other`, with a percentile interval of resampled pairs.

    `matrix` and `other` are [S, S], of any two S. The pairs of each are drawn with replacement, `RESAMPLES` times, and
    apart from one another. Pairs share seeds, so the interval is too narrow: of nominal 95 % it holds 50 to 70 %
    (`stats.pairwise` is the one to use). n counts seeds. ValueError: fewer than 3 seeds, not symmetric, not finite.
    """
    rng = np.random.default_rng(stream_seed(seed, "pair_bootstrap"))
    value, draws, n = 0.0, np.zeros(RESAMPLES), 0
    for sign, scores in ((1, matrix), (-1, other)):
        if scores is not None:
            scores = square(scores, "matrix" if sign == 1 else "other", 2)
            pairs = scores[np.triu_indices(len(scores), 1)]
            weights = rng.multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), size=RESAMPLES) / len(pairs)
            value, draws, n = (
                value + sign * float(pairs.mean()),
                draws + sign * weights @ pairs,
                n or len(scores),
            )
    low, high = (float(end) for end in np.percentile(draws, (2.5, 97.5)))
    return Estimate(value, min(low, value), max(high, value), n, method="bootstrap over pairs as if independent")


def conservative_bound(trained: ArrayLike, random: ArrayLike, *, seed: int = 0) -> float:
    """Return the sources' "conservative" lower bound of a gap, trained interval's lower end - random interval's upper.

    Both intervals are `pair_bootstrap`'s; arguments and errors are as there.
    """
    return pair_bootstrap(trained, seed=seed).low - pair_bootstrap(random, seed=seed + 1).high
