"""The only comparison: a cross-seed score beside what it would be by chance, and their gap with its interval."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from husai import nulls, resampling, stats
from husai.config import require
from husai.evidence import Estimate
from husai.shards import in_memory
from husai.study import Study, score_matrix

STEADY = 0.02
"""Largest change of a difference over the last doubling of the steps: the margin within which scores are equal."""


@dataclass(frozen=True)
class Comparison:
    """A score beside its null, and their gap: intervals over models and seeds, or over one model's seeds."""

    metric: str
    null: str
    score: Estimate
    null_score: Estimate
    gap: Estimate

    @property
    def kappa(self) -> Estimate:
        """The gap in units of what the null leaves open, gap / (1 - null); the null counts as known."""
        room = 1 - self.null_score.value
        return replace(
            self.gap, value=self.gap.value / room, low=self.gap.low / room, high=self.gap.high / room
        )

    def table(self) -> dict[str, str]:
        """Return the comparison as text, one row of a table."""
        row = {
            "metric": self.metric,
            "score": str(self.score),
            "null": self.null,
            "null score": str(self.null_score),
        }
        return {**row, "gap": str(self.gap), f"kappa_{self.null}": f"{self.kappa.value:.3f}", "scope": self.gap.method}


def compare(
    studies: Sequence[Study],
    null: str | Sequence[Study],
    metric: str = "mean_max_cosine",
    *,
    name: str = "",
    latents: str = "alive",
) -> Comparison:
    """Compare the cross-seed score of alive latents with a null; one entry of `studies` a model.

    `null` is "N0" (isotropic), "N2" (covariance-matched), "N3" (data atoms), drawn at each seed's own alive count, or
    the studies of a trained null (N4, N5; `name` says which): there the gap is taken at equal alive counts, the rarest
    latents of the side that has more being dropped. With three or more models the intervals generalise over models and
    seeds (`stats.crossed`); else they hold for this model. `metric` is a dictionary metric of `husai.metrics`, or
    "activation_matching" (trained nulls only). `latents="all"` keeps dead latents, as the sources did.
    """
    require(latents in ("alive", "all"), "latents", latents, "'alive' or 'all'")
    require(
        len(studies) != 2, "studies", "two models", "one model, or three and more for an interval over models"
    )
    others = [] if isinstance(null, str) else list(null)
    ks = {study.config.sae.k for study in [*studies, *others]}
    require(len(ks) == 1, "k", sorted(ks), "one for all, the null's too: a score depends on it")
    real = np.stack([study.scores(metric, latents) for study in studies])
    if isinstance(null, str):
        wanted = "a trained null: drawn dictionaries have no activations"
        require(metric != "activation_matching", "null", null, wanted)
        matched = real
        other = np.stack([score_matrix(metric, drawn(study, null, latents)) for study in studies])
    else:
        matched, other = _at_equal_counts(studies, others, metric)
    label = name or (null if isinstance(null, str) else "trained null")
    return Comparison(metric, label, *(summarise(values) for values in (real, other, matched - other)))


def _at_equal_counts(
    studies: Sequence[Study], others: Sequence[Study], metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores [models, seeds, seeds] of both sides; the side with more alive latents drops its rarest."""
    matched, other = [], []
    for study, trained in zip(studies, others, strict=True):
        counts = torch.minimum(study.alive.sum(1), trained.alive.sum(1)).tolist()
        matched.append(study.matrix(metric, study.commonest(counts)))
        other.append(trained.matrix(metric, trained.commonest(counts)))
    return np.stack(matched), np.stack(other)


def contrast(
    first: Sequence[Study], second: Sequence[Study], metric: str = "mean_max_cosine", *, latents: str = "alive"
) -> Estimate:
    """Return how much more the seeds of one condition agree than those of another, paired by model and SAE seed.

    The seed-by-seed scores of `second` are subtracted from those of `first` model by model, and the differences
    `summarise`d. k, width and recipe may differ. Taken at equal alive counts, the rarest latents of the side that has
    more being dropped; `latents="all"` keeps all. ValueError: other models, SAE seeds or activations.
    """
    require(latents in ("alive", "all"), "latents", latents, "'alive' or 'all'")
    require(len(first) == len(second) != 2, "second", f"{len(second)} models", f"those of first, {len(first)}; not two")
    for a, b in zip(first, second, strict=True):
        require(a.seeds == b.seeds, "second: seeds", b.seeds, f"those of first, {a.seeds}")
        require(torch.equal(a.activations.mean, b.activations.mean), "second", "other activations", "those of first")
    if latents == "all":
        matched, other = (np.stack([study.scores(metric, "all") for study in side]) for side in (first, second))
    else:
        matched, other = _at_equal_counts(first, second, metric)
    return summarise(matched - other)


def paired(first: Sequence[Study], second: Sequence[Study]) -> dict[str, Estimate | float | bool]:
    """Return the `contrast` of two conditions by both dictionary metrics, and whether training length decides it.

    `drift` is what the first contrast changed over the last doubling of the steps; `steady` says that it is within
    `STEADY`. ValueError: as `contrast`, or no checkpoint half-way.
    """
    found = contrast(first, second)
    then, there = ([study.stopped(study.config.steps // 2) for study in side] for side in (first, second))
    drift = found.value - contrast(then, there).value
    other = contrast(first, second, "hungarian_mcc")
    return {"difference": found, "hungarian_difference": other, "drift": drift, "steady": abs(drift) < STEADY}


def as_published(
    study: Study, other: Study | None = None, metric: str = "mean_max_cosine"
) -> dict[str, Estimate | float]:
    """Return how much more the seeds of a study agree than those of `other`, or than random ones, by all latents.

    `gap` has the jackknife's interval over seeds; `pairs` has that of the sources, pairs being resampled as if they
    were independent, and `bound` is their conservative lower bound; `times_wider` is the first interval's width over
    the second's. ValueError: other SAE seeds.
    """
    require(other is None or other.seeds == study.seeds, "other: seeds", other and other.seeds, f"{study.seeds}")
    a = study.scores(metric, "all")
    b = other.scores(metric, "all") if other else score_matrix(metric, drawn(study, "N0", "all"))
    gap, pairs = summarise((a - b)[None]), resampling.pair_bootstrap(a, b)
    times = (gap.high - gap.low) / (pairs.high - pairs.low)
    return {"gap": gap, "pairs": pairs, "bound": resampling.conservative_bound(a, b), "times_wider": times}


def along(study: Study, other: Study | None = None) -> dict[int, Estimate]:
    """Return the gap of `as_published` at every stored checkpoint after step 0, `{step: estimate}`."""
    stops = [at for at in study.steps if at]
    rows = [as_published(study.stopped(at), other.stopped(at) if other else None) for at in stops]
    return {at: gap for at, row in zip(stops, rows, strict=True) if isinstance(gap := row["gap"], Estimate)}


def frontier(studies: Sequence[Study]) -> dict[str, list[tuple[Estimate, Estimate]]]:
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


def at_matched_fvu(
    first: Sequence[Study], second: Sequence[Study], metric: str = "mean_max_cosine"
) -> tuple[float, Estimate]:
    """Return an FVU that two families of SAEs share, and how much further from chance the first one is there.

    A family is one model's studies over k. The FVU is the geometric middle of the range that both cover. A family's
    seed-by-seed scores less those of N0 (chance for its own alive counts) are taken there by linear interpolation in
    log FVU, and their difference is jackknifed over seeds. ValueError: no FVU in common, other SAE seeds.
    """
    ranges = [[study.quality["fvu"].value for study in side] for side in (first, second)]
    low, high = max(min(side) for side in ranges), min(max(side) for side in ranges)
    require(low < high, "second: FVU", ranges[1], f"a range that overlaps with that of first, {ranges[0]}")
    seeds = {study.seeds for study in [*first, *second]}
    require(len(seeds) == 1, "seeds", sorted(seeds), "one seed list for all")
    fvu = float(np.sqrt(low * high))
    estimate = stats.difference(*(_interpolated(side, fvu, metric) for side in (first, second)))
    return fvu, replace(estimate, method=f"{estimate.method}, in this model")


def _interpolated(studies: Sequence[Study], fvu: float, metric: str) -> np.ndarray:
    """Return one family's scores beyond N0 [seeds, seeds] at an FVU inside its range."""
    ordered = sorted(studies, key=lambda study: study.quality["fvu"].value)
    levels = np.log([study.quality["fvu"].value for study in ordered])
    right = min(max(int(np.searchsorted(levels, np.log(fvu))), 1), len(levels) - 1)
    share = (np.log(fvu) - levels[right - 1]) / (levels[right] - levels[right - 1])
    a, b = (study.scores(metric) - score_matrix(metric, drawn(study, "N0")) for study in ordered[right - 1 : right + 1])
    return (1 - share) * a + share * b


def against_nulls(
    studies: Sequence[Study], trained: Mapping[str, Sequence[Study]], metric: str = "mean_max_cosine"
) -> dict[str, Comparison]:
    """Return the comparison with every null by its name: N0, N2, N3 where the metric allows, then the trained ones."""
    untrained = [] if metric == "activation_matching" else ["N0", "N2", "N3"]
    found = {null: compare(studies, null, metric) for null in untrained}
    return found | {name: compare(studies, null, metric, name=name) for name, null in trained.items()}


def healthy(studies: Sequence[Study]) -> bool:
    """Return whether every study passes every gate of `book/quality.toml`, the plateau included."""
    return all(all(study.passes.values()) for study in studies)


def quality(studies: Sequence[Study]) -> dict[str, Estimate]:
    """Return FVU, L0 and alive share: an interval over models from three on, else over the seeds of one model."""
    if len(studies) < 3:
        return studies[0].quality
    keys = studies[0].quality
    return {key: stats.mean([study.quality[key].value for study in studies]) for key in keys}


def convergence(studies: Sequence[Study]) -> dict[str, float]:
    """Return the largest slope and the largest cosine to the own start among the models."""
    found = [study.convergence for study in studies]
    return {"slope": max(abs(c.slope) for c in found), "init_cosine": max(c.init_cosine for c in found)}


def failures(studies: Sequence[Study]) -> str:
    """Return, in words, which model fails which gate of `book/quality.toml`; "none" when all pass."""
    found = [f"model {index + 1}: {study.failures}" for index, study in enumerate(studies) if study.failures]
    return "; ".join(found) or "none"


def soundness(studies: Sequence[Study]) -> dict[str, Estimate | float | bool | str]:
    """Return all that is known of a condition's quality: `quality`, `convergence`, `healthy` and `failures`."""
    found: dict[str, Estimate | float | bool | str] = {**quality(studies), **convergence(studies)}
    return found | {"healthy": healthy(studies), "failures": failures(studies)}


def summarise(matrices: np.ndarray) -> Estimate:
    """Return the mean pair score of [models, seeds, seeds]: crossed from three models on, else in this model."""
    if len(matrices) >= 3:
        return stats.crossed(matrices).estimate
    estimate = stats.pairwise(matrices[0])
    return replace(estimate, method=f"{estimate.method}, in this model")


def drawn(study: Study, null: str, latents: str = "alive") -> list[Tensor]:
    """Return one dictionary a seed of an untrained null, with as many rows as that seed has (alive) latents."""
    acts = study.activations
    require(len(acts.values.shape) == 2, "null", null, "a trained null: drawn dictionaries are for one layer")
    draws: dict[str, Callable[[int, int], Tensor]] = {
        "N0": lambda n, seed: nulls.isotropic(n, acts.values.shape[-1], seed),
        "N2": lambda n, seed: nulls.covariance_matched(in_memory(acts.fit), n, seed),
        "N3": lambda n, seed: nulls.data_atoms(in_memory(acts.fit), n, seed),
    }
    require(null in draws, "null", null, f"one of {sorted(draws)}, or the studies of a trained null")
    return [
        draws[null](int(kept.sum()), seed)
        for kept, seed in zip(study.mask(latents), study.seeds, strict=True)
    ]
