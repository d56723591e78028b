"""Spectra count every wave once; the sources' estimators do what their defects say."""

import math

import pytest
import torch

from husai import fourier
from husai.nulls import isotropic
from husai.tasks import fourier_basis

P = 13
A, B = torch.arange(P).repeat_interleave(P), torch.arange(P).repeat(P)


def wave(f: int, g: int, phase: float = 0.4) -> torch.Tensor:
    return (2 * torch.pi * (f * A + g * B) / P + phase).cos()


@pytest.mark.parametrize(
    ("f", "g", "family"),
    [(3, 3, "sum"), (2, -2, "difference"), (5, 0, "first"), (0, 6, "second"), (1, 4, "mixed"), (4, -1, "mixed")],
)
def test_a_wave_has_one_frequency_and_one_family(f: int, g: int, family: str) -> None:
    found = fourier.spectrum((2 * wave(f, g) + 3)[:, None], P)
    assert found.purity.item() == pytest.approx(1, abs=1e-5)
    assert found.strongest[0].tolist() == [f, g]
    assert {name: round(found.family(name).item(), 4) for name in fourier.FAMILIES if name != family} == dict.fromkeys(
        [name for name in fourier.FAMILIES if name != family], 0.0
    )
    assert found.constant.item() == pytest.approx(9 / 11, abs=1e-5), "mean 3, variance 4 / 2"


def test_a_frequency_and_its_negative_are_one() -> None:
    found = fourier.spectrum(torch.stack([wave(3, 5), wave(P - 3, P - 5, -0.4), wave(3, 5 - P)], 1), P)
    assert found.strongest.tolist() == [[3, 5]] * 3


def test_shares_are_those_of_the_fft_and_add_up() -> None:
    values = torch.randn(P * P, 4, generator=torch.Generator().manual_seed(0))
    found = fourier.spectrum(values, P)
    assert found.shares.shape == (4, (P * P - 1) // 2)
    assert torch.allclose(found.shares.sum(1), torch.ones(4), atol=1e-5)
    assert torch.allclose(sum(found.family(name) for name in fourier.FAMILIES), torch.ones(4), atol=1e-5)
    power = torch.fft.fft2((values - values.mean(0)).T.reshape(4, P, P).double()).abs().square()
    for f, g in ((2, 0), (0, 3), (4, 4), (1, -5)):
        at = (found.frequencies == torch.tensor([f, g])).all(1).nonzero().item()
        wanted = 2 * power[:, f % P, g % P] / power.sum((1, 2))
        assert torch.allclose(found.shares[:, at].double(), wanted, atol=1e-6)


def test_a_rectified_wave_has_the_purity_that_calculus_gives() -> None:
    p = 113
    x = torch.arange(p).repeat_interleave(p)
    half = (2 * torch.pi * 5 * x / p).cos().clamp(min=0)
    wanted = (1 / 8) / (1 / 4 - 1 / math.pi**2)  # fundamental over variance of a half-wave rectified cosine
    assert fourier.spectrum(half[:, None], p).purity.item() == pytest.approx(wanted, abs=1e-3)


def test_constants_have_no_spectrum_and_key_frequencies_are_told_apart() -> None:
    assert fourier.spectrum(torch.ones(P * P, 1), P).purity.item() == 0
    both = fourier.spectrum(torch.stack([wave(2, 2) + wave(2, -3), wave(2, 0)], 1), P)
    assert both.within(torch.tensor([2])).tolist() == pytest.approx([0.5, 1.0], abs=1e-5)
    assert both.within(torch.tensor([2, 3])).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    with pytest.raises(ValueError, match="p\\*p = 169"):
        fourier.spectrum(torch.ones(7, 1), P)
    with pytest.raises(ValueError, match="name"):
        both.family("product")


def test_effects_on_answers() -> None:
    basis = fourier_basis(P).float()
    rows = torch.stack([basis[3] + 2 * basis[4] + 5, basis[3] + basis[5]])
    assert fourier.answer_purity(rows).tolist() == pytest.approx([1.0, 0.5], abs=1e-5)
    with pytest.raises(ValueError, match="constant row"):
        fourier.answer_purity(torch.ones(1, P))


def test_directions_fire_at_the_wanted_rate() -> None:
    values = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    latents = fourier.fired(values, torch.tensor([0.01, 0.2, 0.7]))
    assert (latents > 0).float().mean(0).tolist() == pytest.approx([0.01, 0.2, 0.7])
    assert torch.equal(latents[:, 1].argmax(), values[:, 1].argmax())
    with pytest.raises(ValueError, match="rates"):
        fourier.fired(values, torch.tensor([0.0, 0.2, 0.7]))


@pytest.mark.parametrize("seed", range(3))
def test_the_right_r2_is_one_for_a_perfect_circuit_and_the_published_one_zero(seed: int) -> None:
    table = fourier.planted_table(113, 128, 5, seed)
    assert fourier.explained(table, 5) == pytest.approx(1, abs=1e-6)
    assert fourier.published_r2(table, 10) == pytest.approx(0, abs=1e-6)
    third = fourier.explained(table, 3) - fourier.explained(table, 2)
    assert fourier.published_r2(table, 5) == pytest.approx(third, abs=0.02), "two pairs and one bin without its mirror"
    assert fourier.explained(fourier.planted_table(113, 128, 1, seed), 1) == pytest.approx(1, abs=1e-6)
    assert fourier.published_r2(fourier.planted_table(113, 128, 1, seed), 2) == pytest.approx(0, abs=1e-6)


def test_noise_scores_what_was_published_for_the_trained_model() -> None:
    """Reported: 0.0203 for the model, 0.0201 to 0.0214 for five random ones."""
    noise = [torch.randn(113, 128, generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
    assert all(0.018 < fourier.published_r2(table) < 0.023 for table in noise)
    assert all(0.06 < fourier.explained(table, 3) < 0.068 for table in noise)


def test_the_published_overlap_of_random_directions_is_a_quarter() -> None:
    assert fourier.published_overlap(isotropic(1024, 128, 0), 113) == pytest.approx(0.254, abs=0.003)


def test_the_published_overlap_sees_waves_over_the_coordinates_only() -> None:
    basis = fourier_basis(113).float()
    coordinates = torch.nn.functional.pad(basis[[4, 7]], (0, 15))
    assert fourier.published_overlap(coordinates, 113) == pytest.approx(1, abs=1e-4)
    turned = torch.linalg.qr(torch.randn(128, 128, generator=torch.Generator().manual_seed(0))).Q
    perfect = basis[1:11] @ torch.eye(113, 128) @ turned  # the directions of a perfect circuit, in some orientation
    assert fourier.published_overlap(perfect, 113) < 0.35
    assert fourier.published_overlap(isotropic(8, 5, 0), 113) > 0, "a narrower model is padded"


def test_the_published_alignment_finds_directions_of_the_embedding() -> None:
    table = fourier.planted_table(113, 128, 5, 0)
    sine = table.T @ fourier_basis(113)[1:].float().T
    used = sine.T[sine.norm(dim=0) > 1e-3]
    assert fourier.published_alignment(used[:2] * 3, table, 10) == pytest.approx(1, abs=1e-4)
    assert 0.12 < fourier.published_alignment(isotropic(128, 128, 0), table, 5) < 0.17


def test_a_planted_circuit_is_made_of_rectified_waves() -> None:
    circuit = fourier.planted_circuit(P, 16, frequencies=2, phases=4, rate=0.2)
    assert circuit.latents.shape == (P * P, 3 * 2 * 4)
    found = fourier.spectrum(circuit.latents, P)
    assert set(found.strongest.ne(0).sum(1).tolist()) == {1, 2}
    sums = found.family("first") + found.family("second") + found.family("sum")
    assert torch.allclose(sums, torch.ones(24), atol=1e-4)
    assert (circuit.latents > 0).float().mean().item() == pytest.approx(0.2, abs=0.05)
    assert torch.allclose(circuit.activations, circuit.latents @ circuit.atoms)
