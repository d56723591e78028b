"""How much of a model's Fourier circuit the features of SAEs are, beside what directions do that have learnt nothing.

One dictionary is measured at a `Site`: in the geometry of its rows, in where its latents fire, and in what its rows do
to the logits. Nulls and the model's own Fourier directions pass through the same measures, and fire as often.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import rankdata
from torch import Tensor

from husai import fourier, nulls, orbits, stats
from husai.activations import Activations
from husai.comparison import summarise
from husai.config import require
from husai.evidence import Estimate
from husai.metrics import pairwise_matrix
from husai.models import Models
from husai.saes import ROWS
from husai.shards import in_memory
from husai.similarity import best_cosines, unit_rows
from husai.study import Study
from husai.tasks import frequency_power, generator, sequences

DRAWN = ("N0", "N2", "rotated", "Fourier")
"""Dictionaries that need no training: isotropic, covariance-matched, the SAE's own turned at random in the subspace of
the activations; and, as the ceiling, the model's own Fourier directions."""


class Site(NamedTuple):
    """A model's activations for all pairs, and where its Fourier directions lie in them."""

    activations: Activations
    planes: orbits.Action
    """One plane a frequency (f, g), the fewest that hold 95 % of the variance."""
    unembedding: Float[Tensor, "d_model p"]
    """The columns of W_U that are answers."""
    keys: Int[Tensor, " keys"]
    """The ten strongest frequencies of the embedding."""


def sites(models: Models, acts: Sequence[Activations], share: float = 0.95) -> list[Site]:
    """Return one site a model; `acts` are of all pairs. ValueError: as `orbits.action`, or unequal numbers."""
    require(
        len(acts) == len(models.seeds), "acts", f"{len(acts)} of them", f"one for each of {len(models.seeds)} models"
    )
    p, found = models.task.p, []
    for i, one in enumerate(acts):
        table = models.parameters["embed.W_E"][i, :p]
        keys = frequency_power(table).topk(min(10, (p - 1) // 2)).indices + 1
        planes = orbits.action(in_memory(one.values), p, share)
        found.append(Site(one, planes, models.parameters["unembed.W_U"][i, :, :p], keys))
    return found


class Features(NamedTuple):
    """What one dictionary's features are, one number a feature."""

    rows: Float[Tensor, "n d_model"]
    """Their unit decoder rows."""
    alignment: Float[Tensor, " n"]
    """Share of the unit decoder row's squared length in the nearest Fourier plane of the model."""
    latent: Float[Tensor, " n"]
    """Share of the latent's variance over all pairs (a, b) in its strongest frequency."""
    logit: Float[Tensor, " n"]
    """Share of the direct effect on the answers' logits in its strongest frequency."""
    answer: Float[Tensor, " n"]
    """Share of the latent's variance that is a function of a + b."""
    key: Float[Tensor, " n"]
    """Share of the latent's variance in frequencies that are all key ones of the embedding."""
    frequency: Int[Tensor, "n 2"]
    """The latent's strongest frequency (f, g)."""
    rate: Float[Tensor, " n"]
    """Share of the pairs on which it fires."""
    spread: Float[Tensor, " n"]
    """Share of the activations' variance along the decoder row."""
    coverage: float
    """Mean over the model's Fourier planes of the best feature's `alignment` with it."""


MEASURES = ("alignment", "latent", "logit", "answer", "key", "coverage")
"""The measures of `Features` of which means are compared."""


def measure(site: Site, rows: Float[Tensor, "n d_model"], latents: Float[Tensor, "pairs n"]) -> Features:
    """Return the measures of a dictionary's rows and its latents for all pairs. ValueError: as `fourier.spectrum`."""
    rows, values = unit_rows(rows), in_memory(site.activations.values)
    within = orbits.coordinates(site.planes, rows).abs().square()
    found = fourier.spectrum(latents, site.planes.p)
    centred = values - values.mean(0)
    spread = (centred @ rows.T).square().sum(0) / centred.square().sum()
    return Features(
        rows, within.amax(1), found.purity, fourier.answer_purity(rows @ site.unembedding), found.family("sum"),
        found.within(site.keys), found.strongest, (latents != 0).float().mean(0), spread, float(within.amax(0).mean()),
    )  # fmt: skip


def features(studies: Sequence[Study], places: Sequence[Site]) -> list[list[Features]]:
    """Return the features of every model and SAE seed: the latents that fire on more than 0.1 % of all pairs.

    The SAEs may have been trained on other activations, as those of N4, whose rows belong to no pair. ValueError: an
    SAE that never fires there, and as `measure`.
    """
    return [
        [_features(study, index, site) for index in range(len(study.seeds))]
        for study, site in zip(studies, places, strict=True)
    ]


def _features(study: Study, index: int, site: Site) -> Features:
    sae, values = study.saes[index], in_memory(site.activations.values)
    z = torch.cat([sae.encode(part)[0] for part in values.split(ROWS)])
    rates = (z != 0).float().mean(0)
    kept = (rates > 1e-3) & (rates < 1)
    require(bool(kept.any()), "studies", "an SAE of which no latent fires at its site", "one or more that do")
    return measure(site, sae.W_dec[0][kept], z[:, kept])


def drawn(site: Site, own: Features, kind: str, seed: int) -> Features:
    """Return the features of a dictionary of DRAWN that stands for an SAE's: as many, each firing as often as one."""
    require(kind in DRAWN, "kind", kind, f"one of {DRAWN}")
    values, n = in_memory(site.activations.values), len(own.rows)
    draws: dict[str, Callable[[], Tensor]] = {
        "N0": lambda: nulls.isotropic(n, values.shape[1], seed),
        "N2": lambda: nulls.covariance_matched(values, n, seed),
        "rotated": lambda: nulls.rotated(values, own.rows, seed),
        "Fourier": lambda: directions(site.planes, n, seed),
    }
    rows = draws[kind]()
    return measure(site, rows, fourier.fired((values - values.mean(0)) @ rows.T, own.rate))


def directions(planes: orbits.Action, n: int, seed: int) -> Float[Tensor, "n d_model"]:
    """Return n unit rows in the Fourier planes, one plane after another, each at a random angle."""
    angles = 2 * torch.pi * torch.rand(n, generator=generator(seed, "circuits/directions"))
    cosine, sine = planes.planes[torch.arange(n) % len(planes.planes)].unbind(1)
    return angles.cos()[:, None] * cosine + angles.sin()[:, None] * sine


def against(
    studies: Sequence[Study], places: Sequence[Site], trained: Mapping[str, tuple[Sequence[Study], Sequence[Site]]]
) -> dict[str, list[list[Features]]]:
    """Return the features of the SAEs, of every dictionary of DRAWN and of the SAEs of trained nulls, by name."""
    found = {"SAE": features(studies, places)}
    for kind in DRAWN:
        found[kind] = [
            [drawn(site, one, kind, seed) for one, seed in zip(own, study.seeds, strict=True)]
            for study, site, own in zip(studies, places, found["SAE"], strict=True)
        ]
    return found | {name: features(*side) for name, side in trained.items()}


def means(found: Sequence[Sequence[Features]], what: str) -> Float[np.ndarray, "models seeds"]:
    """Return the mean of one of MEASURES over each SAE's features."""
    require(what in MEASURES, "what", what, f"one of {MEASURES}")
    return np.array([[float(torch.as_tensor(getattr(one, what)).mean()) for one in seeds] for seeds in found])


def over(values: Float[np.ndarray, "models seeds"]) -> Estimate:
    """Return the mean over models and SAE seeds, from three models on; else over the seeds of the first model."""
    if len(values) >= 3:
        return stats.crossed(values).estimate
    estimate = stats.mean(values[0])
    return replace(estimate, method=f"{estimate.method}, in this model")


def gaps(panel: Mapping[str, Sequence[Sequence[Features]]]) -> dict[str, Estimate]:
    """Return how much more the SAEs' features score than each other dictionary's, `{measure}_{name}`.

    Coverage, which grows with the number of features, is compared with dictionaries of as many alone.
    """
    found = {}
    for what in MEASURES:
        own = means(panel["SAE"], what)
        for name, side in panel.items():
            if name != "SAE" and (what != "coverage" or name in DRAWN):
                found[f"{what}_{name}"] = over(own - means(side, what))
    return found


def exceeding(found: Sequence[Sequence[Features]], what: str, levels: Sequence[float]) -> list[Estimate]:
    """Return the share of features above each level, with its interval over models and seeds."""
    return [
        over(np.array([[float((getattr(one, what) > level).float().mean()) for one in seeds] for seeds in found]))
        for level in levels
    ]


def partial_spearman(x: np.ndarray, y: np.ndarray, controls: Sequence[np.ndarray] = ()) -> float:
    """Return the rank correlation of x and y, given others: the correlation of what their ranks leave unexplained.

    0 where nothing is left to correlate. ValueError: fewer than 3 values.
    """
    require(len(x) >= 3, "x", f"{len(x)} values", "3 or more")
    design = np.stack([np.ones(len(x)), *(rankdata(control) for control in controls)], 1)
    left = [rankdata(side) - design @ np.linalg.lstsq(design, rankdata(side))[0] for side in (x, y)]
    size = np.sqrt((left[0] ** 2).sum() * (left[1] ** 2).sum())
    return float((left[0] * left[1]).sum() / size) if size > 1e-9 * len(x) ** 3 else 0.0


def replication(
    found: Sequence[Features], what: str = "alignment", given: Sequence[str] = ()
) -> Float[np.ndarray, "seeds seeds"]:
    """Return, per pair of seeds, how well a feature's measure tells whether the other seed has it [S, S].

    The rank correlation, over the features of one seed, of `what` with the best cosine in the other seed (unsigned
    latents, signed cosines), mean of both directions; `given` are measures that are held constant. Input of
    `stats.pairwise`. ValueError: fewer than 3 features.
    """

    def both(i: Tensor, j: Tensor) -> float:
        pair = found[int(i)], found[int(j)]
        best = best_cosines(pair[0].rows, pair[1].rows, signed=True)
        return float(np.mean([_told(one, cosines, what, given) for one, cosines in zip(pair, best, strict=True)]))

    return pairwise_matrix(both, torch.arange(len(found)))


def _told(one: Features, cosines: Tensor, what: str, given: Sequence[str]) -> float:
    controls = [getattr(one, name).numpy() for name in given]
    return partial_spearman(getattr(one, what).numpy(), cosines.numpy(), controls)


def elsewhere(found: Sequence[Features], index: int = 0) -> Float[Tensor, " n"]:
    """Return the mean over the other seeds of the best cosine of each feature of one seed."""
    own = found[index].rows
    others = [one.rows for i, one in enumerate(found) if i != index]
    return torch.stack([best_cosines(own, rows, signed=True)[0] for rows in others]).mean(0)


def predicts(
    found: Sequence[Sequence[Features]],
    beyond: Sequence[Sequence[Features]] | None = None,
    what: str = "alignment",
    given: Sequence[str] = (),
) -> Estimate:
    """Return the mean `replication` over models and seeds, less that of `beyond`, a null's of the same shape.

    Directions drawn where the data vary crowd there and find near ones too, so a null has a correlation of its own.
    """
    scores = np.stack([replication(seeds, what, given) for seeds in found])
    chance = 0.0 if beyond is None else np.stack([replication(seeds, what, given) for seeds in beyond])
    return summarise(scores - chance)


def across(
    recovered: Float[np.ndarray, "models settings"], agreement: Float[np.ndarray, "models settings"]
) -> dict[str, Estimate]:
    """Return the rank correlation of recovery with agreement over all SAEs of several models, jackknifed over models.

    `plain` over all of them; `within` after each setting's mean over models was taken off both. ValueError: fewer than
    3 models.
    """

    def correlation(models: list[int], centred: bool) -> float:
        sides = [side[models] - centred * side[models].mean(0) for side in (recovered, agreement)]
        return partial_spearman(sides[0].ravel(), sides[1].ravel())

    n = len(recovered)
    kinds = {"plain": False, "within": True}
    return {name: stats.jackknife(lambda kept, c=centred: correlation(kept, c), n) for name, centred in kinds.items()}


def overlaps(models: Models, hooks: Sequence[str], rows: int = 1000, seed: int = 0) -> dict[str, list[float]]:
    """Return the sources' `fourier.published_overlap` of activations at several hooks, one value a model seed.

    Of randomly drawn sequences at the read-out, each activation taken for a direction, as the sources did. ValueError:
    a hook that the model does not have.
    """
    data, p = sequences(models.task), models.task.p
    chosen = torch.randperm(len(data.tokens), generator=generator(seed, "circuits/overlaps"))[:rows]
    found: dict[str, list[float]] = {}

    def keep(name: str, value: Tensor) -> None:
        if name in hooks:
            found[name] = [fourier.published_overlap(one, p) for one in value[:, :, data.position]]

    models.logits(data.tokens[chosen], hooks=keep)
    missing = sorted(set(hooks) - found.keys())
    require(not missing, "hooks", missing, "hooks of this model")
    return {name: found[name] for name in hooks}
