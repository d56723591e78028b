"""How much of a model's Fourier circuit the features of SAEs are, beside what directions do that have learnt nothing.

One dictionary is measured at a `Site`: in the geometry of its rows, in where its latents fire, and in what its rows do
to the logits. Nulls and the model's own Fourier directions pass through the same measures, and fire as often.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from husai import fourier, nulls, orbits, pairing, progress, stats
from husai.activations import Activations
from husai.config import require
from husai.evidence import Estimate
from husai.models import Models
from husai.saes import ROWS
from husai.shards import in_memory
from husai.similarity import unit_rows
from husai.study import Study
from husai.tasks import frequency_power, generator, sequences

DRAWN = ("N0", "N2", "rotated", "Fourier")
"""Dictionaries that need no training: isotropic, covariance-matched, the SAE's own turned at random in the subspace of
the activations; and, as the ceiling, the model's own Fourier directions."""

PUBLISHED = {
    "embed": "hook_embed",
    "attn0": "blocks.0.hook_attn_out",
    "resid0": "blocks.0.hook_resid_post",
    "attn1": "blocks.1.hook_attn_out",
    "resid1": "blocks.1.hook_resid_post",
}
"""Where the sources measured their overlap in a two-layer model; their SAEs are those of the last."""


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


def elsewhere(site: Site, acts: Activations, share: float = 0.95) -> Site:
    """Return other activations of all pairs as a site; its key frequencies and its unembedding are those of `site`."""
    return site._replace(activations=acts, planes=orbits.action(in_memory(acts.values), site.planes.p, share))


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
    used: float
    """Mean `alignment`, every feature weighted by how often it fires."""


MEASURES = ("alignment", "latent", "logit", "answer", "key", "coverage", "used")
"""The measures of `Features` of which means are compared."""


def measure(site: Site, rows: Float[Tensor, "n d_model"], latents: Float[Tensor, "pairs n"]) -> Features:
    """Return the measures of a dictionary's rows and its latents for all pairs. ValueError: as `fourier.spectrum`."""
    rows, values = unit_rows(rows), in_memory(site.activations.values)
    within = orbits.coordinates(site.planes, rows).abs().square()
    found = fourier.spectrum(latents, site.planes.p)
    centred = values - values.mean(0)
    spread = (centred @ rows.T).square().sum(0) / centred.square().sum()
    nearest, rates = within.amax(1), (latents != 0).float().mean(0)
    coverage, used = float(within.amax(0).mean()), float((rates * nearest).sum() / rates.sum())
    return Features(
        rows, nearest, found.purity, fourier.answer_purity(rows @ site.unembedding), found.family("sum"),
        found.within(site.keys), found.strongest, rates, spread, coverage, used,
    )  # fmt: skip


def features(studies: Sequence[Study], places: Sequence[Site]) -> list[list[Features]]:
    """Return the features of every model and SAE seed: the latents that fire on more than 0.1 % of all pairs.

    The SAEs may have been trained on other activations, as those of N4, whose rows belong to no pair. ValueError: an
    SAE that never fires there, and as `measure`.
    """
    return [
        [_latents(study, index, site)[0] for index in range(len(study.seeds))]
        for study, site in progress.each(list(zip(studies, places, strict=True)), "model")
    ]


def _latents(study: Study, index: int, site: Site) -> tuple[Features, Float[Tensor, "pairs n"]]:
    sae, values = study.saes[index], in_memory(site.activations.values)
    z = torch.cat([sae.encode(part)[0] for part in values.split(ROWS)])
    rates = (z != 0).float().mean(0)
    kept = (rates > 1e-3) & (rates < 1)
    require(bool(kept.any()), "studies", "an SAE of which no latent fires at its site", "one or more that do")
    return measure(site, sae.W_dec[0][kept], z[:, kept]), z[:, kept]


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
    studies: Sequence[Study],
    places: Sequence[Site],
    trained: Mapping[str, tuple[Sequence[Study], Sequence[Site]]] | None = None,
    kinds: Sequence[str] = DRAWN,
) -> dict[str, list[list[Features]]]:
    """Return the features of the SAEs, of dictionaries of DRAWN and of the SAEs of trained nulls, by name."""
    found = {"SAE": features(studies, places)}
    for kind in kinds:
        found[kind] = [
            [drawn(site, one, kind, seed) for one, seed in zip(own, study.seeds, strict=True)]
            for study, site, own in zip(studies, places, found["SAE"], strict=True)
        ]
    return found | {name: features(*side) for name, side in (trained or {}).items()}


def gallery(study: Study, index: int, site: Site, columns: int = 4) -> dict[str, list[tuple[str, Tensor]]]:
    """Return features of one seed as [p, p] tables, and a covariance-matched direction that fires as often below each.

    Of the `4 * columns` latents that fire most often: the purest, the least pure, and evenly spaced ones between. The
    titles say what share of the variance the strongest frequency has, and which it is.
    """
    own, z = _latents(study, index, site)
    often = own.rate.argsort(descending=True, stable=True)[: 4 * columns]
    order = often[own.latent[often].argsort(descending=True, stable=True)]
    shown = order[torch.linspace(0, len(order) - 1, min(columns, len(order))).round().long()]
    values = in_memory(site.activations.values)
    rows = nulls.covariance_matched(values, len(own.rows), study.seeds[index])[shown]
    null = fourier.fired((values - values.mean(0)) @ rows.T, own.rate[shown])
    return {"SAE": _tables(z[:, shown], site.planes.p), "N2": _tables(null, site.planes.p)}


def _tables(latents: Tensor, p: int) -> list[tuple[str, Tensor]]:
    found = fourier.spectrum(latents, p)
    pairs = zip(found.purity.tolist(), found.strongest.tolist(), strict=True)
    titles = [f"{share:.0%} at ({f}, {g})".replace("-", "−") for share, (f, g) in pairs]
    return list(zip(titles, latents.T.reshape(-1, p, p), strict=True))


def means(found: Sequence[Sequence[Features]], what: str) -> Float[np.ndarray, "models seeds"]:
    """Return the mean of one of MEASURES over each SAE's features."""
    require(what in MEASURES, "what", what, f"one of {MEASURES}")
    return np.array([[float(torch.as_tensor(getattr(one, what)).mean()) for one in seeds] for seeds in found])


def gaps(panel: Mapping[str, Sequence[Sequence[Features]]]) -> dict[str, Estimate]:
    """Return how much more the SAEs' features score than each other dictionary's, `{measure}_{name}`.

    Coverage, which grows with the number of features, is compared with dictionaries of as many alone.
    """
    found = {}
    for what in MEASURES:
        own = means(panel["SAE"], what)
        for name, side in panel.items():
            if name != "SAE" and (what != "coverage" or name in DRAWN):
                found[f"{what}_{name}"] = pairing.across(own - means(side, what))
    return found


def summary(panels: Mapping[str, Mapping[str, Sequence[Sequence[Features]]]]) -> dict[str, Estimate]:
    """Return the mean of every measure, `{panel}_{measure}_of_{name}`, and all `gaps`, `{panel}_{measure}_{name}`."""
    found: dict[str, Estimate] = {}
    for panel, sides in panels.items():
        for name, side in sides.items():
            found |= {f"{panel}_{what}_of_{name}": pairing.across(means(side, what)) for what in MEASURES}
        found |= {f"{panel}_{key}": gap for key, gap in gaps(sides).items()}
    return found


def exceeding(found: Sequence[Sequence[Features]], what: str, levels: Sequence[float]) -> list[Estimate]:
    """Return the share of features above each level, with its interval over models and seeds."""
    return [
        pairing.across([[float((getattr(one, what) > level).float().mean()) for one in seeds] for seeds in found])
        for level in levels
    ]


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


def decoder_overlap(studies: Sequence[Study], p: int) -> Estimate:
    """Return the mean of the sources' `fourier.published_overlap` of alive decoder rows, one value an SAE."""
    return pairing.across([[fourier.published_overlap(rows, p) for rows in one.decoders] for one in studies])


def embeddings(tables: Mapping[str, Sequence[Float[Tensor, "p d"]]]) -> dict[str, Estimate]:
    """Return R^2 of embeddings in five frequencies, and by the sources' estimator with five and with ten bins.

    `r2_{name}`, `published_r2_{name}`, `published_r2_{name}_ten`; and `r2_gain_{name}`, how much more than "random"
    every other set of as many tables has. ValueError: fewer than 3 tables, no set named "random".
    """
    require("random" in tables, "tables", sorted(tables), "a set named 'random' among them")
    right = {name: [fourier.explained(table, 5) for table in found] for name, found in tables.items()}
    found = {f"r2_{name}": stats.mean(values) for name, values in right.items()}
    for name, side in tables.items():
        found[f"published_r2_{name}"] = stats.mean([fourier.published_r2(table) for table in side])
        found[f"published_r2_{name}_ten"] = stats.mean([fourier.published_r2(table, 10) for table in side])
        if name != "random":
            found[f"r2_gain_{name}"] = stats.difference(right[name], right["random"])
    return found
