"""How many latents an input should activate, decided without a look at stability."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from husai.config import TrainConfig, require
from husai.saes import ROWS as AT_ONCE
from husai.saes import SAEBatch
from husai.shards import Shards
from husai.similarity import unit_rows
from husai.tasks import generator

CANDIDATES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
SEEDS = (-1, -2)
"""SAEs that are trained to choose k and never evaluated."""
STEPS = 1024
"""Optimiser steps of those SAEs, if the recipe has more."""
ROWS = 65_536
"""Activations that are looked at, drawn at random, if there are more."""
HELD_OUT = 0.2

Fit = Callable[[Tensor, TrainConfig, Sequence[int]], SAEBatch]


class Calibration(NamedTuple):
    """The chosen number of active latents, and why."""

    k: int
    """The candidate of shortest description."""
    criterion: str
    """What was minimised."""
    curve: list[dict[str, Any]]
    """One entry a candidate: k, description_length (bits an input), fvu, l0, decoder_cosine; means over the seeds."""


def calibrate(
    activations: Float[Tensor, "n d_model"] | Shards, config: TrainConfig, seeds: Sequence[int], fit: Fit
) -> Calibration:
    """Return the k of shortest description length on held-out activations, over candidates up to d_sae / 2.

    Bits an input, relative to one that is not reconstructed: see `description_length`. Agreement between seeds is not
    looked at, and `fit(activations, config, seeds)` trains other seeds than those to be evaluated (`seeds`), whose
    streams are their own whatever `config.shared` says. The mean |cosine| between decoder rows is recorded beside it.
    ValueError: `seeds` holds a calibration seed, or d_sae is 1.
    """
    require(not set(seeds) & set(SEEDS), "seeds", list(seeds), f"seeds other than {SEEDS}, which choose k")
    require(config.sae.d_sae >= 2, "d_sae", config.sae.d_sae, "at least two latents where k is to be chosen")
    order = torch.randperm(len(activations), generator=generator(0, "calibration/split"))[:ROWS]
    rows = activations.rows(order) if isinstance(activations, Shards) else activations[order]
    held_out, fitted = rows.tensor_split([round(HELD_OUT * len(rows))])
    curve: list[dict[str, Any]] = []
    for k in (k for k in CANDIDATES if k <= config.sae.d_sae // 2):
        steps, batch_size = min(config.steps, STEPS), min(config.batch_size, len(fitted))
        trial = replace(config, sae=replace(config.sae, k=k), steps=steps, batch_size=batch_size, shared="")
        saes = fit(fitted, trial, SEEDS)
        found = [_measured(saes[index], held_out, fitted.mean(0)) for index in range(len(saes))]
        curve.append({"k": k, **{key: sum(row[key] for row in found) / len(found) for key in found[0]}})
    best = min(curve, key=lambda entry: entry["description_length"])
    return Calibration(int(best["k"]), "description_length", curve)


def _measured(sae: SAEBatch, x: Tensor, mean: Tensor) -> dict[str, float]:
    row = sae.quality(x, mean)[0]
    noise = row["fvu"] * (x - mean).square().mean().item()
    squares = sum(sae.encode(part).square().sum(1) for part in x.split(AT_ONCE))
    energy = (squares * sae.W_dec.square().sum(-1)).sum().item()  # a latent counts in units of what it adds to x_hat
    signal = energy / max(row["l0"] * len(x), 1e-30)
    bits = description_length(row["l0"], row["fvu"], signal / max(noise, 1e-30), *sae.W_dec.shape[1:])
    cosine = decoder_cosine(sae.W_dec[0])
    return {"description_length": bits, "fvu": row["fvu"], "l0": row["l0"], "decoder_cosine": cosine}


def description_length(l0: float, fvu: float, snr: float, d_sae: int, d_model: int) -> float:
    """Return the bits an input takes through an SAE, less those that it takes without one.

    L0 log2(d_sae / L0) to name the active latents + L0 / 2 log2(1 + snr) for their values, at the precision of the
    residual (snr: mean square of an active latent over that of a residual coordinate) + d_model / 2 log2 FVU for the
    residual as normal noise. Without the values a dense code would look free. Source: the two-part code of Ayonrinde
    et al. (2024), arXiv 2410.11179.
    """
    names = math.log2(d_sae / max(l0, 1e-9))
    return l0 * (names + math.log2(1 + snr) / 2) + d_model / 2 * math.log2(max(fvu, 1e-12))


def decoder_cosine(decoder: Float[Tensor, "d_sae d_model"]) -> float:
    """Return the mean |cosine| between two different rows."""
    rows = unit_rows(decoder)
    total = (rows @ rows.T).abs().sum() - len(rows)
    return float(total / (len(rows) * (len(rows) - 1)))
