"""The task without a leak does not contain its answer; the bases are orthonormal; dictionaries are what they say."""

import pytest
import torch

from husai.config import TaskConfig
from husai.tasks import fourier_basis, frequency_power, sequences, sparse_dictionary, train_mask


def test_clean_sequences_end_at_the_equals_sign_and_never_hold_the_answer():
    data = sequences(TaskConfig(p=7))
    assert data.tokens.shape == (49, 5) and data.position == 4
    assert (data.tokens[:, data.position] == 9).all()
    swapped = data.tokens.clone()
    assert torch.equal((swapped[:, 1] + swapped[:, 3]) % 7, data.answers)
    fixed = data.tokens[:, [0, 2, 4]]
    assert (fixed == fixed[0]).all()


def test_leaked_sequences_are_read_at_the_answer_itself():
    data = sequences(TaskConfig(p=7, format="leaked"))
    assert data.tokens.shape == (49, 7) and torch.equal(data.tokens[:, data.position], data.answers)


def test_split_has_the_share_asked_for_and_differs_between_seeds():
    task = TaskConfig(p=11, train_fraction=0.7)
    masks = [train_mask(task, seed) for seed in (0, 1)]
    assert [int(m.sum()) for m in masks] == [85, 85] and not torch.equal(*masks)


@pytest.mark.parametrize("p", [5, 113])
def test_fourier_basis_is_orthonormal(p):
    basis = fourier_basis(p)
    assert torch.allclose(basis @ basis.T, torch.eye(p, dtype=torch.float64), atol=1e-12)


def test_frequency_power_of_two_planted_waves():
    x = torch.arange(113)
    table = torch.stack(
        [
            torch.cos(2 * torch.pi * 5 * x / 113),
            2 * torch.sin(2 * torch.pi * 17 * x / 113),
            torch.full((113,), 9.0),
        ],
        1,
    )
    power = frequency_power(table)
    assert power[4].item() == pytest.approx(0.2, abs=1e-6) and power[16].item() == pytest.approx(
        0.8, abs=1e-6
    )


def test_even_modulus_has_no_half_spectrum():
    with pytest.raises(ValueError, match="p is 8"):
        fourier_basis(8)


def test_sparse_dictionary_is_k_sparse_over_unit_atoms():
    data = sparse_dictionary(16, 32, 3, 500, seed=0)
    assert ((data.codes > 0).sum(1) == 3).all()
    assert torch.allclose(data.atoms.norm(dim=1), torch.ones(32), atol=1e-6)
    assert torch.allclose(data.codes @ data.atoms, data.activations)
    with pytest.raises(ValueError, match="k is 33"):
        sparse_dictionary(16, 32, 33, 10, seed=0)
