"""Whether matched latents of two SAE seeds are missed in the same way: effects of taking them off where they fire."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from husai import nulls
from husai.comparison import drawn
from husai.effects import Agreement, Effects, at_cosine
from husai.fourier import fired
from husai.interventions import Site, removals
from husai.similarity import unit_rows
from husai.study import Study
from husai.tasks import generator

NEAR = 0.99
"""Cosine of a planted copy with the direction of the latent that it is a copy of."""


def ablated(site: Site, study: Study, keep: Bool[Tensor, "seeds d_sae"]) -> Effects:
    """Return the effects of ablating the kept latents of every seed, the reconstruction error left in (`removed`)."""
    latents = [study.saes[index].encode(site.x)[0][:, kept] for index, kept in enumerate(keep)]
    return removed(site, latents, study.saes.decoders(keep))


def removed(
    site: Site, latents: Sequence[Float[Tensor, "inputs _"]], directions: Sequence[Float[Tensor, "_ d_model"]]
) -> Effects:
    """Return the effects of x - z_j d_j, z_j each direction's value at every input, one matrix a seed of either.

    Inputs count by the size of the change, and where a latent does not fire there is none: to agree, two latents
    must fire on the same inputs and do the same there.
    """
    p, profiles = site.model.task.p, []
    for z, rows in zip(latents, directions, strict=True):
        whole = site.clean.new_zeros(len(rows), len(site.x), p)
        for row, at, logits in removals(site, z, rows):
            change = (logits - site.clean[at])[:, :p]
            whole[row, at] = change - change.mean(-1, keepdim=True)
        profiles.append(normalize(whole.flatten(1), dim=1))
    return Effects(tuple(unit_rows(rows) for rows in directions), tuple(profiles))


def ablation(sites: Sequence[Site], studies: Sequence[Study]) -> dict[str, list[Agreement]]:
    """Return how alike matched alive latents of two seeds are when ablated, and their nulls; one site a model.

    - `features`: alive latents; `shuffled`: the same, each with another one's match.
    - `N2`: covariance-matched directions, as many, each a latent that fires as often as the one that it stands for
      (`fourier.fired`), matched among themselves in the same way.
    - `copies`: the control. Every seed gets the first seed's latents that fire here, in an order of its own, their
      directions turned to the cosine `NEAR` towards noise: they must agree.
    """
    found: dict[str, list[Agreement]] = {"features": [], "shuffled": [], "N2": [], "copies": []}
    for site, study in zip(sites, studies, strict=True):
        effects = ablated(site, study, study.alive)
        rates = [rate[kept].clamp(max=1 - 1e-6) for rate, kept in zip(study.firing, study.alive, strict=True)]
        rows = [unit_rows(one) for one in drawn(study, "N2")]
        as_often = [fired(site.x @ one.T, rate) for one, rate in zip(rows, rates, strict=True)]
        z = study.saes[0].encode(site.x)[0]
        kept = study.alive[0] & (z != 0).any(0)
        order = [torch.randperm(int(kept.sum()), generator=generator(seed, "effects/order")) for seed in study.seeds]
        noise = [nulls.isotropic(int(kept.sum()), len(site.mean), seed) for seed in study.seeds]
        near = [at_cosine(study.saes.W_dec[0][kept], one, NEAR)[at] for one, at in zip(noise, order, strict=True)]
        found["features"].append(effects.agreement())
        found["shuffled"].append(effects.agreement(shuffled=True))
        found["N2"].append(removed(site, as_often, rows).agreement())
        found["copies"].append(removed(site, [z[:, kept][:, at] for at in order], near).agreement())
    return found
