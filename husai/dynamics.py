"""What the checkpoints of a study say beyond its last one: who agrees when, and how good is good at each."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from torch import Tensor

from husai import metrics, nulls, progress, stats
from husai.activations import Activations
from husai.config import require
from husai.evidence import Estimate
from husai.shards import in_memory
from husai.similarity import best_cosines
from husai.study import Study, score_matrix

FIRST = 1000
"""Rows that one of the sources' definitions of explained variance looks at."""


def cross_matrix(metric: str, first: Sequence[Tensor], second: Sequence[Tensor]) -> np.ndarray:
    """Return the scores between two stages of different seeds, 1/2 [m(first_i, second_j) + m(first_j, second_i)].

    [seeds, seeds]; the diagonal, one seed at two stages, is left at 1, as it measures how far a seed moved. Each stage
    holds one dictionary [d_sae, d_model] a seed. ValueError: unequal numbers of seeds.
    """
    require(len(first) == len(second), "second", f"{len(second)} seeds", f"the {len(first)} of first")
    score, scores = getattr(metrics, metric), np.eye(len(first))
    for i in range(len(first)):
        for j in range(i):
            scores[i, j] = scores[j, i] = (score(first[i], second[j]) + score(first[j], second[i])) / 2
    return scores


def early_agreement(study: Study, step: int, latents: str = "alive") -> np.ndarray:
    """Return, for every pair of seeds, whether the latents that agree at `step` are those that agree at the end.

    Spearman's correlation over latents between their best |cosine| in the other seed at `step` and at the end, the mean
    of both directions: [seeds, seeds], 1 on the diagonal. `latents` are the ones that are alive at the end, or "all".
    ValueError: no checkpoint of that step was kept, or fewer than 3 latents.
    """
    require(step in study.steps, "step", step, f"one of {study.steps}")
    keep = study.mask(latents)
    require(int(keep.sum(1).min()) >= 3, "latents", int(keep.sum(1).min()), "at least 3 in every seed")
    early, late = study.at(step).decoders(keep), study.saes.decoders(keep)
    found = np.eye(len(early))
    for i in range(len(early)):
        for j in range(i):
            then, now = best_cosines(early[i], early[j]), best_cosines(late[i], late[j])
            ranks = [spearmanr(a.numpy(), b.numpy()).statistic for a, b in zip(then, now, strict=True)]
            found[i, j] = found[j, i] = np.mean(ranks)
    return found


def explained_variances(study: Study) -> dict[str, Estimate]:
    """Return one study's explained variance over seeds by the house's definition and by three of the sources.

    `held_out` is 1 - FVU on held-out activations. On all activations: `uncentred` and `all_values`
    (`metrics.other_explained_variance`); on the first 1000 training rows, by their own mean: `first_rows`.
    """
    acts = study.activations
    x, fit = in_memory(acts.values), acts.training.nonzero()[:, 0]
    judged = fit if bool(acts.training.all()) else (~acts.training).nonzero()[:, 0]
    found: dict[str, list[float]] = {"held_out": [], "uncentred": [], "all_values": [], "first_rows": []}
    for x_hat in study.saes.reconstruct(x):
        first = fit[:FIRST]
        found["held_out"].append(1 - metrics.fvu(x[judged], x_hat[judged], acts.mean))
        found["uncentred"].append(metrics.other_explained_variance(x, x_hat, "uncentred"))
        found["all_values"].append(metrics.other_explained_variance(x, x_hat, "all_values"))
        found["first_rows"].append(metrics.other_explained_variance(x[first], x_hat[first], "own_mean"))
    return {name: stats.mean(values) for name, values in found.items()}


def principal_components(acts: Activations, k: int, seeds: Sequence[int]) -> tuple[Estimate, Estimate]:
    """Return FVU and agreement of k principal components, each seed's from a random half of the training rows.

    The FVU of the best linear code of rank k on held-out rows, and the mean max cosine between seeds: an anchor that
    reconstructs and agrees without any feature having been learnt.
    """
    halves = [in_memory(acts.subsample(0.5, i).fit) for i in seeds]
    axes = [nulls.principal_axes(half, k).to(half) for half in halves]
    centred = [acts.held_out - half.mean(0) for half in halves]
    back = [rows @ a.T @ a + half.mean(0) for rows, a, half in zip(centred, axes, halves, strict=True)]
    fvu = stats.mean([metrics.fvu(acts.held_out, x_hat, acts.mean) for x_hat in back])
    return fvu, stats.pairwise(score_matrix("mean_max_cosine", axes))


def trajectory(study: Study) -> list[dict[str, Any]]:
    """Return, per stored checkpoint, scores over all latents, quality and |cos| to the own initialisation."""
    start, rows = study.at(0), []
    for step in progress.each(study.steps, "checkpoint"):
        now = study.stopped(step)
        init = [metrics.init_cosine(a, b) for a, b in zip(now.saes.W_dec, start.W_dec, strict=True)]
        scores = {name: stats.pairwise(now.scores(name, "all")) for name in ("mean_max_cosine", "hungarian_mcc")}
        rows.append({"step": step, **scores, **now.quality, "init_cosine": stats.mean(init)})
    return rows
