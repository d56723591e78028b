"""Quality gates: what SAEs must pass before a claim about their stability may rest on them."""

import tomllib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from husai import metrics, stats
from husai.evidence import ROOT, Estimate

GATES = tomllib.loads((ROOT / "book" / "quality.toml").read_text())


class Convergence(NamedTuple):
    """The plateau criterion of recipe G."""

    slope: float
    """Change of the alive latents' mean max cosine over the last doubling of steps; within +-.01 is wanted."""
    init_cosine: float
    """Mean |cos| of the alive decoder rows with their own initialisation; below .5 is wanted."""
    updates: float
    """steps * batch * L0 / d_sae, the mean number of updates a latent; at least 2e4 is wanted."""
    converged: bool
    """All three hold."""


def convergence(updates: float, start: Sequence[Tensor], half: Sequence[Tensor], last: Sequence[Tensor]) -> Convergence:
    """Return whether the score has stopped rising and the decoders have left their initialisation.

    `start`, `half` and `last` hold the alive decoder rows of every seed at step 0, half-way and at the end; `updates`
    is the mean number of updates a latent.
    """
    then, now = (stats.pairwise(metrics.pairwise_matrix(metrics.mean_max_cosine, rows)) for rows in (half, last))
    init = float(np.mean([metrics.init_cosine(a, b) for a, b in zip(last, start, strict=True)]))
    slope, gate = now.value - then.value, GATES["plateau"]
    reached = abs(slope) < gate["slope"] and init < gate["init_cosine"] and updates >= gate["updates"]
    return Convergence(slope, init, updates, reached)


def passes(quality: Mapping[str, Estimate], k: int, converged: bool) -> dict[str, bool]:
    """Return which gates of `book/quality.toml` seed means of FVU, L0 and alive share pass; k is the L0 wanted."""
    gate = GATES["stability"]
    return {
        "explained variance": 1 - quality["fvu"].value > gate["explained_variance"],
        "dead share": 1 - quality["alive"].value < gate["dead_share"],
        "L0 on target": abs(quality["l0"].value - k) <= gate["l0_tolerance"] * k,
        "converged": converged,
    }
