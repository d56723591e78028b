"""Whether one property of features, or of SAEs, goes with another: rank correlations with intervals over seeds."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.stats import rankdata
from torch import Tensor

from husai import stats
from husai.circuits import Features
from husai.comparison import summarise
from husai.config import require
from husai.evidence import Estimate
from husai.metrics import pairwise_matrix
from husai.similarity import best_cosines


def partial_spearman(x: np.ndarray, y: np.ndarray, controls: Sequence[np.ndarray] = ()) -> float:
    """Return the rank correlation of x and y, given others: the correlation of what their ranks leave unexplained.

    0 where nothing is left to correlate. ValueError: fewer than 3 values.
    """
    require(len(x) >= 3, "x", f"{len(x)} values", "3 or more")
    design = np.stack([np.ones(len(x)), *(rankdata(control) for control in controls)], 1)
    left = [rankdata(side) - design @ np.linalg.lstsq(design, rankdata(side))[0] for side in (x, y)]
    size = np.sqrt((left[0] ** 2).sum() * (left[1] ** 2).sum())
    return float((left[0] * left[1]).sum() / size) if size > 1e-9 * len(x) ** 3 else 0.0


def replication(
    found: Sequence[Features], what: str = "alignment", given: Sequence[str] = ()
) -> Float[np.ndarray, "seeds seeds"]:
    """Return, per pair of seeds, how well a feature's measure tells whether the other seed has it [S, S].

    The rank correlation, over the features of one seed, of `what` with the best cosine in the other seed (unsigned
    latents, signed cosines), mean of both directions; `given` are measures that are held constant. Input of
    `stats.pairwise`. ValueError: fewer than 3 features.
    """

    def both(i: Tensor, j: Tensor) -> float:
        pair = found[int(i)], found[int(j)]
        best = best_cosines(pair[0].rows, pair[1].rows, signed=True)
        return float(np.mean([_told(one, cosines, what, given) for one, cosines in zip(pair, best, strict=True)]))

    return pairwise_matrix(both, torch.arange(len(found)))


def _told(one: Features, cosines: Tensor, what: str, given: Sequence[str]) -> float:
    controls = [getattr(one, name).numpy() for name in given]
    return partial_spearman(getattr(one, what).numpy(), cosines.numpy(), controls)


def elsewhere(found: Sequence[Features], index: int = 0) -> Float[Tensor, " n"]:
    """Return the mean over the other seeds of the best cosine of each feature of one seed."""
    own = found[index].rows
    others = [one.rows for i, one in enumerate(found) if i != index]
    return torch.stack([best_cosines(own, rows, signed=True)[0] for rows in others]).mean(0)


def predicts(
    found: Sequence[Sequence[Features]],
    beyond: Sequence[Sequence[Features]] | None = None,
    what: str = "alignment",
    given: Sequence[str] = (),
) -> Estimate:
    """Return the mean `replication` over models and seeds, less that of `beyond`, a null's of the same shape.

    Directions drawn where the data vary crowd there and find near ones too, so a null has a correlation of its own.
    """
    scores = np.stack([replication(seeds, what, given) for seeds in found])
    chance = 0.0 if beyond is None else np.stack([replication(seeds, what, given) for seeds in beyond])
    return summarise(scores - chance)


def recovery_with_agreement(recovered: ArrayLike, agreement: ArrayLike) -> dict[str, Estimate]:
    """Return the rank correlation of recovery with agreement over all SAEs of several models, jackknifed over models.

    Both are given as one row a setting and one value a model. `plain` over all of them; `within` after each setting's
    mean over models was taken off both. ValueError: fewer than 3 models, unequal shapes.
    """
    sides = [np.asarray(side, float).T for side in (recovered, agreement)]
    require(
        sides[0].shape == sides[1].shape, "agreement", sides[1].T.shape, f"the shape of recovered, {sides[0].T.shape}"
    )

    def correlation(models: list[int], centred: bool) -> float:
        x, y = (side[models] - centred * side[models].mean(0) for side in sides)
        return partial_spearman(x.ravel(), y.ravel())

    kinds, n = {"plain": False, "within": True}, len(sides[0])
    return {name: stats.jackknife(partial(correlation, centred=centred), n) for name, centred in kinds.items()}
