"""One-to-one matching of two dictionaries' rows: exact where that is cheap, on nearest neighbours above.

Both ways return a complete matching, min(n_a, n_b) pairs of different rows, so the sparse one's summed cosine
is a lower bound of the exact one's: it is never above it, and `assignment_gap` says how far below.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.special import gammaln
from torch import Tensor

from husai.config import require
from husai.similarity import cosine_matrix, nearest, same_width, unit_rows

EXACT = 4096  # matched exactly up to EXACT x EXACT cosines, whatever the shape
CANDIDATES = 16  # best partners that every row keeps in the sparse matching


class Matching(NamedTuple):
    """Pairs of rows, no row twice, sorted by the row of a."""

    rows: Int[Tensor, " pairs"]
    """Rows of a."""
    columns: Int[Tensor, " pairs"]
    """Their partners: rows of b."""
    cosines: Float[Tensor, " pairs"]
    """The cosine of each pair, absolute if the matching was not signed."""


class AssignmentGap(NamedTuple):
    """The mean matched cosine by both matchings; what the sparse one loses is exact - sparse."""

    exact: float
    sparse: float


def matching(a: Float[Tensor, "n_a d_model"], b: Float[Tensor, "n_b d_model"], *, signed: bool = True) -> Matching:
    """Return the one-to-one matching of rows with the largest summed cosine (absolute unless signed).

    `exact_matching` up to EXACT^2 = 4096^2 cosines, `sparse_matching` above. ValueError: empty, NaN or Inf,
    unequal d_model.
    """
    match = exact_matching if len(a) * len(b) <= EXACT**2 else sparse_matching
    return match(a, b, signed=signed)


def exact_matching(
    a: Float[Tensor, "n_a d_model"], b: Float[Tensor, "n_b d_model"], *, signed: bool = True
) -> Matching:
    """Return argmax over one-to-one matchings of sum cos(a_i, b_match(i)), from the whole n_a x n_b matrix.

    ValueError: empty, NaN or Inf, unequal d_model. Source: Kuhn (1955), the Hungarian method; solved by the
    shortest augmenting paths of Crouse (2016).
    """
    same_width(a=a, b=b)
    cosines = cosine_matrix(a, b, signed=signed).cpu().numpy()
    rows, columns = map(torch.from_numpy, linear_sum_assignment(cosines, maximize=True))
    return with_cosines(a, b, rows, columns, signed)


def sparse_matching(
    a: Float[Tensor, "n_a d_model"],
    b: Float[Tensor, "n_b d_model"],
    *,
    signed: bool = True,
    candidates: int = CANDIDATES,
) -> Matching:
    """Return a complete one-to-one matching found on nearest neighbours: at most the exact summed cosine.

    Every row of a keeps its `candidates` best rows of b, and every row of b its best rows of a. A
    nearest-neighbour graph need not have a full matching, so each row of a may stay out of it at the price of
    N0, the expected cosine of an unrelated pair (`unrelated_cosine`). Rows that stayed out are then matched
    exactly with the rows of b left over, in parts of at most EXACT^2 cosines. Holds O(candidates (n_a +
    n_b)) edges and a block of cosines. ValueError: empty, NaN or Inf, unequal d_model, candidates below 1.
    Source: LAPJVsp of Jonker & Volgenant (1987).
    """
    same_width(a=a, b=b)
    require(candidates >= 1, "candidates", candidates, "at least one partner a row")
    rows, columns = neighbour_pairs(a, b, signed, candidates)
    pairs = [torch.stack([rows, columns])]
    left_a, left_b = left_over(rows, len(a)), left_over(columns, len(b))
    parts = max(1, math.ceil(math.sqrt(len(left_a) * len(left_b)) / EXACT))
    for i, j in zip(left_a.tensor_split(parts), left_b.tensor_split(parts), strict=True):
        if len(i) and len(j):
            rest = exact_matching(a[i], b[j], signed=signed)
            pairs.append(torch.stack([i[rest.rows], j[rest.columns]]))
    rows, columns = torch.cat(pairs, 1)
    order = rows.argsort()
    return with_cosines(a, b, rows[order], columns[order], signed)


def assignment_gap(
    a: Float[Tensor, "n_a d_model"],
    b: Float[Tensor, "n_b d_model"],
    *,
    signed: bool = True,
    candidates: int = CANDIDATES,
) -> AssignmentGap:
    """Return the mean matched cosine, over max(n_a, n_b), by the exact and by the sparse matching.

    Holds the n_a x n_b matrix, whatever its size. ValueError: as `sparse_matching`.
    """
    exact = exact_matching(a, b, signed=signed)
    sparse = sparse_matching(a, b, signed=signed, candidates=candidates)
    larger = max(len(a), len(b))
    return AssignmentGap(*(float(found.cosines.double().sum()) / larger for found in (exact, sparse)))


def unrelated_cosine(d_model: int, signed: bool) -> float:
    """Return the expected cosine of two independent isotropic directions: the null N0 of a single pair.

    0 signed; E|cos| = Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2)), of order d^(-1/2), absolute.
    """
    if signed:
        return 0.0
    return math.exp(gammaln(d_model / 2) - gammaln((d_model + 1) / 2)) / math.sqrt(math.pi)


def neighbour_pairs(
    a: Float[Tensor, "n_a d_model"], b: Float[Tensor, "n_b d_model"], signed: bool, candidates: int
) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """Return the best pairs on the graph of nearest neighbours, without the rows that stay out."""
    n_a, n_b = len(a), len(b)
    from_a, partner_of_a = (x.cpu().numpy() for x in nearest(a, b, min(candidates, n_b), signed=signed))
    from_b, partner_of_b = (x.cpu().numpy() for x in nearest(b, a, min(candidates, n_a), signed=signed))
    rows = np.concatenate([np.repeat(np.arange(n_a), from_a.shape[1]), partner_of_b.ravel()])
    columns = np.concatenate([partner_of_a.ravel(), np.repeat(np.arange(n_b), from_b.shape[1])])
    # an edge found from both sides counts once: a sparse matrix would add the two up
    edges, first = np.unique(rows * n_b + columns, return_index=True)
    cosines = np.concatenate([from_a.ravel(), from_b.ravel()])[first].astype(float)

    # Columns n_b.. are the rows' own ways out. Their price is the null of one pair, which is what a row gets
    # for a column that nobody wanted; at the null of the best of n, many unrelated rows would leave too early.
    every = np.arange(n_a)
    rows, columns = np.concatenate([edges // n_b, every]), np.concatenate([edges % n_b, n_b + every])
    prices = np.concatenate([cosines, np.full(n_a, unrelated_cosine(a.shape[1], signed))])
    # 2 - cosine, as a cost of 0 would count as no edge
    graph = csr_array((2 - prices, (rows, columns)), shape=(n_a, n_b + n_a))
    rows, columns = min_weight_full_bipartite_matching(graph)
    stays = columns < n_b
    return torch.from_numpy(rows[stays]).long(), torch.from_numpy(columns[stays]).long()


def with_cosines(
    a: Float[Tensor, "n_a d_model"],
    b: Float[Tensor, "n_b d_model"],
    rows: Int[Tensor, " pairs"],
    columns: Int[Tensor, " pairs"],
    signed: bool,
) -> Matching:
    """Return pairs with their cosines: the same sums for every way to match, so that equal pairs score equal."""
    cosines = (unit_rows(a[rows]) * unit_rows(b[columns])).sum(1).cpu()
    return Matching(rows, columns, cosines if signed else cosines.abs())


def left_over(taken: Int[Tensor, " pairs"], n: int) -> Int[Tensor, " rest"]:
    """Return which of 0..n-1 are not taken."""
    free = torch.ones(n, dtype=torch.bool)
    free[taken] = False
    return free.nonzero()[:, 0]
