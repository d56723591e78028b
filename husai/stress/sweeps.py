"""The best of many cells: how often a sweep passes a gate when nothing differs, and what a correction leaves."""

import numpy as np
from scipy.stats import t

from husai import resampling, stats
from husai.config import require, stream_seed
from husai.evidence import Estimate

SEEDS = 3
"""SAE seeds a cell in the sources' sweep: three pairs, whose resampled means reach from their least to their most."""


def published_bound(first: np.ndarray, second: np.ndarray) -> float:
    """Return the sources' lower bound of a difference from the first three seeds of two score matrices."""
    return resampling.conservative_bound(first[:SEEDS, :SEEDS], second[:SEEDS, :SEEDS])


def passes_by_chance(cells: int, rho: float = 0.0, draws: int = 4000, seed: int = 0) -> dict[str, Estimate]:
    """Return how often the best of some cells passes when the two arms are drawn from one distribution.

    A pair of seeds scores a_i + a_j + e_ij, with correlation `rho` between pairs that share a seed; arms and cells are
    independent. "difference": the largest difference of means is above 0; "bound": the largest lower bound is (the
    least pair of one arm less the greatest of the other, which is what resampling three pairs comes to); "holm": some
    cell's difference is above 0 at p < .05 after Holm's correction, by a paired jackknife over seeds. With rho = 0 the
    second is 1 - .95^cells: all three pairs of one arm lie above all of the other in one of 20 orders.
    ValueError: fewer than 1 cell, rho outside [0, 1/2], fewer than 2 draws.
    """
    require(cells >= 1, "cells", cells, "at least one cell")
    require(0 <= rho <= 0.5, "rho", rho, "a correlation of pairs that share a seed, 0 to 1/2")
    require(draws >= 2, "draws", draws, "at least two")
    rng = np.random.default_rng(stream_seed(seed, "stress/sweeps"))
    effects = np.sqrt(rho) * rng.standard_normal((2, draws, cells, SEEDS))
    noise = np.sqrt(1 - 2 * rho) * rng.standard_normal((2, draws, cells, SEEDS))
    pairs = effects + np.roll(effects, -1, axis=-1) + noise  # of three seeds: (0, 1), (1, 2), (2, 0)
    first, second = pairs
    differences = first - second
    means = differences.mean(-1)
    bounds = first.min(-1) - second.max(-1)
    pseudo = 3 * means[..., None] - 2 * np.roll(differences, -1, axis=-1)  # the pair that leaves a seed out
    p = 2 * t.sf(np.abs(means) / (pseudo.std(-1, ddof=1) / np.sqrt(SEEDS)), SEEDS - 1)
    corrected = np.stack([stats.holm(row) for row in p])
    passed = {"difference": means > 0, "bound": bounds > 0, "holm": (corrected < 0.05) & (means > 0)}
    return {name: _share(found.any(-1)) for name, found in passed.items()}


def _share(passed: np.ndarray) -> Estimate:
    """Return the share of sweeps that passed with Wilson's 95 % interval."""
    n, share, z = len(passed), float(passed.mean()), 1.96
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = max(0.0, float(middle - half)), min(1.0, float(middle + half))
    return Estimate(share, min(low, share), max(high, share), n, method="Wilson, over simulated sweeps")
