"""Block-wise cosines: the blocks must not show, in the result or in memory."""

import pytest
import torch

from benchmarks.metrics import extra_memory
from husai import similarity
from husai.nulls import isotropic
from husai.similarity import best_cosines, cosine_matrix, nearest


def naive(a: torch.Tensor, b: torch.Tensor, signed: bool) -> torch.Tensor:
    cosines = torch.tensor([[torch.cosine_similarity(u, v, dim=0) for v in b] for u in a])
    return cosines if signed else cosines.abs()


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("n_a", "n_b"), [(9, 9), (8, 12), (10, 7), (1, 9), (3, 2)])
def test_blocks_do_not_show(n_a: int, n_b: int, signed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "BLOCK", 4)
    a, b = torch.randn(n_a, 5), 3 * torch.randn(n_b, 5)
    cosines = naive(a, b, signed)
    for best, wanted in zip(best_cosines(a, b, signed=signed), (cosines.amax(1), cosines.amax(0)), strict=True):
        torch.testing.assert_close(best, wanted)
    torch.testing.assert_close(cosine_matrix(a, b, signed=signed), cosines)
    values, partners = nearest(a, b, 2, signed=signed)
    torch.testing.assert_close(values.sort(1, descending=True).values, cosines.topk(2).values)
    torch.testing.assert_close(values, cosines.gather(1, partners))


def test_blocks_of_the_real_size_agree_with_the_whole_matrix() -> None:
    a, b = isotropic(1500, 16, 0), isotropic(2100, 16, 1)  # several blocks, the last ones ragged
    cosines = (a @ b.T).abs()
    best_a, best_b = best_cosines(a, b)
    torch.testing.assert_close(best_a, cosines.amax(1))
    torch.testing.assert_close(best_b, cosines.amax(0))


def test_a_zero_row_matches_nothing() -> None:
    a = torch.tensor([[0.0, 0.0], [0.0, 2.0]])
    best_a, best_b = best_cosines(a, torch.tensor([[0.0, -3.0]]))
    assert best_a.tolist() == [0, 1] and best_b.tolist() == [1]


def test_inputs_are_left_as_they_were() -> None:
    a, b = torch.randn(6, 4, requires_grad=True), torch.randn(5, 4, dtype=torch.float64)
    before = a.detach().clone(), b.clone()
    best_cosines(a, b)
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])


def test_memory_stays_bounded() -> None:
    """In MB, of [8192, 64] dictionaries; the whole matrix is the fault that the measurement must see."""
    assert extra_memory("a @ b.T", 8192, 64) > 200
    assert extra_memory("mean_max_cosine(a, b)", 8192, 64) < 30
    assert extra_memory("sparse_matching(a, b)", 8192, 64) < 100


@pytest.mark.usefixtures("unchecked")
def test_refusals() -> None:
    a = torch.ones(4, 3)
    with pytest.raises(ValueError, match="k is 5; wanted 1 to 4"):
        nearest(a, a, 5)
    with pytest.raises(ValueError, match=r"b.shape is \(4, 2\)"):
        nearest(a, a[:, :2], 1)
