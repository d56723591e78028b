"""One pass over tiles finds what the whole matrix of cosines has, and the sparse matching is a bounded one."""

import subprocess
import sys

import pytest
import torch

from husai import matching, similarity
from husai.consensus import mutual_neighbours
from husai.report import blocks, pairs, scan
from husai.report.blocks import Drawn, Tiles

N_A, N_B, D = 150, 210, 12


class Held:
    """Rows in memory as a source."""

    def __init__(self, matrix):
        self.matrix, self.d_sae = matrix, len(matrix)

    def rows(self, start, stop):
        return self.matrix[start:stop]


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(blocks, "TILE", 64)
    monkeypatch.setattr(blocks, "DRAW", 16)


def pair(noise=0.3):
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, D, generator=draw) for n in (N_A, N_B))
    b[:90] = a[:90] + noise * b[:90]
    return a, b[torch.randperm(N_B, generator=draw)]


def masks():
    draw = torch.Generator().manual_seed(3)
    return [torch.rand(n, generator=draw) < 0.7 for n in (N_A, N_B)]


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("exact", [1, 4096])
def test_best_partners_are_those_of_the_whole_matrix(small_tiles, kept, exact):
    a, b = pair()
    keep = masks() if kept else [None, None]
    found = pairs.compare(Tiles(Held(a), keep[0]), Tiles(Held(b), keep[1]), exact=exact)["kept" if kept else "all"]
    own = [mask.nonzero()[:, 0] if kept else torch.arange(n) for mask, n in zip(keep, (N_A, N_B), strict=True)]
    a, b = a[own[0]], b[own[1]]
    assert found.sizes == (len(a), len(b))
    for came, wanted in zip(found.best, similarity.best_cosines(a, b), strict=True):
        torch.testing.assert_close(came, wanted)
    for came, wanted in zip(found.signed, similarity.best_cosines(a, b, signed=True), strict=True):
        torch.testing.assert_close(came, wanted)
    i, j = mutual_neighbours(a, b, tau=-1.0)
    assert torch.equal(found.mutual[0], own[0][i]) and torch.equal(found.mutual[1], own[1][j])
    rows, columns, cosines = found.matched
    assert len(rows) == len(rows.unique()) == len(columns.unique()) == min(len(a), len(b))
    direct = (similarity.unit_rows(pair()[0])[rows] * similarity.unit_rows(pair()[1])[columns]).sum(1)
    torch.testing.assert_close(cosines, direct)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1), (5, 130), (130, 5), (67, 41)])
def test_what_reaches_a_floor_is_found_row_by_row(shape, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    draw = torch.Generator().manual_seed(5)
    tile = torch.randn(140, 140, generator=draw)
    floors = [torch.rand(n, generator=draw) + 0.5 for n in shape]
    part = tile[: shape[0], : shape[1]]
    rows, columns = ((part >= floors[0][:, None]) | (part >= floors[1])).nonzero().T
    came = scan.near(tile, *floors)
    assert torch.equal(came[0].long(), rows) and torch.equal(came[1].long(), columns)
    assert torch.equal(came[2], part[rows, columns])


@pytest.mark.parametrize("swap", [False, True])
def test_the_sparse_matching_is_the_exact_one_where_the_candidates_suffice(small_tiles, swap):
    a, b = pair()[::-1] if swap else pair()
    exact = matching.exact_matching(a, b).cosines.double().sum()
    sides = Tiles(Held(a)), Tiles(Held(b))
    whole = pairs.compare(*sides, candidates=max(N_A, N_B), exact=1)["all"].matched[2].double().sum()
    assert abs(whole - exact) < 1e-4  # 1e-6 of each of 150 pairs
    few = [pairs.compare(*sides, candidates=c, exact=1)["all"].matched[2].double().sum() for c in (1, 2, 8, 16)]
    assert all(found <= exact + 1e-4 for found in few) and few[-1] > exact * (1 - 5e-3)


def test_the_sparse_matching_is_complete_where_all_want_the_same_partner(small_tiles):
    a, b = pair()
    b[:] = b[0]
    found = pairs.compare(Tiles(Held(a)), Tiles(Held(b)), candidates=1, exact=1)["all"].matched
    assert len(found[0].unique()) == len(found[1].unique()) == N_A
    torch.testing.assert_close(found[2].sum(), matching.exact_matching(a, b).cosines.sum())


def test_a_pair_turned_round_is_the_same_pair(small_tiles):
    a, b = pair()
    one = pairs.compare(Tiles(Held(a)), Tiles(Held(b)), exact=1)["all"]
    other = pairs.compare(Tiles(Held(b)), Tiles(Held(a)), exact=1)["all"]
    torch.testing.assert_close(one.matched[2].sum(), other.matched[2].sum())
    for k in (0, 1):
        torch.testing.assert_close(one.best[k], other.best[1 - k])


@pytest.mark.parametrize("kept", [False, True])
def test_the_nearest_neighbour_is_another_kept_row(small_tiles, kept):
    a, mask = pair()[0], masks()[0]
    cosines = similarity.cosine_matrix(a, a, signed=False).fill_diagonal_(0)
    wanted = cosines[:, mask].amax(1) if kept else cosines.amax(1)
    torch.testing.assert_close(pairs.neighbours(Tiles(Held(a), mask if kept else None)), wanted)


def test_rows_can_be_taken_in_any_order(small_tiles):
    a, _ = pair()
    wanted = torch.randperm(N_A, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(Tiles(Held(a), masks()[0]).take(wanted), similarity.unit_rows(a)[wanted])


def test_drawn_rows_do_not_depend_on_how_they_are_read(small_tiles):
    drawn = Drawn(100, D, 3)
    assert torch.equal(torch.cat([drawn.rows(0, 37), drawn.rows(37, 100)]), drawn.rows(0, 100))
    assert not torch.equal(Drawn(100, D, 4).rows(0, 100), drawn.rows(0, 100))


def test_rows_with_a_covariance_have_it(small_tiles):
    root = torch.diag(torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64))
    rows = Drawn(4000, 3, 0, root).rows(0, 4000)
    assert rows[:, 2].abs().max() == 0 and rows[:, 0].abs().mean() > 2 * rows[:, 1].abs().mean()


def test_the_gram_matrix_is_that_of_the_kept_unit_rows(small_tiles):
    a, mask = pair()[0], masks()[0]
    gram, total = Tiles(Held(a), mask).gram()
    rows = similarity.unit_rows(a)[mask].double()
    torch.testing.assert_close(gram, rows.T @ rows, rtol=0, atol=1e-5)
    torch.testing.assert_close(total, rows.sum(0), rtol=0, atol=1e-5)


MEMORY = """
import resource, sys
from husai.report import pairs
from husai.report.blocks import Drawn, Tiles
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
pairs.compare(Tiles(Drawn(600, 16, 0)), Tiles(Drawn(600, 16, 1)), exact=1)
before = peak()
found = pairs.compare(Tiles(Drawn(65_536, 16, 0)), Tiles(Drawn(8_192, 16, 1)))["all"]
assert len(found.matched[0].unique()) == 8_192
print(peak() - before)
"""


def test_memory_is_bounded_at_65536_latents():
    """The matrix of all cosines would be 2 GB, and 4 GB in the doubles that an exact matching takes."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 700  # MB
