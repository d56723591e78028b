"""Shares of every kind add up, carry intervals over seeds, and time is given where it is known."""

import numpy as np
import pytest

from husai import activations, fates, study
from husai.identifiability import recipe
from husai.synthetic import orthonormal
from husai.unmatched import KINDS

SEEDS = (100, 101, 102)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("HUSAI_ARTIFACTS", str(tmp_path_factory.mktemp("store")))
    acts = activations.split(orthonormal(32, 24, 3, 6000, 0).activations, 0)
    data = {"short": (acts, recipe(32, 3, 16)), "long": (acts, recipe(32, 3, 1024))}
    data["noise"] = (acts.gaussian(0), recipe(32, 3, 16))
    yield study.run(data, SEEDS)
    patch.undo()


def test_features_that_are_there_are_matched(found) -> None:
    rows = fates.estimates([fates.fates(found["long"], draws=200)])
    assert rows["matched"].value > 0.6 and rows["absent"].value < 0.1, "24 of 32 latents have a feature"
    assert sum(rows[kind].value for kind in KINDS) == pytest.approx(1)


def test_under_trained_features_are_recognised_by_more_training(found) -> None:
    short, late = (fates.fates(found["short"], longer, draws=200) for longer in (None, found["long"]))
    now, then = (fates.estimates([one]) for one in (short, late))
    assert now["under-trained"].value == 0 and now["net_late"].value == 0
    assert then["under-trained"].low > 0.1 and then["net_late"].low > 0
    assert then["explained"].value > now["explained"].value
    assert set(late.bars) == {"matched", "under-trained", "split or merged", "rotated"}


def test_shares_are_symmetric_and_of_as_many_seeds_as_are_asked_for(found) -> None:
    one = fates.fates(found["short"], draws=200)
    assert np.allclose(one.shares, one.shares.swapaxes(1, 2)) and one.shares.shape == (len(KINDS), 3, 3)
    off = ~np.eye(3, dtype=bool)
    assert np.allclose(one.shares.sum(0)[off], 1)
    assert ((one.explained[off] >= 0) & (one.explained[off] <= 1)).all()
    assert fates.fates(found["short"], seeds=2, draws=200).shares.shape[1] == 2
    assert fates.estimates([one] * 3)["absent"].n == 3


def test_where_nothing_is_unmatched_there_is_no_share_of_it() -> None:
    perfect = np.zeros((len(KINDS), 3, 3))
    perfect[0] = 1
    rows = fates.estimates([fates.Fates(perfect, {}, np.zeros((3, 3)))])
    assert rows["matched"].value == 1 and not {"explained", "gross", "dead_of_rest"} & set(rows)
    some = perfect.copy()
    some[0, :2, :2], some[KINDS.index("rotated"), :2, :2], some[-1, :2, :2] = 0.6, 0.3, 0.1
    rows = fates.estimates([fates.Fates(some, {}, np.zeros((3, 3)))])
    assert rows["explained"].value == pytest.approx(0.75), "of the one pair that has any, not a mean with zeros"


def test_partners_that_come_and_go_explain_nothing() -> None:
    shares = np.zeros((len(KINDS), 3, 3))
    shares[[0, KINDS.index("under-trained"), -1]] = np.array([0.5, 0.2, 0.3])[:, None, None]
    rows = fates.estimates([fates.Fates(shares, {}, np.full((3, 3), 0.2))])
    assert rows["explained"].value == pytest.approx(0) and rows["gross"].value == pytest.approx(0.4)


def test_a_study_explains_no_more_than_itself_and_is_compared_at_equal_counts(found) -> None:
    same = fates.beyond(found["short"], found["short"], draws=200)
    assert same["explained_beyond_N4"].value == 0 and same["explained_plain"] == same["explained_N4"]
    counts = [10, 11, 12]
    assert [int(one.alive.sum()) for one in fates.sides(found["long"], counts=counts)] == counts
    other = fates.beyond(found["short"], found["noise"], "noise", draws=200)
    gap = other["explained_plain"].value - other["explained_noise"].value
    assert other["explained_beyond_noise"].value == pytest.approx(gap)


def test_refusals(found) -> None:
    with pytest.raises(ValueError, match="other activations"):
        fates.sides(found["short"], found["noise"])
    other = study.Study(found["long"].activations, found["long"].config, (7, 8, 9), found["long"].folder)
    with pytest.raises(ValueError, match="longer.seeds"):
        fates.sides(found["short"], other)
    assert fates.key("split or merged") == "split_or_merged" and fates.key("orbit-mate") == "orbit_mate"
