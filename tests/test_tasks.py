"""The task without a leak does not contain its answer; the bases are orthonormal; dictionaries are what they say."""

import pytest
import torch

from husai.config import OPERATIONS, TaskConfig
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


MEANS = {
    "addition": lambda a, b, m: a + b,
    "multiplication": lambda a, b, m: a * b,
    "combined": lambda a, b, m: (a + b) ** 3,
    "combined_drawn": lambda a, b, m: (a + b) * m,
    "copy": lambda a, b, m: a,
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_answers_by_its_own_equation_at_the_equals_sign(operation):
    p, task = 7, TaskConfig(p=7, operation=operation)
    data = sequences(task)
    for row, answer in zip(data.tokens.tolist(), data.answers.tolist(), strict=True):
        a, b, m = row[1], row[3], row[5] if operation == "combined_drawn" else 1
        assert answer == MEANS[operation](a, b, m) % p
    assert data.names[data.position] == "=" and (data.tokens[:, data.position] == p + 2).all()
    assert int(data.tokens.max()) < data.vocabulary and data.tokens.shape[1] == len(data.names)
    assert len(data.tokens) == len(data.answers) == len(train_mask(task, 0))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_only_a_copy_has_a_position_that_gives_the_answer_away(operation):
    """Whoever sees one position of the input answers little better than by guessing; of a copy, all."""
    data = sequences(TaskConfig(p=23, operation=operation))
    best = []
    for column in data.tokens.T:
        counts = torch.zeros(data.vocabulary, 23).index_put_(
            (column, data.answers), torch.ones(len(column)), accumulate=True
        )
        best.append(counts.max(1).values.sum().item() / len(column))
    assert max(best) == 1 if operation == "copy" else max(best) < 0.2


def test_all_pairs_are_there_once_and_the_drawn_ones_repeat():
    def different(operation):
        return len(set(map(tuple, sequences(TaskConfig(p=11, operation=operation)).tokens.tolist())))

    found = {operation: different(operation) for operation in OPERATIONS}
    drawn = found.pop("combined_drawn")
    assert 100 < drawn < 121 and found == dict.fromkeys(("addition", "multiplication", "combined", "copy"), 121)
    data = sequences(TaskConfig(p=11, operation="multiplication"))
    assert int((data.answers == 0).sum()) == 21  # the rows with a zero, and no others


def test_operations_that_need_inverses_need_a_prime_and_the_leak_is_of_addition():
    assert len(sequences(TaskConfig(p=9, operation="copy")).tokens) == 81
    for operation in ("multiplication", "combined", "combined_drawn"):
        with pytest.raises(ValueError, match=f"p is 9; wanted a prime above 3, so that {operation}"):
            TaskConfig(p=9, operation=operation)
    with pytest.raises(ValueError, match="operation is 'copy'; wanted 'addition'"):
        TaskConfig(format="leaked", operation="copy")
    with pytest.raises(ValueError, match="operation is 'division'; wanted one of addition"):
        TaskConfig(operation="division")


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
    assert power[4].item() == pytest.approx(0.2, abs=1e-6) and power[16].item() == pytest.approx(0.8, abs=1e-6)


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
