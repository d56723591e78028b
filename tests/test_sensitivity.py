"""Sensitivity: planted phase features, random features, density, and the sources' neighbours by hand."""

import numpy as np
import pytest
import torch

from husai import activations, sensitivity, study
from husai.recipes import converged

P = 29
ORIGINS = torch.randperm(P * P, generator=torch.Generator().manual_seed(1))[:60]


def test_neighbours_are_the_sources_and_those_of_a_frequency():
    a, b = 1, 27
    found = {(int(i) // P, int(i) % P) for i in sensitivity.steps(P, torch.tensor([a * P + b]))[0]}
    moves = (-3, -2, -1, 1, 2, 3)
    assert found == {((a + d) % P, b) for d in moves} | {(a, (b + d) % P) for d in moves}
    w = 5
    by_phase = sensitivity.steps(P, torch.tensor([a * P + b]), pow(w, -1, P))[0]
    shifts = {(int(i) // P * w - a * w) % P for i in by_phase} | {(int(i) % P * w - b * w) % P for i in by_phase}
    assert shifts == {d % P for d in (*moves, 0)}, "the phase moves by delta / p of a turn"
    same = sensitivity.same_answer(P, ORIGINS, 0)
    assert bool(((same // P + same % P - (ORIGINS // P + ORIGINS % P)[:, None]) % P == 0).all())
    assert not bool((same == ORIGINS[:, None]).any())


def test_a_function_of_the_answer_has_sensitivity_one_among_equal_answers():
    total = (torch.arange(P)[:, None] + torch.arange(P)).flatten() % P
    codes = torch.nn.functional.one_hot(total, P).float()
    found = sensitivity.panel(codes, P, 60)["answer"]
    assert found.observed == 1 and found.kappa == 1
    assert found.chance == pytest.approx((P - 1) / (P * P - 1)), "exactly the share of the other inputs"


def test_planted_phase_features_are_found_by_phase_not_by_number_nor_in_random_order():
    found = sensitivity.panel(sensitivity.planted(P, 64), P, 100)
    assert found["phase"].kappa > 0.85
    assert found["answer"].kappa == pytest.approx(1)
    assert found["number"].kappa < 0.5
    assert abs(found["permuted"].kappa) < 0.1


def test_the_frequency_of_a_latent_is_found():
    total = (torch.arange(P)[:, None] + torch.arange(P)).flatten()
    a = torch.arange(P).repeat_interleave(P)
    waves = [torch.cos(2 * torch.pi * w * x / P + 1).relu() for w, x in ((3, total), (11, a))]
    assert sensitivity.frequencies(torch.stack(waves, 1), P).tolist() == [3, 11]


@pytest.mark.parametrize("density", [0.05, 0.5])
def test_random_features_have_the_sensitivity_of_their_density_and_kappa_zero(density):
    codes = torch.rand(P * P, 200).add(0.5) * (torch.rand(P * P, 200) < density)
    found = sensitivity.panel(codes, P, 200)
    for kind in ("number", "phase", "answer", "permuted"):
        assert found[kind].observed == pytest.approx(density, abs=0.02)
        assert found[kind].kappa == pytest.approx(0, abs=0.03)


def test_the_threshold_is_a_share_of_the_value_at_the_origin_and_small_values_do_not_count():
    codes = torch.zeros(P * P, 2)
    codes[:, 0], codes[:, 1] = 0.2, 0.001  # everywhere active, and below LEAST
    origins = torch.tensor([0])
    with pytest.raises(ValueError, match="active everywhere"):
        sensitivity.probe(codes, origins)
    codes[0, 0] = 1.9
    codes[1, 0] = 0.18  # (0, 1), one of the twelve neighbours: below a tenth of 1.9
    asked = sensitivity.probe(codes, origins)
    assert asked.active.tolist() == [[True, False]]
    found = sensitivity.sensitivity(codes, asked, sensitivity.steps(P, origins)[None])
    assert found.observed == pytest.approx(11 / 12)
    assert found.chance == pytest.approx((P * P - 2) / (P * P - 1))
    with pytest.raises(ValueError, match="nothing above"):
        sensitivity.probe(codes[:, 1:], origins)


def test_panels_of_saes_become_tables_and_estimates():
    panels = [[{"phase": sensitivity.Sensitivity(x, 0.2)} for x in (0.6, 0.7, 0.8)]]
    assert sensitivity.kappas(panels, "phase") == pytest.approx(np.array([[0.5, 0.625, 0.75]]))
    found = sensitivity.estimates(panels, "phase")
    assert found["gap"].value == pytest.approx(0.5) and found["kappa"].value == pytest.approx(0.625)


def test_a_denser_code_of_the_same_sae_is_more_sensitive_and_no_more_beyond_chance():
    noise = activations.split(torch.randn(P * P, 16), seed=0, name="noise")
    one = study.run({"x": (noise, converged(32, 4, 64))}, [100, 101, 102])["x"]
    thin, dense = sensitivity.by_density(one, P, 60, ks=(2, 16))
    assert dense["sensitivity"].value > thin["sensitivity"].value + 0.3
    assert abs(thin["kappa"].value) < 0.05 and abs(dense["kappa"].value) < 0.05
    as_trained = sensitivity.by_density(one, P, 60)[0]["sensitivity"]
    assert as_trained == sensitivity.by_density(one, P, 60, ks=(4,))[0]["sensitivity"]
