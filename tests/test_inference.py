"""The jackknife is that of `stats` where both apply; tests on pairs raise false alarms and tests on seeds do not."""

import numpy as np
import pytest

from husai import stats
from husai.inference import false_alarms, jackknife, pair_sd


def test_the_jackknife_of_a_mean_and_of_a_mean_over_pairs() -> None:
    rng = np.random.default_rng(0)
    values, matrix = rng.standard_normal(6), stats.simulate(rng, 6)[0]

    def over_pairs(seeds: list[int]) -> float:
        part = matrix[np.ix_(seeds, seeds)]
        return float(part[np.triu_indices(len(seeds), 1)].mean())

    for found, known in (
        (jackknife(lambda seeds: float(values[list(seeds)].mean()), 6), stats.mean(values)),
        (jackknife(over_pairs, 6), stats.pairwise(matrix)),
    ):
        assert (found.value, found.low, found.high) == pytest.approx((known.value, known.low, known.high))
        assert found.n == 6


def test_the_jackknife_refuses() -> None:
    with pytest.raises(ValueError, match="3 seeds"):
        jackknife(lambda seeds: 0.0, 2)
    with pytest.raises(ValueError, match="finite"):
        jackknife(lambda seeds: float("nan"), 4)


@pytest.mark.parametrize("n", [4, 5])
def test_pairs_are_not_seeds(n: int) -> None:
    on_pairs, exact = (false_alarms(n, 0.25, 400, test=test) for test in ("mann_whitney", "permutation"))
    print(f"false alarms at 5 %, {n} seeds a side: Mann-Whitney on pairs {on_pairs:.3f}, exact {exact:.3f}")
    assert on_pairs > 0.12 and exact < 0.07
    assert on_pairs == false_alarms(n, 0.25, 400)


def test_without_a_shared_seed_effect_both_keep_their_level() -> None:
    assert false_alarms(5, 0.0, 400) < 0.08 and false_alarms(5, 0.0, 400, test="permutation") < 0.08


def test_refusals() -> None:
    with pytest.raises(ValueError, match="n is 2"):
        false_alarms(2, 0.1)
    with pytest.raises(ValueError, match="rho"):
        false_alarms(4, 0.6)


def test_the_spread_of_pairs() -> None:
    matrix = np.array([[9.0, 1, 2], [1, 9, 4], [2, 4, 9]])
    assert pair_sd(matrix) == pytest.approx(np.std([1, 2, 4], ddof=1)), "the diagonal does not count"
