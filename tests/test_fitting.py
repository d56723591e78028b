"""Fits find known curves; out of sample, a law that all groups share is found and one that they do not share is not."""

import numpy as np
import pytest

from husai import fitting

RATIO = np.geomspace(0.2, 20, 12)
GROUPS = np.repeat(list("abcde"), len(RATIO))


@pytest.mark.parametrize("curve", [fitting.PowerLaw(0.3, 0.7, 0.1), fitting.PowerLaw(-0.2, 2.0, 0.5)])
def test_a_known_curve_is_found(curve):
    found = fitting.power_law(RATIO, curve(RATIO))
    assert found == pytest.approx(curve, rel=0.03)
    assert fitting.r_squared(curve(RATIO), found(RATIO)) > 0.9999


def test_no_other_exponent_level_and_scale_fit_better():
    rng = np.random.default_rng(0)
    score = 0.4 / RATIO + 0.1 * rng.standard_normal(len(RATIO))
    found = fitting.power_law(RATIO, score)
    error = ((score - found(RATIO)) ** 2).sum()
    for change in rng.standard_normal((200, 3)) * 0.05:
        moved = fitting.PowerLaw(*np.add(found, change))
        assert ((score - moved(RATIO)) ** 2).sum() >= error * (1 - 1e-3)


def test_r_squared_of_the_truth_the_mean_and_worse():
    score = [1.0, 2.0, 3.0]
    assert fitting.r_squared(score, score) == 1
    assert fitting.r_squared(score, [2, 2, 2]) == 0
    assert fitting.r_squared(score, [3, 2, 1]) == -3
    assert fitting.r_squared(score, [2, 2, 2], reference=[4, 4, 4]) == pytest.approx(1 - 2 / 14)


def test_a_shared_law_predicts_groups_that_it_has_not_seen():
    noise = 0.01 * np.random.default_rng(1).standard_normal(len(GROUPS))
    estimate = fitting.out_of_sample(np.tile(RATIO, 5), np.tile(0.3 / RATIO**0.8, 5) + noise, GROUPS)
    assert estimate.n == 5 and estimate.low > 0.95


def test_laws_that_differ_by_group_do_not_predict_although_each_group_fits_perfectly():
    levels = np.repeat([0.0, 0.2, 0.4, 0.6, 0.8], len(RATIO))
    score = levels + np.tile(0.05 / RATIO**0.8, 5)
    assert fitting.r_squared(score[:12], fitting.power_law(RATIO, score[:12])(RATIO)) > 0.999
    assert fitting.out_of_sample(np.tile(RATIO, 5), score, GROUPS).value < 0.1


def test_a_left_out_group_has_no_part_in_its_own_prediction():
    score = np.tile(0.3 / RATIO, 5)
    moved = np.where(GROUPS == "c", score + 10, score)
    first, second = (fitting.left_out(np.tile(RATIO, 5), y, GROUPS) for y in (score, moved))
    for before, after in zip(first, second, strict=True):
        assert np.array_equal(before[GROUPS == "c"], after[GROUPS == "c"])
        assert not np.allclose(before[GROUPS == "a"], after[GROUPS == "a"])


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: fitting.power_law([1, 2], [1, 2]), "at least 3 different values"),
        (lambda: fitting.power_law([1, 1, 2, 2], [1, 2, 3, 4]), "at least 3 different values"),
        (lambda: fitting.power_law([0, 1, 2], [1, 2, 3]), "ratio is"),
        (lambda: fitting.power_law([1, 2, 3], [1, 2]), "score.shape"),
        (lambda: fitting.power_law([1, 2, 3], [1, 2, np.nan]), "NaN"),
        (lambda: fitting.r_squared([1, 1], [1, 2]), "score is"),
        (lambda: fitting.left_out([1, 2, 3], [1, 2, 3], ["a"] * 3), "at least 2 groups"),
        (lambda: fitting.out_of_sample(RATIO, RATIO, list("abc") * 4), "at least 4 groups"),
    ],
)
def test_bad_values_are_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()
