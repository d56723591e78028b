"""Nulls that need no training: closed form against draws, what each keeps, and what each destroys."""

import math
from functools import cache

import pytest
import torch

from husai import nulls
from husai.metrics import mean_max_cosine
from husai.nulls import covariance_matched, data_atoms, expected_max_cosine, isotropic, shuffle_coordinates


@cache
def power_law(slope: float, inputs: int = 4000, d_model: int = 128) -> torch.Tensor:
    """Return normal activations with covariance eigenvalues i^-slope in a rotated basis, off the origin."""
    draw = torch.Generator().manual_seed(7)
    basis = torch.linalg.qr(torch.randn(d_model, d_model, generator=draw)).Q
    scales = torch.arange(1, d_model + 1) ** (-slope / 2)
    return torch.randn(inputs, d_model, generator=draw) * scales @ basis + 3


@pytest.mark.parametrize(
    ("d_model", "n", "absolute", "signed"),
    [
        (128, 16, 0.1829, 0.1558),
        (128, 64, 0.2275, 0.2059),
        (128, 1024, 0.2988, 0.2827),
        (512, 4096, 0.1671, 0.1594),
    ],
)
def test_closed_form_values(d_model: int, n: int, absolute: float, signed: float) -> None:
    assert expected_max_cosine(d_model, n) == pytest.approx(absolute, abs=2e-4)
    assert expected_max_cosine(d_model, n, signed=True) == pytest.approx(signed, abs=2e-4)


@pytest.mark.parametrize("d", [2, 3, 50])
def test_one_row_is_the_mean_absolute_cosine(d: int) -> None:
    exact = math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2)) / math.sqrt(math.pi)
    assert expected_max_cosine(d, 1) == pytest.approx(exact, abs=1e-7)
    assert expected_max_cosine(d, 1, signed=True) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(("d_model", "n_a", "n_b"), [(16, 12, 12), (16, 48, 48), (24, 8, 200)])
def test_closed_form_is_the_mean_of_draws(d_model: int, n_a: int, n_b: int) -> None:
    for signed in (False, True):
        draws = torch.tensor([
            mean_max_cosine(isotropic(n_a, d_model, seed), isotropic(n_b, d_model, 1000 + seed), signed=signed)
            for seed in range(30)
        ])  # fmt: skip
        error = float(draws.std()) / math.sqrt(len(draws))
        exact = expected_max_cosine(d_model, n_a, signed=signed, n_other=n_b)
        assert abs(float(draws.mean()) - exact) < 4 * error


def test_wide_spaces_are_integrated_where_the_mass_is() -> None:
    values = [expected_max_cosine(d, 8 * d) for d in (64, 1024, 16384)]
    assert values == sorted(values, reverse=True)
    assert values[2] == pytest.approx(0.0359, abs=2e-4)


@pytest.mark.parametrize(("slope", "n", "score"), [(0, 128, 0.247), (1, 128, 0.484), (1, 1024, 0.546), (2, 128, 0.829)])
def test_covariance_alone_raises_the_score(slope: float, n: int, score: float) -> None:
    acts = power_law(slope)
    pair = [covariance_matched(acts, n, seed) for seed in (0, 1)]
    assert mean_max_cosine(*pair) == pytest.approx(score, abs=0.02)


def test_covariance_matched_keeps_the_subspace() -> None:
    plane = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) @ torch.randn(3, 20)
    rows = covariance_matched(plane + 100, 40, 0)
    assert int(torch.linalg.matrix_rank(rows, rtol=1e-4)) == 3


def test_data_atoms_are_different_centred_points() -> None:
    acts = power_law(1, 60, 8)
    centred = torch.nn.functional.normalize(acts - acts.mean(0), dim=1)
    atoms = data_atoms(acts, 60, 0)
    cosines = atoms @ centred.T
    assert (cosines.amax(1) > 1 - 1e-5).all()
    assert len(set(cosines.argmax(1).tolist())) == 60
    # All seeds draw from one pool, so the score nears 1 as the pool runs out: an upper anchor, not a floor.
    assert mean_max_cosine(data_atoms(acts, 60, 0), data_atoms(acts, 60, 1)) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="n is 61; wanted 1 to 60"):
        data_atoms(acts, 61, 0)


def test_shuffling_keeps_mean_and_covariance_and_nothing_else() -> None:
    draw = torch.Generator().manual_seed(0)
    angle = 2 * math.pi * torch.rand(3000, generator=draw)
    circle = torch.stack([angle.cos(), 1.2 * angle.sin(), 0.1 * torch.randn(3000, generator=draw)], 1)
    acts = circle + torch.tensor([5.0, -2.0, 1.0])
    shuffled = shuffle_coordinates(acts, 0)
    assert torch.allclose(shuffled.mean(0), acts.mean(0), atol=1e-5)
    assert torch.allclose(torch.cov(shuffled.T), torch.cov(acts.T), atol=0.05)

    axes = torch.linalg.eigh(torch.cov(acts.T)).eigenvectors
    before, after = ((x - acts.mean(0)) @ axes for x in (acts, shuffled))
    assert torch.allclose(before.sort(0).values, after.sort(0).values, atol=1e-4), "each coordinate's distribution"

    def squares(x: torch.Tensor) -> float:
        return float(torch.corrcoef(x[:, 1:].square().T)[0, 1])

    assert squares(before) < -0.9, "on a circle, one coordinate tells the other's size"
    assert abs(squares(after)) < 0.1


def test_draws_are_unit_rows_reproducible_and_differ_by_seed() -> None:
    acts = power_law(1, 200, 16)
    for draw in (
        lambda seed: isotropic(12, 16, seed),
        lambda seed: covariance_matched(acts, 12, seed),
        lambda seed: data_atoms(acts, 12, seed),
        lambda seed: shuffle_coordinates(acts, seed),
    ):
        first, again, other = draw(0), draw(0), draw(1)
        assert torch.equal(first, again) and not torch.equal(first, other)
        if len(first) == 12:
            assert torch.allclose(first.norm(dim=1), torch.ones(12))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expected_max_cosine(1, 4), "d_model is 1"),
        (lambda: expected_max_cosine(8, 0), "n is 0"),
        (lambda: expected_max_cosine(8, 4, n_other=0), "n is 0"),
        (lambda: isotropic(0, 8, 0), "n, d_model"),
        (lambda: covariance_matched(torch.full((4, 2), torch.nan), 3, 0), "acts is 'NaN or Inf'"),
        (lambda: covariance_matched(torch.ones(4, 2), 3, 0), "acts is 'one repeated row'"),
        (lambda: covariance_matched(torch.rand(4, 2), 0, 0), "n is 0"),
        (lambda: shuffle_coordinates(torch.ones(0, 2), 0), "acts.shape"),
    ],
)
def test_refusals(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_gaussian_noise_keeps_mean_and_covariance_and_nothing_else() -> None:
    """Heavy tails are gone, first and second moments stay; two seeds are two samples."""
    draw = torch.Generator().manual_seed(0)
    acts = torch.randn(20_000, 6, generator=draw) ** 3 @ torch.randn(6, 6, generator=draw) + 5
    noise = nulls.gaussian(acts, seed=1)
    assert torch.allclose(noise.mean(0), acts.mean(0), atol=0.5)
    assert torch.allclose(torch.cov(noise.T), torch.cov(acts.T), atol=0.06 * torch.cov(acts.T).abs().max().item())
    standard = (noise - noise.mean(0)) / noise.std(0)
    assert (standard**4).mean().item() == pytest.approx(3, abs=0.2)
    assert not torch.equal(noise, nulls.gaussian(acts, seed=2))


def test_principal_axes_are_the_linear_code_of_least_error():
    acts = power_law(1.0)
    axes = nulls.principal_axes(acts, 5)
    assert torch.allclose(axes @ axes.T, torch.eye(5), atol=1e-5)
    singular = torch.linalg.svdvals(acts.double() - acts.double().mean(0))
    kept = ((acts.double() - acts.double().mean(0)) @ axes.double().T).square().sum()
    assert kept.item() == pytest.approx(singular[:5].square().sum().item(), rel=1e-5)
    with pytest.raises(ValueError, match="k is 129; wanted 1 to 128"):
        nulls.principal_axes(acts, 129)


def test_a_rotation_within_the_subspace_keeps_angles_and_what_lies_outside() -> None:
    draw = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(10, 10, generator=draw)).Q
    acts = torch.randn(500, 4, generator=draw) @ axes[:4] + 3  # four of ten dimensions are in use
    rows = torch.nn.functional.normalize(torch.randn(6, 10, generator=draw), dim=1)
    turned = nulls.rotated(acts, 5 * rows, 1)
    assert torch.allclose(turned @ turned.T, rows @ rows.T, atol=1e-5)
    assert torch.allclose(turned @ axes[4:].T, rows @ axes[4:].T, atol=1e-5)
    assert not torch.allclose(turned @ axes[:4].T, rows @ axes[:4].T, atol=0.1)
    assert not torch.equal(turned, nulls.rotated(acts, rows, 2))
    with pytest.raises(ValueError, match="share"):
        nulls.rotated(acts, rows, 1, share=0.0)


def test_the_root_of_the_covariance_turns_cosines_into_correlations() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(400, 5, generator=draw) @ torch.randn(5, 5, generator=draw) + 3
    e, f = torch.randn(2, 5, generator=draw, dtype=torch.float64)
    root = nulls.covariance_root(x)
    cosine = torch.nn.functional.cosine_similarity(e @ root, f @ root, dim=0)
    correlation = torch.corrcoef(torch.stack([x.double() @ e, x.double() @ f]))[0, 1]
    assert float(cosine) == pytest.approx(float(correlation), abs=1e-9)
