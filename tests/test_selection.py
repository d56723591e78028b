"""Selection on real latents: labels, a label that latents hold, and matching."""

import numpy as np
import pytest
import torch

from husai import activations, grokking, selection, study
from husai.knockoffs import Rates
from husai.recipes import converged
from husai.selection import Selection
from husai.tasks import sequences


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("HUSAI_ARTIFACTS", str(tmp_path_factory.mktemp("store")))
    yield grokking.substrate("clean", [0, 1, 2], p=29, steps=20)
    patch.undo()


def test_labels_are_halves_of_the_answers_by_the_phase_of_a_frequency(models):
    rows = np.arange(29 * 29)
    found = selection.labels(models.select(0), rows)
    assert found.shape == (3, 841) and set(np.unique(found)) == {0.0, 1.0}
    assert np.abs(found.mean(1) - 0.5).max() < 0.1
    answers = sequences(models.task).answers.numpy()
    assert all(len(np.unique(found[:, answers == c], axis=1).T) == 1 for c in range(29)), "a function of the answer"
    with pytest.raises(ValueError, match="3 models"):
        selection.labels(models, rows)


def test_latents_that_hold_the_label_are_selected_and_a_random_order_selects_none():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((3000, 40)).clip(min=0)  # half of the values are zero
    real = np.stack([(z[:, :15] @ rng.choice([-1.0, 1.0], 15) > 0).astype(float) for _ in range(3)])
    found = selection._of(z, np.linspace(0, 1, 40), real, 0.1, 3, seed=1)
    assert found.selected[:15].mean() > 0.8 > 0.2 > found.selected[15:].mean()
    assert found.at_random == 0 and found.zeros == pytest.approx(0.5, abs=0.02)
    assert found.linear.power > 0.5


def test_more_selected_stable_latents_are_found_at_equal_rates_only():
    rng, found = np.random.default_rng(0), []
    rates = Rates(0.0, 1.0)
    for model in range(3):
        stable, rate = rng.random(100) < 0.5, rng.choice([0.1, 0.4], 100)
        chosen = np.where(rate == 0.4, 0.5, 0.0) + 0.3 * stable * (model + 1) / 2
        found.append([Selection(stable * 1.0, rate, chosen, 0.0, rates, rates, 0.5)] * 3)
    assert selection.stable_less_unstable(found).value == pytest.approx(0.3)
    assert selection.estimates(found)["power_linear"].value == 1


def test_the_selection_of_trained_saes(models):
    acts = activations.collect(models, "blocks.0.hook_resid_post")
    studies = list(study.run({i: (one, converged(32, 4, 64)) for i, one in enumerate(acts)}, [100, 101, 102]).values())
    found = selection.of(models, studies, repeats=1, tau=0.3)
    one = found[1][2]
    codes = studies[1].codes(studies[1].alive)[2]
    often = torch.sort((codes != 0).double().mean(0)).values
    assert np.sort(one.rate) == pytest.approx(often[often * len(codes) >= 8].numpy())
    assert 0 <= one.linear.false <= 1 and set(selection.estimates(found)) > {"fdr_linear", "fdr_firing", "share"}
