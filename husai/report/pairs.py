"""Two dictionaries compared in one pass over tiles of their cosines: best partners, and a one-to-one matching.

No matrix of all cosines is held above EXACT^2 of them: every row and column keeps its best candidates, and the matching
is the best one on the graph of these.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

from husai.kernels import tiles
from husai.matching import CANDIDATES, EXACT, exact_matching
from husai.report import scan
from husai.report.blocks import Tiles

GROUPS = 64  # maxima of this many parts of a tile's row bound its best cosines from below


class Pair(NamedTuple):
    """What one pass finds of two dictionaries a and b; indices are rows of the sources."""

    sizes: tuple[int, int]
    best: tuple[Tensor, Tensor]
    """Largest |cos| of every row of a (of b) with the other's rows [n_a], [n_b]."""
    signed: tuple[Tensor, Tensor]
    """Largest signed cosine [n_a], [n_b]."""
    matched: tuple[Tensor, Tensor, Tensor]
    """The one-to-one matching of largest summed cosine: rows of a, rows of b, cosines [min(n_a, n_b)]."""
    mutual: tuple[Tensor, Tensor, Tensor]
    """Rows that are each other's nearest: of a, of b, cosines."""


def compare(a: Tiles, b: Tiles, candidates: int = CANDIDATES, exact: int = EXACT) -> dict[str, Pair]:
    """Return {"all": ..., "kept": ...}: two dictionaries, and their kept rows only; None kept, no "kept".

    Up to `exact`^2 cosines the matching is exact. Above, rows and columns keep at least `candidates` best partners
    each, and the matching is the best one on that graph, completed (`sparse_assignment`).
    """
    views = {"all": Candidates(a, b, False, candidates)}
    partial = a.sizes["all"] != a.sizes["kept"] or b.sizes["all"] != b.sizes["kept"]
    if partial and a.sizes["kept"] and b.sizes["kept"]:
        views["kept"] = Candidates(a, b, True, candidates)
    for i in range(len(a)):
        rows = a.load(i)
        for j in range(len(b)):
            cosines = rows @ b.load(j).T
            for view in views.values():
                view.add(cosines, i, j)
    found = {name: view.pair(exact) for name, view in views.items()}
    return found if partial else {**found, "kept": found["all"]}


class Candidates:
    """The best partners of the (kept) rows of two dictionaries, shown a tile of cosines at a time."""

    def __init__(self, a: Tiles, b: Tiles, kept: bool, candidates: int) -> None:
        self._sides, self._kept, self._candidates = (a, b), kept, candidates
        self._best = tuple(torch.zeros(x.source.d_sae) for x in (a, b))
        # the `candidates` largest group maxima so far: what is below all of them is no candidate
        self._floors = tuple(torch.full((x.source.d_sae, candidates), -torch.inf) for x in (a, b))
        self._edges: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, tile: Float[Tensor, "rows columns"], i: int, j: int) -> None:
        """Look at tile (i, j)."""
        at = [x.order[k][: x.kept[k] if self._kept else None] for x, k in zip(self._sides, (i, j), strict=True)]
        cosines = tile[: len(at[0]), : len(at[1])]
        if not cosines.numel():
            return
        limits = []
        for side, where in enumerate(at):
            maxima = _group_maxima(cosines, 1 - side)
            most = torch.maximum(maxima.amax(1), -cosines.amin(1 - side))
            self._best[side][where] = torch.maximum(self._best[side][where], most)
            joined = torch.cat([self._floors[side][where], maxima], 1)
            self._floors[side][where] = floors = joined.topk(self._candidates, sorted=False).values
            limits.append(floors.amin(1))
        rows, columns, near = scan.near(tile, limits[0], limits[1])
        self._edges.append((at[0][rows].int(), at[1][columns].int(), near))

    def pair(self, exact: int) -> Pair:
        """Return what the tiles have shown."""
        a, b = self._sides
        rows, columns, cosines = (torch.cat(part) for part in zip(*self._edges, strict=True))
        low = [floors.amin(1) for floors in self._floors]
        kept = (cosines >= low[0][rows]) | (cosines >= low[1][columns])
        rows, columns, cosines = rows[kept].long(), columns[kept].long(), cosines[kept]
        members = [x.keep if self._kept else torch.ones_like(x.keep) for x in self._sides]
        own = [x.nonzero()[:, 0] for x in members]
        place = [x.cumsum(0) - 1 for x in members]  # positions among the counted rows
        rows, columns = place[0][rows], place[1][columns]
        n_a, n_b = map(len, own)
        signed = [torch.full((n,), -torch.inf).scatter_reduce(0, at, cosines, "amax")
                  for n, at in ((n_a, rows), (n_b, columns))]  # fmt: skip
        both = (cosines == signed[0][rows]) & (cosines == signed[1][columns])
        mutual = _once(own[0][rows[both]], own[1][columns[both]], cosines[both])
        if n_a * n_b <= exact**2:
            found = exact_matching(a.take(own[0]), b.take(own[1]))
            matched = (own[0][found.rows], own[1][found.columns], found.cosines)
        else:
            i, j, matched_cosines = sparse_assignment(a, b, (own[0], own[1]), (rows, columns, cosines))
            matched = (own[0][i], own[1][j], matched_cosines)
        best = tuple(x[at] for x, at in zip(self._best, own, strict=True))
        return Pair((n_a, n_b), (best[0], best[1]), (signed[0], signed[1]), matched, mutual)


def _group_maxima(cosines: Float[Tensor, "rows columns"], dim: int) -> Float[Tensor, "n groups"]:
    """Return maxima over GROUPS disjoint parts of every row (dim 1) or column (dim 0); fewer of a short one."""
    size = cosines.shape[dim]
    if size <= 2 * GROUPS:
        return cosines if dim else cosines.T
    whole = size // GROUPS * GROUPS
    maxima = cosines.narrow(dim, 0, whole).unflatten(dim, (size // GROUPS, GROUPS)).amax(dim)
    maxima = maxima if dim else maxima.T
    if whole == size:
        return maxima
    return torch.cat([maxima, cosines.narrow(dim, whole, size - whole).amax(dim)[:, None]], 1)


def _once(rows: Tensor, columns: Tensor, cosines: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return pairs sorted by row, each row and column in one of them: ties go to the lower index."""
    order = np.lexsort((columns.numpy(), rows.numpy()))
    _, first = np.unique(rows.numpy()[order], return_index=True)
    order = order[first]
    _, first = np.unique(columns.numpy()[order], return_index=True)
    kept = torch.from_numpy(order[np.sort(first)])
    return rows[kept], columns[kept], cosines[kept]


def sparse_assignment(
    a: Tiles,
    b: Tiles,
    own: tuple[Int[Tensor, " n_a"], Int[Tensor, " n_b"]],
    edges: tuple[Int[Tensor, " edges"], Int[Tensor, " edges"], Float[Tensor, " edges"]],
) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"], Float[Tensor, " pairs"]]:
    """Return the best complete matching on a graph of candidates to which a greedy matching's missing pairs are added.

    `own` are the source rows that the graph's positions stand for. A graph of candidates need not have a complete
    matching. So the edges are first taken greedily, largest cosine first; the rows that stay over, on both sides, are
    matched among themselves exactly (in parts of EXACT^2 cosines), and these pairs join the graph. The optimum on it is
    never below that of the greedy matching so completed, nor above the exact one. Source: LAPJVsp of Jonker & Volgenant
    (1987).
    """
    rows, columns, cosines = (x.numpy() for x in edges)
    n_a, n_b = map(len, own)
    taken = np.zeros(n_a, np.bool_), np.zeros(n_b, np.bool_)
    order = np.argsort(-cosines, kind="stable")
    tiles.take_greedily(rows[order], columns[order], *taken)
    free = [torch.from_numpy(np.flatnonzero(~side)) for side in taken]
    parts = max(1, int(np.ceil(np.sqrt(len(free[0]) * len(free[1])) / EXACT)))
    added = [(rows, columns, cosines)]
    for i, j in zip(free[0].tensor_split(parts), free[1].tensor_split(parts), strict=True):
        if len(i) and len(j):
            rest = exact_matching(a.take(own[0][i]), b.take(own[1][j]))
            added.append((i[rest.rows].numpy(), j[rest.columns].numpy(), rest.cosines.numpy()))
    rows, columns, cosines = (np.concatenate(part) for part in zip(*added, strict=True))
    _, first = np.unique(rows * n_b + columns, return_index=True)  # a sparse matrix would add the same edge up
    price = 2 - cosines[first].astype(float)  # above 0: a cost of 0 would count as no edge
    graph = csr_array((price, (rows[first], columns[first])), shape=(n_a, n_b))
    found = min_weight_full_bipartite_matching(graph)
    i, j = (torch.from_numpy(side).long() for side in found)
    return i, j, torch.from_numpy(2 - np.asarray(graph[found])).float()


def neighbours(a: Tiles) -> Float[Tensor, " d_sae"]:
    """Return the largest |cos| of every row with another kept row of the same dictionary; 0 where there is none."""
    most = torch.zeros(a.source.d_sae)
    for i in range(len(a)):
        rows = a.load(i)
        for j in range(i + 1):
            other = rows if j == i else a.load(j)
            cosines = (rows @ other.T).abs_()
            if j == i:
                cosines.fill_diagonal_(0)
            for block, at, kept in ((cosines, a.order[i], a.kept[j]), (cosines.T, a.order[j], a.kept[i])):
                if kept:
                    most[at] = torch.maximum(most[at], block[:, :kept].amax(1))
    return most
