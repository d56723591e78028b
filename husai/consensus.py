"""Which features come back in other seeds: mutual nearest neighbours, and the clusters that they form.

Dictionaries come as one [n, d_model] a seed, their rows are features; widths may differ. A match is a pair of rows
of two seeds that are each other's nearest neighbour with a cosine above tau.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from husai.config import require
from husai.evidence import Estimate
from husai.matching import matching
from husai.metrics import pairwise_matrix
from husai.similarity import cosine_matrix, same_width
from husai.stats import jackknife


class Consensus(NamedTuple):
    """Clusters of matched features that occur in nearly all seeds."""

    clusters: int
    """Number of clusters with features of at least `least` seeds."""
    share: float
    """Share of all features that lie in one."""


def matched_shares(dictionaries: Sequence[Tensor], tau: float = 0.5, *, signed: bool = False) -> np.ndarray:
    """Return, per pair of seeds [S, S], the share of features whose one-to-one partner has |cos| > tau.

    Over the larger number of features, by the matching of `metrics.hungarian_mcc`: what the sources call shared.
    Encoders are not looked at, `metrics.shared_fraction` does. ValueError: empty, NaN or Inf, unequal d_model.
    """

    def share(a: Tensor, b: Tensor) -> float:
        return float((matching(a, b, signed=signed).cosines > tau).sum()) / max(len(a), len(b))

    return pairwise_matrix(share, dictionaries)


def mutual_neighbours(
    a: Float[Tensor, "n_a d_model"], b: Float[Tensor, "n_b d_model"], tau: float = 0.7, *, signed: bool = True
) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """Return the rows i of a and j of b with j = argmax_j' cos(a_i, b_j'), i = argmax_i' cos(a_i', b_j), cos > tau.

    `signed=False` takes |cos|, for dictionaries whose latents may be negative. ValueError: empty, NaN or Inf,
    unequal d_model.
    """
    same_width(a=a, b=b)
    cosines = cosine_matrix(a, b, signed=signed)
    best, partner = cosines.max(1)
    rows = torch.arange(len(a))
    kept = (cosines.argmax(0)[partner] == rows) & (best > tau)
    return rows[kept], partner[kept]


def matches(dictionaries: Sequence[Tensor], tau: float = 0.7, *, signed: bool = True) -> list[Bool[Tensor, "seeds n"]]:
    """Return, per seed i, which of its features have a match in each seed j [seeds, n_i]; none in itself.

    ValueError: fewer than 2 seeds, and as `mutual_neighbours`.
    """
    require(len(dictionaries) >= 2, "dictionaries", f"{len(dictionaries)} of them", "at least 2 seeds")
    found = [torch.zeros(len(dictionaries), len(rows), dtype=torch.bool) for rows in dictionaries]
    for i, a in enumerate(dictionaries):
        for j, b in enumerate(dictionaries[:i]):
            in_a, in_b = mutual_neighbours(a, b, tau, signed=signed)
            found[i][j, in_a] = True
            found[j][i, in_b] = True
    return found


def stability(dictionaries: Sequence[Tensor], tau: float = 0.7, *, signed: bool = True) -> list[Float[Tensor, " n"]]:
    """Return, per seed, each feature's stability: the share of the other seeds in which it has a match.

    ValueError: as `matches`. Source: Gerasimov et al. (2026), arXiv:2606.12138.
    """
    others = len(dictionaries) - 1
    return [found.float().sum(0) / others for found in matches(dictionaries, tau, signed=signed)]


def stable_share(dictionaries: Sequence[Tensor], tau: float = 0.7, *, signed: bool = True) -> float:
    """Return the mean over seeds of the mean stability of a feature. ValueError: as `matches`."""
    return float(np.mean([rows.mean().item() for rows in stability(dictionaries, tau, signed=signed)]))


def consensus(
    dictionaries: Sequence[Tensor], tau: float = 0.7, *, least: int | None = None, signed: bool = True
) -> Consensus:
    """Return the clusters of matched features with members of at least `least` seeds (default: all but one).

    Clusters are the connected components of the graph of matches of all seeds; a chain of matches may bring two
    features of one seed into a cluster, which counts its seeds, not its features. ValueError: as `matches`, `least`
    outside 2..S.
    """
    seeds = len(dictionaries)
    least = max(2, seeds - 1) if least is None else least
    require(2 <= least <= seeds, "least", least, f"2 to {seeds} seeds")
    found = {
        (i, j): mutual_neighbours(dictionaries[i], dictionaries[j], tau, signed=signed)
        for i in range(seeds)
        for j in range(i)
    }
    cluster, support = clusters(found, [len(rows) for rows in dictionaries])
    wide = support >= least
    return Consensus(int(wide.sum()), float(wide[cluster].mean()))


def clusters(
    found: Mapping[tuple[int, int], tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]], sizes: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cluster of every feature, seed after seed, and the number of different seeds in every cluster.

    `found` are matched rows by pair of seeds; `sizes` is the number of features of each seed. Features that are
    connected by matches are in one cluster.
    """
    owner = np.repeat(np.arange(len(sizes)), sizes)
    start = np.cumsum([0, *sizes])
    edges = [np.stack([a.numpy() + start[i], b.numpy() + start[j]]) for (i, j), (a, b) in found.items()]
    rows, columns = np.concatenate(edges, 1)
    graph = csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(owner), len(owner)))
    number, cluster = connected_components(graph, directed=False)
    present = np.zeros((number, len(sizes)), dtype=bool)
    present[cluster, owner] = True
    return cluster, present.sum(1)


def shares(dictionaries: Sequence[Tensor], tau: float = 0.7, *, signed: bool = True) -> dict[str, Estimate]:
    """Return `stable_share` and the share of `consensus` with intervals over seeds: delete-one-seed jackknife.

    The consensus of S - 1 seeds asks for S - 2 of them. ValueError: fewer than 3 seeds, and as `matches`.
    """

    def stable(seeds: Sequence[int]) -> float:
        return stable_share([dictionaries[i] for i in seeds], tau, signed=signed)

    def common(seeds: Sequence[int]) -> float:
        return consensus([dictionaries[i] for i in seeds], tau, signed=signed).share

    seeds = len(dictionaries)
    return {"stable": jackknife(stable, seeds), "consensus": jackknife(common, seeds)}
