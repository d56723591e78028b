"""Knockoffs: their covariances, and the false discovery rate and power where the truth is known."""

import numpy as np
import pytest

from husai import knockoffs


def gaussian(rows: int = 1000, columns: int = 60, decay: float = 0.5, seed: int = 0) -> np.ndarray:
    """Return normal columns with correlations decay^|i - j|."""
    lags = np.abs(np.subtract.outer(np.arange(columns), np.arange(columns)))
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, columns)) @ np.linalg.cholesky(decay**lags).T


def test_covariances_are_those_of_a_design_whose_columns_may_change_places():
    of = knockoffs.design(gaussian(100_000, 6) * 3 + 7)
    both = np.cov(np.concatenate([of.x, knockoffs.knockoffs(of, 0)], 1).T)
    original, copies, across = both[:6, :6], both[6:, 6:], both[:6, 6:]
    assert np.abs(copies - original).max() < 0.02
    assert np.abs(across - (original - np.diag(of.s))).max() < 0.02
    assert of.s.min() > 0.1, "a knockoff that is its original has no power"


def test_uncorrelated_columns_get_independent_knockoffs():
    of = knockoffs.design(gaussian(50_000, 5, decay=1e-9))
    assert of.s == pytest.approx(np.ones(5), abs=0.02)


def test_a_column_that_changes_places_with_its_knockoff_turns_the_sign_of_its_statistic():
    x = gaussian(400, 8)
    of = knockoffs.design(x)
    copies, y = knockoffs.knockoffs(of, 0), (x[:, 0] - x[:, 3] > 0).astype(float)
    w = knockoffs.statistics(of.x, copies, y)
    left, right = of.x.copy(), copies.copy()
    left[:, [0, 5]], right[:, [0, 5]] = copies[:, [0, 5]], of.x[:, [0, 5]]
    turned = np.where(np.isin(np.arange(8), [0, 5]), -1, 1)
    assert knockoffs.statistics(left, right, y) == pytest.approx(w * turned, abs=1e-3)
    assert w[0] > 0.1 and w[3] > 0.1


def test_the_threshold_is_that_of_knockoff_plus():
    w = np.array([9.0, 8, 7, 6, 5, 4, 3, 2, 1, -0.5, 0.0])
    assert knockoffs.selected(w, 0.25).sum() == 9  # (1 + 0) / 9 at t = 1, and 2 / 9 at t = 0.5 with the same columns
    assert knockoffs.selected(w, 0.1).sum() == 0, "nine are too few: 1/9 > 0.1"
    assert knockoffs.selected(np.append(w, 10.0), 0.1).sum() == 10
    assert knockoffs.selected(np.zeros(4), 0.5).sum() == 0


@pytest.mark.parametrize("law", ["linear", "firing"])
def test_normal_columns_keep_the_rate_and_are_found(law):
    found = [knockoffs.rates(knockoffs.design(gaussian(seed=i)), law, 10, q=0.1, seed=i) for i in range(4)]
    if law == "linear":
        assert np.mean([one.power for one in found]) > 0.5
    assert np.mean([one.false for one in found]) <= 0.1


def test_a_label_that_says_nothing_selects_nothing():
    of = knockoffs.design(gaussian())
    y = np.random.default_rng(5).integers(0, 2, 1000).astype(float)
    assert sum(knockoffs.select(of, y, 0.1, seed).any() for seed in range(20)) <= 2


def test_columns_that_depend_on_one_another_beyond_covariance_can_break_the_rate():
    """The check must be able to fail: the label is made of |hidden|, which the other columns hold with noise."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((4000, 8))
    null = np.abs(hidden[:, rng.integers(0, 8, 40)]) + 0.3 * rng.standard_normal((4000, 40))
    of = knockoffs.design(np.concatenate([hidden, null], 1))
    y = (np.abs(hidden).sum(1) > np.median(np.abs(hidden).sum(1))).astype(float)  # of the first 8 columns alone
    chosen = knockoffs.select(of, y)
    assert chosen[8:].sum() > chosen[:8].sum(), "normal knockoffs do not know that |hidden| is in the null columns"


def test_refusals(unchecked):
    with pytest.raises(ValueError, match="x is '1 constant columns'; wanted columns that vary"):
        knockoffs.design(np.concatenate([gaussian(50, 3), np.ones((50, 1))], 1))
    with pytest.raises(ValueError, match="more rows than columns"):
        knockoffs.design(gaussian(5, 6))
    with pytest.raises(ValueError, match="q is 1.5"):
        knockoffs.selected(np.ones(3), 1.5)
    with pytest.raises(ValueError, match="law is 'quadratic'"):
        knockoffs.planted(gaussian(50, 3), np.ones(3, dtype=bool), "quadratic", 0)
    with pytest.raises(ValueError, match="one value for all rows"):
        knockoffs.statistics(gaussian(50, 3), gaussian(50, 3), np.ones(50))
