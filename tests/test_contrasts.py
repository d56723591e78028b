"""Conditions are contrasted pair by pair: on the same models and seeds, at equal counts, at equal reconstruction."""

from dataclasses import replace

import numpy as np
import pytest

from husai import activations, comparison, contrasts, frontier, stats, study
from husai.recipes import converged
from husai.tasks import sparse_dictionary

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("HUSAI_ARTIFACTS", str(tmp_path_factory.mktemp("store")))
    models = [
        activations.split(sparse_dictionary(16, 32, 3, 3000, seed=i).activations, seed=i, name=f"model {i}")
        for i in range(3)
    ]
    configs = {(n, k): converged(n, k, steps=128) for n, k in ((32, 1), (32, 3), (32, 8), (16, 2), (16, 4))}
    yield {shape: studies for (_, shape), studies in study.sweep({"real": models}, configs, SEEDS).items()}
    patch.undo()


def test_a_contrast_is_the_crossed_mean_of_the_paired_differences(found):
    few, many = found[32, 3], found[32, 8]
    given = contrasts.contrast(few, many, latents="all")
    wanted = stats.crossed(np.stack([a.scores("mean_max_cosine", "all") - b.scores("mean_max_cosine", "all")
                                     for a, b in zip(few, many, strict=True)])).estimate  # fmt: skip
    assert given == wanted and given.n == 3
    back = contrasts.contrast(many, few, latents="all")
    assert (back.value, back.low) == pytest.approx((-given.value, -given.high))
    alone = contrasts.contrast(few[:1], many[:1], latents="all")
    assert alone.method.endswith("in this model") and alone.n == len(SEEDS)


def test_a_condition_differs_from_itself_by_nothing_and_pairing_removes_the_models_share(found):
    same = contrasts.contrast(found[32, 3], found[32, 3])
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_alive_latents_are_contrasted_at_equal_counts(found):
    wide, narrow = found[32, 3][:1], found[16, 4][:1]
    counts = narrow[0].alive.sum(1).minimum(wide[0].alive.sum(1)).tolist()
    wanted = stats.difference(
        *(side[0].matrix("mean_max_cosine", side[0].commonest(counts)) for side in (wide, narrow))
    )
    assert contrasts.contrast(wide, narrow).value == pytest.approx(wanted.value)


def test_other_models_and_other_seeds_are_refused(found):
    a = found[32, 3]
    with pytest.raises(ValueError, match="other activations"):
        contrasts.contrast(a, a[::-1])
    with pytest.raises(ValueError, match="second: seeds"):
        contrasts.contrast(a, [replace(one, seeds=(0, 1, 5)) for one in a])
    with pytest.raises(ValueError, match="2 models"):
        contrasts.contrast(a[:2], a[:2])


def test_kappa_is_the_mean_over_pairs_of_the_gap_in_units_of_what_the_null_leaves_open(found):
    row = comparison.compare(found[32, 3], "N0")
    assert row.kappa.value == pytest.approx(row.gap.value / (1 - row.null_score.value), rel=0.01)
    assert row.kappas.shape == (3, len(SEEDS), len(SEEDS)) and np.allclose(np.einsum("mss->ms", row.kappas), 0)


def test_matched_reconstruction_lies_in_both_ranges_and_a_family_equals_itself(found):
    wide, narrow = ([found[shape][0] for shape in found if shape[0] == n] for n in (32, 16))
    fvu, gain = frontier.at_shared_fvu(wide, narrow)
    for family in (wide, narrow):
        levels = [one.quality["fvu"].value for one in family]
        assert min(levels) <= fvu <= max(levels)
    assert frontier.at_shared_fvu(wide, wide)[1].value == 0
    swapped, loss = frontier.at_shared_fvu(narrow, wide)
    assert (swapped, loss.value) == pytest.approx((fvu, -gain.value))


def test_no_reconstruction_in_common_is_said(found):
    with pytest.raises(ValueError, match="range that overlaps"):
        frontier.at_shared_fvu([found[32, 1][0], found[16, 2][0]], [found[32, 3][0], found[32, 8][0]])


def test_as_published_is_the_gap_to_random_matrices_or_to_another_condition(found):
    few, many = found[32, 3][0], found[32, 8][0]
    alone, paired = contrasts.as_published(few), contrasts.as_published(few, many)
    assert alone["gap"] == comparison.compare([few], "N0", latents="all").gap
    assert paired["gap"] == contrasts.contrast([few], [many], latents="all")
    for row in (alone, paired):
        assert row["pairs"].value == pytest.approx(row["gap"].value)
        width = (row["pairs"].high - row["pairs"].low) * row["times_wider"]
        assert width == pytest.approx(row["gap"].high - row["gap"].low)
        assert row["bound"] < row["gap"].value


def test_soundness_says_all_of_a_condition(found):
    row = comparison.soundness(found[32, 3])
    assert {"fvu", "l0", "alive", "slope", "init_cosine", "healthy", "failures"} <= row.keys()
    assert row["healthy"] == (row["failures"] == "none") and row["fvu"].n == 3


def test_a_paired_difference_is_steady_when_half_of_the_training_already_had_it(found, monkeypatch):
    row = contrasts.paired(found[32, 3], found[32, 8])
    early = contrasts.contrast(*([one.stopped(64) for one in found[32, k]] for k in (3, 8)))
    assert row["difference"] == contrasts.contrast(found[32, 3], found[32, 8])
    assert row["drift"] == pytest.approx(row["difference"].value - early.value)
    assert row["steady"] == (abs(row["drift"]) < 0.02)
    monkeypatch.setattr(contrasts, "STEADY", abs(row["drift"]) * 1.01)
    assert contrasts.paired(found[32, 3], found[32, 8])["steady"]


def test_a_path_ends_at_the_study_and_a_frontier_lies_at_the_fvu_of_each(found):
    few, many = found[32, 3][0], found[32, 8][0]
    path = contrasts.along(few, many)
    assert list(path) == [64, 128]
    assert path[128] == contrasts.as_published(few, many)["gap"]
    series = frontier.against_fvu([few, many])
    assert [fvu.value for fvu, _ in series["score"]] == [one.quality["fvu"].value for one in (few, many)]
    assert series["kappa_N0"][1][1] == comparison.compare([many], "N0").kappa
