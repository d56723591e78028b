"""Curves that predict a score from a size, and how well they do on groups that they were not fitted to."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from husai import stats
from husai.config import require
from husai.evidence import Estimate

EXPONENTS = np.geomspace(0.05, 5, 400)
"""Exponents that are tried; the upper end is the sources' bound."""


class PowerLaw(NamedTuple):
    """The curve scale / ratio^exponent + level."""

    scale: float
    exponent: float
    level: float

    def __call__(self, ratio: ArrayLike) -> np.ndarray:
        """Return the predicted score at each ratio."""
        return self.scale * np.asarray(ratio, float) ** -self.exponent + self.level


def power_law(ratio: ArrayLike, score: ArrayLike) -> PowerLaw:
    """Return the least-squares fit of score = scale / ratio^exponent + level, ratio = d_sae / effective rank.

    Scale and level are exact for each of the `EXPONENTS`; of these, the best is taken. Scale and level are not bounded.
    ValueError: fewer than 3 different ratios, a ratio not above 0, not finite, unequal lengths.
    """
    x, y = np.asarray(ratio, float), np.asarray(score, float)
    require(
        x.ndim == 1 and x.shape == y.shape,
        "score.shape",
        y.shape,
        f"the shape of ratio, {x.shape}, one dimension",
    )
    require(bool(np.isfinite([x, y]).all()), "ratio, score", "NaN or Inf", "finite numbers")
    require(bool((x > 0).all()), "ratio", x.tolist(), "ratios above 0")
    require(
        len(set(x.tolist())) >= 3,
        "ratio",
        x.tolist(),
        "at least 3 different values: three numbers are fitted",
    )
    basis = x ** -EXPONENTS[:, None]
    centred = basis - basis.mean(1, keepdims=True)
    scales = centred @ (y - y.mean()) / (centred**2).sum(1)
    errors = (((y - y.mean()) - scales[:, None] * centred) ** 2).sum(1)
    best = int(errors.argmin())
    return PowerLaw(float(scales[best]), float(EXPONENTS[best]), float(y.mean() - scales[best] * basis[best].mean()))


def r_squared(score: ArrayLike, predicted: ArrayLike, reference: ArrayLike | None = None) -> float:
    """Return 1 - sum (score - predicted)^2 / sum (score - reference)^2; the reference is the scores' mean unless given.

    Out of sample the reference is what a constant would have predicted, the mean of the data that were fitted; below 0
    that constant was the better predictor. ValueError: unequal shapes, scores equal to the reference everywhere.
    """
    y, f = np.asarray(score, float), np.asarray(predicted, float)
    require(y.shape == f.shape, "predicted.shape", f.shape, f"the shape of score, {y.shape}")
    total = ((y - (y.mean() if reference is None else np.asarray(reference, float))) ** 2).sum()
    require(bool(total > 0), "score", "equal to the reference everywhere", "scores that differ from it")
    return float(1 - ((y - f) ** 2).sum() / total)


def left_out(ratio: ArrayLike, score: ArrayLike, group: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return, for every point, what the fit and what the mean of all other groups' points say.

    ValueError: fewer than 2 groups, unequal lengths, as `power_law`.
    """
    x, y, names = np.asarray(ratio, float), np.asarray(score, float), np.asarray(group)
    require(
        x.shape == y.shape == names.shape,
        "group",
        f"{names.shape} names",
        f"one for each of {x.shape} points",
    )
    require(len(set(names.tolist())) >= 2, "group", sorted(set(names.tolist())), "at least 2 groups")
    predicted, constant = np.empty_like(y), np.empty_like(y)
    for name in set(names.tolist()):
        out = names == name
        predicted[out] = power_law(x[~out], y[~out])(x[out])
        constant[out] = y[~out].mean()
    return predicted, constant


def out_of_sample(ratio: ArrayLike, score: ArrayLike, group: ArrayLike) -> Estimate:
    """Return R^2 on groups that were not fitted, each predicted by the fit of all others, with its interval.

    The interval is the delete-one-group jackknife of the whole procedure; n counts groups. ValueError: fewer than 4
    groups, as `left_out`.
    """
    x, y, names = np.asarray(ratio, float), np.asarray(score, float), np.asarray(group)
    groups = sorted(set(names.tolist()))
    require(len(groups) >= 4, "group", groups, "at least 4 groups: leaving one out must leave 3")
    value = r_squared(y, *left_out(x, y, names))
    kept = [names != name for name in groups]
    without = np.array([r_squared(y[keep], *left_out(x[keep], y[keep], names[keep])) for keep in kept])
    error = np.sqrt((len(groups) - 1) / len(groups) * ((without - without.mean()) ** 2).sum())
    return stats.interval(value, error, len(groups) - 1.0, len(groups), "jackknife over substrates", "")
