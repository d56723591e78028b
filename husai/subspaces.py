"""What seeds may share when they share no feature: the subspaces that their decoders span, and nulls for it."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from husai import comparison, nulls
from husai.comparison import Comparison, summarise
from husai.config import require
from husai.evidence import Estimate
from husai.health import GATES
from husai.saes import ROWS
from husai.shards import in_memory
from husai.similarity import check
from husai.study import Study

NULLS = ("N0", "N2", "PCA", "PCA of all")
"""Drawn dictionaries, principal components of a half of the data each, and how near a seed is to those of all data."""


def axes(rows: Float[Tensor, "n d_model"]) -> Float[Tensor, "d_model d_model"]:
    """Return the right singular vectors as columns, the one with the largest singular value first.

    ValueError: empty, NaN or Inf.
    """
    check(rows=rows)
    return torch.linalg.eigh(rows.double().T @ rows.double()).eigenvectors.flip(1)


def overlaps(a: Float[Tensor, "d d"], b: Float[Tensor, "d d"]) -> Float[Tensor, " d"]:
    """Return tr(P_A P_B) / r for r = 1..d, the mean cos^2 of the principal angles, from the `axes` of both."""
    within = (a.T @ b).square().cumsum(0).cumsum(1).diagonal()
    return within / torch.arange(1, len(within) + 1)


def angles(a: Float[Tensor, "d d"], b: Float[Tensor, "d d"], rank: int) -> Float[Tensor, " rank"]:
    """Return the principal angles of two top subspaces in degrees, ascending. Source: Bjoerck & Golub (1973)."""
    cosines = torch.linalg.svdvals(a[:, :rank].T @ b[:, :rank]).clamp(-1, 1)
    return torch.rad2deg(cosines.arccos())


def rows(study: Study, keep: Bool[Tensor, "seeds d_sae"], weighted: bool) -> list[Tensor]:
    """Return every seed's kept decoder rows, d_j or, weighted, d_j (E z_j^2)^(1/2) over held-out activations.

    Weighted, the Gram matrix sum_j E z_j^2 d_j d_j^T is that of the reconstruction as if latents fired independently.
    """
    found = study.saes.decoders(keep)
    return [one * size for one, size in zip(found, sizes(study, keep), strict=True)] if weighted else found


def sizes(study: Study, keep: Bool[Tensor, "seeds d_sae"]) -> list[Float[Tensor, "kept 1"]]:
    """Return (E z_j^2)^(1/2) of every seed's kept latents on held-out activations, as a column."""
    x = study.activations.held_out
    found = []
    for i, kept in enumerate(keep):
        energies = torch.stack([study.saes[i].encode(part)[0].square().sum(0) for part in x.split(ROWS)]).sum(0)
        found.append((energies[kept] / len(x)).sqrt()[:, None])
    return found


def compare(
    studies: Sequence[Study], null: str | Sequence[Study], ranks: Sequence[int], *,
    weighted: bool = False, latents: str = "alive", name: str = "",
) -> dict[int, Comparison]:  # fmt: skip
    """Return the overlap of the seeds' top subspaces beside a null, by rank; one entry of `studies` a model.

    `null` is one of NULLS, or the studies of a trained null, compared at equal counts. Drawn rows stand for the latents
    one by one, with their weights. "PCA" sets against a pair of seeds the components of two random halves of the
    training activations; "PCA of all" the mean of what each of the two shares with the components of all of them, so
    that its gap is what seeds share beyond what the data's covariance has them share. Ranks above the number of latents
    of some seed are left out. ValueError: none is left, an unknown null.
    """
    drawn = isinstance(null, str)
    require(drawn or latents == "alive", "latents", latents, "'alive': trained nulls are compared at equal counts")
    require(not drawn or null in NULLS, "null", null, f"one of {NULLS}, or the studies of a trained null")
    others = list(studies) if isinstance(null, str) else list(null)
    keep = [study.mask(latents) for study in studies]
    if not drawn:
        both_kept = [comparison.equal_counts(*both) for both in zip(studies, others, strict=True)]
        keep, theirs = ([one[i] for one in both_kept] for i in (0, 1))
    most = min(int(one.sum(1).min()) for one in keep)
    kept = [rank for rank in ranks if 1 <= rank <= min(most, studies[0].saes.W_dec.shape[-1])]
    require(bool(kept), "ranks", list(ranks), f"some within the {most} latents")
    mine = [[axes(one) for one in rows(*both, weighted)] for both in zip(studies, keep, strict=True)]
    matched = np.stack([_pairs(found) for found in mine])
    if not drawn:
        null_rows = [rows(*both, weighted) for both in zip(others, theirs, strict=True)]
        other = np.stack([_pairs([axes(one) for one in found]) for found in null_rows])
    elif null == "PCA of all":
        whole = [axes(nulls.centre(in_memory(study.activations.fit))) for study in studies]
        shared = [torch.stack([overlaps(a, all_) for a in found]) for found, all_ in zip(mine, whole, strict=True)]
        other = np.stack([((one[:, None] + one) / 2).numpy() for one in shared])
    else:
        chance = [drawn_rows(study, str(null), latents, weighted) for study in studies]
        other = np.stack([_pairs([axes(one) for one in found]) for found in chance])
    label, metric = name or (null if isinstance(null, str) else "trained null"), "subspace_overlap"
    found = {}
    for rank in kept:
        a, b = matched[..., rank - 1], other[..., rank - 1]
        found[rank] = Comparison(metric, label, summarise(a), summarise(b), summarise(a - b), a, b)
    return found


def lines(found: Mapping[str, Mapping[int, Comparison]]) -> dict[str, tuple[list[int], list[Estimate]]]:
    """Return the seeds' overlap and that of every null as lines over rank, {name: (ranks, estimates)}."""
    seeds = next(iter(found.values()))
    shown = {"seeds": (list(seeds), [row.score for row in seeds.values()])}
    return shown | {name: (list(rows_), [row.null_score for row in rows_.values()]) for name, rows_ in found.items()}


def beside_features(study: Study, rank: int) -> dict[str, Estimate]:
    """Return how much the features of one study and its top subspace of this rank are shared, and what chance shares.

    `agreement` (`hungarian_mcc`) and `score` (`mean_max_cosine`), each with its `_N2` and the `_gap` between them;
    `plain` and `weighted` overlap, each with its `_N2`; `weighted_PCA`, and the gaps `gap_N2` and `gap_PCA` of the
    weighted overlap to N2 and to the components of all data.
    """
    found: dict[str, Estimate] = {}
    for name, metric in (("agreement", "hungarian_mcc"), ("score", "mean_max_cosine")):
        row = comparison.compare([study], "N2", metric)
        found |= {name: row.score, f"{name}_N2": row.null_score, f"{name}_gap": row.gap}
    for name, weighted in (("plain", False), ("weighted", True)):
        row = compare([study], "N2", [rank], weighted=weighted)[rank]
        found |= {name: row.score, f"{name}_N2": row.null_score}
    components = compare([study], "PCA of all", [rank], weighted=True)[rank]
    return found | {"weighted_PCA": components.null_score, "gap_N2": row.gap, "gap_PCA": components.gap}


def drawn_rows(study: Study, null: str, latents: str, weighted: bool) -> list[Tensor]:
    """Return one dictionary a seed of N0 or N2, weighted as its latents are; of "PCA" a centred half of the data."""
    if null == "PCA":
        acts = study.activations
        return [nulls.centre(in_memory(acts.subsample(0.5, seed).fit)) for seed in study.seeds]
    found = comparison.drawn(study, null, latents)
    if not weighted:
        return found
    return [one * size for one, size in zip(found, sizes(study, study.mask(latents)), strict=True)]


def principal_angles(dictionaries: Sequence[Sequence[Float[Tensor, "n d_model"]]], rank: int) -> list[Estimate]:
    """Return the principal angles between seeds' top subspaces in degrees, from the smallest; one entry a model.

    Each angle is averaged over pairs of seeds, with the interval of `comparison.summarise`. ValueError: rank outside
    1 to the number of rows.
    """
    least = min(min(map(len, found)) for found in dictionaries)
    require(1 <= rank <= least, "rank", rank, f"1 to {least}")
    values = np.stack([_pairs([axes(one) for one in found], rank) for found in dictionaries])
    return [summarise(values[..., i]) for i in range(rank)]


def inside(study: Study, direction: Float[Tensor, " d_model"], rank: int, latents: str = "alive") -> list[float]:
    """Return, per seed, the share of a direction's squared norm that lies in the top subspace of its decoder."""
    unit = torch.nn.functional.normalize(direction.double(), dim=0)
    found = [axes(one) for one in rows(study, study.mask(latents), False)]
    return [float((one[:, :rank].T @ unit).square().sum()) for one in found]


def sound(study: Study) -> bool:
    """Return whether explained variance and L0 pass the gates of `book/quality.toml`, whatever is dead or moves."""
    return study.passes["explained variance"] and study.passes["L0 on target"]


def settled(studies: Sequence[Study], rank: int, weighted: bool) -> bool:
    """Return whether every study is `sound`, and its overlap at this rank has stopped changing.

    It changed over the last doubling of the steps by less than the slope that `book/quality.toml` allows a score. Dead
    latents and single features do not enter: a subspace may be at rest while the features in it move. ValueError:
    fewer living latents than rank, no checkpoint half-way.
    """
    for study in studies:
        then = study.stopped(study.last // 2)
        now, before = (compare([one], "N0", [rank], weighted=weighted)[rank].score.value for one in (study, then))
        if not sound(study) or abs(now - before) >= GATES["plateau"]["slope"]:
            return False
    return True


def _pairs(found: Sequence[Float[Tensor, "d d"]], rank: int = 0) -> np.ndarray:
    """Return the overlaps of every pair of seeds [S, S, d]; with a rank, their principal angles in degrees."""
    scores = np.zeros((len(found), len(found), rank or len(found[0])))
    for i, a in enumerate(found):
        for j, b in enumerate(found[:i]):
            scores[i, j] = scores[j, i] = (angles(a, b, rank) if rank else overlaps(a, b)).numpy()
    return scores
