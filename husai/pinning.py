"""SAEs with latents pinned to a reference: what the pinned share adds by itself, and what the other latents do.

Pinned rows are the same in every seed, so that whatever is pinned agrees. The question is about the rest.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from husai import nulls, stats
from husai.config import SAEConfig, require
from husai.evidence import Estimate
from husai.matching import matching
from husai.saes import SAEBatch
from husai.shards import in_memory
from husai.study import Study, score_matrix

METRIC = "mean_max_cosine"


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


def counterparts(plain: Study, rows: Float[Tensor, "pinned d_model"]) -> Bool[Tensor, "seeds d_sae"]:
    """Return the living latents of unpinned SAEs less those matched, one to one, with the rows pinned elsewhere.

    These are what `others` would be, had the pinned features been learnt and not given. ValueError: as `others`.
    """
    free = torch.ones_like(plain.alive)
    for seed, decoder in enumerate(plain.saes.W_dec if len(rows) else ()):
        free[seed, matching(rows, decoder, signed=False).columns] = False
    return _living(plain, free)


def rest(study: Study, plain: Study, rows: Float[Tensor, "pinned d_model"]) -> dict[str, Estimate | float]:
    """Return the agreement (mean max cosine) of the latents that are not pinned, beside what it would be otherwise.

    `score` is that of `others`, `counterpart` that of `counterparts` in the same seeds' unpinned SAEs, `gain` their
    paired difference, all at equal counts, the rarest being dropped; `N0` and `N2` are random directions (isotropic,
    covariance-matched) at these counts, `count` is the mean of them. ValueError: other seeds, as `others`.
    """
    require(plain.seeds == study.seeds, "plain: seeds", plain.seeds, f"those of the study, {study.seeds}")
    masks = others(study, len(rows)), counterparts(plain, rows)
    counts = torch.minimum(*(mask.sum(1) for mask in masks)).tolist()
    ours, theirs = (
        one.matrix(METRIC, _commonest(one, m, counts)) for one, m in zip((study, plain), masks, strict=True)
    )
    fit = in_memory(study.activations.fit)
    chance = {
        "N0": [nulls.isotropic(n, fit.shape[1], seed) for n, seed in zip(counts, study.seeds, strict=True)],
        "N2": [nulls.covariance_matched(fit, n, seed) for n, seed in zip(counts, study.seeds, strict=True)],
    }
    found = {"score": ours, "counterpart": theirs} | {null: score_matrix(METRIC, x) for null, x in chance.items()}
    gain = stats.difference(ours, theirs)
    return {name: stats.pairwise(x) for name, x in found.items()} | {"gain": gain, "count": float(np.mean(counts))}


def known(atoms: Float[Tensor, "atoms d_model"], config: SAEConfig) -> SAEBatch:
    """Return the SAE whose latents are known directions: a reference that is the truth, its encoder the transpose."""
    rows = torch.nn.functional.normalize(atoms, dim=1)[None]
    bias, centre = rows.new_zeros(1, rows.shape[1]), rows.new_zeros(1, rows.shape[2])
    return SAEBatch(config, (0,), rows.transpose(1, 2), bias, rows, centre)


def _living(study: Study, free: Tensor) -> Tensor:
    require(bool(free.any(1).all()), "pinned", "every latent", "fewer than d_sae")
    living = free & study.alive
    return torch.where(living.any(1, keepdim=True), living, free)


def _commonest(study: Study, mask: Tensor, counts: Sequence[int]) -> Tensor:
    """Return each seed's latents of a mask, the rarest dropped where there are more than that seed's count."""
    keep = torch.zeros_like(mask)
    for row, rates, count in zip(keep, study.firing.masked_fill(~mask, -1), counts, strict=True):
        row[rates.argsort(descending=True, stable=True)[:count]] = True
    return keep
