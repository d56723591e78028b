"""How the sources measured whether steering is consistent across seeds: by how far the answers move, not where to."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from husai import effects, nulls, stats
from husai.evidence import Estimate
from husai.interventions import Site
from husai.saes import SAEBatch
from husai.similarity import cosine_matrix, unit_rows


class Consistency(NamedTuple):
    """The sources' statistic of steering, and how alike the effects are that it stands for."""

    by_magnitude: dict[float, Estimate]
    """Mean over features of max(0, 1 - sd / mean) of the seeds' KL divergences, at every magnitude."""
    overall: Estimate
    """The same over all magnitudes: the published statistic."""
    effect_cosine: Estimate
    """Mean cosine between seeds of the effects of the same feature, at the first magnitude."""
    kl: Float[np.ndarray, "seeds magnitudes features"]
    """KL(clean | steered), mean over inputs, in nats."""


def statistic(kl: Float[np.ndarray, "seeds magnitudes features"]) -> float:
    """Return mean over magnitudes and features of max(0, 1 - sd / mean) over seeds, sd without Bessel's correction."""
    return float(np.maximum(0, 1 - kl.std(0) / kl.mean(0)).mean())


def consistency(
    site: Site, directions: Sequence[Float[Tensor, "features d_model"]], magnitudes: Sequence[float] = (1, 2, 5)
) -> Consistency:
    """Return the sources' statistic over seeds, row f of each seed being taken for the same feature.

    m times the unit row is added in the units of the activations, whatever its sign. ValueError: fewer than 3 seeds.
    """
    unit, clean = [unit_rows(rows) for rows in directions], site.clean.double().log_softmax(-1)

    def divergence(move: Tensor) -> float:
        now = site.logits(site.x + move).double().log_softmax(-1)
        return float((clean.exp() * (clean - now)).sum(1).mean())

    kl = np.array([[[divergence(m * row) for row in rows] for m in magnitudes] for rows in unit])
    profiles = effects.along(site, unit, magnitudes[0] / site.sd).profiles
    cosines = np.array([[float((a * b).sum(1).mean()) for b in profiles] for a in profiles])
    each = {m: _over_seeds(kl[:, at : at + 1]) for at, m in enumerate(magnitudes)}
    return Consistency(each, _over_seeds(kl), stats.pairwise(cosines), kl)


def against_random(site: Site, saes: SAEBatch, top: int = 10) -> dict[str, Consistency]:
    """Return the sources' statistic of `published_matches`, and of as many isotropic directions, others a seed."""
    drawn = [nulls.isotropic(top, len(site.mean), seed) for seed in saes.seeds]
    return {"features": consistency(site, published_matches(site, saes, top)), "random": consistency(site, drawn)}


def summary(features: Consistency, random: Consistency) -> dict[str, Estimate]:
    """Return the statistic of features and of random directions, their `difference`, and the effects' cosines."""
    found = {"features": features.overall, "random": random.overall, "gap": difference(features, random)}
    return found | {"features_cosine": features.effect_cosine, "random_cosine": random.effect_cosine}


def difference(a: Consistency, b: Consistency) -> Estimate:
    """Return how much more consistent the first directions are by the sources' statistic, seeds left out of both."""
    return stats.jackknife(lambda seeds: statistic(a.kl[seeds]) - statistic(b.kl[seeds]), len(a.kl))


def published_matches(site: Site, saes: SAEBatch, top: int = 10) -> list[Float[Tensor, "top d_model"]]:
    """Return the first seed's `top` latents by mean |z|, and in each other seed the row of largest |cosine| to each.

    As the sources did: a match of negative cosine keeps its sign.
    """
    strength = saes[0].encode(site.x)[0].abs().mean(0)
    chosen = saes.W_dec[0][strength.argsort(descending=True, stable=True)[:top]]
    best = [cosine_matrix(chosen, rows, signed=False).argmax(1) for rows in saes.W_dec[1:]]
    return [chosen, *(rows[at] for rows, at in zip(saes.W_dec[1:], best, strict=True))]


def _over_seeds(kl: np.ndarray) -> Estimate:
    return stats.jackknife(lambda seeds: statistic(kl[seeds]), len(kl))
