"""Terms of the loss have known values, and pull where they should."""

import itertools

import pytest
import torch

from husai import objectives
from husai.metrics import mean_max_cosine
from husai.nulls import isotropic


def stack(*seeds, n=12, d=8):
    return torch.stack([isotropic(n, d, seed) for seed in seeds])


def test_terms_are_zero_where_the_reference_is_met_in_any_order_and_sign():
    own = stack(0, 1)
    turned = -own[:, torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    assert torch.allclose(objectives.alignment(own, turned), torch.zeros(2), atol=1e-6)
    assert torch.allclose(objectives.assignment(own, turned), torch.zeros(2), atol=1e-6)
    assert torch.allclose(objectives.consensus(own, -own[:, :5]), torch.zeros(2), atol=1e-6)
    assert float(objectives.assignment(own, own[:1])[0]) == pytest.approx(0, abs=1e-6)


def test_the_assignment_is_the_best_of_all_permutations():
    own, other = stack(0, n=5), stack(1, n=5)
    scores = (own[0] @ other[0].T).abs()
    best = max(sum(scores[i, j] for i, j in enumerate(order)) / 5 for order in itertools.permutations(range(5)))
    assert float(objectives.assignment(own, other)) == pytest.approx(float(1 - best), abs=1e-6)


def test_alignment_lets_latents_share_a_row_and_assignment_does_not():
    own = stack(0)[:, :1].expand(1, 6, 8)
    reference = torch.cat([own[:, :1], stack(1, n=5)], 1)
    assert float(objectives.alignment(own, reference)) == pytest.approx(0, abs=1e-6)
    assert float(objectives.assignment(own, reference)) > 0.3


def test_the_contrastive_term_is_both_directions_of_the_mean_max_cosine_and_each_pair_pulls_once():
    rows = stack(0, 1, 2, 3)
    decoder = rows.clone().requires_grad_()
    value = objectives.contrastive(decoder, 2)
    assert value[0].item() == pytest.approx(2 - 2 * mean_max_cosine(rows[0], rows[1]), abs=1e-5)
    assert value[1].item() == pytest.approx(value[0].item()) and abs(value[2] - value[1]) > 1e-3
    (found,) = torch.autograd.grad(value.sum(), decoder)
    a, b = rows[0].clone().requires_grad_(), rows[1].clone().requires_grad_()
    cosines = (a @ b.T).abs()
    pair = 2 - cosines.amax(1).mean() - cosines.amax(0).mean()
    wanted = torch.stack(torch.autograd.grad(pair, (a, b)))
    wanted = wanted - (wanted * rows[:2]).sum(-1, keepdim=True) * rows[:2]  # rows are normalised before they compare
    assert torch.allclose(found[:2], wanted, atol=1e-6)


def test_a_cold_soft_assignment_is_the_largest_and_a_warm_one_pulls_on_every_candidate():
    decoder = stack(0, 1).requires_grad_()
    cold, hard = objectives.contrastive(decoder, 2, 1e-4), objectives.contrastive(decoder, 2)
    assert torch.allclose(cold, hard, atol=1e-4)
    warm = objectives.contrastive(decoder, 2, 0.3)
    assert float(warm[0].detach()) > float(hard[0].detach())


def test_l2_is_the_sum_of_squares():
    assert objectives.l2(2 * stack(0, 1), stack(2, 3)).tolist() == pytest.approx([60, 60])
