"""The scores of `stability-v1` over all pairs of SAEs, each beside what it would be by chance."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats as distributions
from torch import Tensor

from husai import stats
from husai.nulls import expected_max_cosine
from husai.report import pairs
from husai.report.blocks import Drawn, Tiles
from husai.report.pairs import Pair

Entry = dict[str, Any]
THRESHOLDS = (0.5, 0.7, 0.9)
MATCH = 0.7
"""Cosine above which two features match, in `mutual`, in the table of features and in what replicates."""
NULL_SEED = 0
NEEDS_ACTIVATIONS: Entry = {"value": None, "reason": "needs activations"}
PLAIN = [("mean_max_cosine", None), ("hungarian_mcc", None), *(("shared", t) for t in THRESHOLDS), ("mutual", MATCH)]
WEIGHTED = [("frequency_weighted_max_cosine", None), ("frequency_weighted_hungarian", None)]
Key = tuple[str, float | None]


class Rates(NamedTuple):
    """Firing rates of the counted latents of two SAEs, by which a score is weighted."""

    a: Float[Tensor, " n_a"]
    b: Float[Tensor, " n_b"]


def values(pair: Pair) -> dict[Key, float]:
    """Return what needs no firing rates, by the definitions of `book/stability_v1.md`."""
    n_a, n_b = pair.sizes
    cosines, mutual = pair.matched[2].double(), pair.mutual[2]
    found: dict[Key, float] = {("mean_max_cosine", None): float(pair.best[0].mean() + pair.best[1].mean()) / 2}
    found["hungarian_mcc", None] = float(cosines.sum()) / max(n_a, n_b)
    for tau in THRESHOLDS:
        found["shared", tau] = float((cosines > tau).sum()) / max(n_a, n_b)
    found["mutual", MATCH] = float((mutual > MATCH).sum()) * (1 / n_a + 1 / n_b) / 2
    return found


def weighted(pair: Pair, rates: Sequence[Tensor]) -> dict[Key, float]:
    """Return the scores weighted by the firing rates [d_sae] of both SAEs."""
    p, q = rates
    rows, columns, cosines = pair.matched
    p_counted, q_counted = (x.double() for x in counted(pair, rates))
    total = p_counted.sum() + q_counted.sum()
    nearest = sum(float((r * best).sum() / r.sum()) for r, best in zip((p_counted, q_counted), pair.best, strict=True))
    weights = p[rows].double() + q[columns].double()
    return {WEIGHTED[0]: nearest / 2, WEIGHTED[1]: float((weights * cosines).sum() / total)}


def counted(pair: Pair, rates: Sequence[Tensor]) -> Rates:
    """Return the rates of the counted latents: all where the pair has as many as there are rates, else the alive."""
    found = []
    for size, rate in zip(pair.sizes, rates, strict=True):
        found.append(rate if size == len(rate) else rate[rate > DEAD])
    return Rates(*found)


DEAD = 1e-3
"""A latent is alive when it fires on more than this share of the activations."""


class Chance:
    """What pairs of drawn dictionaries score, by their sizes; drawn once a pair of sizes.

    Above 1,024 rows sizes are rounded to five significant bits, at most 3 % off, by which a score of chance changes by
    less than 0.2 % of itself.
    """

    def __init__(self, d_model: int, root: Float[Tensor, "d d"] | None = None) -> None:
        self._d_model, self._root = d_model, root
        self._found: dict[tuple[int, ...], dict[Key, float]] = {}

    def draw(self, every: tuple[int, int], kept: tuple[int, int]) -> None:
        """Draw a pair of dictionaries, unless it is known, of which so many rows are kept: one pass shows both."""
        whole, part = (tuple(sorted(map(_rounded, sizes))) for sizes in (every, kept))
        wanted = {"all": part if whole in self._found else whole, "kept": part}
        if part in self._found and whole in self._found:
            return
        drawn = [Drawn(n, self._d_model, NULL_SEED + i, self._root) for i, n in enumerate(wanted["all"])]
        a, b = (Tiles(one, torch.arange(one.d_sae) < n) for one, n in zip(drawn, part, strict=True))
        views = pairs.compare(a, b)
        self._found |= {sizes: values(views[name]) for name, sizes in wanted.items()}

    def __call__(self, n_a: int, n_b: int) -> dict[Key, float]:
        """Return `values` of a drawn pair of these sizes; of N0 the closed form of `mean_max_cosine`."""
        self.draw((n_a, n_b), (n_a, n_b))
        sizes = tuple(sorted(map(_rounded, (n_a, n_b))))
        found, drawn, true = dict(self._found[sizes]), sizes[0] / sizes[1], min(n_a, n_b) / max(n_a, n_b)
        for key in found:
            if key[0] in ("hungarian_mcc", "shared"):  # both count rows left over as 0
                found[key] *= true / drawn
        if self._root is None:
            found["mean_max_cosine", None] = expected_max_cosine(self._d_model, n_a, n_other=n_b)
        return found

    def weighted(self, pair: Pair, rates: Sequence[Tensor]) -> dict[Key, float]:
        """Return the same of the weighted scores: drawn rows have the rates of those that they stand for.

        A drawn row's cosine does not depend on its rate, so the expected mean is that of the unweighted score; of the
        matching, times the share of all rates that is matched when the rows left over are any.
        """
        plain, sums = self(*pair.sizes), [float(rate.double().sum()) for rate in counted(pair, rates)]
        small, large = min(pair.sizes), max(pair.sizes)
        mean = plain["hungarian_mcc", None] * large / small
        taken = sum(total * small / n for total, n in zip(sums, pair.sizes, strict=True)) / sum(sums)
        return {WEIGHTED[0]: plain["mean_max_cosine", None], WEIGHTED[1]: mean * taken}


def _rounded(n: int) -> int:
    step = 1 if n <= 1024 else 2 ** (n.bit_length() - 5)
    return round(n / step) * step


Found = dict[tuple[int, int], Pair]


def entries(
    found: Found, count: int, latents: str, chance: dict[str, Chance], rates: Sequence[Tensor] | None
) -> list[Entry]:
    """Return the scores of one choice of latents; `found` is a pair of SAEs each, `chance` the nulls that there are."""
    pick = partial(_matrices, found, count)
    score = pick(values)
    nulls = {name: pick(lambda pair, of=null: of(*pair.sizes)) for name, null in chance.items()}
    keys: list[Key] = list(PLAIN)
    if rates is not None:
        keys += WEIGHTED

        def both(of: Callable[[Pair, Sequence[Tensor]], dict[Key, float]]) -> dict[Key, np.ndarray]:
            return _matrices(found, count, lambda pair, i, j: of(pair, (rates[i], rates[j])), placed=True)

        score |= both(weighted)
        for name, null in chance.items():
            nulls[name] |= both(null.weighted)
    rows = []
    for name, threshold in keys:
        key = (name, threshold)
        row = {"name": name, "latents": latents, "threshold": threshold, **_scored(score[key])}
        closed = name in ("mean_max_cosine", WEIGHTED[0][0])
        for which in ("N0", "N2"):
            known, by_formula = which in nulls, closed and which == "N0"
            row[which] = against(score[key], nulls[which][key], by_formula) if known else NEEDS_ACTIVATIONS
        rows.append(row)
    return rows


def missing(latents: str, keys: Sequence[Key], reason: str = "needs activations") -> list[Entry]:
    """Return the entries of scores that cannot be had, with the reason."""
    none = {"value": None, "reason": reason}
    parts = dict.fromkeys(("estimate", "matrix", "N0", "N2"), none)
    return [{"name": name, "latents": latents, "threshold": threshold, **parts} for name, threshold in keys]


def _matrices(
    found: Found, count: int, of: Callable[..., dict[Key, float]], placed: bool = False
) -> dict[Key, np.ndarray]:
    matrices: dict[Key, np.ndarray] = {}
    for (i, j), pair in found.items():
        for key, value in (of(pair, i, j) if placed else of(pair)).items():
            matrix = matrices.setdefault(key, np.eye(count))
            matrix[i, j] = matrix[j, i] = value
    return matrices


def _scored(matrix: np.ndarray) -> Entry:
    return {"estimate": estimate(matrix), "matrix": listed(matrix)}


def against(score: np.ndarray, null: np.ndarray, closed: bool) -> Entry:
    """Return a null's value, the gap of the score to it and the score corrected for it, kappa."""
    room = 1 - null + np.eye(len(null))  # 1 on the diagonal, which is not looked at
    kappa: Entry = {"value": None, "reason": "this null is 1 for some pair: nothing can be above it"}
    if (room > 1e-9).all():
        kappa = estimate((score - null) / room)
    parts = {"value": estimate(null), "gap": estimate(score - null), "kappa": kappa, "matrix": listed(null)}
    return {**parts, "how": "closed form" if closed else "drawn"}


def estimate(matrix: np.ndarray) -> Entry:
    """Return the mean over pairs with its jackknife interval over SAEs; of two SAEs without one, and it says so."""
    if len(matrix) >= 3:
        found = stats.pairwise(matrix)
        return {"value": found.value, "low": found.low, "high": found.high, "n": found.n, "method": found.method}
    why = "one pair; no interval: fewer than 3 SAEs"
    return {"value": float(matrix[0, 1]), "low": None, "high": None, "n": len(matrix), "method": why}


def listed(matrix: np.ndarray) -> list[list[float | None]]:
    """Return a matrix as lists, null on the diagonal."""
    return [[None if i == j else float(x) for j, x in enumerate(row)] for i, row in enumerate(matrix)]


def half_width(pair_sd: float, rho: float, target: float) -> int:
    """Return how many SAEs make the 95 % interval of a mean over pairs +- target.

    t(.975, n - 1) sqrt(4 s_a^2 / n + 2 s_e^2 / (n (n - 1))) <= target, s_a^2 = rho pair_sd^2, s_e^2 = (1 - 2 rho)
    pair_sd^2, the variance of `stats.seeds_needed`.
    """

    def wide(n: int) -> float:
        variance = pair_sd**2 * (4 * rho / n + 2 * (1 - 2 * rho) / (n * (n - 1)))
        return float(distributions.t.ppf(0.975, n - 1)) * math.sqrt(variance)

    high = 3
    while wide(high) > target:
        high *= 2
    return next(n for n in range(max(3, high // 2), high + 1) if wide(n) <= target)


def seeds_needed(rows: Sequence[Entry], rho: float, target: float = 0.02) -> list[Entry]:
    """Return, for scores that exist, the SAEs needed for +- target, and to tell the score from each of its nulls."""
    found = []
    for row in rows:
        about = {"score": row["name"], "latents": row["latents"], "threshold": row["threshold"]}
        purposes: list[tuple[str, float | None]] = [("half width", target)]
        for null in ("N0", "N2"):
            gap = row[null].get("gap")
            purposes.append((f"score over {null}", None if gap is None else gap["value"]))
        for purpose, wanted in purposes:
            found.append({**about, "purpose": purpose, "target": wanted, "seeds": _seeds(row, purpose, wanted, rho)})
    return found


def _seeds(row: Entry, purpose: str, wanted: float | None, rho: float) -> int | Entry:
    if wanted is None:
        return NEEDS_ACTIVATIONS
    matrix = np.array([[0.0 if x is None else x for x in line] for line in row["matrix"]])
    if len(matrix) < 3:
        return {"value": None, "reason": "needs 3 SAEs: the spread between pairs"}
    spread = stats.pair_sd(matrix)
    if spread < 1e-9:
        return 3
    if purpose == "half width":
        return half_width(spread, rho, wanted)
    if wanted < spread / 10:
        return {"value": None, "reason": "the score is hardly above this null: more than 1,000 SAEs"}
    # from 5 times the spread on 3 SAEs have a power of 0.95, and far beyond the power cannot be computed
    return 3 if wanted > 5 * spread else stats.seeds_needed(spread, rho, wanted)
