"""Scores at a matched quality: known interpolants, seeds left out of both sides, nothing beyond what was trained."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from husai import activations, comparison, frontier, health, stats, study, training
from husai.evidence import Estimate
from husai.frontier import Frontier
from husai.recipes import converged
from husai.saes import SAEBatch
from husai.simulation import simulate
from husai.tasks import sparse_dictionary

QUALITIES = np.array([2.0, 4.0, 8.0, 16.0, 32.0])


def made(seeds: int = 5, spread: float = 0.0, noise: float = 0.0, shift: float = 0.0, seed: int = 0) -> Frontier:
    """Scores fall by .1 a doubling of quality; `spread` moves each SAE along that line, `noise` off it."""
    rng = np.random.default_rng(seed)
    quality = QUALITIES[:, None] * np.exp(spread * rng.standard_normal((5, seeds)))
    log = np.log2(quality)
    scores = 0.9 + shift - 0.05 * (log[:, :, None] + log[:, None, :])
    return Frontier(quality, scores + noise * simulate(rng, seeds, models=5))


@pytest.mark.parametrize("wanted", [2.0, 5.0, 8.0, 31.0])
def test_a_line_in_log_quality_is_interpolated_exactly_whatever_the_order(wanted: float) -> None:
    sweep = made()
    shuffled = Frontier(sweep.quality[[3, 0, 4, 2, 1]], sweep.scores[[3, 0, 4, 2, 1]])
    for found in (sweep.at(wanted), shuffled.at(wanted)):
        assert found is not None and found.n == 5
        assert (found.value, found.low, found.high) == pytest.approx((0.9 - 0.1 * np.log2(wanted),) * 3)


def test_the_interval_leaves_a_seed_out_of_quality_and_scores() -> None:
    sweep, wanted = made(spread=0.2, noise=0.05), 6.0

    def by_hand(kept: list[int]) -> float:
        points = []
        for quality, scores in zip(sweep.quality, sweep.scores, strict=True):
            points.append((np.mean(quality[kept]), np.mean([scores[pair] for pair in combinations(kept, 2)])))
        (q0, s0), (q1, s1) = (
            max(p for p in points if p[0] <= wanted),
            min(p for p in points if p[0] > wanted),
        )
        return s0 + (s1 - s0) * np.log(wanted / q0) / np.log(q1 / q0)

    value = by_hand(list(range(5)))
    without = np.array([by_hand([j for j in range(5) if j != i]) for i in range(5)])
    half = t.ppf(0.975, 4) * np.sqrt(4 / 5 * ((without - without.mean()) ** 2).sum())
    found = sweep.at(wanted)
    assert (found.value, found.low, found.high) == pytest.approx((value, value - half, value + half))
    assert found.method == "jackknife over seeds, t(4) at matched quality"


def test_seeds_that_differ_only_along_the_frontier_agree_at_a_matched_quality() -> None:
    sweep = made(spread=0.3)
    at_one_setting, matched = stats.pairwise(sweep.scores[2]), sweep.at(8.0)
    assert matched.high - matched.low < (at_one_setting.high - at_one_setting.low) / 3


def test_nothing_is_extrapolated() -> None:
    sweep = made()
    assert sweep.at(1.9) is None and sweep.at(33.0) is None
    one_far_seed = np.tile(QUALITIES[:, None], 4)
    one_far_seed[-1, 0] = 96.0  # the mean reaches 40, without this seed it does not
    reaching = Frontier(one_far_seed, np.ones((5, 4, 4)))
    assert reaching.value(40.0, range(4)) == 1 and reaching.at(40.0) is None
    assert frontier.difference(sweep, made(), 33.0) is None


def test_a_difference_is_paired_and_needs_both_sides() -> None:
    low, high = made(noise=0.1, seed=3), made(noise=0.1, shift=0.2, seed=3)
    gap = frontier.difference(high, low, 5.0)
    assert (gap.value, gap.low, gap.high) == pytest.approx((0.2,) * 3), "what both share drops out"
    assert low.at(5.0).high - low.at(5.0).low > 0.05
    assert gap.method == "paired jackknife over seeds, t(4) at matched quality"
    short = Frontier(low.quality[:2], low.scores[:2])
    assert frontier.difference(low, short, 5.0) is None and frontier.difference(low, short, 3.0) is not None


def test_the_trend_is_the_slope_a_doubling() -> None:
    found = made(noise=0.02).trend()
    assert found.low < -0.1 < found.high and found.high < 0
    exact = made().trend()
    assert (exact.value, exact.low, exact.high) == pytest.approx((-0.1,) * 3)


def test_a_matched_point_is_as_healthy_as_the_settings_beside_it(tmp_path: Path) -> None:
    acts = activations.split(sparse_dictionary(16, 32, 3, 100, seed=0).activations, seed=0)
    sweep = []
    for l0, converged_there in ((8.0, True), (2.0, False), (4.0, True)):
        one = study.Study(acts, converged(32, 20), (0, 1, 2), tmp_path)  # no L0 is near the k = 20 of the configuration
        found = {"fvu": 0.1, "l0": l0, "alive": 1.0}
        quality = {key: Estimate(value, value, value, 3) for key, value in found.items()}
        one.__dict__.update(quality=quality, convergence=health.Convergence(0.0, 0.1, 1e5, converged_there))
        one.__dict__["saes"] = saes_of(one)
        sweep.append(one)
    assert frontier.healthy(sweep, 6.0) and frontier.healthy(sweep, 8.0) and not frontier.healthy(sweep, 3.0)
    assert not frontier.healthy(sweep, 9.0) and not frontier.healthy(sweep, 1.0), "outside the settings"
    sweep[0].quality["alive"] = Estimate(0.5, 0.5, 0.5, 3)
    assert not frontier.healthy(sweep, 6.0), "dead latents"


def saes_of(one: study.Study) -> SAEBatch:
    return training.train(one.activations.fit, replace(one.config, steps=1, batch_size=8), one.seeds).saes


def test_studies_give_their_own_score_at_their_own_quality() -> None:
    acts = activations.split(sparse_dictionary(16, 32, 3, 4000, seed=0).activations, seed=0, name="toy")
    found = study.run({k: (acts, converged(32, k, steps=64)) for k in (2, 4, 8)}, (0, 1, 2))
    own = found[4].quality["fvu"].value
    score = comparison.compare([found[4]], "N0", "hungarian_mcc")
    sweep = frontier.of(list(found.values()), "fvu", "hungarian_mcc")
    assert sweep.at(own).value == pytest.approx(score.score.value)
    assert frontier.of(list(found.values()), "fvu", "hungarian_mcc", "N0").at(own).value == pytest.approx(
        score.gap.value
    )
    other = study.run({8: (acts, converged(32, 8, steps=64))}, (0, 1, 3))
    with pytest.raises(ValueError, match="one list of seeds"):
        frontier.of([found[4], other[8]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Frontier(np.ones((1, 3)), np.ones((1, 3, 3))),
            "quality is '1 settings'; wanted two or more",
        ),
        (lambda: Frontier(np.ones((2, 3)), np.ones((2, 4, 4))), r"scores.shape is \(2, 4, 4\)"),
        (lambda: Frontier(np.zeros((2, 3)), np.ones((2, 3, 3))), "quality is 'zero"),
        (lambda: made().at(0.0), "wanted is 0.0; wanted a quality above 0"),
        (lambda: made(2).at(5.0), "quality is '2 seeds'"),
        (lambda: frontier.difference(made(4), made(5), 5.0), "b is '5 seeds'; wanted 4"),
    ],
)
def test_refusals(unchecked: None, call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
