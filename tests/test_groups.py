"""What a group shares shows within it and not between groups; the group is the unit."""

import numpy as np
import pytest

from husai import activations, contrasts, groups, stats, study
from husai.config import Objective, SAEConfig, TrainConfig
from husai.tasks import sparse_dictionary

NAMES = list("aabbcc")


def test_within_and_between_are_the_means_of_their_pairs_each_group_counting_alike():
    scores = np.random.default_rng(0).random((7, 7))
    scores = (scores + scores.T) / 2
    names = list("abcabcc")  # not in order, not of one size
    at = {name: [i for i, other in enumerate(names) if other == name] for name in "abc"}
    inside = {name: np.mean([scores[i, j] for i in of for j in of if i < j]) for name, of in at.items()}
    across = [np.mean(scores[np.ix_(at[x], at[y])]) for x, y in ("ab", "ac", "bc")]
    found = groups.agreement(scores, names)
    assert found.within.value == pytest.approx(np.mean(list(inside.values())))
    assert found.between.value == pytest.approx(np.mean(across))
    assert found.registration.value == pytest.approx(found.within.value - found.between.value)
    assert {part.n for part in found} == {3}


def test_a_planted_share_of_the_groups_is_registration_and_leaves_the_rest_alone():
    same = np.equal.outer(NAMES, NAMES)
    found = groups.agreement(np.where(same, 0.8, 0.3), NAMES)
    assert [part.value for part in found] == pytest.approx([0.8, 0.3, 0.5])
    assert found.registration.low == pytest.approx(0.5)


def test_the_interval_between_groups_is_that_of_the_table_of_groups():
    scores = np.random.default_rng(1).random((6, 6))
    scores = (scores + scores.T) / 2
    table, found = groups.blocks(scores, NAMES), groups.agreement(scores, NAMES)
    wanted = stats.pairwise(table)
    assert (found.between.low, found.between.high) == pytest.approx((wanted.low, wanted.high))
    within = stats.mean(table.diagonal())
    assert (found.within.low, found.within.high) == pytest.approx((within.low, within.high))

    def gap(kept):
        rows = table[np.ix_(kept, kept)]
        return rows.diagonal().mean() - rows[np.triu_indices(len(kept), 1)].mean()

    whole = stats.jackknife(gap, 3)
    assert (found.registration.low, found.registration.high) == pytest.approx((whole.low, whole.high))


def test_noise_that_a_group_shares_is_covered_where_seeds_as_units_fail():
    """Groups have effects of their own: an interval that takes seeds for units is too narrow."""
    rng, names = np.random.default_rng(2), np.repeat(np.arange(5), 4)
    hits = np.zeros(2)
    for _ in range(300):
        effect = rng.normal(size=5)[names]
        scores = effect[:, None] + effect + rng.normal(scale=0.1, size=(20, 20))
        scores = (scores + scores.T) / 2
        by_group, by_seed = groups.agreement(scores, names.tolist()).between, stats.pairwise(scores)
        hits += [by_group.low < 0 < by_group.high, by_seed.low < 0 < by_seed.high]
    assert hits[0] / 300 > 0.9 and hits[1] / 300 < 0.75


def test_seeds_alone_in_their_group_have_scores_between_groups_only():
    scores = 0.5 * np.ones((3, 3))
    table = groups.blocks(scores, "abc")
    assert np.isnan(table.diagonal()).all() and stats.pairwise(table).value == 0.5
    with pytest.raises(ValueError, match="two or more seeds"):
        groups.agreement(scores, "abc")


@pytest.mark.parametrize(("names", "message"), [("aabb", "at least 3"), ("aab", "one for each")])
def test_too_few_groups_and_missing_names_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        groups.agreement(np.ones((4, 4)), names)


def test_training_together_lifts_partners_and_leaves_strangers():
    data = activations.split(sparse_dictionary(16, 32, 3, 2000, seed=0).activations, 0)
    plain = TrainConfig(SAEConfig("topk", 40, 3), steps=60, batch_size=64)
    joint = TrainConfig(plain.sae, steps=60, batch_size=64, objective=Objective("contrastive", 3.0))
    found = study.run({"plain": (data, plain), "joint": (data, joint)}, list(range(6)))
    pairs = groups.neighbours(range(6), 2)
    for latents in ("alive", "all"):
        gain = contrasts.over_groups(found["joint"], found["plain"], pairs, latents=latents)
        assert gain["within"].low > 0.05 and abs(gain["between"].value) < 0.05 and isinstance(gain["steady"], bool)
        assert not gain["within_steady"], "partners grew together over the last half"
    none = contrasts.over_groups(found["plain"], found["plain"], pairs)
    assert none["within"].value == 0 and none["between"].value == 0 and none["steady"]
    with pytest.raises(ValueError, match="latents is 'dead'"):
        contrasts.over_groups(found["joint"], found["plain"], pairs, latents="dead")


def test_means_of_groups_make_one_value_a_unit():
    assert groups.means([1, 3, 10, 20, 30], list("abaab")) == pytest.approx([31 / 3, 16.5])
    with pytest.raises(ValueError, match="one for each of 3 seeds"):
        groups.means([1, 2, 3], "ab")


def test_neighbours_fill_groups_of_one_size():
    assert groups.neighbours([5, 3, 8, 1], 2) == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="whole groups of 2"):
        groups.neighbours([1, 2, 3], 2)
