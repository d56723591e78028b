"""Matched pairs: the most pairs within the caliper, and a confounder that they remove."""

import numpy as np
import pytest

from husai import pairing


def test_pairs_are_within_the_caliper_as_many_as_possible_and_then_as_near_as_possible():
    covariates = np.array([0.0, 1.0, 5.0, 0.9, 1.6, 9.0])[:, None]
    first, second = np.arange(6) < 3, np.arange(6) >= 3
    left, right = pairing.matched_pairs(first, second, covariates, 1.0)
    assert dict(zip(left, right, strict=True)) == {0: 3, 1: 4}, "greedy matching of 1 with 3 would leave 0 alone"
    assert [len(side) for side in pairing.matched_pairs(first, second, covariates, 0.05)] == [0, 0]
    assert len(pairing.matched_pairs(first, np.zeros(6, dtype=bool), covariates, 1.0)[0]) == 0


def test_every_covariate_has_to_match():
    covariates = np.array([[0.0, 0.0], [0.0, 3.0], [0.1, 0.1]])
    left, right = pairing.matched_pairs(np.array([True, False, False]), np.array([False, True, True]), covariates, 1.0)
    assert (left.tolist(), right.tolist()) == ([0], [2])


def test_a_difference_that_the_covariate_explains_vanishes_and_another_stays():
    rng = np.random.default_rng(0)
    rate = rng.normal(size=(4, 3, 200))
    group = rng.random(rate.shape) < 1 / (1 + np.exp(-2 * rate))  # the commoner are more often in the group
    for effect in (0.0, 0.7):
        value = 3 * rate + effect * group + 0.1 * rng.normal(size=rate.shape)
        found = []
        for m in range(4):
            found.append([])
            for r, g, v in zip(rate[m], group[m], value[m], strict=True):
                left, right = pairing.matched_pairs(g, ~g, r[:, None], 0.05)
                found[-1].append(v[left] - v[right])
        estimate = pairing.over_models(found)
        assert estimate.value == pytest.approx(effect, abs=0.05) and estimate.n == 4
        assert value[group].mean() - value[~group].mean() > 1.5, "the groups are unlike without matching"


def test_the_unit_is_the_model_and_a_seed_may_have_no_pair():
    values = [[np.array([1.0, 2.0]), np.array([])], [np.array([3.0]), np.array([5.0])], [np.array([]), np.array([2.5])]]
    estimate = pairing.over_models(values)
    assert estimate.value == pytest.approx((1.5 + 4 + 2.5) / 3) and estimate.n == 3
    assert estimate.method == "mean over models, 5 pairs, t(2)"
    with pytest.raises(ValueError, match=r"\[2, 2, 0\] pairs"):
        pairing.over_models([*values[:2], [np.array([])]])


def test_values_of_saes_are_crossed_over_three_models_and_a_mean_in_one():
    assert pairing.across([[1.0, 2.0, 3.0]]).method.endswith("in this model")
    assert pairing.across(np.arange(9).reshape(3, 3)).method.startswith("jackknife over models")
    with pytest.raises(ValueError, match="one model or 3"):
        pairing.across(np.zeros((2, 3)))


def test_overlapping_groups_are_refused():
    with pytest.raises(ValueError, match="disjoint groups"):
        pairing.matched_pairs(np.ones(2, dtype=bool), np.ones(2, dtype=bool), np.zeros((2, 1)), 1.0)
