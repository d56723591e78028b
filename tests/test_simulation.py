"""Simulated coverage: the jackknife keeps its promise, and intervals that ignore what pairs share do not."""

import numpy as np
import pytest

from husai import simulation, stats
from husai.simulation import false_alarms


@pytest.mark.parametrize("n", [5, 8])
def test_jackknife_covers_and_the_pair_bootstrap_does_not(n: int) -> None:
    jackknife, bootstrap = (simulation.coverage(n, 0.25, method=m) for m in ("jackknife", "pair_bootstrap"))
    print(f"coverage of 95 % intervals, {n} seeds, rho .25: jackknife {jackknife:.3f}, pair bootstrap {bootstrap:.3f}")
    assert 0.93 <= jackknife <= 0.98
    assert bootstrap < 0.80


def test_coverage_simulates_what_pairwise_does() -> None:
    rng = np.random.default_rng(1)
    draws = [stats.pairwise(simulation.simulate(rng, 5, parts=(0, 0.25, 0, 0.5))[0]) for _ in range(1500)]
    hits = np.mean([e.low <= 0 <= e.high for e in draws])
    assert hits == pytest.approx(simulation.coverage(5, 0.25), abs=0.02)


def test_crossed_coverage_needs_the_models_in_the_interval() -> None:
    parts = (4, 0.25, 0.25, 0.5)
    both, seeds_alone = (simulation.crossed_coverage(3, 5, parts, 600, alone=alone) for alone in (False, True))
    assert 0.93 <= both <= 0.99 and seeds_alone < 0.9
    assert both == simulation.crossed_coverage(3, 5, parts, 600)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="n is 2"):
        simulation.coverage(2, 0.2)
    with pytest.raises(ValueError, match="rho is 0.9"):
        simulation.coverage(5, 0.9)


@pytest.mark.parametrize("n", [4, 5])
def test_pairs_are_not_seeds(n: int) -> None:
    on_pairs, exact = (false_alarms(n, 0.25, 400, test=test) for test in ("mann_whitney", "permutation"))
    assert on_pairs > 0.12 and exact < 0.07
    assert on_pairs == false_alarms(n, 0.25, 400)


def test_without_a_shared_seed_effect_both_keep_their_level() -> None:
    assert false_alarms(5, 0.0, 400) < 0.08 and false_alarms(5, 0.0, 400, test="permutation") < 0.08


def test_false_alarms_refuse() -> None:
    with pytest.raises(ValueError, match="n is 2"):
        false_alarms(2, 0.1)
    with pytest.raises(ValueError, match="rho"):
        false_alarms(4, 0.6)
