"""Synthetic dictionaries have the rates, the hierarchy, the correlations and the noise that they were asked for."""

import math
from dataclasses import replace

import pytest
import torch

from husai.synthetic import HARD, SyntheticConfig, orthonormal, rotating, sample

TREES = SyntheticConfig(features=60, l0=6.0, zipf=1.0, trees=6, children=2, depth=2, follow=0.8, ceiling=0.3)
N = 20_000


@pytest.mark.parametrize(
    "config",
    [
        SyntheticConfig(),
        SyntheticConfig(zipf=1.0, l0=8.0, ceiling=0.2),
        TREES,
        replace(TREES, exclusive=False),
        replace(TREES, rank=2, correlation=0.6),
        HARD,
    ],
)
def test_every_feature_fires_at_its_rate_and_the_rates_sum_to_the_wanted_l0(config):
    data = sample(config, N, seed=0)
    assert float(config.rates.sum()) == pytest.approx(config.l0)
    assert float(config.rates.max()) <= config.ceiling
    error = (data.rates - config.rates).abs() / (config.rates * (1 - config.rates) / N).sqrt()
    assert float(error.max()) < 5, "no rate further than five standard errors from what was asked for"
    assert float((data.codes > 0).sum(1).float().mean()) == pytest.approx(config.l0, rel=0.03)


def test_without_structure_the_number_of_active_features_is_binomial():
    counts = (sample(SyntheticConfig(features=100, l0=5.0), N, seed=1).codes > 0).sum(1).double()
    assert counts.mean().item() == pytest.approx(5, abs=0.05)
    assert counts.var().item() == pytest.approx(100 * 0.05 * 0.95, rel=0.03)


def test_zipf_rates_fall_by_the_exponent_below_the_ceiling():
    rates = SyntheticConfig(zipf=0.7, l0=8.0, ceiling=0.2).rates
    capped = int((rates == 0.2).sum())
    assert 0 < capped < 20
    ranks = torch.arange(capped + 1, 129, dtype=torch.float64)
    assert torch.allclose(rates[capped:] * ranks**0.7, rates[-1] * 128**0.7)


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_child_fires_only_with_its_parent_and_exclusive_siblings_never_together(exclusive):
    config = replace(TREES, exclusive=exclusive)
    data = sample(config, 5000, seed=2)
    fires, children = data.codes > 0, torch.nonzero(data.parents >= 0)[:, 0]
    assert len(children) == 6 * (2 + 4) and config.roots == 60 - 36
    assert not bool((fires[:, children] & ~fires[:, data.parents[children]]).any())
    together = [
        bool((fires[:, a] & fires[:, b]).any())
        for a in children.tolist() for b in children.tolist() if a < b and data.parents[a] == data.parents[b]
    ]  # fmt: skip
    assert any(together) is not exclusive


def test_pairs_bound_to_each_other_fire_together_always():
    config = SyntheticConfig(features=20, l0=4.0, trees=10, children=1, follow=1.0)
    fires = sample(config, 2000, seed=0).codes > 0
    assert torch.equal(fires[:, :10], fires[:, 10:])


def test_firing_is_correlated_with_the_rank_and_strength_asked_for():
    """At rates of one half, correlation of firings is 2/pi arcsin(rho) (Sheppard), which gives rho back."""
    config = SyntheticConfig(features=40, l0=20.0, rank=3, correlation=0.7)
    fires = (sample(config, 100_000, seed=3).codes > 0).float()
    rho = torch.sin(torch.corrcoef(fires.T) * math.pi / 2)
    rho.fill_diagonal_(0.7)  # c F F^T has c on its diagonal
    values = torch.linalg.eigvalsh(rho).flip(0)
    assert float(values[:3].sum()) == pytest.approx(0.7 * 40, rel=0.05)
    assert float(values[2]) > 2 and float(values[3:].abs().max()) < 0.3


def test_activations_are_codes_times_unit_atoms_and_noise():
    config = SyntheticConfig(coefficient=2.0)
    data = sample(config, N, seed=4)
    assert torch.allclose(data.atoms.norm(dim=1), torch.ones(128), atol=1e-6)
    assert torch.allclose(data.codes @ data.atoms, data.activations, atol=1e-5)
    assert bool((data.codes >= 0).all())
    noisy = sample(replace(config, noise=0.3), N, seed=4)
    assert torch.equal(noisy.codes, data.codes), "noise has a stream of its own"
    assert float((noisy.activations - data.activations).std()) == pytest.approx(0.3, rel=0.02)


@pytest.mark.parametrize(("mean", "expected"), [(0.0, math.sqrt(2 / math.pi)), (3.0, 3.0)])
def test_coefficients_follow_the_half_normal_or_folded_law(mean, expected):
    codes = sample(SyntheticConfig(coefficient=mean), N, seed=5).codes
    assert float(codes[codes > 0].mean()) == pytest.approx(expected, rel=0.01)


def test_a_seed_gives_the_same_data_and_another_seed_other_data():
    first, again, other = (sample(HARD, 100, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.atoms, other.atoms) and not torch.equal(first.codes, other.codes)


def test_single_changes_keep_the_atoms():
    base = SyntheticConfig()
    changed = [replace(base, zipf=1.0), replace(base, rank=2, correlation=0.5), replace(base, trees=8)]
    assert all(torch.equal(sample(base, 5, 0).atoms, sample(config, 5, 0).atoms) for config in changed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": 0}, "features is 0"),
        ({"l0": 65.0}, "l0 is 65.0; wanted above 0, at most 64"),
        ({"zipf": -1.0}, "zipf is -1.0"),
        ({"ceiling": 1.5}, "ceiling is 1.5"),
        ({"trees": 40}, "features is 128; wanted room for 40 trees, 4 features each"),
        ({"rank": 2}, "correlation is 0.0; wanted 0 where there are no factors"),
        ({"correlation": 1.0, "rank": 1}, "correlation is 1.0"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"follow": 0.0}, "follow is 0.0"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        SyntheticConfig(**changes)
    with pytest.raises(ValueError, match="n is 0"):
        sample(SyntheticConfig(), 0, seed=0)


def test_a_subspace_is_hidden_from_the_covariance_or_not():
    x, basis = rotating(16, 4, 0.1, 40_000, 0)
    assert torch.allclose(basis @ basis.T, torch.eye(4), atol=1e-5)
    assert torch.allclose(x.T @ x / len(x), torch.eye(16), atol=0.06), "no direction stands out"
    silent = (x @ basis.T).norm(dim=1) < 1e-4
    assert 0.88 < silent.float().mean() < 0.92
    inside = (x @ basis.T)[~silent]
    assert torch.allclose(inside.T @ inside / len(inside), 10 * torch.eye(4), atol=0.8), "nor inside"
    shown, basis = rotating(16, 4, 1.0, 10_000, 0)
    assert (shown @ basis.T).square().sum() / shown.square().sum() > 0.95


def test_orthonormal_atoms_make_the_activations_with_the_signs_asked_for():
    made = orthonormal(16, 10, 3, 2000, 0, signed=True)
    assert torch.allclose(made.atoms @ made.atoms.T, torch.eye(10), atol=1e-5)
    assert torch.allclose(made.activations, made.codes @ made.atoms, atol=1e-5)
    assert ((made.codes != 0).sum(1) == 3).all() and 0.45 < (made.codes < 0).sum() / 6000 < 0.55
    assert (orthonormal(16, 10, 3, 2000, 0).codes >= 0).all()
    noisy = orthonormal(16, 10, 3, 2000, 0, noise=0.5)
    assert 0.45 < (noisy.activations - noisy.codes @ noisy.atoms).std() < 0.55
    with pytest.raises(ValueError, match="atoms is 17"):
        orthonormal(16, 17, 3, 10, 0)
    with pytest.raises(ValueError, match="rate is 0"):
        rotating(16, 4, 0.0, 10, 0)
