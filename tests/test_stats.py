"""Statistics: definitions by naive loops, coverage by simulation, exact tests, power, refusals."""

from itertools import combinations
from math import comb, sqrt

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from husai import simulation, stats
from husai.evidence import Estimate

scores = simulation.simulate


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_pairwise_is_the_delete_one_seed_jackknife(seeds: int) -> None:
    matrix = scores(np.random.default_rng(seeds), seeds)[0]
    np.fill_diagonal(matrix, np.nan)  # never read
    pairs = list(combinations(range(seeds), 2))
    value = np.mean([matrix[i, j] for i, j in pairs])
    without = [np.mean([matrix[i, j] for i, j in pairs if k not in (i, j)]) for k in range(seeds)]
    error = sqrt((seeds - 1) / seeds * sum((x - value) ** 2 for x in without))
    estimate = stats.pairwise(matrix, unit="cos")
    assert estimate.value == pytest.approx(value)
    assert estimate.high - estimate.value == pytest.approx(t.ppf(0.975, seeds - 1) * error)
    assert (estimate.n, estimate.unit, estimate.method) == (
        seeds,
        "cos",
        f"jackknife over seeds, t({seeds - 1})",
    )


def test_mean_is_the_textbook_interval() -> None:
    estimate = stats.mean([1.0, 2.0, 3.0, 4.0])
    half = 3.182446 * sqrt(5 / 3) / 2
    assert (estimate.value, estimate.high, estimate.low) == pytest.approx((2.5, 2.5 + half, 2.5 - half))
    assert estimate.n == 4


def test_difference_is_paired() -> None:
    rng = np.random.default_rng(0)
    a, b = scores(rng, 6)[0], scores(rng, 6)[0]
    paired, direct = stats.difference(a, b), stats.pairwise(a - b)
    assert (paired.value, paired.low, paired.high) == pytest.approx((direct.value, direct.low, direct.high))
    shifted = stats.difference(a + 0.1, a)
    assert (shifted.low, shifted.high) == pytest.approx((0.1, 0.1)), "what both arms share drops out"
    vectors = stats.difference([1.0, 2.0, 4.0], [0.0, 1.0, 2.0])
    assert vectors.value == pytest.approx(4 / 3) and vectors.n == 3


def test_jackknife_of_any_statistic_is_the_special_ones_where_they_exist() -> None:
    rng = np.random.default_rng(11)
    matrix, values = scores(rng, 5)[0], rng.standard_normal(5)

    def of_pairs(kept: list[int]) -> float:
        return float(np.mean([matrix[p] for p in combinations(kept, 2)]))

    assert_same(stats.jackknife(of_pairs, 5), stats.pairwise(matrix))
    assert_same(stats.jackknife(lambda kept: values[kept].mean(), 5), stats.mean(values))


def assert_same(a: Estimate, b: Estimate) -> None:
    assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high))
    assert a.n == b.n and a.method.endswith("t(4)")


def test_jackknife_of_a_smooth_function_is_the_delta_method() -> None:
    values = 10 + np.random.default_rng(12).standard_normal(400)
    found, plain = stats.jackknife(lambda kept: np.log(values[kept].mean()), 400), stats.mean(values)
    assert found.value == pytest.approx(np.log(plain.value))
    assert found.high - found.low == pytest.approx((plain.high - plain.low) / plain.value, rel=0.01)


def test_crossed_is_the_sum_of_two_jackknives() -> None:
    data = scores(np.random.default_rng(3), 5, models=4, parts=(1, 0.3, 0.2, 0.4))
    off = ~np.eye(5, dtype=bool)
    value = data[:, off].mean()
    by_model = np.array([np.delete(data, m, 0)[:, off].mean() for m in range(4)])
    by_seed = []
    for i in range(5):
        kept = np.delete(np.delete(data, i, 1), i, 2)
        by_seed.append(kept[:, ~np.eye(4, dtype=bool)].mean())
    parts = 3 / 4 * ((by_model - value) ** 2).sum(), 4 / 5 * ((np.array(by_seed) - value) ** 2).sum()
    df = sum(parts) ** 2 / (parts[0] ** 2 / 3 + parts[1] ** 2 / 4)
    result = stats.crossed(data)
    assert result.df == pytest.approx(df) and 3 <= df <= 7
    assert result.estimate.value == pytest.approx(value)
    assert result.estimate.high - value == pytest.approx(t.ppf(0.975, df) * sqrt(sum(parts)))
    assert result.estimate.n == 4 and result.estimate.method.startswith("jackknife over models and SAE seeds, t(")


@pytest.mark.parametrize(
    ("models", "parts"),
    [
        (3, (1, 0.25, 0.25, 0.5)),
        (3, (4, 0.25, 0.25, 0.5)),
        (5, (8, 1, 0.25, 6)),
        (5, (0.1, 1, 0.2, 0.5)),
    ],
)
def test_crossed_covers_and_its_variances_are_unbiased(models: int, parts: tuple[float, ...]) -> None:
    rng = np.random.default_rng(4)
    data = [scores(rng, 5, models=models, parts=parts) for _ in range(1200)]
    results = [stats.crossed(x) for x in data]
    hits = np.mean([r.estimate.low <= 0 <= r.estimate.high for r in results])
    seeds_alone = np.mean([e.low <= 0 <= e.high for e in (stats.pairwise(x.mean(0)) for x in data)])
    print(f"coverage, {models} models x 5 seeds {parts}: crossed {hits:.3f}, seeds alone {seeds_alone:.3f}")
    assert 0.93 <= hits <= 0.98
    if parts[0] >= 4:
        assert seeds_alone < 0.9, "an interval over seeds alone does not generalise over models"
    variances = np.mean([r[1:4] for r in results], axis=0)
    assert variances == pytest.approx([parts[0], parts[1], 2 * parts[2] + parts[3]], rel=0.1, abs=0.1)


def test_crossed_takes_one_value_a_seed_too() -> None:
    rng = np.random.default_rng(5)
    draws = [
        stats.crossed(rng.standard_normal((4, 1)) + 0.5 * rng.standard_normal(6) + 0.7 * rng.standard_normal((4, 6)))
        for _ in range(1000)
    ]
    assert 0.93 <= np.mean([r.estimate.low <= 0 <= r.estimate.high for r in draws]) <= 0.98
    assert np.mean([r[1:4] for r in draws], axis=0) == pytest.approx([1, 0.25, 0.49], rel=0.1)


def test_crossed_at_its_smallest_and_on_constants() -> None:
    assert stats.crossed(scores(np.random.default_rng(6), 3, models=3)).estimate.n == 3
    flat = stats.crossed(np.full((3, 4, 4), 0.25))
    assert (flat.estimate.low, flat.estimate.high, flat.var_model, flat.var_seed, flat.var_rest) == (
        0.25,
        0.25,
        0,
        0,
        0,
    )


def test_permutation_counts_every_relabelling() -> None:
    matrix = scores(np.random.default_rng(7), 6)[0]

    def statistic(chosen: tuple[int, ...]) -> float:
        rest = [i for i in range(6) if i not in chosen]
        return np.mean([matrix[p] for p in combinations(chosen, 2)]) - np.mean(
            [matrix[p] for p in combinations(rest, 2)]
        )

    every = [abs(statistic(c)) for c in combinations(range(6), 3)]
    expected = np.mean([x >= abs(statistic((0, 1, 2))) - 1e-12 for x in every])
    assert stats.permutation(matrix, 3) == pytest.approx(expected)


@pytest.mark.parametrize("n", [3, 4, 5, 8])
def test_smallest_permutation_p(n: int) -> None:
    alike = np.zeros((2 * n, 2 * n))
    alike[:n, :n] = 0.9
    assert stats.permutation(alike, n) == pytest.approx(2 / comb(2 * n, n))
    assert stats.permutation(np.full((2 * n, 2 * n), 0.3), n) == 1


def test_tost_agrees_with_the_interval_rule() -> None:
    estimate = stats.mean([0.001, 0.004, -0.002, 0.003, 0.000])
    edge = max(abs(estimate.low), abs(estimate.high))
    assert stats.tost(estimate, edge) == pytest.approx(0.025)
    assert stats.tost(estimate, 2 * edge) < 0.025 < stats.tost(estimate, edge / 2)
    assert stats.tost(estimate, abs(estimate.value)) == pytest.approx(0.5)
    result = stats.crossed(scores(np.random.default_rng(8), 5, models=4))
    edge = max(abs(result.estimate.low), abs(result.estimate.high))
    assert stats.tost(result.estimate, edge, result.df) == pytest.approx(0.025)


def test_holm() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.6, 0.7]) == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("pair_sd", "wanted"),
    [(0.003, (4, 4, 4)), (0.005, (5, 6, 8)), (0.010, (11, 18, 27)), (0.020, (30, 65, 102))],
)
def test_seeds_needed(pair_sd: float, wanted: tuple[int, ...]) -> None:
    found = [stats.seeds_needed(pair_sd, rho, 0.01) for rho in (0.1, 0.25, 0.4)]
    assert found == pytest.approx(wanted, abs=2)
    assert stats.seeds_needed(pair_sd, 0.25, 1.0) == 3, "no interval with fewer"


TWO, ODD = np.eye(2), np.arange(9.0).reshape(3, 3)
GAP = np.where(np.eye(4, k=1) + np.eye(4, k=-1), np.nan, 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.pairwise(TWO), "matrix is '2 seeds'; wanted at least 3 seeds"),
        (lambda: stats.pairwise(np.ones((3, 4))), r"matrix.shape is \(3, 4\); wanted \[seed, seed\]"),
        (lambda: stats.pairwise(ODD), "matrix is 'not symmetric'"),
        (lambda: stats.pairwise(GAP), "matrix is 'NaN or Inf'"),
        (lambda: stats.mean([1.0, 2.0]), "values is '2 seeds'"),
        (lambda: stats.mean([1.0, 2.0, np.nan]), "values is 'NaN or Inf'"),
        (lambda: stats.mean(ODD), r"values.shape is \(3, 3\); wanted \[seed\]"),
        (lambda: stats.difference(np.eye(4), np.eye(3)), r"b.shape is \(3, 3\); wanted the shape of a"),
        (lambda: stats.difference([1.0, 2.0], [1.0, 2.0]), "a is '2 seeds'"),
        (lambda: stats.difference(np.eye(3), ODD), "b is 'not symmetric'"),
        (lambda: stats.crossed(np.ones((2, 5, 5))), "scores is '2 models'; wanted 3 or more"),
        (lambda: stats.crossed(np.ones((3, 2, 2))), "scores is '2 seeds'"),
        (lambda: stats.crossed(np.ones(5)), "scores.shape"),
        (lambda: stats.crossed([[1.0, 2.0, np.inf]] * 3), "scores is 'NaN or Inf'"),
        (lambda: stats.permutation(np.eye(4), 2), "n is 2"),
        (lambda: stats.permutation(np.eye(7), 3), r"matrix.shape is \(7, 7\); wanted \[6, 6\]"),
        (lambda: stats.tost(Estimate(0.0, -1.0, 1.0, 5), 0.0), "margin is 0.0"),
        (lambda: stats.tost(Estimate(0.0, 0.0, 0.0, 5), 0.1), "estimate is"),
        (lambda: stats.holm([0.1, 1.2]), "p_values is"),
        (lambda: stats.holm([0.1, np.nan]), "p_values is"),
        (lambda: stats.seeds_needed(0.0, 0.2, 0.1), "pair_sd is 0.0"),
        (lambda: stats.seeds_needed(0.1, 0.6, 0.1), "rho is 0.6"),
        (lambda: stats.seeds_needed(0.1, 0.2, 0.0), "effect is 0.0"),
        (lambda: stats.seeds_needed(0.1, 0.2, 0.1, power=0.01), "alpha, power"),
        (lambda: stats.jackknife(len, 2), "n is 2; wanted at least 3 seeds"),
        (lambda: stats.jackknife(lambda kept: np.nan if 0 in kept else 1.0, 3), "statistic is .*nan"),
    ],
)
def test_refusals(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_the_spread_of_pairs_leaves_the_diagonal_out() -> None:
    matrix = np.array([[9.0, 1, 2], [1, 9, 4], [2, 4, 9]])
    assert stats.pair_sd(matrix) == pytest.approx(np.std([1, 2, 4], ddof=1))


def test_p_value_and_interval_say_the_same() -> None:
    estimate = stats.mean([1.0, 2.0, 4.0, 3.0])
    assert stats.p_value(estimate) == pytest.approx(ttest_1samp([1.0, 2.0, 4.0, 3.0], 0).pvalue)
    edge = Estimate(1.0, 0.0, 2.0, 6)
    assert stats.p_value(edge) == pytest.approx(0.05), "zero at the end of the interval"
    with pytest.raises(ValueError, match="an interval over 2 or more units"):
        stats.p_value(Estimate(1.0, 1.0, 1.0, 6))


def test_what_is_detectable_is_found_that_often() -> None:
    rng = np.random.default_rng(5)
    sd, n = 0.3, 6
    error = sd / sqrt(n)
    half = float(t.ppf(0.975, n - 1) * error)
    effect = stats.detectable(Estimate(0.0, -half, half, n))
    found = [ttest_1samp(rng.normal(effect, sd, n), 0).pvalue < 0.05 for _ in range(4000)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.02)
    assert stats.detectable(Estimate(0.0, -half, half, n), power=0.9) > effect > half
    with pytest.raises(ValueError, match="0 < alpha < power < 1"):
        stats.detectable(Estimate(0.0, -half, half, n), power=0.01)


def test_an_effect_far_above_the_spread_needs_the_fewest_seeds_that_can_be_compared() -> None:
    assert [stats.seeds_needed(1e-4, 0.25, effect) for effect in (0.01, 0.1, 1.0)] == [3, 3, 3]
