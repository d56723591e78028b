"""Objectives change what they should in a training, and nothing else."""

from dataclasses import replace

import pytest
import torch

from husai import metrics, saes, training
from husai.config import Objective, SAEConfig, TrainConfig
from husai.recipes import published
from husai.tasks import sparse_dictionary

DATA = sparse_dictionary(16, 32, 3, 4000, seed=0).activations
TOPK = TrainConfig(SAEConfig("topk", 40, 3), steps=60, batch_size=64)


@pytest.fixture(scope="module")
def reference():
    return training.train(DATA, replace(TOPK, steps=200), [7, 8]).saes


def train(objective, reference=None, seeds=(1, 2), **changes):
    return training.train(DATA, replace(TOPK, objective=objective, **changes), list(seeds), reference=reference)


def to_reference(result, reference):
    pairs = zip(result.saes.W_dec, reference.W_dec, strict=True)
    return [metrics.hungarian_mcc(a, b, signed=False) for a, b in pairs]


def test_a_weight_of_zero_trains_the_plain_sae(reference):
    plain, zero = train(Objective()), train(Objective("assignment"), reference)
    assert all(torch.equal(getattr(plain.saes, w), getattr(zero.saes, w)) for w in saes.WEIGHTS)


@pytest.mark.parametrize("name", ["alignment", "assignment"])
def test_each_seed_comes_nearer_to_its_own_reference(name, reference):
    plain, pulled = train(Objective()), train(Objective(name, 3.0), reference)
    before, after = to_reference(plain, reference), to_reference(pulled, reference)
    assert all(b > a + 0.05 for a, b in zip(before, after, strict=True))
    swapped = saes.stack([reference[1], reference[0]])
    assert all(own > other for own, other in zip(after, to_reference(pulled, swapped), strict=True))
    assert pulled.log[-1]["objective"][0] < pulled.log[0].get("objective", [1.0])[0]


def test_one_reference_serves_all_seeds_as_copies_of_it_would(reference):
    one = reference[0]
    alone, copied = (train(Objective("assignment", 1.0), x) for x in (one, saes.stack([one, one])))
    assert torch.equal(alone.saes.W_dec, copied.saes.W_dec)


def test_partners_of_a_group_come_together_and_strangers_do_not():
    plain, joint = (train(o, seeds=(1, 2, 3, 4)) for o in (Objective(), Objective("contrastive", 3.0)))
    score = [
        [metrics.mean_max_cosine(x.saes.W_dec[i], x.saes.W_dec[j]) for i, j in ((0, 1), (0, 2))] for x in (plain, joint)
    ]
    assert score[1][0] > score[0][0] + 0.1 and abs(score[1][1] - score[0][1]) < 0.05


def test_a_relative_weight_follows_the_loss():
    """Data in other units leave standardised losses alone; without standardising a relative term scales as the loss."""
    bare = replace(published(40, 3), steps=40, batch_size=64, lr=3e-3)
    small = 1e-3 * DATA
    ref = training.train(small, replace(bare, steps=200), [7]).saes
    fixed, relative = (
        training.train(small, replace(bare, objective=Objective("alignment", 0.1, relative=r)), [1], reference=ref)
        for r in (False, True)
    )
    near = [metrics.mean_max_cosine(x.saes.W_dec[0], ref.W_dec[0]) for x in (fixed, relative)]
    assert near[0] > near[1] + 0.05


def test_a_relative_term_waits_for_the_first_loss(reference):
    plain = train(Objective(), steps=8)
    held = train(Objective("assignment", 1e3, relative=True, every=8), reference, steps=8)
    assert all(torch.equal(getattr(plain.saes, w), getattr(held.saes, w)) for w in saes.WEIGHTS)
    absolute = train(Objective("assignment", 1e3, every=8), reference, steps=8)
    assert not torch.equal(absolute.saes.W_dec, plain.saes.W_dec)


def test_a_fading_term_is_gone_when_it_has_faded(reference):
    kept = train(Objective("assignment", 3.0), reference, steps=400)
    faded = train(Objective("assignment", 3.0, fade=0.2), reference, steps=400)
    assert sum(to_reference(kept, reference)) > sum(to_reference(faded, reference))
    plain = train(Objective(), steps=400)
    assert sum(to_reference(faded, reference)) >= sum(to_reference(plain, reference)) - 0.02


def test_pinned_latents_are_the_references_to_the_byte_and_the_rest_learn(reference):
    fixed, free = (train(Objective("pinning", rows=10, encoder=e), reference).saes for e in ("fixed", "free"))
    for x in (fixed, free):
        assert torch.equal(x.W_dec[:, :10], reference.W_dec[:, :10])
        assert not torch.allclose(x.W_dec[:, 10:], reference.W_dec[:, 10:], atol=0.1)
    assert torch.equal(fixed.W_enc[:, :, :10], reference.W_enc[:, :, :10])
    assert torch.allclose(fixed.b_enc[:, :10], reference.b_enc[:, :10], atol=1e-6)
    assert not torch.equal(free.W_enc[:, :, :10], reference.W_enc[:, :, :10])


def test_random_encoders_of_pinned_latents_stay_as_they_were_drawn(reference):
    drawn = train(Objective()).checkpoints[0]
    pinned = train(Objective("pinning", rows=10, encoder="random"), reference).saes
    assert torch.equal(pinned.W_dec[:, :10], reference.W_dec[:, :10])
    assert torch.equal(pinned.W_enc[:, :, :10], drawn.W_enc[:, :, :10])
    assert torch.equal(pinned.b_enc[:, :10], drawn.b_enc[:, :10])
    assert not torch.equal(pinned.W_enc[:, :, 10:], drawn.W_enc[:, :, 10:])


def test_a_wholly_pinned_sae_is_the_reference(reference):
    config = replace(TOPK.sae, decoder_bias=True)
    same = train(Objective("pinning", rows=40, encoder="fixed"), reference, sae=config).saes
    assert torch.equal(same.W_dec, reference.W_dec) and torch.equal(same.W_enc, reference.W_enc)
    moved = (same.b_dec - reference.b_dec).norm(dim=1) / reference.b_dec.norm(dim=1)
    assert float(moved.max()) < 0.5  # the decoder bias alone still learns


def test_a_consensus_starts_from_its_rows_and_holds_the_first(reference):
    begun = train(Objective("consensus", 0.0, rows=5), reference).checkpoints[0]
    assert torch.equal(begun.W_dec, reference.W_dec) and torch.equal(begun.W_enc, reference.W_enc)
    loose, held = (train(Objective("consensus", w, rows=5), reference).saes for w in (0.0, 30.0))
    cosine = [(x.W_dec * reference.W_dec).sum(-1)[:, :5].mean() for x in (loose, held)]
    assert cosine[1] > cosine[0] and cosine[1] > 0.98


def test_fewer_reference_rows_leave_the_other_latents_fresh(reference):
    small = training.train(DATA, replace(TOPK, sae=SAEConfig("topk", 20, 3)), [7, 8]).saes
    begun = train(Objective("consensus", 0.1, rows=20), small).checkpoints[0]
    fresh = train(Objective()).checkpoints[0]
    assert torch.equal(begun.W_dec[:, :20], small.W_dec) and torch.equal(begun.W_dec[:, 20:], fresh.W_dec[:, 20:])


def test_l2_shrinks_free_rows():
    free = {"unit_decoder": False, "project_gradient": False, "steps": 600}
    loose, small = (train(Objective("l2", w), **free).saes for w in (0.0, 1e-2))
    assert small.W_dec.norm() < 0.9 * loose.W_dec.norm() and small.W_enc.norm() < 0.9 * loose.W_enc.norm()


def test_bad_input_is_refused_by_name(reference):
    for objective, given, words in [
        (Objective("alignment", 0.1), None, "reference is 'none'"),
        (Objective(), reference, "reference is '2 SAEs'"),
        (Objective("pinning", rows=41), reference, "rows is 41"),
        (Objective("alignment", 0.1), saes.stack([reference, reference]), "reference is '4 SAEs'"),
    ]:
        with pytest.raises(ValueError, match=words):
            train(objective, given)
    with pytest.raises(ValueError, match="seeds is"):
        train(Objective("contrastive", 0.1), seeds=(1, 2, 3))
    other = training.train(sparse_dictionary(8, 16, 3, 4000, seed=0).activations, TOPK, [1]).saes
    with pytest.raises(ValueError, match="reference is 'd_model = 8'"):
        train(Objective("alignment", 0.1), other)
    for wrong in (
        {"name": "pull"},
        {"weight": -1.0},
        {"every": 0},
        {"rows": 3},
        {"name": "alignment", "encoder": "fixed"},
        {"name": "pinning", "encoder": "copied"},
    ):
        with pytest.raises(ValueError):
            Objective(**wrong)
    with pytest.raises(ValueError, match="unit_decoder"):
        replace(TOPK, objective=Objective("l2", 0.1))
