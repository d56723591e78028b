"""What a group of SAEs agrees on, as the start of another: centroids of matched features, the rest filled from data."""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from husai import consensus, nulls
from husai.config import TrainConfig, require
from husai.saes import SAEBatch
from husai.similarity import cosine_matrix, unit_rows
from husai.tasks import generator

FLOOR, QUANTILE = 0.7, 0.999
"""A match is a cosine above this, and above this share of those between covariance-matched draws."""
CANDIDATES = 512
"""Data points, drawn by each group for itself, from which its missing rows are filled: few, so that few are shared."""


class Latents(NamedTuple):
    """The rows of a dictionary, of which there may be none."""

    decoder: Float[Tensor, "rows d_model"]
    encoder: Float[Tensor, "rows d_model"]
    bias: Float[Tensor, " rows"]


def thresholds(root: Float[Tensor, "d_model d_model"], rows: int) -> tuple[float, float]:
    """Return the cosines above which decoder rows, and pre-activations, match: what chance (N2) reaches one time in
    a thousand, at least FLOOR. `root` is that of the activations' covariance."""
    draws = [nulls.coloured(root, rows, seed) for seed in (-1, -2)]
    sides = draws, [side @ root.float() for side in draws]
    decoder, encoder = (max(FLOOR, float(cosine_matrix(a, b).quantile(QUANTILE))) for a, b in sides)
    return decoder, encoder


def of(
    members: SAEBatch,
    rates: Float[Tensor, "seeds d_sae"],
    root: Float[Tensor, "d_model d_model"],
    decoder_tau: float,
    encoder_tau: float,
) -> Latents:
    """Return the centroids of features that at least half of the seeds share, the best supported and commonest first.

    Alive latents (of a firing rate above 0.1 %) match when each is the other's nearest in signed cosine of decoder
    rows and of encoder rows, both above their thresholds; encoder rows are compared by the correlation of the
    pre-activations that they cause on data of this covariance root, as what lies off its span is never trained.
    Clusters are connected components; a centroid is the mean of its members' decoder rows (of length 1 again), encoder
    rows and biases. The order is by number of seeds times mean firing rate, and not more are kept than an SAE has
    latents. ValueError: fewer than 2 seeds.
    """
    require(len(members) >= 2, "members", f"{len(members)} SAE", "at least 2, between which features are matched")
    alive = rates > 1e-3
    decoder = members.decoders(alive)
    encoder = [one.T[kept] for one, kept in zip(members.W_enc, alive, strict=True)]
    seen = [rows @ root.to(rows) for rows in encoder]
    found = {
        (i, j): _both(
            consensus.mutual_neighbours(decoder[i], decoder[j], decoder_tau),
            consensus.mutual_neighbours(seen[i], seen[j], encoder_tau),
        )
        for i in range(len(members))
        for j in range(i)
    }
    cluster, support = consensus.clusters(found, [len(rows) for rows in decoder])
    label, size = torch.from_numpy(cluster).long(), torch.from_numpy(np.bincount(cluster))

    def mean(values: Tensor) -> Tensor:
        total = values.new_zeros(len(size), *values.shape[1:]).index_add_(0, label, values)
        return total / size.reshape(-1, *[1] * (values.ndim - 1)).to(values)

    weight = torch.from_numpy(support) * mean(rates[alive])
    weight[torch.from_numpy(support) < max(2, math.ceil(len(members) / 2))] = -1
    order = weight.argsort(descending=True, stable=True)
    order = order[weight[order] >= 0][: members.config.d_sae]
    every = unit_rows(mean(torch.cat(decoder))), mean(torch.cat(encoder)), mean(members.b_enc[alive])
    return Latents(*(values[order] for values in every))


def filled(latents: Latents, config: TrainConfig, centre: Tensor, x: Float[Tensor, "n d_model"], seed: int) -> SAEBatch:
    """Return an SAE that starts with these latents, its other rows filled greedily from what they leave of the data.

    Of `CANDIDATES` data points, drawn by the seed, the one with the largest residual gives the next row, for encoder
    and decoder alike; what it explains of every residual is taken off before the next.
    """
    rows = len(latents.bias)
    draw = torch.randperm(len(x), generator=generator(seed, "ensembles/fill"))[:CANDIDATES]
    left = x[draw] - (_sae(latents, config, centre, seed).reconstruct(x[draw])[0] if rows else centre)
    added = []
    for _ in range(config.sae.d_sae - rows):
        added.append(unit_rows(left[left.norm(dim=1).argmax()][None])[0])
        left = left - (left @ added[-1]).relu()[:, None] * added[-1]
    more = torch.stack(added) if added else x[:0]
    decoder, encoder = torch.cat([latents.decoder, more]), torch.cat([latents.encoder, more])
    return _sae(Latents(decoder, encoder, torch.cat([latents.bias, more.new_zeros(len(more))])), config, centre, seed)


def _sae(latents: Latents, config: TrainConfig, centre: Tensor, seed: int) -> SAEBatch:
    shape = replace(config.sae, d_sae=len(latents.bias), k=min(config.sae.active, len(latents.bias)))
    encoder, bias, decoder, offset = (
        weight[None].clone() for weight in (latents.encoder.T, latents.bias, latents.decoder, centre)
    )
    return SAEBatch(shape, (seed,), encoder, bias, decoder, offset)


def none(x: Float[Tensor, "n d_model"]) -> Latents:
    """Return no rows, for these activations: the start that data alone fill."""
    return Latents(x[:0], x[:0], x[:0, 0])


def _both(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the pairs that are in both lists."""
    wanted = set(zip(*(side.tolist() for side in other), strict=True))
    kept = torch.tensor(
        [pair in wanted for pair in zip(*(side.tolist() for side in one), strict=True)], dtype=torch.bool
    )
    return one[0][kept], one[1][kept]
