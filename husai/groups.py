"""Agreement within and between groups of seeds: what the seeds of a group share is not what a new group would find.

SAEs that were pulled to one reference, or trained together, agree through it. Whether the pull makes a result
reproducible is seen between groups that had nothing in common.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from husai import stats
from husai.config import require
from husai.evidence import Estimate


class Agreement(NamedTuple):
    """Mean scores of pairs of seeds, every group (or pair of groups) counting alike; n is the number of groups."""

    within: Estimate
    """Between seeds of one group."""
    between: Estimate
    """Between seeds of two groups."""
    registration: Estimate
    """within - between: what seeds agree in because of what their group shares."""


def blocks(matrix: ArrayLike, groups: Sequence[Hashable]) -> np.ndarray:
    """Return the mean scores [G, G] of pairs of different seeds, by their groups in order of first appearance.

    `matrix` [S, S] is symmetric, its diagonal is ignored; `groups` names each seed's group. The diagonal of the result
    holds the pairs within a group, NaN for a group of one. ValueError: as many names as seeds, and as `stats.pairwise`.
    """
    scores = stats.square(matrix, "matrix", 2)
    require(len(groups) == len(scores), "groups", f"{len(groups)} names", f"one for each of {len(scores)} seeds")
    names = list(dict.fromkeys(groups))
    member = np.array([[group == name for group in groups] for name in names], float)
    pairs = member @ (1 - np.eye(len(scores))) @ member.T
    sums = member @ scores @ member.T
    return np.divide(sums, pairs, out=np.full_like(sums, np.nan), where=pairs > 0)


def agreement(matrix: ArrayLike, groups: Sequence[Hashable]) -> Agreement:
    """Return the mean score within groups, that between groups, and their difference, with intervals over groups.

    Of the [G, G] `blocks`, within is the mean diagonal and between the mean of the rest; the intervals are those of
    `stats.mean` and `stats.pairwise`, a group being the unit: its seeds share what they were pulled to. The difference
    is jackknifed as one. Of a difference of two matrices these are the changes. Groups of one seed need no function of
    their own: `stats.pairwise`. ValueError: fewer than 3 groups, a group of one seed, and as `blocks`.
    """
    table = blocks(matrix, groups)
    within = table.diagonal()
    require(bool(np.isfinite(within).all()), "groups", list(groups), "two or more seeds in each group")
    require(len(table) >= 3, "groups", f"{len(table)} of them", "at least 3: no interval is honest with fewer")
    between = stats.pseudo_values(stats.square(table, "blocks", 2))
    method = "jackknife over groups"
    values = (stats.t_interval(part, method, "") for part in (within, between, within - between))
    return Agreement(*values)


def means(values: ArrayLike, groups: Sequence[Hashable]) -> list[float]:
    """Return the mean of one value a seed in each group, in order of first appearance: one value a unit.

    ValueError: as many names as values.
    """
    scores = np.asarray(values, float)
    require(len(groups) == len(scores), "groups", f"{len(groups)} names", f"one for each of {len(scores)} seeds")
    return [
        float(np.mean([score for score, group in zip(scores, groups, strict=True) if group == name]))
        for name in dict.fromkeys(groups)
    ]


def neighbours(seeds: Sequence[int], size: int) -> list[int]:
    """Return each seed's group where neighbours in the list form groups of one size, as `Objective.group` has it.

    ValueError: seeds that do not fill their groups.
    """
    require(size >= 1 and len(seeds) % size == 0, "seeds", f"{len(seeds)} seeds", f"whole groups of {size}")
    return [index // size for index in range(len(seeds))]
