"""Matching up to shifts of the operands finds what a shift hides, and only that."""

import pytest
import torch

from husai.metrics import hungarian_mcc
from husai.nulls import isotropic
from husai.orbits import action, best_similarity, orbit_mcc, panel, scrambled, shift, similarity

P, D = 13, 40
FREQUENCIES = [(1, 0), (0, 1), (2, 2), (3, 0), (0, 3), (5, 8)]


def equivariant(noise: float = 0.0) -> torch.Tensor:
    """Return activations that every shift rotates: one plane a frequency, not all as strong, around a mean."""
    draw = torch.Generator().manual_seed(0)
    frame = torch.linalg.qr(torch.randn(D, D, generator=draw)).Q[: 2 * len(FREQUENCIES)].reshape(-1, 2, D)
    a, b = torch.arange(P).repeat_interleave(P), torch.arange(P).repeat(P)
    x = torch.randn(D, generator=draw).expand(P * P, D).clone()
    for index, ((f, g), (cosine, sine)) in enumerate(zip(FREQUENCIES, frame, strict=True)):
        angle = 2 * torch.pi * (f * a + g * b) / P
        x += (1 + 0.5 * index) * (angle.cos()[:, None] * cosine + angle.sin()[:, None] * sine)
    return x + noise * torch.randn(x.shape, generator=draw)


def test_the_action_is_found_and_shifts_the_activations() -> None:
    x = equivariant()
    found = action(x, P)
    # a frequency and its negative are one
    known = {tuple(sorted([(f, g), (-f % P, -g % P)])) for f, g in FREQUENCIES}
    assert {tuple(sorted([(f, g), (-f % P, -g % P)])) for f, g in found.frequencies.tolist()} == known
    assert found.equivariance == pytest.approx(1, abs=1e-5) and found.variance == pytest.approx(1, abs=1e-5)
    centred = x - x.mean(0)
    moved = centred.reshape(P, P, D).roll((-3, -7), (0, 1)).reshape(-1, D)
    assert torch.allclose(shift(found, centred, 3, 7), moved, atol=1e-4)


def test_activations_without_the_symmetry_are_not_equivariant() -> None:
    noise = torch.randn(P * P, D, generator=torch.Generator().manual_seed(1))
    assert action(noise, P).equivariance < 0.5
    assert 0.8 < action(equivariant(0.3), P).equivariance < 1


def test_a_rotated_dictionary_is_the_same_up_to_shifts_and_to_nothing_else() -> None:
    found = action(equivariant(), P)
    a = isotropic(24, 12, 0) @ found.planes.flatten(0, 1)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(2))
    moved = -shift(found, a, 5, 2)[order]
    assert orbit_mcc(found, a, moved) == pytest.approx(1, abs=1e-4)
    assert hungarian_mcc(a, moved, signed=False) < 0.8
    assert orbit_mcc(found, a, scrambled(found, a, 0)) < 0.95, "other angles than any shift's"
    # whole angles are kept by the null, and by a shift
    assert torch.allclose(scrambled(found, a, 0) @ scrambled(found, a, 0).T, a @ a.T, atol=1e-5)


def test_every_latent_may_choose_its_own_shift() -> None:
    found = action(equivariant(), P)
    a = isotropic(5, D, 0)
    moved = torch.cat([shift(found, row[None], s, 2 * s) for s, row in enumerate(a)])
    assert orbit_mcc(found, a, moved) == pytest.approx(1, abs=1e-4)


def test_the_similarity_is_the_maximum_over_all_shifts() -> None:
    found = action(equivariant(0.2), P)
    a, b = isotropic(6, D, 0), isotropic(9, D, 1)
    naive = torch.stack([(a @ shift(found, b, s, t).T).abs() for s in range(P) for t in range(P)]).amax(0)
    assert torch.allclose(similarity(found, a, b), naive, atol=1e-5)
    assert torch.allclose(similarity(found, b, a), similarity(found, a, b).T, atol=1e-5)
    assert torch.allclose(best_similarity(found, a, b, 2), naive.amax(1), atol=1e-5), "what is not tried is not nearer"
    cosines = torch.stack([a @ shift(found, b, s, t).T for s in range(P) for t in range(P)]).amax((0, 2))
    assert torch.allclose(best_similarity(found, a, b, 2, signed=True), cosines, atol=1e-5)
    assert best_similarity(found, a, -a, signed=True).max() < 0.95 < 0.999 < best_similarity(found, a, -a).min()
    assert orbit_mcc(found, a, b) >= hungarian_mcc(a, b, signed=False)


@pytest.mark.parametrize(("rows", "p", "words"), [(P * P - 1, P, "p\\*p"), (144, 12, "odd"), (0, P, "non-empty")])
def test_refusals(rows: int, p: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        action(torch.randn(rows, D), p)
    with pytest.raises(ValueError, match="vary"):
        action(torch.ones(P * P, D), P)


def test_the_panel_separates_a_shift_from_its_scrambled_null() -> None:
    found = action(equivariant(), P)
    a = isotropic(16, 12, 0) @ found.planes.flatten(0, 1)
    scores = panel(found, [a, shift(found, a, 1, 4), shift(found, a, 7, 3)])
    off = ~torch.eye(3, dtype=torch.bool).numpy()
    assert scores.orbit[off].min() > 0.999 and scores.scrambled[off].max() < 0.97 > scores.plain[off].max()
    alone = panel(found, [isotropic(16, D, seed) for seed in range(3)])
    assert alone.orbit[off].mean() == pytest.approx(alone.scrambled[off].mean(), abs=0.03), "the null of unrelated rows"
