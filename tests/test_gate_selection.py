"""Selection of candidates: each defect of the sources' selector is planted, and refused or without effect."""

import math
from dataclasses import replace
from itertools import permutations

import pytest

from husai.evidence import Estimate
from husai.gate import Candidate, Metric, Score, front, over_seeds, published, summarised

METRIC = Metric("auc")
TWO = (METRIC, Metric("fvu", "lower"))


def candidate(name: str, auc: list[float], fvu: list[float] | None = None, data: str = "d1") -> Candidate:
    scores = {"auc": over_seeds(auc, data, "probe AUC", "AUC")}
    scores["fvu"] = over_seeds(fvu or [0.1, 0.11, 0.12], data, "held-out FVU")
    return Candidate(name, f"#{name}", f"!{name}", tuple(range(len(auc))), scores)


def test_a_candidate_is_a_configuration_and_never_its_best_seed() -> None:
    a, b = candidate("a", [0.60, 0.90, 0.61]), candidate("b", [0.70, 0.71, 0.72])
    assert a.seeds == b.seeds == (0, 1, 2)
    assert a.scores["auc"].estimate.value == pytest.approx(0.7033, abs=1e-4)
    assert front([a, b], [METRIC]) == ["b"]  # by best seed it would be a


def test_scores_refuse_what_makes_no_interval() -> None:
    for few in ([0.5], [0.5, 0.6]):  # a bound of one seed is the point itself
        with pytest.raises(ValueError, match="3"):
            candidate("a", few)
    with pytest.raises(ValueError, match="each seed once"):
        replace(candidate("a", [0.1, 0.2, 0.3]), seeds=(0, 1, 1))


def test_zero_is_a_value() -> None:
    zero, less = candidate("zero", [0.0, 0.0, 1e-9]), candidate("less", [-0.2, -0.2, -0.2001])
    assert zero.scores["auc"].estimate.value == pytest.approx(0, abs=1e-9)
    assert front([zero, less], [METRIC]) == ["zero"]


def test_bounds_are_of_t_and_need_three_seeds_and_a_spread() -> None:
    found = summarised(0.5, 0.1, 5, "d", "auc").estimate
    assert found.low == pytest.approx(0.5 - 2.7764 * 0.1 / math.sqrt(5), abs=1e-4)
    assert found.low < published.normal_bound(0.5, 0.1, 5)
    assert published.normal_bound(0.5, 0.1, 1) == 0.5  # their bound of one seed is the point
    for mean, sd, n in [(0.5, 0.1, 2), (0.5, 0.0, 5), (math.nan, 0.1, 5)]:
        with pytest.raises(ValueError):
            summarised(mean, sd, n, "d", "auc")
    normal = Estimate(0.5, 0.41, 0.59, 5, method="normal, 1.96 sd")
    point = Estimate(0.5, 0.5, 0.5, 1, method="mean over seeds, t(0)")
    for bad, why in ((normal, "not one of t"), (point, "n = 1")):
        one = Candidate("a", "c", "d", (0, 1, 2), {"auc": Score(bad, "d", "auc")})
        with pytest.raises(ValueError, match=why):
            front([one], [METRIC])


def test_the_front_keeps_what_nothing_dominates_and_turns_the_sign_of_costs() -> None:
    good = candidate("good", [0.80, 0.81, 0.82], [0.1, 0.11, 0.12])
    cheap = candidate("cheap", [0.70, 0.71, 0.72], [0.05, 0.06, 0.07])
    worse = candidate("worse", [0.69, 0.70, 0.71], [0.2, 0.21, 0.22])
    for order in permutations([good, cheap, worse]):
        assert set(front(order, TWO)) == {"good", "cheap"}
    assert set(front([good, cheap], TWO)) == {"good", "cheap"}  # the one that left changed nothing
    assert set(front([good, replace(good, name="twin")], TWO)) == {"good", "twin"}


def test_other_data_definitions_and_units_are_never_pooled() -> None:
    a = candidate("a", [0.1, 0.2, 0.3])
    b = candidate("b", [0.1, 0.2, 0.3], data="another slice")
    with pytest.raises(ValueError, match="data of auc.*another slice"):
        front([a, b], [METRIC])
    other = {**a.scores, "auc": replace(a.scores["auc"], definition="EV over a sum of variances")}
    with pytest.raises(ValueError, match="definition of auc"):
        front([a, replace(a, name="c", scores=other)], [METRIC])
    other = {**a.scores, "auc": over_seeds([1.0, 2.0, 3.0], "d1", "probe AUC", "CE-Bench")}
    with pytest.raises(ValueError, match="unit of auc"):
        front([a, replace(a, name="c", scores=other)], [METRIC])


def test_the_published_rule_comes_back_and_its_choice_depends_on_the_pool() -> None:
    frontier, elsewhere, weights = published.load()
    found = published.reenact()
    assert found["topk_lcb"] == pytest.approx(-0.04478959689939781, abs=1e-6)
    assert found["relu_lcb"] == pytest.approx(-0.029153650997086358, abs=1e-6)
    assert (found["alone_choice"], found["pooled_choice"]) == ("relu", "topk")  # who else is there decides
    assert found["second_choice"] == found["second_alone_choice"] == "relu"
    assert found["front"] == "topk, relu, jumprelu"
    known = published.candidates(frontier)
    for left_out in known:
        rest = [one for one in known if one is not left_out]
        assert set(found["front"].split(", ")) - {left_out.name} <= set(front(rest, published.METRICS))
    with pytest.raises(ValueError, match="weights"):
        published.scores(elsewhere, {"sae": 1.0})
