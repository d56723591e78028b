"""Whether matched features of two SAE seeds do the same to a model's answers, beside what that would be by chance.

The effect of a direction is its profile: the change of the logits of all answers at every input, less its mean over
answers, to which the probabilities are blind. Two directions do the same when their profiles point the same way.
"""

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from husai import nulls, stats
from husai.comparison import drawn, equal_counts, summarise
from husai.config import require
from husai.evidence import Estimate
from husai.interventions import Site, steer
from husai.matching import Matching, matching
from husai.similarity import cosine_matrix, unit_rows
from husai.study import Study
from husai.tasks import generator

COPY = 0.9
"""Cosine of a planted copy with the feature that it is a copy of."""
POOL = 2048
"""Directions from which partners for the matches of two seeds are drawn."""
POOL_SEED = -1
"""Their seed: not one that an SAE or a null of its own has."""


class Agreement(NamedTuple):
    """How alike matched directions of every two seeds are, and what they do; i < j, one entry a pair of seeds."""

    decoder: tuple[Float[Tensor, " _"], ...]
    """Cosines of the directions."""
    effect: tuple[Float[Tensor, " _"], ...]
    """Cosines of their effects."""

    @property
    def matrix(self) -> np.ndarray:
        """Mean effect cosine of every pair of seeds [seeds, seeds]."""
        seeds = math.isqrt(2 * len(self.effect)) + 1
        found = np.eye(seeds)
        for (i, j), values in zip(combinations(range(seeds), 2), self.effect, strict=True):
            found[i, j] = found[j, i] = float(values.mean())
        return found

    @property
    def pooled(self) -> tuple[np.ndarray, np.ndarray]:
        """Decoder cosine and effect cosine of the matched pairs of all pairs of seeds."""
        return torch.cat(self.decoder).numpy(), torch.cat(self.effect).numpy()


class Effects(NamedTuple):
    """Directions of several seeds, and what each does to the answers of one model."""

    directions: tuple[Float[Tensor, "_ d_model"], ...]
    """Unit rows, one matrix a seed."""
    profiles: tuple[Float[Tensor, "_ values"], ...]
    """Effects of length 1, whose inner products are their cosines; zero where there is no effect at all."""

    def agreement(self, shuffled: bool = False) -> Agreement:
        """Return how alike matched directions are; `shuffled` gives each the match of another one."""
        decoder, effect = [], []
        for (i, j), m in matches(self.directions).items():
            columns = m.columns.roll(int(shuffled))
            decoder.append((self.directions[i][m.rows] * self.directions[j][columns]).sum(1))
            effect.append((self.profiles[i] @ self.profiles[j].T)[m.rows, columns])  # nothing is copied
        return Agreement(tuple(decoder), tuple(effect))


def score(models: Sequence[Agreement]) -> Estimate:
    """Return the mean effect cosine over models and seeds, or over the seeds of one model."""
    return summarise(np.stack([one.matrix for one in models]))


def gap(models: Sequence[Agreement], others: Sequence[Agreement]) -> Estimate:
    """Return how much more alike the effects of one kind of direction are than those of another, model by model."""
    return summarise(np.stack([one.matrix - other.matrix for one, other in zip(models, others, strict=True)]))


def matches(directions: Sequence[Tensor]) -> dict[tuple[int, int], Matching]:
    """Return the one-to-one matching of each two seeds by signed cosine: opposite directions do not match."""
    return {(i, j): matching(directions[i], directions[j]) for i, j in combinations(range(len(directions)), 2)}


def along(site: Site, directions: Sequence[Float[Tensor, "_ d_model"]], dose: float) -> Effects:
    """Return the effects of steering along the directions of every seed, dose * sd far (`interventions.steer`).

    Each input counts equally: the cosine of two profiles is the mean over inputs of the cosine of the changes there.
    """
    unit = tuple(unit_rows(rows) for rows in directions)
    return Effects(unit, tuple(_profiles(site, rows, dose) for rows in unit))


def steered(site: Site, study: Study, keep: Bool[Tensor, "seeds d_sae"], dose: float = 1.0) -> Effects:
    """Return the effects of steering along the kept decoder rows of every seed, `dose` standard deviations far."""
    return along(site, study.saes.decoders(keep), dose)


def at_cosine(
    rows: Float[Tensor, "n d_model"], others: Float[Tensor, "n d_model"], cosine: Float[Tensor, " n"] | float
) -> Float[Tensor, "n d_model"]:
    """Return unit rows at a given cosine to `rows`, turned towards `others`: c a + sqrt(1 - c^2) r.

    a is the unit row and r the unit part of the other orthogonal to it. ValueError: a cosine outside [-1, 1].
    """
    c = torch.as_tensor(cosine, dtype=torch.float32).expand(len(rows))[:, None]
    require(bool((c.abs() <= 1 + 1e-5).all()), "cosine", cosine, "cosines in -1..1")
    a, others = unit_rows(rows), others.float()
    rest = unit_rows(others - (others * a).sum(1, keepdim=True) * a)
    return c * a + (1 - c.square()).clamp(min=0).sqrt() * rest


def with_partners(site: Site, effects: Effects, others: Float[Tensor, "pool d_model"], dose: float) -> Agreement:
    """Return what agreement the decoder cosine alone implies: every match replaced by a draw at the same cosine.

    The partner of the first seed's direction a is the row of the pool whose cosine to a comes nearest to that of the
    match, turned to it exactly (`at_cosine`). A row that was merely turned there would not do: of directions with a
    covariance, those close to a also share with it where the data vary most. Every two seeds have a pool of their own.
    """
    found, effect = matches(effects.directions), []
    for ((i, _), m), pool in zip(found.items(), others.tensor_split(len(found)), strict=True):
        a = effects.directions[i][m.rows]
        near = (cosine_matrix(a, pool) - m.cosines[:, None]).abs().argmin(1)
        profiles = _profiles(site, at_cosine(a, pool[near], m.cosines), dose)
        effect.append((effects.profiles[i][m.rows] * profiles).sum(1))
    return Agreement(tuple(m.cosines for m in found.values()), tuple(effect))


def steering(
    sites: Sequence[Site], studies: Sequence[Study], doses: Sequence[float], at: float = 1.0
) -> dict[float, dict[str, list[Agreement]]]:
    """Return at every dose how alike matched features of two seeds steer, and their nulls; one site a model.

    - `features`: alive decoder rows; `shuffled`: the same, each with another one's match.
    - `N0`, `N2`: isotropic and covariance-matched directions, as many, matched among themselves in the same way.
    - `at_N0`, `at_N2`, at the dose `at` alone: each feature with a partner drawn at the cosine of its match
      (`with_partners`), an isotropic or a covariance-matched direction. `N2_at_N2`: the same for the directions of N2,
      which must not differ from N2.

    ValueError: `at` is none of the doses.
    """
    require(at in doses, "at", at, f"one of the doses {list(doses)}")
    require(len(sites) == len(studies), "sites", len(sites), f"one a model, {len(studies)}")
    found: dict[float, dict[str, list[Agreement]]] = {dose: {} for dose in doses}
    for site, study in zip(sites, studies, strict=True):
        own = {"features": study.decoders, **{null: drawn(study, null) for null in ("N0", "N2")}}
        pools = {null: _pool(study, null) for null in ("N0", "N2")}
        for dose, rows in found.items():
            effects = {name: along(site, directions, dose) for name, directions in own.items()}
            here = {name: one.agreement() for name, one in effects.items()}
            here["shuffled"] = effects["features"].agreement(shuffled=True)
            if dose == at:
                here |= {f"at_{null}": with_partners(site, effects["features"], pools[null], dose) for null in pools}
                here["N2_at_N2"] = with_partners(site, effects["N2"], pools["N2"], dose)
            for name, one in here.items():
                rows.setdefault(name, []).append(one)
    return found


def controls(site: Site, study: Study, dose: float, cosine: float = COPY) -> dict[str, list[Agreement]]:
    """Return what the same measures say in one model where the answer is known.

    Every seed gets the first seed's alive features in an order of its own, each turned to `cosine`. `copies` are turned
    towards isotropic noise: they do much the same, and must agree. `unread` are turned towards the quarter of all
    directions that moves the answers least: they must agree beyond what their cosine implies, `unread_at_N2`.
    """
    rows, quiet = study.decoders[0], least_read(site, dose, len(site.mean) // 4)
    found = {}
    for name, axes in {"copies": torch.eye(len(site.mean)), "unread": quiet}.items():
        noise = [nulls.isotropic(len(rows), len(axes), seed) @ axes for seed in study.seeds]
        order = [torch.randperm(len(rows), generator=generator(seed, "effects/order")) for seed in study.seeds]
        planted = [at_cosine(rows, one, cosine)[at] for one, at in zip(noise, order, strict=True)]
        effects = along(site, planted, dose)
        found[name] = [effects.agreement()]
        found[f"{name}_at_N2"] = [with_partners(site, effects, _pool(study, "N2"), dose)]
    return found


def least_read(site: Site, dose: float, n: int) -> Float[Tensor, "n d_model"]:
    """Return the n orthogonal directions that move the answers least, by steering along every coordinate axis.

    The last eigenvectors of E E^T, E [d_model, inputs * p] being the centred changes of the logits.
    """
    d = len(site.mean)
    require(1 <= n <= d, "n", n, f"1 to {d}, the dimensions")
    change = steer(site, torch.eye(d), dose)
    effect = (change - change.mean(-1, keepdim=True)).flatten(1).double()
    return torch.linalg.eigh(effect @ effect.T).eigenvectors[:, :n].T.float()


def against_trained(
    how: Callable[[Site, Study, Tensor], Effects], site: Site, study: Study, other: Study, there: Site | None = None
) -> tuple[list[Agreement], list[Agreement]]:
    """Return the agreement of a study's effects in one model, and that of a trained null's.

    `how` is `steered` or `silenced.ablated`; the null's features are changed in the same model, or in their own,
    `there`. At equal counts: the side with more alive latents drops its rarest. ValueError: other SAE seeds.
    """
    keep = _equal_counts(study, other)
    return [how(site, study, keep[0]).agreement()], [how(there or site, other, keep[1]).agreement()]


def implied_beyond(site: Site, study: Study, other: Study, dose: float = 1.0) -> Estimate:
    """Return by how much more a study's features exceed what their cosine implies than a trained null's, in one model.

    What their cosine implies is `with_partners`, covariance-matched. At equal counts. ValueError: other SAE seeds.
    """
    excess = []
    for one, keep in zip((study, other), _equal_counts(study, other), strict=True):
        effects = steered(site, one, keep, dose)
        implied = with_partners(site, effects, _pool(one, "N2"), dose)
        excess.append(effects.agreement().matrix - implied.matrix)
    return summarise((excess[0] - excess[1])[None])


def _equal_counts(study: Study, other: Study) -> tuple[Tensor, Tensor]:
    """Return `comparison.equal_counts` of the same seeds."""
    require(study.seeds == other.seeds, "other: seeds", other.seeds, f"those of the study, {study.seeds}")
    return equal_counts(study, other)


def trend(models: Sequence[Agreement], groups: int = 6) -> list[tuple[Estimate, Estimate]]:
    """Return effect against decoder cosine, over models: each model's pairs in groups of equal size by decoder cosine.

    ValueError: fewer than three models, or than one pair a group.
    """
    pooled = [one.pooled for one in models]
    fewest = min(len(decoder) for decoder, _ in pooled)
    require(1 <= groups <= fewest, "groups", groups, f"1 to {fewest}, the pairs of the model that has fewest")
    orders = [np.argsort(decoder, kind="stable") for decoder, _ in pooled]
    means = np.array([
        [[part.mean() for part in np.array_split(side[order], groups)] for side in model]
        for model, order in zip(pooled, orders, strict=True)
    ])  # fmt: skip
    return [(stats.mean(means[:, 0, at]), stats.mean(means[:, 1, at])) for at in range(groups)]


def _profiles(site: Site, rows: Tensor, dose: float) -> Tensor:
    """Return the profiles of steering: the change at every input centred and scaled to the same length."""
    change = steer(site, rows, dose)
    each = normalize(change - change.mean(-1, keepdim=True), dim=2)
    return each.flatten(1) / math.sqrt(change.shape[1])


def _pool(study: Study, null: str) -> Tensor:
    """Return directions of an untrained null to draw partners from, POOL for every two seeds."""
    n = math.comb(len(study.seeds), 2) * POOL
    if null == "N0":
        return nulls.isotropic(n, study.saes.W_dec.shape[2], POOL_SEED)
    return nulls.coloured(study.activations.root, n, POOL_SEED).float()
