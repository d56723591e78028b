"""Matching: exact against all permutations, sparse against exact, and graphs that have no full matching."""

from itertools import permutations

import pytest
import torch

from benchmarks.metrics import half_shared
from husai import matching as module
from husai.matching import (
    CANDIDATES,
    Matching,
    assignment_gap,
    exact_matching,
    matching,
    sparse_matching,
    unrelated_cosine,
)
from husai.metrics import activation_matching, hungarian_mcc, recovery, shared_fraction
from husai.nulls import expected_max_cosine, isotropic
from husai.similarity import cosine_matrix

ROUNDING = 1e-6


def check_pairs(found: Matching, a: torch.Tensor, b: torch.Tensor, signed: bool) -> None:
    """A complete one-to-one matching, with the cosines of its own pairs."""
    pairs = min(len(a), len(b))
    assert len(found.rows) == len(set(found.rows.tolist())) == len(set(found.columns.tolist())) == pairs
    assert (found.rows.diff() > 0).all()
    wanted = cosine_matrix(a, b, signed=signed)[found.rows, found.columns]
    torch.testing.assert_close(found.cosines, wanted)


def collapsed(n: int, d_model: int, directions: int) -> torch.Tensor:
    """Return a dictionary with few different rows: all rows want the same few neighbours."""
    return isotropic(n, d_model, 0)[torch.randint(directions, (n,))]


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("n_a", "n_b"), [(5, 5), (4, 6), (6, 4), (1, 3)])
def test_exact_matching_is_the_best_of_all(n_a: int, n_b: int, signed: bool) -> None:
    a, b = torch.randn(n_a, 3), torch.randn(n_b, 3)
    found = exact_matching(a, b, signed=signed)
    check_pairs(found, a, b, signed)
    cosines = cosine_matrix(a, b, signed=signed)
    cosines = cosines if n_a <= n_b else cosines.T
    choices = permutations(range(max(n_a, n_b)), min(n_a, n_b))
    best = max(sum(cosines[i, j] for i, j in enumerate(choice)) for choice in choices)
    assert float(found.cosines.sum()) == pytest.approx(float(best), abs=1e-5)


@pytest.mark.parametrize("signed", [True, False])
def test_a_planted_permutation_is_found(signed: bool) -> None:
    a = isotropic(700, 32, 0)
    order = torch.randperm(700)
    signs = 1.0 if signed else (torch.randint(2, (700, 1)) * 2 - 1)
    noisy = signs * (a + 0.05 * torch.randn(a.shape))[order]
    found, exact = sparse_matching(a, noisy, signed=signed), exact_matching(a, noisy, signed=signed)
    assert torch.equal(order[found.columns], found.rows)
    assert torch.equal(found.columns, exact.columns) and torch.equal(found.cosines, exact.cosines)


# What the sparse matching may lose in mean matched cosine: five times what it was measured to lose, or rounding.
DICTIONARIES = {
    "independent": (lambda: (isotropic(800, 64, 0), isotropic(800, 64, 1)), 1e-5),
    "half shared": (lambda: (isotropic(800, 64, 0), half_shared(800, 64)), 1e-3),
    "wider": (lambda: (isotropic(300, 64, 0), isotropic(900, 64, 1)), 1e-5),
    "narrower": (lambda: (isotropic(900, 64, 0), isotropic(300, 64, 1)), 1e-5),
    "collapsed": (lambda: (isotropic(800, 64, 0), collapsed(800, 64, 20)), 2e-2),
    "dead rows": (lambda: (isotropic(800, 64, 0), isotropic(800, 64, 1) * (torch.rand(800, 1) > 0.5)), 1e-5),
    "few dimensions": (lambda: (isotropic(800, 4, 0), isotropic(800, 4, 1)), 1e-5),
}


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("name", DICTIONARIES)
def test_sparse_is_complete_and_just_below_exact(name: str, signed: bool) -> None:
    draw, loses = DICTIONARIES[name]
    a, b = draw()
    check_pairs(sparse_matching(a, b, signed=signed), a, b, signed)
    gap = assignment_gap(a, b, signed=signed)
    assert -ROUNDING <= gap.exact - gap.sparse <= loses


def test_more_candidates_lose_less_and_all_of_them_nothing() -> None:
    a, b = isotropic(800, 64, 0), half_shared(800, 64)
    gaps = [assignment_gap(a, b, candidates=k) for k in (4, CANDIDATES, 800)]
    few, some, every = (gap.exact - gap.sparse for gap in gaps)
    assert few > 2 * some > 0 and every == pytest.approx(0, abs=ROUNDING)


@pytest.mark.parametrize("signed", [True, False])
def test_without_a_full_matching_rows_stay_out_and_are_paired_after(signed: bool) -> None:
    """All 60 rows want one direction, and all its copies want the same rows: 2 candidates are far too few."""
    a = torch.cat([torch.eye(8)[:1].repeat(60, 1) + 0.1 * torch.randn(60, 8), torch.randn(40, 8)])
    b = torch.cat([torch.eye(8)[:1].repeat(90, 1), torch.randn(10, 8)])
    rows, columns = module.neighbour_pairs(a, b, signed, 2)
    assert 0 < len(rows) < 60 and len(set(columns.tolist())) == len(rows)
    found = sparse_matching(a, b, signed=signed, candidates=2)
    check_pairs(found, a, b, signed)
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) <= set(
        zip(found.rows.tolist(), found.columns.tolist(), strict=True)
    )
    gap = assignment_gap(a, b, signed=signed, candidates=2)
    assert -ROUNDING <= gap.exact - gap.sparse < 0.02


def test_rows_that_nothing_resembles_still_find_a_partner() -> None:
    found = sparse_matching(torch.ones(50, 3), -torch.ones(40, 3))
    assert len(found.rows) == 40 and found.cosines.sum() == pytest.approx(-40), "worse than staying out"


@pytest.mark.parametrize(("n_a", "n_b"), [(100, 100), (100, 130), (130, 100), (20, 300)])
def test_many_left_over_rows_are_paired_in_parts(n_a: int, n_b: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT", 12)
    a, b = torch.randn(n_a, 3), torch.ones(n_b, 3)  # one direction: the same few neighbours for every row
    check_pairs(matching(a, b), a, b, True)


def test_parts_have_at_most_the_exact_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of one row leave no choice: what is left over is paired in order."""
    monkeypatch.setattr(module, "EXACT", 1)
    a, b = torch.randn(100, 3), collapsed(100, 3, 4)
    rows, columns = module.neighbour_pairs(a, b, True, 2)
    rest = [sorted(set(range(100)) - set(taken.tolist())) for taken in (rows, columns)]
    found = sparse_matching(a, b, candidates=2)
    partner = dict(zip(found.rows.tolist(), found.columns.tolist(), strict=True))
    assert len(rest[0]) > 50 and [partner[row] for row in rest[0]] == rest[1]


@pytest.mark.parametrize(("n_a", "n_b"), [(800, 800), (640, 1000)])
def test_the_number_of_cosines_chooses(n_a: int, n_b: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = isotropic(n_a, 64, 0), collapsed(n_b, 64, 20)
    ways = exact_matching(a, b), sparse_matching(a, b)
    assert not torch.equal(ways[0].columns, ways[1].columns)
    for largest, way in ((800, ways[0]), (799, ways[1])):
        monkeypatch.setattr(module, "EXACT", largest)
        assert torch.equal(matching(a, b).columns, way.columns)


def test_all_one_to_one_scores_go_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = isotropic(800, 64, 0), half_shared(800, 64)
    scores = [
        lambda: hungarian_mcc(a, b),
        lambda: hungarian_mcc(a, b, signed=False),
        lambda: recovery(a, b),
        lambda: activation_matching(a.T, b.T),
        lambda: shared_fraction(a, a, b, b),
    ]
    exact = [score() for score in scores]
    monkeypatch.setattr(module, "EXACT", 799)
    sparse = [score() for score in scores]
    assert all(0 < high - low < 1e-3 for low, high in zip(sparse[:4], exact[:4], strict=True))
    assert sparse[4] == exact[4] == 0.5


def test_the_price_of_staying_out_is_the_null_of_one_pair() -> None:
    for d_model in (2, 3, 128, 4096):
        assert unrelated_cosine(d_model, False) == pytest.approx(expected_max_cosine(d_model, 1), rel=1e-6)
        assert unrelated_cosine(d_model, True) == 0
        assert expected_max_cosine(d_model, 1, signed=True) == pytest.approx(0, abs=1e-9)


def test_a_matching_repeats_to_the_bit() -> None:
    first, again = (sparse_matching(isotropic(500, 16, 0), isotropic(400, 16, 1)) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))


@pytest.mark.usefixtures("unchecked")
def test_refusals() -> None:
    with pytest.raises(ValueError, match="candidates is 0; wanted at least one"):
        sparse_matching(torch.ones(4, 3), torch.ones(4, 3), candidates=0)
    for way in (matching, exact_matching, sparse_matching):
        with pytest.raises(ValueError, match=r"b.shape is \(4, 2\); wanted \[d_sae, 3\], as a"):
            way(torch.ones(4, 3), torch.ones(4, 2))
