"""One SAE out of a group of seeds: methods of equal total compute, and what each gains between disjoint groups."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from husai import activations, consensus, nulls, saes, study
from husai.activations import Activations
from husai.config import Objective, TrainConfig, require
from husai.recipes import converged
from husai.saes import SAEBatch
from husai.shards import in_memory
from husai.similarity import cosine_matrix, unit_rows
from husai.study import Study
from husai.tasks import generator

METRIC = "frequency_weighted_hungarian"
"""The primary endpoint: raw, signed, over alive latents, between groups."""
FLOOR, QUANTILE = 0.7, 0.999
"""A match is a cosine above this, and above this share of those between covariance-matched draws."""
PULL = Objective("consensus", weight=0.1, fade=0.5, every=8)
"""How a retrained SAE is held near the centroids: T3's weight, gone after half of the steps."""
CANDIDATES = 512
"""Data points, drawn by each group for itself, from which its missing rows are filled: few, so that few are shared."""
WORSE = 1.05
"""Largest ratio of FVUs at which a method counts as reconstructing no worse."""


class Method(NamedTuple):
    """How a group of seeds makes its one SAE."""

    how: str
    """One of "alone" (one SAE), "best" (of several, by FVU on the training rows), "pooled" (centroids as they are),
    "consensus" (centroids, retrained without `k_start`: at its own k from the first step) and "residuals" (one SAE from
    data points alone: the control for how a start is filled)."""
    config: TrainConfig
    """Of every SAE that is trained."""
    members: int = 1
    """SAEs that a group trains, a retrained one included."""

    @property
    def steps(self) -> int:
        """Optimiser steps that a group takes in all."""
        return self.members * self.config.steps


@dataclass(frozen=True)
class Outcome(Study):
    """SAEs that were picked from, or made of, those of other studies, and can be judged like any study."""

    made: Mapping[int, SAEBatch] = field(default_factory=dict, compare=False, repr=False)
    """The SAEs by step."""

    def at(self, step: int) -> SAEBatch:
        """Return the SAEs of a checkpoint."""
        return self.made[step]

    @property
    def steps(self) -> list[int]:
        """Steps at which the SAEs are known."""
        return sorted(self.made)


Members = dict[tuple[TrainConfig, int], Study]
"""Studies by configuration and place in the groups."""


class Latents(NamedTuple):
    """The rows of a dictionary, of which there may be none."""

    decoder: Float[Tensor, "rows d_model"]
    encoder: Float[Tensor, "rows d_model"]
    bias: Float[Tensor, " rows"]


def groups(number: int, size: int, first: int = 0) -> list[tuple[int, ...]]:
    """Return disjoint groups of `size` seeds, numbered from `first` on."""
    return [tuple(range(start, start + size)) for start in range(first, first + number * size, size)]


def methods(tuned: TrainConfig, size: int, l2: float, mutual: float) -> dict[str, Method]:
    """Return the book's methods by name, each taking `tuned.steps` steps a group; "tuned" is the baseline.

    `l2` and `mutual` are the weights of the two penalties. ValueError: steps that `size` does not divide.
    """
    require(tuned.steps % size == 0, "steps", tuned.steps, f"a multiple of {size}, the SAEs of a group")
    short = replace(tuned, steps=tuned.steps // size)
    free = replace(tuned, unit_decoder=False, project_gradient=False, objective=Objective("l2", l2))
    coupled = replace(short, objective=Objective("contrastive", mutual, group=size, every=8))
    return {
        "tuned": Method("alone", tuned),
        "converged": Method("alone", converged(tuned.sae.d_sae, tuned.sae.k, tuned.steps)),
        "annealed": Method("alone", replace(tuned, k_start=4.0)),
        "aligned": Method("alone", replace(tuned, sae=replace(tuned.sae, aligned=True))),
        "weight_l2": Method("alone", free),
        "mutual": Method("best", coupled, size),
        "best_of": Method("best", short, size),
        "pooled": Method("pooled", short, size),
        "consensus": Method("consensus", short, size),
        "residuals": Method("residuals", tuned),
    }


def tune(
    acts: Activations, config: TrainConfig, rates: Sequence[float], starts: Sequence[float], seeds: Sequence[int]
) -> tuple[TrainConfig, dict[tuple[float, float], Study]]:
    """Return the configuration with the learning rate, then the k_start, of lowest FVU, and the study of each tried.

    On a split of the training rows and seeds of its own: neither held-out rows nor agreement are looked at.
    """
    part = activations.split(in_memory(acts.fit), 0, f"{acts.name}, selection")
    tried: dict[tuple[float, float], Study] = {}
    for name, values in (("lr", rates), ("k_start", starts)):
        grid = [replace(config, **{name: value}) for value in values]  # type: ignore[arg-type]
        found = study.run({one: (part, one) for one in grid}, seeds)
        config = min(found, key=lambda one: found[one].quality["fvu"].value)
        tried |= {(one.lr, one.k_start): found[one] for one in grid}
    return config, tried


def grouped(ways: Mapping[str, Method], acts: Activations, seeds: Sequence[Sequence[int]]) -> dict[str, Study]:
    """Return one study a method, whose SAE i is the one that group i of seeds ends with.

    A group's SAEs are made of its own seeds alone: the first where one SAE is trained, all of them where there are
    several; a consensus retrains with the data order of the last. Groups share one number, that of the rows which a
    consensus holds (`shared`). ValueError: groups that share seeds or are not of the methods' size, methods of unequal
    compute.
    """
    every = [seed for group in seeds for seed in group]
    require(len(set(every)) == len(every), "seeds", [list(group) for group in seeds], "disjoint groups")
    sizes = {len(group) for group in seeds} | {way.members for way in ways.values() if way.members > 1}
    require(len(sizes) == 1, "seeds", sorted(sizes), "groups of one size, the number of SAEs of every method")
    totals = {name: way.steps for name, way in ways.items()}
    require(len(set(totals.values())) == 1, "ways", totals, "one number of steps for all")
    members: Members = {}
    return {name: _made(name, way, acts, seeds, members) for name, way in ways.items()}


def _made(name: str, way: Method, acts: Activations, seeds: Sequence[Sequence[int]], members: Members) -> Study:
    if way.how == "alone":
        return study.run({name: (acts, way.config)}, [group[0] for group in seeds])[name]
    x = in_memory(acts.fit)
    if way.how == "residuals":
        starts = [filled(_none(x), way.config, x.mean(0), x, group[0]) for group in seeds]
        return _retrained(way.config, Objective("consensus"), acts, starts, [group[0] for group in seeds])
    parts = _members(way, acts, seeds, members)
    if way.how == "best":
        return best_of(parts)
    agreed = _agreed(way, parts)
    starts = []
    for index, (latents, group) in enumerate(zip(agreed, seeds, strict=True)):
        centre = torch.stack([part.saes.b_dec[index] for part in parts]).mean(0)
        starts.append(filled(latents, way.config, centre, x, group[-1]))
    if way.how == "consensus":
        rows = min(way.config.sae.d_sae // 2, *(len(latents.bias) for latents in agreed))
        pull = replace(PULL, rows=rows) if rows else Objective("consensus")
        return _retrained(replace(way.config, k_start=1.0), pull, acts, starts, [group[-1] for group in seeds])
    made = saes.stack(starts)
    return Outcome(acts, parts[0].config, made.seeds, parts[0].folder, made={way.config.steps: made})


def shared(way: Method, acts: Activations, seeds: Sequence[Sequence[int]]) -> list[Latents]:
    """Return the `centroids` from which each group makes its SAE; a consensus holds the first ones while it retrains.

    It holds half as many as there are latents, or as few as the group with the fewest has: centroids alone.
    """
    return _agreed(way, _members(way, acts, seeds, {}))


def _agreed(way: Method, parts: Sequence[Study]) -> list[Latents]:
    root = parts[0].activations.root
    tau = thresholds(root, way.config.sae.d_sae)
    places = range(len(parts[0].seeds))
    batches = [saes.stack([part.saes[index] for part in parts]) for index in places]
    rates = [torch.stack([part.fitted[1][index] for part in parts]) for index in places]
    return [centroids(batch, rate, root, *tau) for batch, rate in zip(batches, rates, strict=True)]


def _members(way: Method, acts: Activations, seeds: Sequence[Sequence[int]], known: Members) -> list[Study]:
    """Return one study a place in the groups: SAE i of study j is seed j of group i; the last is left to retrain.

    Methods with equal SAEs share their studies, `known`, and what these have measured.
    """
    used = range(way.members - (way.how == "consensus"))
    if way.config.objective.name != "contrastive":
        for place in used:
            if (way.config, place) not in known:
                chosen = [group[place] for group in seeds]
                known[way.config, place] = study.run({0: (acts, way.config)}, chosen)[0]
        return [known[way.config, place] for place in used]
    whole = study.run({0: (acts, way.config)}, [seed for group in seeds for seed in group])[0]
    return [picked([whole] * len(seeds), range(place, len(whole.seeds), way.members)) for place in used]


def _retrained(
    config: TrainConfig, objective: Objective, acts: Activations, starts: Sequence[SAEBatch], seeds: Sequence[int]
) -> Study:
    return study.run({0: (acts, replace(config, objective=objective), saes.stack(starts))}, seeds)[0]


def picked(studies: Sequence[Study], indices: Sequence[int]) -> Outcome:
    """Return a study of SAE indices[i] of study i, with all checkpoints."""
    first = studies[0]
    made = {
        step: saes.stack([one.at(step)[index] for one, index in zip(studies, indices, strict=True)])
        for step in first.steps
    }
    return Outcome(first.activations, first.config, made[first.last].seeds, first.folder, first.step, made)


def best_of(studies: Sequence[Study]) -> Outcome:
    """Return SAE i of the study in which it has the lowest FVU on the training rows, for every i.

    The held-out rows are the evaluation's, and choose nothing.
    """
    chosen = np.argmin([[row["fvu"] for row in one.fitted[0]] for one in studies], axis=0)
    return picked([studies[j] for j in chosen], range(len(chosen)))


def thresholds(root: Float[Tensor, "d_model d_model"], rows: int) -> tuple[float, float]:
    """Return the cosines above which decoder rows, and pre-activations, match: what chance (N2) reaches one time in
    a thousand, at least FLOOR. `root` is that of the activations' covariance."""
    draws = [nulls.coloured(root, rows, seed) for seed in (-1, -2)]
    sides = draws, [side @ root.float() for side in draws]
    decoder, encoder = (max(FLOOR, float(cosine_matrix(a, b).quantile(QUANTILE))) for a, b in sides)
    return decoder, encoder


def centroids(
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


def _none(x: Tensor) -> Latents:
    return Latents(x[:0], x[:0], x[:0, 0])


def _both(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the pairs that are in both lists."""
    wanted = set(zip(*(side.tolist() for side in other), strict=True))
    kept = torch.tensor(
        [pair in wanted for pair in zip(*(side.tolist() for side in one), strict=True)], dtype=torch.bool
    )
    return one[0][kept], one[1][kept]
