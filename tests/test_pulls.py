"""A pull towards one reference registers seeds with it; groups with different references tell that from agreement."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from husai import activations, comparison, contrasts, metrics, pulls, saes, study
from husai.config import Objective
from husai.recipes import converged
from husai.study import score_matrix
from husai.tasks import sparse_dictionary

SEEDS, NAMES, WEIGHTS = tuple(range(6)), list("aabbcc"), (0.0, 1.0, 30.0)
RECIPE = replace(converged(40, 3, steps=256), lr=5e-3)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Return activations, references, and sweeps: one reference for all, and one a group."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HUSAI_ARTIFACTS", str(tmp_path_factory.mktemp("store")))
    acts = activations.split(sparse_dictionary(16, 32, 3, 3000, seed=0).activations, seed=0)
    references = study.run({0: (acts, RECIPE)}, [7, 8, 9])[0].at(0)  # untrained: nothing in them is true
    term = {w: Objective("assignment", w, every=4) for w in WEIGHTS}
    stacks = {"one": references[0], "group": saes.stack([references[NAMES.index(g) // 2] for g in NAMES])}
    yield {
        "references": references,
        **{
            name: study.run({w: (acts, replace(RECIPE, objective=o), stack) for w, o in term.items()}, SEEDS)
            for name, stack in stacks.items()
        },
    }
    patch.undo()


def test_arbitrary_references_bring_their_own_group_together_and_not_the_others(found):
    rows = pulls.regrouped(found["group"], NAMES, latents="all")
    free, pulled = rows[0.0], rows[30.0]
    assert pulled["within"].value > free["within"].value + 0.1
    assert pulled["registration"].low > 0.1 and abs(free["registration"].value) < 0.1
    assert pulled["between_gain"].value < 0.1
    assert (free["within_gain"].value, free["between_gain"].value, free["drift"], free["steady"]) == (0, 0, 0, True)


def test_one_reference_for_all_makes_the_same_pull_look_like_agreement(found):
    together = pulls.grouped(found["one"][30.0], found["one"][0.0], NAMES, latents="all")
    assert together["between_gain"].low > 0.1 and together["between"].value > 0.99


def test_a_gain_is_the_grouped_difference_of_paired_scores_at_equal_alive_counts(found):
    study_, plain = found["group"][30.0], found["group"][0.0]
    mine, theirs = comparison.at_equal_counts([study_], [plain], "mean_max_cosine")
    wanted = np.mean([(mine - theirs)[0, i, j] for i in range(6) for j in range(i) if NAMES[i] != NAMES[j]])
    assert pulls.grouped(study_, plain, NAMES)["between_gain"].value == pytest.approx(wanted)


def test_the_sources_table_counts_the_reference_and_the_gain_leaves_it_out(found):
    reference = found["references"][0]
    row = pulls.swept(found["one"], reference)[30.0]
    rows = [reference.W_dec[0], *found["one"][30.0].saes.W_dec]
    matrix = score_matrix("mean_max_cosine", rows)
    assert row["trained"] == comparison.summarise(matrix[None]) and row["trained"].n == 7
    assert row["bound"] < row["gap"].value
    assert row["gain"] == contrasts.contrast([found["one"][30.0]], [found["one"][0.0]], latents="all")
    assert row["gain"].n == 6


def test_alignment_is_what_the_pull_measures_here_one_to_one(found):
    reference, free = found["references"][0], found["one"][0.0]
    alignment = pulls.swept(found["one"], reference)[0.0]["alignment"].value
    cosines = [(a @ reference.W_dec[0].T).abs().numpy() for a in free.saes.W_dec]
    matched = [c[linear_sum_assignment(c, maximize=True)].mean() for c in cosines]
    assert alignment == pytest.approx(np.mean(matched), abs=1e-5)
    assert alignment < np.mean([c.max(1).mean() for c in cosines]) - 0.01  # of the nearest rows


def test_what_the_rules_see_counts_the_explained_variance_of_the_reference(found):
    table = pulls.swept(found["one"], found["references"][0])
    x, study_ = found["one"][0.0].activations.held_out, found["one"][30.0]
    everyone = saes.stack([found["references"][0], study_.saes])
    evs = [metrics.other_explained_variance(x, one, "all_values") for one in everyone.reconstruct(x)]
    assert table[30.0]["explained"] == pytest.approx(np.mean(evs))
    first, *_, last = pulls.candidates(table)
    assert first.drop == 0 and last.weight == 30.0
    assert last.drop == pytest.approx(table[30.0]["drop"].value * 6 / 7)  # the reference loses nothing


def test_affordable_looks_at_quality_alone_and_says_when_nothing_is(found):
    sweep = found["one"]
    fvu = {w: one.quality["fvu"].value for w, one in sweep.items()}
    assert fvu[0.0] < fvu[1.0] < fvu[30.0]
    assert pulls.affordable(sweep, most=1.0) == (30.0, True)
    assert pulls.affordable(sweep, most=fvu[1.0] - fvu[0.0]) == (1.0, True)
    assert pulls.affordable(sweep, most=(fvu[1.0] - fvu[0.0]) / 2) == (1.0, False)


def test_latents_stay_where_they_started_if_they_never_fire_and_nothing_pulls_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HUSAI_ARTIFACTS", str(tmp_path))
    two = torch.randn(2, 16, generator=torch.Generator().manual_seed(0)).repeat(256, 1)  # inputs: few latents ever fire
    acts = activations.split(two, seed=0)
    plain = replace(converged(40, 3, steps=8), auxk=0.0)
    reference = study.run({0: (acts, plain)}, [7, 8, 9])[0].at(0)[0]
    pulled = replace(plain, objective=Objective("alignment", 1e-6))
    found = study.run({"plain": (acts, plain), "pulled": (acts, pulled, reference)}, [0, 1, 2])
    fired = found["plain"].saes.firing(acts.fit) > 0
    assert pulls.unmoved(found["plain"]).value > 0.3
    assert pulls.unmoved(found["plain"]).value <= 1 - float(fired.double().mean())
    assert pulls.unmoved(found["pulled"]).value == 0
    assert pulls.unmoved(found["plain"].stopped(0)).value == 1


def test_a_sweep_without_a_weight_of_zero_or_with_two_references_is_refused(found):
    with pytest.raises(ValueError, match="a weight of 0 and others"):
        pulls.affordable({1.0: found["one"][1.0]})
    with pytest.raises(ValueError, match="wanted one"):
        pulls.swept(found["one"], found["references"])
    other = replace(found["one"][0.0], config=replace(RECIPE, objective=Objective("alignment", 0.0)))
    with pytest.raises(ValueError, match="alignment or assignment in all"):
        pulls.swept(found["one"] | {0.0: other}, found["references"][0])
    with pytest.raises(ValueError, match="base: seeds"):
        pulls.grouped(found["one"][0.0], replace(found["one"][0.0], seeds=(1, 2, 3, 4, 5, 6)), NAMES)
