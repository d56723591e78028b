"""The sources' interval counts pairs; here it is seen to be as narrow as it is said to be."""

import numpy as np
import pytest

from husai import resampling, simulation, stats


def scores(seeds: int, shared: float, seed: int = 0) -> np.ndarray:
    return simulation.simulate(np.random.default_rng(seed), seeds, parts=(0, shared, 0, 1 - 2 * shared))[0]


def test_the_value_is_the_mean_over_pairs_and_the_interval_that_of_independent_pairs():
    matrix = scores(8, 0.0)
    pairs = matrix[np.triu_indices(8, 1)]
    found = resampling.pair_bootstrap(matrix)
    assert found.value == pytest.approx(pairs.mean()) == stats.pairwise(matrix).value
    assert found.high - found.low == pytest.approx(2 * 1.96 * pairs.std() / np.sqrt(len(pairs)), rel=0.05)
    assert found.n == 8, "seeds, never pairs"


def test_shared_seeds_make_it_too_narrow():
    ratios = [
        (honest.high - honest.low) / (naive.high - naive.low)
        for naive, honest in (
            (resampling.pair_bootstrap(m), stats.pairwise(m)) for m in (scores(8, 0.4, i) for i in range(20))
        )
    ]
    assert np.median(ratios) > 1.8


def test_a_difference_adds_the_spread_of_both_sides():
    a, b = scores(8, 0.0, 1), scores(5, 0.0, 2)
    both, one = resampling.pair_bootstrap(a, b), resampling.pair_bootstrap(a)
    assert both.value == pytest.approx(one.value - stats.pairwise(b).value)
    assert both.high - both.low > one.high - one.low


def test_the_conservative_bound_subtracts_the_randoms_upper_end():
    trained, random = scores(5, 0.0, 3) + 1, np.full((5, 5), 0.25)
    assert resampling.conservative_bound(trained, random) == pytest.approx(
        resampling.pair_bootstrap(trained).low - 0.25
    )


def test_draws_are_those_of_the_seed_and_bad_matrices_are_refused():
    matrix = scores(5, 0.2)
    assert resampling.pair_bootstrap(matrix) == resampling.pair_bootstrap(matrix)
    assert resampling.pair_bootstrap(matrix) != resampling.pair_bootstrap(matrix, seed=1)
    with pytest.raises(ValueError, match="other is '2 seeds'"):
        resampling.pair_bootstrap(matrix, matrix[:2, :2])
