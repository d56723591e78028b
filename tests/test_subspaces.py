"""Subspaces are found where they are shared, and only there: oracles, planted subspaces, nulls."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from husai import activations, metrics, study, subspaces, synthetic
from husai.identifiability import recipe
from husai.nulls import isotropic
from husai.recipes import converged

SEEDS = (100, 101, 102)
D = 32


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Return studies of a subspace that the covariance shows, of one that it hides, and of features without one."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HUSAI_ARTIFACTS", str(tmp_path_factory.mktemp("store")))
    data = {name: synthetic.rotating(D, 4, rate, 6000, 0)[0] for name, rate in (("visible", 1.0), ("hidden", 0.05))}
    data["opposite"] = synthetic.orthonormal(D, D, 3, 6000, 0).activations
    conditions = {name: (activations.split(x, 0), recipe(D, 3, 1024)) for name, x in data.items()}
    yield study.run(conditions, SEEDS)
    patch.undo()


def test_overlaps_and_angles_agree_with_the_metric_and_with_a_known_rotation() -> None:
    a, b = isotropic(20, 12, 0), isotropic(25, 12, 1)
    spread = subspaces.overlaps(subspaces.axes(a), subspaces.axes(b))
    for rank in (1, 5, 12):
        assert float(spread[rank - 1]) == pytest.approx(metrics.subspace_overlap(a, b, rank), abs=1e-6)
        found = subspaces.angles(subspaces.axes(a), subspaces.axes(b), rank)
        assert float(torch.deg2rad(found).cos().square().mean()) == pytest.approx(float(spread[rank - 1]), abs=1e-6)
    turn = torch.deg2rad(torch.tensor(25.0))
    first, second = torch.eye(4)[:2], torch.eye(4)[:2].clone()
    second[1, 1:3] = torch.stack([turn.cos(), turn.sin()])
    found = subspaces.angles(subspaces.axes(first), subspaces.axes(second), 2)
    assert found.tolist() == pytest.approx([0, 25], abs=0.01)


def test_a_hidden_subspace_is_shared_beyond_every_null_and_its_features_are_not(known) -> None:
    row = subspaces.beside_features(known["hidden"], 4)
    assert row["gap_N2"].low > 0.1 and row["gap_PCA"].low > 0.1 and row["weighted"].value > 0.8
    assert row["agreement"].high < 0.7
    isotropic_null = subspaces.compare([known["hidden"]], "N0", [4])[4].null_score
    assert isotropic_null.low < 4 / D < isotropic_null.high


def test_a_visible_subspace_is_shared_and_explained_by_the_covariance(known) -> None:
    row = subspaces.beside_features(known["visible"], 4)
    assert row["weighted"].value > 0.9 and row["agreement"].value < 0.9
    assert abs(row["gap_PCA"].value) < 0.02, "nothing beyond the components"
    halves = subspaces.compare([known["visible"]], "PCA", [4])[4].null_score
    assert halves.value > 0.98


def test_features_can_be_found_where_no_subspace_stands_out(known) -> None:
    row = subspaces.beside_features(known["opposite"], 4)
    assert row["agreement"].value > 0.8 > 0.6 > row["plain"].value


def test_a_study_against_itself_and_against_a_trained_null(known) -> None:
    hidden, other = known["hidden"], known["opposite"]
    same = subspaces.compare([hidden], [hidden], [2, 4, 10_000], weighted=True)
    assert list(same) == [2, 4] and same[4].gap.value == 0
    apart = subspaces.compare([hidden], [other], [4])[4]
    counts = torch.minimum(hidden.alive.sum(1), other.alive.sum(1)).tolist()
    rows = subspaces.rows(other, other.commonest(counts), False)
    wanted = np.mean([metrics.subspace_overlap(rows[i], rows[j], 4) for i, j in ((0, 1), (0, 2), (1, 2))])
    assert apart.null_score.value == pytest.approx(wanted, abs=1e-6)
    assert subspaces.compare([hidden] * 3, "N2", [4])[4].gap.n == 3, "three models: over models"


def test_weights_are_root_mean_squares_of_the_latents(known) -> None:
    one = known["opposite"]
    keep = one.alive
    z = one.saes[1].encode(one.activations.held_out)[0][:, keep[1]]
    weighted, plain = (subspaces.rows(one, keep, how)[1] for how in (True, False))
    assert torch.allclose(weighted, plain * z.square().mean(0).sqrt()[:, None], atol=1e-5)


def test_principal_angles_have_an_interval_over_seeds_and_lines_keep_their_ranks(known) -> None:
    rows = subspaces.rows(known["hidden"], known["hidden"].alive, True)
    found = subspaces.principal_angles([rows], 4)
    assert [e.n for e in found] == [3] * 4 and [e.value for e in found] == sorted(e.value for e in found)
    same = subspaces.principal_angles([[rows[0]] * 3], 2)
    assert max(e.high for e in same) < 0.1
    shown = subspaces.lines({"N0": subspaces.compare([known["hidden"]], "N0", [2, 4])})
    assert shown["seeds"][0] == [2, 4] and len(shown["N0"][1]) == 2


def test_what_lies_inside_a_subspace(known) -> None:
    one = known["visible"]
    first = subspaces.axes(subspaces.rows(one, one.alive, False)[0])[:, 0].float()
    assert subspaces.inside(one, first, 3)[0] == pytest.approx(1, abs=1e-5)
    assert subspaces.inside(one, 5 * first, 3)[0] == pytest.approx(1, abs=1e-5)


def test_a_subspace_is_settled_when_it_and_the_reconstruction_are_fine(known, tmp_path_factory) -> None:
    assert not subspaces.settled([known["hidden"]], 4, True), "most of it is noise: explained variance is too low"
    patch = pytest.MonkeyPatch()
    patch.setenv("HUSAI_ARTIFACTS", str(tmp_path_factory.mktemp("settled")))
    acts = activations.split(synthetic.orthonormal(D, 6, 2, 6000, 0).activations, 0)
    found = study.run({"long": (acts, recipe(12, 2, 1024)), "short": (acts, replace(converged(12, 2, 4)))}, SEEDS)
    assert subspaces.settled([found["long"]], 6, True) and not subspaces.settled(list(found.values()), 6, True)
    patch.undo()


def test_refusals(known) -> None:
    with pytest.raises(ValueError, match="null is 'N3'"):
        subspaces.compare([known["hidden"]], "N3", [4])
    with pytest.raises(ValueError, match="ranks"):
        subspaces.compare([known["hidden"]], "N0", [99])
    with pytest.raises(ValueError, match="latents"):
        subspaces.compare([known["hidden"]], [known["hidden"]], [4], latents="all")
    with pytest.raises(ValueError, match="rank"):
        subspaces.principal_angles([[isotropic(3, 8, i) for i in range(3)]], 4)
