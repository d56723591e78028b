"""Centroids: planted features come back, what chance matches is left out, and the rest is filled from the data."""

from dataclasses import replace

import numpy as np
import torch
from centroids_planted import D, noisy, planted
from torch import Tensor

from husai import centroids
from husai.identifiability import recipe
from husai.metrics import recovery
from husai.nulls import covariance_root, isotropic
from husai.saes import SAEBatch
from husai.similarity import cosine_matrix


def agreed(members: SAEBatch, x: Tensor, *tau: float) -> centroids.Latents:
    return centroids.of(members, members.firing(x), covariance_root(x), *tau)


def test_three_noisy_copies_give_the_dictionary_back() -> None:
    atoms, x = planted()
    found = agreed(noisy(atoms, 0.3), x, 0.7, 0.7)
    single = recovery(noisy(atoms, 0.3).W_dec[0], atoms)
    assert len(found.bias) == 12
    assert recovery(found.decoder, atoms) > single + 0.01, "the mean of three is nearer than one"
    assert recovery(found.encoder, atoms) > 0.95
    torch.testing.assert_close(found.decoder.norm(dim=1), torch.ones(12))


def test_what_one_seed_alone_has_is_left_out_and_the_order_is_by_support_and_frequency() -> None:
    atoms, x = planted()
    members = noisy(atoms, 0.05)
    strange = isotropic(4, D, 9)
    for rows in (0, 1):  # the first atom leaves one seed, the twelfth two
        gone = cosine_matrix(members.W_dec[rows], atoms[[0, 11]]).argmax(0)
        swap = gone if rows == 0 else gone[1:]
        members.W_dec[rows, swap] = strange[2 * rows : 2 * rows + len(swap)]
        members.W_enc[rows][:, swap] = members.W_dec[rows, swap].T
    found = agreed(members, x, 0.9, 0.9)
    which = cosine_matrix(found.decoder, atoms).argmax(1).tolist()
    assert sorted(which) == list(range(11)), "all but the one that a single seed has"
    rates = members.firing(x)[2][cosine_matrix(members.W_dec[2], atoms).argmax(0)]
    score = rates * torch.tensor([2.0] + [3.0] * 10 + [1.0])
    assert np.corrcoef([float(score[i]) for i in which], np.arange(11))[0, 1] < -0.9
    assert which.index(0) > which.index(2), "commoner, but in two seeds alone"


def test_a_match_needs_the_encoder_too() -> None:
    atoms, x = planted()
    members = noisy(atoms, 0.05)
    members.W_enc[0] = members.W_enc[0].roll(1, 1)  # every latent of the first seed reads what its neighbour writes
    members.W_enc[1] = -members.W_enc[1]
    assert len(agreed(members, x, 0.7, 0.7).bias) == 0


def test_encoders_are_compared_on_the_data_alone() -> None:
    atoms, x = planted()
    x = x - (x @ atoms[0])[:, None] * atoms[0]  # a direction without data
    members = noisy(atoms[1:], 0.05)
    members.W_enc.add_(5 * torch.randn(3, 1, 11) * atoms[0][:, None])
    assert len(agreed(members, x, 0.7, 0.7).bias) == 11


def test_missing_rows_are_the_largest_residuals() -> None:
    atoms, x = planted()
    known = centroids.Latents(atoms[:10], atoms[:10], torch.zeros(10))
    config = replace(recipe(12, 3, 1), sae=replace(recipe(12, 12, 1).sae, k=12))
    start = centroids.filled(known, config, torch.zeros(D), x, 0)
    assert torch.equal(start.W_dec[0, :10], atoms[:10]) and torch.equal(start.W_enc[0].T, start.W_dec[0])
    plane = start.W_dec[0, 10:] @ atoms[10:].T  # what is left lies in the plane of the two missing atoms
    torch.testing.assert_close(plane.norm(dim=1), torch.ones(2))
    none = centroids.Latents(x[:0], x[:0], x[:0, 0])
    one, other = (centroids.filled(none, config, x.mean(0), x, seed) for seed in (0, 1))
    assert len(one.W_dec[0]) == 12 and not torch.equal(one.W_dec, other.W_dec), "each group draws its own data points"
    torch.testing.assert_close(one.W_dec[0].norm(dim=1), torch.ones(12))


def test_thresholds_are_what_chance_seldom_reaches() -> None:
    wide = torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    assert centroids.thresholds(covariance_root(wide), 40) == (0.7, 0.7), "the floor, where chance stays below it"
    narrow = wide * torch.tensor([1.0, 1.0, 0.5] + [1e-3] * 61)
    decoder, encoder = centroids.thresholds(covariance_root(narrow), 40)
    assert 0.95 < decoder < encoder <= 1
