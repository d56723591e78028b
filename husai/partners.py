"""Seeds that are trained together against seeds that never met: only agreement of the latter is reproducibility.

Partners are the neighbours in the list of seeds, in groups of one size (`Objective.group`). The independent unit is the
group, so every interval here counts groups.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from husai import stats
from husai.comparison import at_equal_counts
from husai.config import require
from husai.contrasts import STEADY
from husai.evidence import Estimate
from husai.study import Study


def within(scores: Float[np.ndarray, "seeds seeds"], group: int = 2) -> Estimate:
    """Return the mean score of partners, with its interval over groups.

    ValueError: seeds that do not fill groups of this size, fewer than 3 groups, not finite.
    """
    inside = np.triu_indices(group, 1)
    own = [row[i][inside].mean() for i, row in enumerate(_blocks(scores, group))]
    found = stats.mean(own)
    return replace(found, method=found.method.replace("seeds", "groups of seeds"))


def across(scores: Float[np.ndarray, "seeds seeds"], group: int = 2) -> Estimate:
    """Return the mean score of seeds of different groups, with its delete-one-group jackknife interval.

    ValueError: as `within`, not symmetric.
    """
    means = np.stack([[block.mean() for block in row] for row in _blocks(scores, group)])
    found = stats.pairwise(means)
    return replace(found, method=found.method.replace("seeds", "groups of seeds"))


def apart(scores: Float[np.ndarray, "seeds seeds"], group: int = 2) -> dict[str, Estimate]:
    """Return `within` and `across` by these names."""
    return {"within": within(scores, group), "across": across(scores, group)}


def gain(
    study: Study, base: Study, metric: str = "mean_max_cosine", *, group: int = 2, latents: str = "alive"
) -> dict[str, Estimate | float | bool]:
    """Return how much more partners, and strangers, agree than the same seeds do in `base`, paired seed by seed.

    At equal alive counts, the rarest latents of the side that has more being dropped; `latents="all"` keeps all.
    `drift` is what the strangers' gain changed over the last doubling of the steps, `steady` whether it is within
    `contrasts.STEADY`. ValueError: other seeds, no checkpoint half-way, and as `within`.
    """
    require(base.seeds == study.seeds, "base: seeds", base.seeds, f"those of the study, {study.seeds}")
    now = _gained(study, base, metric, latents)
    half = [one.stopped(one.config.steps // 2) for one in (study, base)]
    drift = across(now, group).value - across(_gained(half[0], half[1], metric, latents), group).value
    return {**apart(now, group), "drift": drift, "steady": abs(drift) < STEADY}


def _gained(study: Study, base: Study, metric: str, latents: str) -> np.ndarray:
    if latents == "all":
        return study.scores(metric, "all") - base.scores(metric, "all")
    first, second = at_equal_counts([study], [base], metric)
    return (first - second)[0]


def _blocks(scores: np.ndarray, group: int) -> np.ndarray:
    """Return the scores [groups, groups, group, group]."""
    seeds = len(scores)
    require(group >= 2 and seeds % group == 0, "scores", f"{seeds} seeds", f"whole groups of {group}, at least two")
    require(seeds >= 3 * group, "scores", f"{seeds // group} groups", "at least 3: no interval is honest with fewer")
    return np.asarray(scores, float).reshape(seeds // group, group, seeds // group, group).swapaxes(1, 2)
