"""SAEs with latents pinned to a reference: what the pinned share adds by itself, and what the other latents do.

Pinned rows are the same in every seed, so that whatever is pinned agrees. The question is about the rest.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from husai import nulls, stats
from husai.activations import Activations
from husai.config import Objective, SAEConfig, TrainConfig, require
from husai.evidence import Estimate
from husai.matching import matching
from husai.metrics import mean_max_cosine, recovery
from husai.saes import SAEBatch
from husai.study import Condition, Study, score_matrix

METRIC = "mean_max_cosine"


def conditions(
    name: str, acts: Activations, config: TrainConfig, reference: SAEBatch, encoder: str, shares: Sequence[float]
) -> dict[str, Condition]:
    """Return conditions of `study.run` with shares of the latents pinned, the first ones of a reference.

    `{name}_{per cent}`, rounded down: (acts, the configuration with these rows, reference).
    """
    return {
        f"{name}_{int(100 * share)}": (
            acts,
            replace(config, objective=Objective("pinning", rows=round(share * config.sae.d_sae), encoder=encoder)),
            reference,
        )
        for share in shares
    }


def identity(share: float, floor: float) -> float:
    """Return share + (1 - share) * floor: the agreement if a share is the same and the rest as if nothing were pinned.

    ValueError: a share outside 0..1.
    """
    require(0 <= share <= 1, "share", share, "a share from 0 to 1")
    return share + (1 - share) * floor


def beyond(whole: Float[np.ndarray, "seeds seeds"], plain: Float[np.ndarray, "seeds seeds"], share: float) -> Estimate:
    """Return how much more whole dictionaries agree than `identity` says; the floor is the same seeds' unpinned SAEs.

    Paired, with its interval over seeds. ValueError: unequal shapes, fewer than 3 seeds, a share outside 0..1.
    """
    require(0 <= share <= 1, "share", share, "a share from 0 to 1")
    return stats.difference(whole, share + (1 - share) * np.asarray(plain, float))


def times(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Return mean(ours) / mean(theirs), one value of the same seed in each, with its jackknife interval over seeds.

    ValueError: unequal numbers of seeds, fewer than 3 of them, values that are not above 0.
    """
    a, b = np.asarray(ours, float), np.asarray(theirs, float)
    require(a.shape == b.shape, "theirs", f"{len(b)} seeds", f"those of ours, {len(a)}")
    require(bool((a > 0).all() and (b > 0).all()), "ours, theirs", "0 or less among them", "values above 0")
    return stats.jackknife(lambda kept: float(a[kept].mean() / b[kept].mean()), len(a))


def others(study: Study, pinned: int) -> Bool[Tensor, "seeds d_sae"]:
    """Return the living latents behind the first `pinned`; of a seed in which all of these are dead, all of them.

    ValueError: nothing is behind them.
    """
    return _living(study, torch.arange(study.alive.shape[1]).expand_as(study.alive) >= pinned)


def counterparts(plain: Study, rows: Float[Tensor, "seeds pinned d_model"]) -> Bool[Tensor, "seeds d_sae"]:
    """Return the living latents of unpinned SAEs less those matched, one to one, with the rows pinned elsewhere.

    These are what `others` would be, had the pinned features been learnt and not given. ValueError: as `others`.
    """
    free = torch.ones_like(plain.alive)
    for left, given, decoder in zip(free, rows, plain.saes.W_dec, strict=True):
        if len(given):
            left[matching(given, decoder, signed=False).columns] = False
    return _living(plain, free)


def measured(study: Study, plain: Study) -> dict[str, Estimate | float]:
    """Return what pinning does to whole dictionaries: all latents, mean max cosine, and FVU against the same seeds'.

    `whole` is the agreement, `identity` what the pinned `share` would give by itself, `beyond` their paired difference,
    and `times_fvu` the FVU over that of the unpinned SAEs, which may have further seeds. ValueError: seeds that
    `plain` lacks.
    """
    require(set(study.seeds) <= set(plain.seeds), "study: seeds", study.seeds, f"among those of plain, {plain.seeds}")
    same = [plain.seeds.index(seed) for seed in study.seeds]
    floor, whole = plain.scores(METRIC, "all")[np.ix_(same, same)], study.scores(METRIC, "all")
    share = study.config.objective.rows / study.config.sae.d_sae
    fvus = [plain.by_seed["fvu"][index] for index in same]
    return {
        "share": share,
        "whole": stats.pairwise(whole),
        "identity": identity(share, stats.pairwise(floor).value),
        "beyond": beyond(whole, floor, share),
        "times_fvu": times(study.by_seed["fvu"], fvus),
    }


def to_reference(study: Study, reference: SAEBatch) -> Estimate:
    """Return the mean max cosine of each SAE with one reference, all latents, with its interval over seeds.

    So the sources score pinning. An SAE of the reference's own seed is the reference and left out. ValueError: fewer
    than 3 others.
    """
    dictionaries = zip(study.seeds, study.saes.W_dec, strict=True)
    strangers = [rows for seed, rows in dictionaries if seed not in reference.seeds]
    return stats.mean([mean_max_cosine(rows, reference.W_dec[0]) for rows in strangers])


def rest(study: Study, plain: Study) -> dict[str, Estimate | float]:
    """Return the agreement (mean max cosine) of the latents that are not pinned, beside what it would be otherwise.

    `score` is that of `others`, `counterpart` that of `counterparts` in the same seeds' unpinned SAEs, `gain` their
    paired difference, all at equal counts, the rarest being dropped; `N0` and `N2` are random directions (isotropic,
    covariance-matched) at these counts, `count` is the mean of them. ValueError: other seeds, as `others`.
    """
    masks = _unpinned(study, plain)
    counts = torch.minimum(*(mask.sum(1) for mask in masks)).tolist()
    ours, theirs = (one.matrix(METRIC, one.commonest(counts, m)) for one, m in zip((study, plain), masks, strict=True))
    root = study.activations.root
    chance = {
        "N0": [nulls.isotropic(n, len(root), seed) for n, seed in zip(counts, study.seeds, strict=True)],
        "N2": [nulls.coloured(root, n, seed) for n, seed in zip(counts, study.seeds, strict=True)],
    }
    found = {"score": ours, "counterpart": theirs} | {null: score_matrix(METRIC, x) for null, x in chance.items()}
    gain = stats.difference(ours, theirs)
    scores: dict[str, Estimate | float] = {name: stats.pairwise(x) for name, x in found.items()}
    return scores | {"gain": gain, "count": float(np.mean(counts))}


def recovered(study: Study, plain: Study, atoms: Float[Tensor, "atoms d_model"]) -> dict[str, Estimate]:
    """Return how well the true atoms that are not pinned are recovered by the latents that are not pinned.

    The pinned latents are the first atoms (`known`). `score` is `metrics.recovery` of the others by `others`,
    `counterpart` by `counterparts`, `gain` their paired difference. ValueError: as `rest`.
    """
    hidden = atoms[study.config.objective.rows :]
    ours, theirs = (
        [recovery(rows, hidden) for rows in one.saes.decoders(mask)]
        for one, mask in zip((study, plain), _unpinned(study, plain), strict=True)
    )
    return {"score": stats.mean(ours), "counterpart": stats.mean(theirs), "gain": stats.difference(ours, theirs)}


def _unpinned(study: Study, plain: Study) -> tuple[Tensor, Tensor]:
    """Return `others` of a study, and their `counterparts` in the same seeds' unpinned SAEs."""
    require(plain.seeds == study.seeds, "plain: seeds", plain.seeds, f"those of the study, {study.seeds}")
    pinned = study.config.objective.rows
    return others(study, pinned), counterparts(plain, study.saes.W_dec[:, :pinned])


def known(atoms: Float[Tensor, "atoms d_model"], config: SAEConfig) -> SAEBatch:
    """Return the SAE whose latents are known directions: a reference that is the truth, its encoder the transpose."""
    rows = torch.nn.functional.normalize(atoms, dim=1)[None]
    bias, centre = rows.new_zeros(1, rows.shape[1]), rows.new_zeros(1, rows.shape[2])
    return SAEBatch(config, (0,), rows.transpose(1, 2), bias, rows, centre)


def _living(study: Study, free: Tensor) -> Tensor:
    require(bool(free.any(1).all()), "pinned", "every latent", "fewer than d_sae")
    living = free & study.alive
    return torch.where(living.any(1, keepdim=True), living, free)
