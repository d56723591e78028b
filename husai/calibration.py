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

CANDIDATES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)
SEEDS = (-1, -2)
"""SAEs that are trained to choose k and never evaluated."""
STEPS = 1024
"""Optimiser steps of those SAEs, if the recipe has more."""
ROWS = 65_536
"""Activations that are looked at, drawn at random, if there are more."""
HELD_OUT = 0.2
CRITERIA = ("description_length", "decoder_projection", "decoder_cosine")
"""What may be minimised; none of them looks at agreement between seeds."""
RANK = 3 / 8
"""n of the n-th decoder projection as a share of d_sae: above any plausible L0 and below one half, as its authors."""

Fit = Callable[[Tensor, TrainConfig, Sequence[int]], SAEBatch]


class Calibration(NamedTuple):
    """The chosen number of active latents, and why."""

    k: int
    """The candidate at the minimum of the criterion."""
    criterion: str
    """What was minimised: one of `CRITERIA`."""
    curve: list[dict[str, Any]]
    """One entry a candidate: k, the three criteria (description_length in bits an input), fvu, l0, alive; means over
    the seeds that choose."""

    @property
    def choices(self) -> dict[str, int]:
        """The k that each criterion would choose."""
        return {name: int(min(self.curve, key=lambda entry: entry[name])["k"]) for name in CRITERIA}

    def by(self, criterion: str) -> "Calibration":
        """Return the choice of another criterion on the same curve; ValueError: not one of `CRITERIA`."""
        require_criterion(criterion)
        return Calibration(self.choices[criterion], criterion, self.curve)

    def scaled(self) -> dict[str, list[float]]:
        """Return every criterion over the candidates, moved and scaled to 0 at its minimum and 1 at its maximum."""
        columns = {name: [entry[name] for entry in self.curve] for name in CRITERIA}
        spans = {name: max(column) - min(column) or 1.0 for name, column in columns.items()}
        return {name: [(v - min(column)) / spans[name] for v in column] for name, column in columns.items()}


def require_disjoint(seeds: Sequence[int]) -> None:
    """Refuse seeds to be evaluated that take part in the choice of k."""
    require(not set(seeds) & set(SEEDS), "seeds", list(seeds), f"seeds other than {SEEDS}, which choose k")


def require_criterion(criterion: str) -> None:
    """Refuse a criterion that does not exist."""
    require(criterion in CRITERIA, "criterion", criterion, f"one of {CRITERIA}")


def calibrate(
    activations: Float[Tensor, "n d_model"] | Shards, config: TrainConfig, seeds: Sequence[int], fit: Fit
) -> Calibration:
    """Return the k of shortest description length on held-out activations, over candidates up to d_sae / 2.

    Bits an input, relative to one that is not reconstructed: see `description_length`. The other criteria are recorded
    beside it (`Calibration.by`). Agreement between seeds is not looked at, and `fit(activations, config, seeds)` trains
    other seeds than those to be evaluated (`seeds`), whose streams are their own whatever `config.shared` says.
    ValueError: `seeds` holds a calibration seed, or d_sae is 1.
    """
    require_disjoint(seeds)
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
    return Calibration(0, "", curve).by("description_length")


def _measured(sae: SAEBatch, x: Tensor, mean: Tensor) -> dict[str, float]:
    row = sae.quality(x, mean)[0]
    noise = row["fvu"] * (x - mean).square().mean().item()
    squares = sum(sae.encode(part).square().sum(1) for part in x.split(AT_ONCE))
    energy = (squares * sae.W_dec.square().sum(-1)).sum().item()  # a latent counts in units of what it adds to x_hat
    signal = energy / max(row["l0"] * len(x), 1e-30)
    bits = description_length(row["l0"], row["fvu"], signal / max(noise, 1e-30), *sae.W_dec.shape[1:])
    found = (bits, decoder_projection(sae, x), decoder_cosine(sae.W_dec[0]))
    return dict(zip(CRITERIA, found, strict=True)) | row


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


def decoder_projection(sae: SAEBatch, x: Float[Tensor, "n d_model"], rank: int | None = None) -> float:
    """Return the n-th decoder projection s_n of one SAE: how far inputs reach along latents that should be silent.

    The value ranked n B among the B d_sae entries of (x - b_dec) W_dec^T, largest first, averaged over batches. Latents
    that mix features project on inputs of all of them, which raises it: it is lowest at the right L0. n is `rank`, else
    `RANK` d_sae. ValueError: rank outside 1..d_sae - 1. Source: Chanin & Garriga-Alonso (2025), arXiv 2508.16560.
    """
    d_sae = sae.W_dec.shape[1]
    n = max(1, round(RANK * d_sae)) if rank is None else rank
    require(1 <= n < d_sae, "rank", n, f"1 to d_sae - 1 = {d_sae - 1}")
    total = 0.0
    for part in x.split(AT_ONCE):
        entries = ((part - sae.b_dec[0]) @ unit_rows(sae.W_dec[0]).T).flatten()
        total += len(part) * entries.kthvalue(len(entries) - n * len(part)).values.item()
    return total / len(x)
