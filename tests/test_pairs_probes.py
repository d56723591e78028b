"""The probes find what was planted, and their controls find nothing."""

import numpy as np
import pytest
import torch
from pairs_planted import CAUSAL, INERT, TEXTS_OF, pair, planted, sae

from husai.pairs import bench, probes, schemas
from husai.pairs.bench import Bench
from husai.tasks import generator

TEXTS = TEXTS_OF["adhd"]


def noise(d: int = 8) -> torch.Tensor:
    return torch.randn(*TEXTS.tokens.shape, d, generator=generator(0, "noise"))


def test_a_planted_direction_is_readable_noise_and_shuffled_labels_are_not() -> None:
    planted_x = noise() + 4 * TEXTS.onset[..., None] * torch.eye(8)[2]
    assert probes.readable(planted_x, TEXTS.onset, TEXTS.real) > 0.98
    assert probes.readable(noise(), TEXTS.onset, TEXTS.real) == pytest.approx(0.5, abs=0.12)
    # a control that scores high by luck of one direction scores low by it too: mean over draws
    control = [probes.readable(planted_x, TEXTS.onset, TEXTS.real, shuffled=seed) for seed in range(12)]
    assert np.mean(control) == pytest.approx(0.5, abs=0.3) and np.std(control) > 0.05
    with pytest.raises(ValueError, match="label"):
        probes.readable(noise(), torch.zeros_like(TEXTS.onset), TEXTS.real)


def test_the_first_token_of_a_text_and_padding_are_left_out() -> None:
    x = noise() + 4 * TEXTS.onset[..., None] * torch.eye(8)[2]
    x[:, 0], x[~TEXTS.real] = 1e6, -1e6
    assert probes.readable(x, TEXTS.onset, TEXTS.real) > 0.98


def test_the_best_latent_is_the_one_that_fires_at_onsets() -> None:
    z = noise().relu()
    z[..., 5] = TEXTS.onset.float()
    z[..., 6] = 0
    assert probes.best_latent(z, TEXTS.onset, TEXTS.real) == 5


def test_removing_matters_where_it_is_read_and_not_elsewhere() -> None:
    """What onsets have is what the wanted tokens read: without it at onsets, other things are said there."""
    model = planted("adhd")
    bench = Bench(model, 0, TEXTS)
    shifted = bench.x.clone()
    shifted[TEXTS.onset] += 60 * torch.eye(16)[CAUSAL]
    bench.__dict__["x"] = shifted
    at, matched, random = probes.ablation(bench, 4, 0)
    assert at > 5 * matched and at > 5 * random
    inert = bench.x.clone()
    inert[TEXTS.onset] += 300 * torch.eye(16)[INERT]
    inert[TEXTS.onset] -= 60 * torch.eye(16)[CAUSAL]
    other = Bench(model, 0, TEXTS)
    other.__dict__["x"] = inert
    assert probes.ablation(other, 4, 0)[0] < at / 5


def test_as_many_places_are_drawn_as_there_are_onsets() -> None:
    rest = TEXTS.real & ~TEXTS.onset
    drawn = probes.drawn_places(rest, TEXTS.onset.sum(1), 0)
    assert torch.equal(drawn.sum(1), TEXTS.onset.sum(1)) and not (drawn & ~rest).any()
    assert not torch.equal(drawn, probes.drawn_places(rest, TEXTS.onset.sum(1), 1))


def test_patching_carries_what_the_donor_holds() -> None:
    """The adhd model's residual says "regulation" at every place; a random change as long does not."""
    one = pair(0.0)
    benches = bench.benches(one, TEXTS_OF, 0)[0]
    patched, shuffled, random = probes.patching(benches, 3, 0)
    assert patched == pytest.approx(0, abs=1e-6) and random == pytest.approx(0, abs=1e-6)  # the same tokens, no gap
    one["adhd"].parameters["embed.W_E"][..., CAUSAL] += 12.0
    benches = bench.benches(one, TEXTS_OF, 0)[0]
    patched, shuffled, random = probes.patching(benches, 3, 0)
    assert patched > 0.01 and shuffled > 0.01 and random < patched / 2


def test_every_pair_and_every_sae_is_probed() -> None:
    benches = bench.benches(pair(2.0), TEXTS_OF, 0)
    batch = sae(torch.eye(16)[:6])
    batch.W_enc[0, 2:8] = torch.eye(6)
    models, latents = probes.every(benches, [batch], draws=2)
    assert len(models) == 1 and len(latents) == 1 and len(latents[0]) == 1
    assert 0.5 < models[0].residual <= 1 and 0 <= latents[0][0].auc <= 1
    assert latents[0][0].top in range(6)


def test_the_summary_and_the_artifact_are_of_models_and_saes(tmp_path) -> None:
    one = probes.OfModel(0.9, 0.5, 0.8, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05)
    latents = [[probes.OfSAE(0.9, 0.5, 3)] * 3] * 3
    short = probes.summary([one] * 3, latents)
    assert short["onset_auc_gain"].value == pytest.approx(0.4) and short["onset_ablation_gap"].value == 1.0
    assert short["patch_gap"].value == pytest.approx(0.15)
    assert short["onset_auc_beyond_token"].value == pytest.approx(0.1)
    content = {"profile": "smoke", "summary": short} | probes.artifact([one] * 3, latents, [0, 1, 2], "blocks.2")
    schemas.write("three_probes", content, tmp_path)
