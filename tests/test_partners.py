"""Partners and strangers are told apart, and intervals count groups."""

import numpy as np
import pytest

from husai import activations, partners, study
from husai.config import Objective, SAEConfig, TrainConfig
from husai.tasks import sparse_dictionary


def planted(groups=4, group=2, together=0.9, apart=0.3):
    inside = np.kron(np.eye(groups), np.ones((group, group)))
    return np.where(inside == 1, together, apart) * (1 - np.eye(groups * group)) + np.eye(groups * group)


@pytest.mark.parametrize("group", [2, 3])
def test_known_scores_come_apart_whatever_stands_on_the_diagonal(group):
    scores = planted(4, group)
    found = partners.apart(scores, group)
    assert found["within"].value == pytest.approx(0.9) and found["across"].value == pytest.approx(0.3)
    assert {one.n for one in found.values()} == {4}
    np.fill_diagonal(scores, 7.0)
    assert partners.apart(scores, group) == found


def test_a_group_that_differs_widens_both_intervals():
    scores = planted()
    scores[:2] += 0.2
    scores[:, :2] += 0.2
    for wide, sharp in zip(partners.apart(scores).values(), partners.apart(planted()).values(), strict=True):
        assert wide.high - wide.low > 0.1 and sharp.high - sharp.low < 1e-9


def test_the_interval_across_covers_a_known_mean_at_its_rate():
    """Effects of groups are shared by all pairs of a group: seeds as units would cover far too rarely."""
    draw, hits = np.random.default_rng(0), 0
    for _ in range(400):
        effects = np.repeat(draw.normal(0, 0.05, 5), 2)
        noise = draw.normal(0, 0.01, (10, 10))
        found = partners.across(0.5 + effects[:, None] + effects + noise + noise.T)
        hits += found.low <= 0.5 <= found.high
    assert 0.92 <= hits / 400 <= 0.99


def test_a_strong_pull_lifts_partners_and_leaves_strangers():
    data = activations.split(sparse_dictionary(16, 32, 3, 2000, seed=0).activations, 0)
    plain = TrainConfig(SAEConfig("topk", 40, 3), steps=60, batch_size=64)
    joint = TrainConfig(plain.sae, steps=60, batch_size=64, objective=Objective("contrastive", 3.0))
    found = study.run({"plain": (data, plain), "joint": (data, joint)}, list(range(6)))
    for latents in ("alive", "all"):
        gain = partners.gain(found["joint"], found["plain"], latents=latents)
        assert gain["within"].low > 0.05 and abs(gain["across"].value) < 0.05 and isinstance(gain["steady"], bool)
    none = partners.gain(found["plain"], found["plain"])
    assert none["within"].value == 0 and none["across"].value == 0 and none["steady"]


def test_bad_groups_are_refused_by_name():
    for scores, group, words in [
        (planted(4, 2)[:7, :7], 2, "whole groups of 2"),
        (planted(2, 2), 2, "at least 3"),
        (planted(), 1, "whole groups of 1"),
    ]:
        with pytest.raises(ValueError, match=words):
            partners.across(scores, group)
