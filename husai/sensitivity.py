"""Whether a latent that is active on an input stays active on its neighbours, beyond what its density explains.

Inputs are the p*p pairs (a, b) of modular addition in a-major order, row a * p + b; codes are one latent a column.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from husai import pairing
from husai.config import require
from husai.evidence import Estimate
from husai.saes import ROWS, SAEBatch
from husai.shards import in_memory
from husai.study import Study
from husai.tasks import fourier_basis, generator

DELTAS = (1, 2, 3)
"""How far the neighbours lie: the sources' three steps up and three steps down of either operand."""
TOP = 10
"""Latents that are looked at on an input: its largest."""
SHARE = 0.1
"""A latent counts as active on a neighbour above this share of its value."""
LEAST = 0.01
"""Latents below this value on the input itself are not looked at."""


class Sensitivity(NamedTuple):
    """The share of neighbours on which latents stay active, beside that of random inputs."""

    observed: float
    """The sources' statistic."""
    chance: float
    """The same latents and thresholds with random inputs for neighbours, in expectation."""

    @property
    def kappa(self) -> float:
        """(observed - chance) / (1 - chance): 0 for random neighbours, 1 if latents stay active on all of them."""
        return (self.observed - self.chance) / (1 - self.chance)


class Probe(NamedTuple):
    """Which latents are looked at on some inputs, and how often they would be as active on any other."""

    origins: Int[Tensor, " origins"]
    latents: Int[Tensor, "origins top"]
    """The `TOP` largest latents of each."""
    values: Float[Tensor, "origins top"]
    active: Bool[Tensor, "origins top"]
    """Those of at least `LEAST`; the others are not looked at."""
    chance: float
    """Share of all inputs but the origin on which these latents exceed `SHARE` of their value there."""


def probe(codes: Float[Tensor, "inputs n"], origins: Int[Tensor, " origins"]) -> Probe:
    """Return what is asked of some inputs. ValueError: no latent is active there, or only ones that always are."""
    values, latents = codes[origins].topk(min(TOP, codes.shape[1]))
    active = values >= LEAST
    require(bool(active.any()), "codes", f"nothing above {LEAST} at the origins", "latents that are active there")
    by_latent = codes.T.contiguous()
    above = [(by_latent[at] > SHARE * v[:, None]).sum(1) for at, v in zip(latents, values, strict=True)]
    chance = float(((torch.stack(above)[active] - 1).double() / (len(codes) - 1)).mean())
    require(chance < 1, "codes", "latents that are active everywhere", "latents that some inputs do not activate")
    return Probe(origins, latents, values, active, chance)


def sensitivity(
    codes: Float[Tensor, "inputs n"],
    asked: Probe,
    neighbours: Int[Tensor, "kinds origins m"],
    kinds: Int[Tensor, " n"] | None = None,
) -> Sensitivity:
    """Return how often the latents of each origin exceed `SHARE` of their value on its neighbours.

    The mean over origins and latents of the share of the m neighbours; latent j has the neighbours of kind `kinds[j]`,
    of kind 0 unless given. The chance is the expectation with random inputs for neighbours, exactly.
    """
    which = torch.zeros_like(asked.latents) if kinds is None else kinds[asked.latents]
    where = neighbours[which, torch.arange(len(asked.origins))[:, None]]  # [origins, top, m]
    stays = codes[where, asked.latents[..., None]] > SHARE * asked.values[..., None]
    return Sensitivity(float(stays.double().mean(-1)[asked.active].mean()), asked.chance)


def steps(p: int, origins: Int[Tensor, " origins"], scale: int = 1) -> Int[Tensor, "origins m"]:
    """Return the inputs (a +- scale delta, b) and (a, b +- scale delta), delta in `DELTAS`, modulo p.

    A scale of 1 gives the sources' neighbours. With scale = w^-1 modulo p the phase 2 pi w a / p of either operand
    moves by 2 pi delta / p alone: neighbours at the frequency w, wherever they lie as numbers.
    """
    moves = scale * torch.tensor([sign * delta for delta in DELTAS for sign in (1, -1)])
    a, b = (origins // p)[:, None], (origins % p)[:, None]
    return torch.cat([(a + moves) % p * p + b, a * p + (b + moves) % p], 1)


def same_answer(p: int, origins: Int[Tensor, " origins"], seed: int) -> Int[Tensor, "origins m"]:
    """Return as many inputs (a + d, b - d) as `steps` does, d random from 1..p-1: other operands, the same sum."""
    draw = generator(seed, "sensitivity/same_answer")
    moves = torch.randint(1, p, (len(origins), 4 * len(DELTAS)), generator=draw)
    a, b = (origins // p)[:, None], (origins % p)[:, None]
    return (a + moves) % p * p + (b - moves) % p


def frequencies(codes: Float[Tensor, "inputs n"], p: int) -> Int[Tensor, " n"]:
    """Return each latent's strongest frequency, 1..(p-1)/2: that of its means over equal a, equal b and equal a + b.

    ValueError: not one row a pair.
    """
    require(len(codes) == p * p, "codes", f"{len(codes)} rows", f"one a pair, {p * p}")
    grid = codes.reshape(p, p, -1)
    a, b = torch.arange(p)[:, None], torch.arange(p)
    sums = torch.zeros(p, codes.shape[1]).index_add_(0, ((a + b) % p).flatten(), codes) / p
    waves = fourier_basis(p)[1:].float()
    spectra = [(waves @ table).square() for table in (grid.mean(1), grid.mean(0), sums)]
    return torch.stack(spectra).reshape(3, (p - 1) // 2, 2, -1).sum((0, 2)).argmax(0) + 1


def panel(codes: Float[Tensor, "inputs n"], p: int, origins: int, seed: int = 0) -> dict[str, Sensitivity]:
    """Return the sensitivity to four kinds of neighbours, of codes of all p*p inputs at random origins.

    `number`: the sources'. `phase`: as near at each latent's own strongest frequency. `answer`: the same sum.
    `permuted`: `phase` where the inputs change places at random, frequencies chosen anew: the null, its kappa around 0.
    """
    order = torch.randperm(len(codes), generator=generator(seed, "sensitivity/origins"))
    mixed = torch.randperm(len(codes), generator=generator(seed, "sensitivity/permuted"))
    asked = probe(codes, order[:origins])
    at = asked.origins
    by_phase = torch.stack([steps(p, at, pow(w, -1, p)) for w in range(1, (p - 1) // 2 + 1)])
    return {
        "number": sensitivity(codes, asked, steps(p, at)[None]),
        "phase": sensitivity(codes, asked, by_phase, frequencies(codes, p) - 1),
        "answer": sensitivity(codes, asked, same_answer(p, at, seed)[None]),
        "permuted": sensitivity(codes, asked, mixed[by_phase], frequencies(codes[mixed], p) - 1),
    }


def planted(p: int, n: int, seed: int = 0) -> Float[Tensor, "inputs n"]:
    """Return n latents max(0, cos(2 pi w (a + b) / p - phi)) of random frequencies w and phases: the known answer.

    They stay active where the phase hardly changes and where the sum is the same: the positive control.
    """
    draw = generator(seed, "sensitivity/planted")
    w = torch.randint(1, (p - 1) // 2 + 1, (n,), generator=draw)
    phases = 2 * torch.pi * torch.rand(n, generator=draw)
    total = torch.arange(p)[:, None].add(torch.arange(p)).flatten()
    return torch.cos(2 * torch.pi * (total[:, None] * w % p) / p - phases).relu()


def codes_of(sae: SAEBatch, study: Study) -> Float[Tensor, "inputs n"]:
    """Return one SAE's latents on every input of a study, trained on or held out."""
    return torch.cat([sae.encode(rows)[0] for rows in in_memory(study.activations.values).split(ROWS)])


def of(studies: Sequence[Study], p: int, origins: int) -> list[list[dict[str, Sensitivity]]]:
    """Return the `panel` of every SAE, by model and seed; origins are the same for all of them."""
    return [[panel(codes_of(one.saes[i], one), p, origins) for i in range(len(one.seeds))] for one in studies]


def estimates(panels: Sequence[Sequence[Mapping[str, Sensitivity]]], kind: str) -> dict[str, Estimate]:
    """Return the sensitivity to one kind of neighbours, its chance, their gap and kappa, over models and seeds."""
    rows = [[one[kind] for one in model] for model in panels]
    return {
        "sensitivity": pairing.across([[one.observed for one in model] for model in rows]),
        "chance": pairing.across([[one.chance for one in model] for model in rows]),
        "gap": pairing.across([[one.observed - one.chance for one in model] for model in rows]),
        "kappa": pairing.across([[one.kappa for one in model] for model in rows]),
    }


def by_density(study: Study, p: int, origins: int, ks: Sequence[int] = ()) -> list[dict[str, Estimate]]:
    """Return the sensitivity to the sources' neighbours with its chance, gap and kappa.

    Once as the SAEs are, or, for TopK, with so many latents an input as each of `ks`, nothing being trained again. The
    study is one model's.
    """
    order = torch.randperm(len(study.activations.values), generator=generator(0, "sensitivity/origins"))
    at, found = order[:origins], []
    for k in ks or (study.config.sae.k,):
        saes = replace(study.saes, config=replace(study.config.sae, k=k))
        codes = [codes_of(saes[i], study) for i in range(len(saes))]
        panels = [[{"number": sensitivity(one, probe(one, at), steps(p, at)[None])} for one in codes]]
        found.append(estimates(panels, "number"))
    return found


def kappas(panels: Sequence[Sequence[Mapping[str, Sensitivity]]], kind: str) -> np.ndarray:
    """Return kappa of every SAE to one kind of neighbours [models, seeds], from which conditions are told apart."""
    return np.array([[one[kind].kappa for one in model] for model in panels])
