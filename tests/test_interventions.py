"""Changes at the read-out: a perfect SAE changes nothing, a known direction has the computed effect."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from husai import activations, interventions
from husai.config import ModelConfig, SAEConfig, TaskConfig
from husai.interventions import ablate, causal_order, curves, faithfulness, latent_effects, site, splice, steer
from husai.models import Models, initialise
from husai.saes import SAEBatch, stack
from husai.tasks import sequences

TINY = ModelConfig(n_layers=2, d_model=16, n_heads=2, d_mlp=32, steps=60, batch_size=32)
MID, POST, BELOW = "blocks.1.hook_resid_mid", "blocks.1.hook_resid_post", "blocks.0.hook_resid_post"


def untrained(p=7, format="clean", seeds=(0,)):
    data, task = sequences(TaskConfig(p, format)), TaskConfig(p, format)
    return Models(TINY, task, seeds, initialise(TINY, data.vocabulary, data.tokens.shape[1], seeds), (0,) * len(seeds))


def place(hook, p=7, format="clean"):
    model = untrained(p, format)
    return site(model, activations.collect(model, hook)[0], hook)


def autoencoder(encoder, decoder, bias=0.0, architecture="relu"):
    """One SAE with these weights [d_model, d_sae] and [d_sae, d_model]."""
    d, n = encoder.shape
    config = SAEConfig(architecture, n, n)
    return SAEBatch(config, (0,), encoder[None], torch.zeros(1, n), decoder[None], torch.full((1, d), bias))


def identity(d):
    """x = relu(x) - relu(-x): an SAE that reconstructs everything."""
    eye = torch.eye(d)
    return autoencoder(torch.cat([eye, -eye], 1), torch.cat([eye, -eye]))


def planted(p=7, d=16, strength=8.0):
    """A site whose activation is the answer's own direction plus noise in directions that the unembedding ignores.

    The unembedding reads axes 0..p-1, one an answer, so latent c of `identity` alone carries answer c.
    """
    model = untrained(p)
    unembed = torch.zeros(1, d, p + 4)
    unembed[0, :p, :p] = torch.eye(p)
    model = model._replace(parameters={**model.parameters, "unembed.W_U": unembed})
    data = sequences(model.task)
    x = torch.zeros(p * p, d)
    x[torch.arange(p * p), data.answers] = strength
    x[:, p:] = torch.randn(p * p, d - p)
    return interventions.Site(model, POST, data.tokens, data.answers, x, x.mean(0), 1.0)


@pytest.mark.parametrize("format", ["clean", "leaked"])
@pytest.mark.parametrize("hook", [MID, POST, BELOW, "blocks.0.hook_resid_mid", "blocks.1.hook_mlp_out"])
def test_the_models_own_activations_give_its_own_logits(hook, format):
    here = place(hook, format=format)
    assert torch.allclose(here.clean, here.model.logits(here.tokens)[0], atol=1e-5)
    assert len(here.x) == 10, "a fifth of the 49 inputs, the held-out ones"


@pytest.mark.parametrize("hook", [MID, POST, BELOW])
def test_a_change_at_the_site_is_the_change_that_a_hook_makes(hook):
    here = place(hook)
    x = here.x + torch.randn_like(here.x)

    def swap(name, value):
        if name == hook:
            value = value.clone()
            value[0, :, sequences(here.model.task).position] = x
            return value

    assert torch.allclose(here.logits(x), here.model.logits(here.tokens, swap)[0], atol=1e-4)
    some = torch.tensor([3, 0, 3])
    assert torch.allclose(here.logits(x[some], some), here.logits(x)[some], atol=1e-4)


@pytest.mark.parametrize("hook", [MID, POST, BELOW])
def test_a_perfect_sae_changes_nothing_and_is_wholly_faithful(hook):
    here = place(hook)
    sae = identity(16)
    assert torch.allclose(splice(here, sae), here.clean, atol=1e-4)
    found = faithfulness(here, stack([sae] * 3))
    assert found.recovered_zero == pytest.approx((1, 1, 1), abs=1e-4)
    assert found.recovered_mean == pytest.approx((1, 1, 1), abs=1e-4)
    assert found.estimates["accuracy"].value == pytest.approx(found.reference["clean_accuracy"])


def test_an_sae_that_says_nothing_recovers_nothing():
    here = place(MID)
    silent = autoencoder(torch.zeros(16, 4), torch.ones(4, 16))
    to_mean = replace(silent, b_dec=here.mean[None])
    zero, mean = (faithfulness(here, sae) for sae in (silent, to_mean))
    assert zero.recovered_zero == pytest.approx((0,), abs=1e-5)
    assert mean.recovered_mean == pytest.approx((0,), abs=1e-5)
    assert zero.cross_entropy[0] == pytest.approx(cross_entropy(here.logits(0 * here.x), here.answers).item(), abs=1e-5)


def test_an_ablated_direction_that_carries_the_answer_has_the_computed_effect():
    here, p = planted(), 7
    found = ablate(here, identity(16), torch.arange(p))
    assert sorted(zip(found.inputs.tolist(), found.latents.tolist(), strict=True)) == list(
        enumerate(here.answers.tolist())
    ), "each answer's latent fires on its own inputs, and on no other"
    wanted = torch.zeros(49, p)
    wanted[torch.arange(49), found.latents] = -8.0
    assert torch.allclose(found.change, wanted, atol=1e-5)
    effects = latent_effects(here, identity(16))
    logits = torch.zeros(p + 4)
    logits[0] = 8.0
    before, after = logits.double().log_softmax(0), torch.zeros(p + 4).double().log_softmax(0)
    assert effects.cross_entropy[:p].tolist() == pytest.approx([float(before[0] - after[0])] * p, rel=1e-5)
    assert effects.kl[:p].tolist() == pytest.approx([float((before.exp() * (before - after)).sum())] * p, rel=1e-5)
    assert effects.rate[:p].tolist() == pytest.approx([1 / p] * p)
    assert bool((effects.kl[p:].abs() < 1e-6).all()), "what the unembedding ignores has no effect"
    assert effects.importance.sum() == pytest.approx(float(before[0] - after[0]), rel=1e-5)


def test_the_error_of_a_bad_sae_stays_in_place_when_a_latent_is_ablated():
    here = place(POST)
    decoder = torch.nn.functional.normalize(torch.randn(3, 16), dim=1)
    sae = autoencoder(torch.randn(16, 3), decoder, bias=5.0)
    z = sae.encode(here.x)[0]
    found = ablate(here, sae)
    assert len(found.latents) == int((z != 0).sum()), "one effect a firing"
    unembed = here.model.parameters["unembed.W_U"][0, :, :7]
    wanted = -z[found.inputs, found.latents][:, None] * (decoder @ unembed)[found.latents]
    assert torch.allclose(found.change, wanted, atol=1e-4), "z_j d_j alone is gone: what was not reconstructed stays"
    profile = found.profile(1, len(here.x))
    assert torch.allclose(profile, -z[:, 1:2] * (decoder @ unembed)[1], atol=1e-4)
    assert bool((profile[z[:, 1] == 0] == 0).all())


def test_steering_the_last_residual_moves_the_logits_by_dose_sd_and_unembedding():
    here = place(POST)
    directions = torch.randn(3, 16)
    found = steer(here, directions, 2.0)
    unit = directions / directions.norm(dim=1, keepdim=True)
    wanted = 2.0 * here.sd * unit @ here.model.parameters["unembed.W_U"][0, :, :7]
    assert torch.allclose(found, wanted[:, None].expand(3, 10, 7), atol=1e-4)
    assert torch.allclose(steer(here, 10 * directions, 2.0), found, atol=1e-4), "the length does not count"
    values = activations.collect(here.model, POST)[0].fit
    assert here.sd == pytest.approx(float(values.var(0, unbiased=False).sum().sqrt()), rel=1e-5)
    curved = steer(place(MID), directions, 1.0)
    assert not torch.allclose(curved, -steer(place(MID), -directions, 1.0), atol=1e-2), "the MLP is not linear"


def test_the_curves_rise_and_fall_with_the_latents_that_carry_the_answers():
    here, p = planted(), 7
    saes = stack([identity(16)] * 3)
    order = causal_order(here, saes)
    assert sorted(order[0, :p].tolist()) == list(range(p)), "the answers' latents come first"
    found = curves(here, saes, order, [0, 3, p, 32])
    exact = [(order[0, :n, None] == here.answers).any(0).float().mean().item() for n in (3, p)]
    for row in found.sufficient_accuracy.tolist():
        assert row[1] >= exact[0] - 1e-6 and row[2:] == [1.0, 1.0]
    assert found.sufficient[0, 2:].tolist() == pytest.approx([1, 1], abs=1e-5)
    assert found.necessary[0, 0] == pytest.approx(1) and found.necessary[0, 2] < 0.01
    assert bool((found.sufficient.diff(dim=1) > -1e-6).all()) and bool((found.necessary.diff(dim=1) < 1e-6).all())
    backwards = curves(here, saes, order.flip(1), [0, 3])
    assert backwards.necessary[0, 1] == pytest.approx(1, abs=1e-5), "the least important are not missed"
    assert [estimate.n for estimate in found.estimates("necessary")] == [3] * 4


def test_inputs_are_drawn_from_the_part_that_was_asked_for():
    acts = activations.collect(untrained(), MID)[0]
    held, seen = interventions.inputs(acts, 4), interventions.inputs(acts, 1000, held_out=False)
    assert len(held) == 4 and not bool(acts.training[held].any())
    assert len(seen) == int(acts.training.sum()) and bool(acts.training[seen].all())
    assert torch.equal(held, interventions.inputs(acts, 4))


def test_what_does_not_fit_is_refused(unchecked):
    two = untrained(seeds=(0, 1))
    acts = activations.collect(two, MID)
    with pytest.raises(ValueError, match="model is '2 models'"):
        site(two, acts[0], MID)
    with pytest.raises(ValueError, match="acts is .*model seed 1"):
        site(two.select(0), acts[1], MID)
    with pytest.raises(ValueError, match="rows is '0 rows'"):
        site(two.select(0), acts[0].whole(), MID)
    with pytest.raises(ValueError, match="acts is '39 rows'"):
        site(two.select(0), acts[0]._replace(values=acts[0].fit), MID)
    here = site(two.select(0), acts[0], MID)
    with pytest.raises(ValueError, match="x is"):
        here.logits(here.x[:3])
    with pytest.raises(ValueError, match="sae is '2 seeds'"):
        splice(here, stack([identity(16)] * 2))
    with pytest.raises(ValueError, match="sae: d_model is 8"):
        ablate(here, identity(8))
    with pytest.raises(ValueError, match="directions is 'a row of zeros'"):
        steer(here, torch.zeros(2, 16), 1.0)
    with pytest.raises(ValueError, match="directions is"):
        steer(here, torch.ones(2, 8), 1.0)
    with pytest.raises(ValueError, match="order is"):
        curves(here, identity(16), torch.zeros(2, 32, dtype=torch.long), [1])
    with pytest.raises(ValueError, match="counts is"):
        curves(here, identity(16), torch.zeros(1, 32, dtype=torch.long), [33])
    with pytest.raises(ValueError, match="n is 0"):
        interventions.inputs(acts[0], 0)
    still = replace(here, model=planted().model, hook=POST, x=0 * here.x, mean=0 * here.mean)
    with pytest.raises(ValueError, match="changes nothing"):
        faithfulness(still, identity(16))
