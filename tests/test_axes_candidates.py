"""Candidates: what they refuse, the front, and the ladder of matched L0."""

import numpy as np
import pytest
import torch

from husai import axes, contrasts, stats, study
from husai.activations import Activations, split
from husai.axes import candidates
from husai.recipes import converged
from husai.tasks import generator

PAIRS = ("a | b", "a | c", "b | c")


def make(name: str, n: int = 3, **values: float) -> axes.Candidate:
    """Return a candidate whose seeds differ by a known ramp of +-0.01."""
    ramp = np.linspace(-0.01, 0.01, n)
    return axes.Candidate(name, tuple(range(n)), {axis: value + ramp for axis, value in values.items()})


@pytest.fixture(scope="module")
def acts() -> Activations:
    return split(torch.randn(600, 12, generator=generator(0, "test/axes")), 0)


def test_a_study_becomes_a_candidate_on_its_own_axes_and_those_of_a_benchmark(acts: Activations) -> None:
    one = study.run({"": (acts, converged(16, 4, steps=16, architecture="batch_topk"))}, [0, 1, 2])[""]
    found = candidates.of("batch", one, {"ce": [0.7, 0.8, 0.9], "probing": np.full((3, 3), 0.6)}, PAIRS)
    assert found.on("l0").tolist() == one.by_seed["l0"] and found.on("ce").tolist() == [0.7, 0.8, 0.9]
    assert found.estimate("ce").n == 3 and "seeds" in found.estimate("ce").method
    assert found.estimate("probing").method.startswith("jackknife over classes and SAE seeds, t(")
    assert found.sound == all(passed for gate, passed in one.passes.items() if gate != "converged")


def test_probing_differs_by_task_and_seed_and_the_interval_is_over_classes_too() -> None:
    """A difference that only the class c makes: certain for these seeds, and far from certain for other classes."""
    base = np.random.default_rng(0).uniform(0.5, 0.9, (3, 3))
    gain = np.array([[0.0], [0.3], [0.3]])
    a, b = (axes.Candidate(n, (0, 1, 2), {"probing": base + more}, PAIRS) for n, more in (("a", gain), ("b", 0 * gain)))
    found = candidates.difference(a, b, "probing")
    assert found.value == pytest.approx(0.2) and found.low < 0 and found.n == 3
    assert stats.mean((gain + np.zeros((3, 3))).mean(0)).low == pytest.approx(0.2), "over seeds alone it looks certain"


def test_agreement_beyond_draws_is_taken_at_the_least_count(acts: Activations) -> None:
    """Two conditions then differ by their `contrast`: the draws are the same for both."""
    studies = study.run({k: (acts, converged(16, k, steps=16)) for k in (2, 8)}, [0, 1, 2])
    counts = torch.stack([one.alive.sum(1) for one in studies.values()]).amin(0).tolist()
    found = candidates.beyond(studies)
    for k, one in studies.items():
        scores = one.matrix("mean_max_cosine", one.commonest(counts))
        drawn = stats.pairwise(scores).value - np.mean(found[k])
        assert 0 < drawn < 1
    both = contrasts.contrast([studies[2]], [studies[8]])
    assert np.mean(found[2]) - np.mean(found[8]) == pytest.approx(both.value, abs=1e-9), "the draws are the same"
    with pytest.raises(ValueError, match="seeds"):
        candidates.beyond(studies | study.run({"other": (acts, converged(16, 2, steps=16))}, [0, 1, 3]))


def test_a_candidate_refuses_an_axis_without_a_value_for_every_seed() -> None:
    for broken in (np.array([0.1, 0.2]), np.array([0.1, 0.2, np.nan]), np.zeros((2, 3))):
        with pytest.raises(ValueError, match="probing"):
            axes.Candidate("a", (0, 1, 2), {"probing": broken}, PAIRS)
    with pytest.raises(ValueError, match="one of .*probing"):
        make("a", probing=0.5).on("fvu")


def test_the_front_keeps_what_nothing_beats_on_all_axes() -> None:
    ways = {"probing": 1, "fvu": -1}
    good, cheap = make("good", probing=0.9, fvu=0.3), make("cheap", probing=0.7, fvu=0.1)
    worse, equal = make("worse", probing=0.6, fvu=0.2), make("equal", probing=0.9, fvu=0.3)
    assert candidates.front([good, cheap, worse, equal], ways) == ["good", "cheap", "equal"]
    assert candidates.front([good, cheap, worse], {"probing": 1}) == ["good"]


def test_the_sure_front_drops_only_what_is_beaten_beyond_its_interval() -> None:
    best, worse = make("best", probing=0.9), make("worse", probing=0.5)
    noisy = axes.Candidate("noisy", (0, 1, 2), {"probing": np.array([0.2, 0.85, 1.2])})
    assert candidates.front([best, worse, noisy], {"probing": 1}) == ["best"]
    assert candidates.front([best, worse, noisy], {"probing": 1}, sure=True) == ["best", "noisy"]
    assert candidates.front([make("low", fvu=0.1), make("high", fvu=0.4)], {"fvu": -1}, sure=True) == ["low"]


def test_a_point_on_the_ladder_has_no_excess_over_it() -> None:
    """Probing that is linear in log L0: whatever lies on that line is explained by its L0 alone."""
    ladder = [make(str(k), l0=float(k), probing=0.1 * float(np.log2(k))) for k in (32, 8, 16)]
    dense = make("dense", l0=24.0, probing=0.1 * float(np.log2(24)))
    found = candidates.excess(dense, ladder, "probing")
    assert found is not None and abs(found.value) < 1e-9
    better = candidates.excess(make("better", l0=16.0, probing=0.45), ladder, "probing")
    assert better is not None and np.isclose(better.value, 0.05)
    assert candidates.excess(make("denser", l0=40.0, probing=0.5), ladder, "probing") is None
    with pytest.raises(ValueError, match="ladder"):
        candidates.excess(dense, ladder[:1], "probing")


def test_the_trend_is_for_twice_the_l0() -> None:
    ladder = [make(str(k), l0=float(k), probing=0.1 * float(np.log2(k)) + 0.5) for k in (8, 32, 16)]
    assert candidates.trend(ladder, "probing").value == pytest.approx(0.1)
    with pytest.raises(ValueError, match="ladder"):
        candidates.trend(ladder[:1], "probing")


def test_differences_are_paired_over_the_same_seeds() -> None:
    a, b = make("a", fvu=0.5), make("b", fvu=0.4)
    found = candidates.difference(a, b, "fvu")
    assert np.isclose(found.value, 0.1) and np.isclose(found.low, found.high), "the same ramp: no spread is left"
    with pytest.raises(ValueError, match="seeds"):
        candidates.difference(a, make("c", n=4, fvu=0.1), "fvu")


def test_matched_looks_at_every_seed() -> None:
    one = axes.Candidate("a", (0, 1, 2), {"l0": np.array([31.0, 33.0, 36.0])})
    assert not candidates.matched(one, 32.0) and candidates.matched(one, 32.0, 0.13)
