"""Which columns of a design say something of a label that the others do not: knockoffs, and whether to trust them.

Second-order model-X knockoffs (Candes et al. 2018, arXiv:1610.02351) imitate the means and covariances of the columns.
They control the false discovery rate if the columns are normal. Latents are sparse and never negative, so here the rate
is measured on the latents themselves, with labels that are made from columns that are known.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from sklearn.linear_model import Lasso

from husai.config import require, stream_seed

SHRINKAGE = 1e-3
"""Weight of the identity in the correlation, so that nearly collinear columns do not break its inverse."""
STRENGTH = 4.0
"""Standard deviation of the log-odds of planted labels."""
Law = Literal["linear", "firing"]


class Design(NamedTuple):
    """Standardised columns and what their knockoffs are drawn from."""

    x: Float[np.ndarray, "rows columns"]
    """Mean 0 and variance 1."""
    s: Float[np.ndarray, " columns"]
    """Covariance of a column with its knockoff is 1 - s: the larger s, the more power."""
    pull: Float[np.ndarray, "columns columns"]
    """I - R^-1 S: the mean of the knockoffs given x is x @ pull."""
    root: Float[np.ndarray, "columns columns"]
    """Square root of 2S - S R^-1 S, their covariance given x."""


def design(x: Float[np.ndarray, "rows columns"]) -> Design:
    """Return what the knockoffs of x are drawn from, with s_j = gamma / (R^-1)_jj.

    R is the correlation. 1 / (R^-1)_jj is what the other columns leave of the variance of column j, and gamma <= 1 the
    largest factor for which 2R - diag(s) has no negative eigenvalue, so that no optimiser is needed; with (R^-1)_jj = 1
    it is the equicorrelated choice. ValueError: a constant column, NaN, no more rows than columns.
    """
    rows, columns = x.shape
    require(rows > columns >= 1, "x.shape", x.shape, "more rows than columns")
    require(bool(np.isfinite(x).all()), "x", "NaN or Inf", "finite numbers")
    spread = x.std(0)
    require(bool((spread > 0).all()), "x", f"{int((spread == 0).sum())} constant columns", "columns that vary")
    z = (x - x.mean(0)) / spread
    r = (1 - SHRINKAGE) * z.T @ z / rows + SHRINKAGE * np.eye(columns)
    inverse = np.linalg.inv(r)
    left = 1 / np.diag(inverse)  # conditional variances
    smallest = np.linalg.eigvalsh(2 * r / np.sqrt(np.outer(left, left)))[0]
    s = left * min(1.0, 0.999 * smallest)
    values, axes = np.linalg.eigh(2 * np.diag(s) - s[:, None] * inverse * s)
    return Design(z, s, np.eye(columns) - inverse * s, axes * np.sqrt(values.clip(min=0)))


def knockoffs(of: Design, seed: int) -> Float[np.ndarray, "rows columns"]:
    """Return one draw: x (I - R^-1 S) + noise of covariance 2S - S R^-1 S. It knows nothing of any label.

    Covariances of [x, knockoffs] stay as they are when any columns change places with their knockoffs.
    """
    noise = np.random.default_rng(stream_seed(seed, "knockoffs/draw")).standard_normal(of.x.shape)
    return of.x @ of.pull + noise @ of.root.T


def statistics(
    x: Float[np.ndarray, "rows columns"], copies: Float[np.ndarray, "rows columns"], y: Float[np.ndarray, " rows"]
) -> Float[np.ndarray, " columns"]:
    """Return W_j = |beta_j| - |beta_j of the knockoff| of one joint lasso of [x, knockoffs].

    Columns have variance 1; its penalty is sd(y) sqrt(2 log(2 columns) / rows), which looks at neither order nor label
    beyond sd(y), so that swapping a column with its knockoff only turns the sign of its W. ValueError: a constant y.
    """
    rows, columns = x.shape
    require(float(y.std()) > 0, "y", "one value for all rows", "a label that varies")
    both = np.concatenate([x, copies], 1)
    both = np.asfortranarray((both - both.mean(0)) / both.std(0))
    penalty = float(y.std()) * math.sqrt(2 * math.log(2 * columns) / rows)
    lasso = Lasso(alpha=penalty, fit_intercept=False, precompute=both.T @ both, max_iter=100_000, tol=1e-4)
    size = np.abs(lasso.fit(both, y - y.mean()).coef_)
    return size[:columns] - size[columns:]


def selected(w: Float[np.ndarray, " columns"], q: float) -> Bool[np.ndarray, " columns"]:
    """Return the columns that Knockoff+ selects at the rate q: W_j >= T, and none if no T will do.

    T = min {t > 0: (1 + #{W_j <= -t}) / #{W_j >= t} <= q}, so that fewer than 1/q are never selected. ValueError: q
    outside (0, 1). Source: Barber & Candes (2015), arXiv:1404.5609.
    """
    require(0 < q < 1, "q", q, "a rate between 0 and 1")
    for t in np.unique(np.abs(w[w != 0])):
        if 1 + (w <= -t).sum() <= q * (w >= t).sum():
            return w >= t
    return np.zeros(len(w), dtype=bool)


def select(of: Design, y: Float[np.ndarray, " rows"], q: float = 0.1, seed: int = 0) -> Bool[np.ndarray, " columns"]:
    """Return which columns say something of y that the others do not, by one draw of knockoffs, at the rate q."""
    return selected(statistics(of.x, knockoffs(of, seed), y), q)


class Rates(NamedTuple):
    """What Knockoff+ does where the truth is known: means over repeated labels."""

    false: float
    """Share of false ones among the selected (0 where none is): the false discovery rate."""
    power: float
    """Share of the true columns that are selected."""


def planted(
    x: Float[np.ndarray, "rows columns"], true: Bool[np.ndarray, " columns"], law: Law, seed: int
) -> Float[np.ndarray, " rows"]:
    """Return a 0/1 label whose log-odds are a sum over the true columns alone, signs at random.

    `linear` adds their standardised values; `firing` adds whether each is above its smallest value, which is no linear
    function of it. Log-odds have the standard deviation `STRENGTH`. ValueError: another law, no true column.
    """
    require(law in ("linear", "firing"), "law", law, "'linear' or 'firing'")
    require(bool(true.any()), "true", "no column", "at least one")
    rng = np.random.default_rng(stream_seed(seed, "knockoffs/label"))
    parts = x[:, true] if law == "linear" else (x[:, true] > x[:, true].min(0)).astype(float)
    parts = (parts - parts.mean(0)) / np.maximum(parts.std(0), 1e-12)
    odds = parts @ rng.choice([-1.0, 1.0], parts.shape[1])
    odds = STRENGTH * (odds - odds.mean()) / max(float(odds.std()), 1e-12)
    return (rng.random(len(x)) < 1 / (1 + np.exp(-odds))).astype(float)


def rates(of: Design, law: Law, repeats: int, q: float = 0.1, share: float = 0.4, seed: int = 0) -> Rates:
    """Return false discovery rate and power on a design with planted labels of a random share of its columns.

    Every repeat draws the true columns, the label and the knockoffs. ValueError: repeats below 1, a share outside
    (0, 1).
    """
    require(repeats >= 1, "repeats", repeats, "at least one")
    require(0 < share < 1, "share", share, "a share between 0 and 1")
    columns, found = of.x.shape[1], []
    for repeat in range(repeats):
        draw = stream_seed(seed, f"knockoffs/repeat/{repeat}")
        true = np.zeros(columns, dtype=bool)
        true[np.random.default_rng(draw).permutation(columns)[: max(1, round(share * columns))]] = True
        chosen = select(of, planted(of.x, true, law, draw), q, draw)
        found.append([(chosen & ~true).sum() / max(chosen.sum(), 1), (chosen & true).sum() / true.sum()])
    return Rates(*(float(mean) for mean in np.mean(found, 0)))
