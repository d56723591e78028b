"""A score at a matched quality: what a sweep says at an L0 or FVU that none of its settings need have hit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from husai import stats
from husai.comparison import compare, drawn
from husai.config import require
from husai.evidence import Estimate
from husai.study import Study, score_matrix


@dataclass(frozen=True)
class Frontier:
    """One architecture over its settings of sparsity: a quality and scores between the same seeds at each of them."""

    quality: Float64[np.ndarray, "settings seeds"]
    """Quality of every SAE, above 0."""
    scores: Float64[np.ndarray, "settings seeds seeds"]
    """Scores of all pairs of seeds; the diagonals are not read."""

    def __post_init__(self) -> None:
        settings, seeds = self.quality.shape
        require(settings >= 2, "quality", f"{settings} settings", "two or more to interpolate between")
        shape = (settings, seeds, seeds)
        require(
            self.scores.shape == shape,
            "scores.shape",
            self.scores.shape,
            f"{shape}, [settings, seeds, seeds]",
        )
        positive = bool((np.isfinite(self.quality) & (self.quality > 0)).all())
        require(positive, "quality", "zero, negative or not finite", "numbers above 0, whose logarithm is taken")

    def means(self, kept: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return log quality and mean pair score of the kept seeds, one a setting, in rising order of quality."""
        quality = self.quality[:, kept].mean(1)
        pairs = np.triu_indices(len(kept), 1)
        scores = self.scores[:, kept][:, :, kept][:, *pairs].mean(1)
        order = quality.argsort()
        return np.log2(quality[order]), scores[order]

    def value(self, wanted: float, kept: Sequence[int]) -> float:
        """Return the mean pair score of the kept seeds where their mean quality is `wanted`; NaN outside the settings.

        Linear in log quality between the two settings whose mean quality lies next to it, whatever their order.
        """
        return float(np.interp(np.log2(wanted), *self.means(kept), np.nan, np.nan))

    def at(self, wanted: float) -> Estimate | None:
        """Return the score at a quality with its jackknife interval, or None where the settings do not reach it.

        Every replicate leaves one seed out of the quality and out of the scores, and has to reach it too: nothing is
        extrapolated. ValueError: a quality of 0 or less, fewer than 3 seeds.
        """
        return _jackknife([self], wanted)

    def trend(self) -> Estimate:
        """Return the change of the score for a doubling of the quality, by least squares over the settings."""
        return stats.jackknife(lambda kept: float(np.polyfit(*self.means(kept), 1)[0]), self.quality.shape[1])


def of(
    studies: Sequence[Study],
    quality: str = "l0",
    metric: str = "mean_max_cosine",
    null: str = "",
    latents: str = "alive",
) -> Frontier:
    """Return the frontier of one model's studies under several settings of one architecture.

    `quality` is "l0" or "fvu"; `metric` as in `comparison.compare`. With a drawn `null` ("N0", "N2", "N3")
    the scores are gaps to its draws at each seed's own alive count. ValueError: studies of unequal seeds.
    """
    lists = {study.seeds for study in studies}
    require(len(lists) == 1, "studies", sorted(lists), "one list of seeds for all settings")
    scores = [study.scores(metric, latents) for study in studies]
    if null:
        chance = [score_matrix(metric, drawn(study, null, latents)) for study in studies]
        scores = [real - other for real, other in zip(scores, chance, strict=True)]
    return Frontier(np.array([study.by_seed[quality] for study in studies]), np.stack(scores))


def difference(a: Frontier, b: Frontier, wanted: float) -> Estimate | None:
    """Return score(a) - score(b) at one quality, paired over their common seeds; None where one does not reach it.

    ValueError: unequal numbers of seeds, a quality of 0 or less, fewer than 3 seeds.
    """
    seeds = a.quality.shape[1]
    require(b.quality.shape[1] == seeds, "b", f"{b.quality.shape[1]} seeds", f"{seeds}, those of a")
    return _jackknife([a, b], wanted, "paired ")


def at_shared_fvu(
    first: Sequence[Study], second: Sequence[Study], metric: str = "mean_max_cosine"
) -> tuple[float, Estimate]:
    """Return an FVU that two sweeps of one model share, and how much further beyond N0 the first one agrees there.

    It is the geometric middle of the range that both cover. ValueError: no FVU in common, unequal seeds.
    """
    a, b = (of(side, "fvu", metric, "N0") for side in (first, second))
    ranges = [side.quality.mean(1) for side in (a, b)]
    low, high = float(max(side.min() for side in ranges)), float(min(side.max() for side in ranges))
    ours, theirs = (side.tolist() for side in ranges)
    require(low < high, "second: FVU", theirs, f"a range that overlaps with that of first, {ours}")
    wanted = math.sqrt(low * high)
    gap = difference(a, b, wanted)
    if gap is None:
        raise ValueError(f"second: FVU is {theirs!r}; wanted a range that overlaps without any one of the seeds, too")
    return wanted, replace(gap, method=f"{gap.method}, in this model")


def against_fvu(studies: Sequence[Study]) -> dict[str, list[tuple[Estimate, Estimate]]]:
    """Return what one model's SAEs over k score against their FVU: score, kappa_N0, N2, N0, as [(FVU, value)] each."""
    n0, n2 = ([compare([study], null) for study in studies] for null in ("N0", "N2"))
    series = {
        "score": [row.score for row in n0],
        "kappa_N0": [row.kappa for row in n0],
        "null N2": [row.null_score for row in n2],
        "null N0": [row.null_score for row in n0],
    }
    fvu = [study.quality["fvu"] for study in studies]
    return {name: list(zip(fvu, values, strict=True)) for name, values in series.items()}


def healthy(studies: Sequence[Study], wanted: float, quality: str = "l0") -> bool:
    """Return whether the settings on both sides of a quality exist and pass the gates of `book/quality.toml`.

    All gates but that of the L0's target: here the L0 is matched, or free.
    """
    ranked = sorted(studies, key=lambda study: study.quality[quality].value)
    below = [study for study in ranked if study.quality[quality].value <= wanted][-1:]
    above = [study for study in ranked if study.quality[quality].value >= wanted][:1]
    sides = [study.passes | {"L0 on target": True} for study in below + above]
    return len(sides) == 2 and all(all(passes.values()) for passes in sides)


def _jackknife(sides: Sequence[Frontier], wanted: float, paired: str = "") -> Estimate | None:
    require(wanted > 0, "wanted", wanted, "a quality above 0")
    seeds = sides[0].quality.shape[1]
    require(seeds >= 3, "quality", f"{seeds} seeds", stats.SEEDS_WANTED)

    def statistic(kept: Sequence[int]) -> float:
        first, *rest = (side.value(wanted, kept) for side in sides)
        return first - sum(rest)

    replicates = [[i for i in range(seeds) if i != left_out] for left_out in range(-1, seeds)]
    if not np.isfinite([statistic(kept) for kept in replicates]).all():
        return None
    estimate = stats.jackknife(statistic, seeds)
    return replace(estimate, method=f"{paired}{estimate.method} at matched quality")
