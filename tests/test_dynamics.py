"""Checkpoints compared with one another: known dictionaries, known ranks, known errors."""

import numpy as np
import pytest
import torch

from husai import activations, dynamics, nulls, study
from husai.recipes import converged, published
from husai.tasks import sparse_dictionary

SEEDS = (100, 101, 102)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("HUSAI_ARTIFACTS", str(tmp_path_factory.mktemp("store")))
    acts = activations.split(sparse_dictionary(16, 32, 3, 4000, seed=0).activations + 2, seed=0, name="toy")
    yield study.run({"x": (acts, converged(32, 3, steps=512))}, SEEDS, trajectory=True)["x"]
    patch.undo()


def test_stages_are_compared_between_different_seeds_in_both_directions():
    rows = torch.eye(6)
    first, second = [rows[:2], rows[:2], rows[:2]], [rows[:2], rows[:2], rows[:4]]
    scores = dynamics.cross_matrix("mean_max_cosine", first, second)
    assert scores[0, 1] == 1 and np.array_equal(scores, scores.T)
    assert scores[0, 2] == pytest.approx((1 + (1 + 0.5) / 2) / 2), "one of the two directions meets two strangers"
    same = dynamics.cross_matrix("hungarian_mcc", first, first)
    assert np.array_equal(same, study.score_matrix("hungarian_mcc", first)), "no stages: the plain matrix"
    with pytest.raises(ValueError, match="second is '1 seeds'; wanted the 3 of first"):
        dynamics.cross_matrix("mean_max_cosine", first, second[:1])


def test_the_end_agrees_with_itself_and_later_stages_tell_more_than_the_start(one):
    at_the_end = dynamics.early_agreement(one, 512)
    assert np.allclose(at_the_end, 1)
    start, late = (dynamics.early_agreement(one, step)[np.triu_indices(3, 1)].mean() for step in (0, 256))
    assert start < 0.5 < late
    with pytest.raises(ValueError, match="step is 7; wanted one of .0, 8"):
        dynamics.early_agreement(one, 7)


def test_explained_variances_start_from_the_same_reconstruction(one):
    found = dynamics.explained_variances(one)
    assert found["held_out"].value == pytest.approx(1 - one.quality["fvu"].value)
    assert found["uncentred"].value > found["held_out"].value, "the mean of these data is far from zero"
    assert abs(found["first_rows"].value - found["held_out"].value) < 0.1
    raw = study.run({"x": (one.activations, published(32, 3))}, SEEDS)["x"]
    assert dynamics.explained_variances(raw)["all_values"].value > dynamics.explained_variances(raw)["held_out"].value


def test_principal_components_rebuild_what_they_span_and_agree():
    draw = torch.Generator().manual_seed(0)
    scale = torch.tensor([9.0, 6.0, 3.0, *[0.1] * 9])
    acts = activations.split(torch.randn(3000, 12, generator=draw) * scale + 5, seed=0)
    fvu, score = dynamics.principal_components(acts, 3, SEEDS)
    assert fvu.value == pytest.approx(9 * 0.01 / (81 + 36 + 9 + 9 * 0.01), rel=0.1)
    assert score.low > 0.98
    assert dynamics.principal_components(acts, 12, SEEDS)[0].value < 1e-8
    assert nulls.principal_axes(acts.fit, 3)[-1, 0].abs() > 0.99, "the last is the largest"
