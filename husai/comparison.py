"""The only comparison: a cross-seed score beside what it would be by chance, and their gap with its interval."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from husai import nulls, stats
from husai.config import require
from husai.evidence import Estimate
from husai.health import GATES
from husai.shards import in_memory
from husai.study import Study, score_matrix


@dataclass(frozen=True)
class Comparison:
    """A score beside its null, and their gap: intervals over models and seeds, or over one model's seeds."""

    metric: str
    null: str
    score: Estimate
    null_score: Estimate
    gap: Estimate
    matched: np.ndarray = field(repr=False, compare=False)
    """Score of every pair of seeds as it enters the gap [models, seeds, seeds]."""
    other: np.ndarray = field(repr=False, compare=False)
    """The null's score of every pair of seeds [models, seeds, seeds]."""

    @property
    def gaps(self) -> np.ndarray:
        """The gap of every pair of seeds [models, seeds, seeds], from which conditions are told apart."""
        return self.matched - self.other

    @property
    def kappas(self) -> np.ndarray:
        """(score - null) / (1 - null) of every pair: `summarise` of a difference compares two conditions."""
        return (self.matched - self.other) / (1 - self.other + np.eye(len(self.other[0])))  # 0 on the diagonal

    @property
    def kappa(self) -> Estimate:
        """The chance-corrected score: 0 at the null, 1 for the same dictionaries."""
        return summarise(self.kappas)

    @property
    def ratio(self) -> Estimate:
        """The sources' statistic, score / null; it cannot exceed 1 / null."""
        return summarise(self.matched / self.other)

    def table(self) -> dict[str, str]:
        """Return the comparison as text, one row of a table."""
        row = {
            "metric": self.metric,
            "score": str(self.score),
            "null": self.null,
            "null score": str(self.null_score),
        }
        return {**row, "gap": str(self.gap), f"kappa_{self.null}": str(self.kappa), "scope": self.gap.method}


def compare(
    studies: Sequence[Study],
    null: str | Sequence[Study],
    metric: str = "mean_max_cosine",
    *,
    name: str = "",
    latents: str = "alive",
    **options: Any,
) -> Comparison:
    """Compare the cross-seed score of alive latents with a null; one entry of `studies` a model.

    `null` is "N0" (isotropic), "N2" (covariance-matched), "N3" (data atoms), drawn at each seed's own alive count, or
    the studies of a trained null (N4, N5; `name` says which): there the gap is taken at equal alive counts, the rarest
    latents of the side that has more being dropped. With three or more models the intervals generalise over models and
    seeds (`stats.crossed`); else they hold for this model. `metric` is a dictionary metric of `husai.metrics`, or
    "activation_matching" (trained nulls only), and `options` are the metric's. Drawn rows have the firing rates of the
    latents that they stand for, and for "shared_fraction" they are encoder and decoder: the most that they can share.
    `latents="all"` keeps dead latents, as the sources did.
    """
    require(latents in ("alive", "all"), "latents", latents, "'alive' or 'all'")
    require(len(studies) != 2, "studies", "two models", "one model, or three and more for an interval over models")
    others = [] if isinstance(null, str) else list(null)
    ks = {study.config.sae.k for study in [*studies, *others]}
    require(len(ks) == 1, "k", sorted(ks), "one for all, the null's too: a score depends on it")
    real = np.stack([study.scores(metric, latents, **options) for study in studies])
    if isinstance(null, str):
        wanted = "a trained null: drawn dictionaries have no activations"
        require(metric != "activation_matching", "null", null, wanted)
        matched = real
        other = np.stack([
            score_matrix(
                metric, *study.stacks(metric, study.mask(latents), drawn(study, null, latents)), **options
            )
            for study in studies
        ])  # fmt: skip
    else:
        require(latents == "alive", "latents", latents, "'alive': trained nulls are compared at equal alive counts")
        matched, other = at_equal_counts(studies, others, metric, **options)
    label = name or (null if isinstance(null, str) else "trained null")
    score, null_score, gap = (summarise(values) for values in (real, other, matched - other))
    return Comparison(metric, label, score, null_score, gap, matched, other)


def at_equal_counts(
    studies: Sequence[Study], others: Sequence[Study], metric: str, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores [models, seeds, seeds] of both sides; the side with more alive latents drops its rarest."""
    sides = list(zip(studies, others, strict=True))
    kept = [equal_counts(*both) for both in sides]
    first, second = (
        [both[i].matrix(metric, keep[i], **options) for both, keep in zip(sides, kept, strict=True)] for i in (0, 1)
    )
    return np.stack(first), np.stack(second)


def equal_counts(study: Study, other: Study) -> tuple[Bool[Tensor, "seeds d_sae"], Bool[Tensor, "seeds d_other"]]:
    """Return which latents of each count, so that seed by seed as many are alive; the rarest are dropped."""
    counts = torch.minimum(study.alive.sum(1), other.alive.sum(1)).tolist()
    return study.commonest(counts), other.commonest(counts)


def against_nulls(
    studies: Sequence[Study],
    trained: Mapping[str, Sequence[Study]],
    metric: str = "mean_max_cosine",
    **options: Any,
) -> dict[str, Comparison]:
    """Return the comparison with every null by its name: N0, N2, N3 where the metric allows, then the trained ones."""
    untrained = [] if metric == "activation_matching" else ["N0", "N2", "N3"]
    found = {null: compare(studies, null, metric, **options) for null in untrained}
    others = {name: compare(studies, null, metric, name=name, **options) for name, null in trained.items()}
    return found | others


def settled(studies: Sequence[Study]) -> bool:
    """Return whether every study reconstructs and its alive latents have stopped moving, however many are dead.

    That is `healthy` without the share of dead latents, and without the mean number of updates, which counts the dead.
    """
    gate = GATES["plateau"]
    return all(
        study.passes["explained variance"] and study.passes["L0 on target"]
        and abs(study.convergence.slope) < gate["slope"] and study.convergence.init_cosine < gate["init_cosine"]
        for study in studies
    )  # fmt: skip


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
    draws: dict[str, Callable[[], Callable[[int, int], Tensor]]] = {
        "N0": lambda: lambda n, seed: nulls.isotropic(n, acts.values.shape[-1], seed),
        "N2": lambda: partial(nulls.coloured, acts.root),
        "N3": lambda: partial(nulls.data_atoms, in_memory(acts.fit)),
    }
    require(null in draws, "null", null, f"one of {sorted(draws)}, or the studies of a trained null")
    draw = draws[null]()  # what the seeds have in common is computed once
    return [draw(int(kept.sum()), seed) for kept, seed in zip(study.mask(latents), study.seeds, strict=True)]
