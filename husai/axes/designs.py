"""Which SAEs stand beside each other: architectures at one L0, TopK over L0, and a grid of tokens, depth and width."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from husai import stats
from husai.activations import Activations
from husai.axes.candidates import Candidate
from husai.config import TrainConfig, require
from husai.evidence import Estimate
from husai.recipes import converged

FACTORS = {"tokens": "rows that are trained on", "depth": "blocks before the hook", "width": "latents"}
"""What a scaling grid varies; slopes are for twice the tokens, one block, twice the width."""

Cell = tuple[int, int, int]
"""Tokens, depth and width of one cell of a scaling grid."""


def architectures(
    d_sae: int, k: int, steps: int, penalties: Mapping[str, float], experts: int = 4
) -> dict[str, TrainConfig]:
    """Return one configuration an architecture: as many steps and tokens for all, and the same L0.

    The L0 is k by construction where the architecture has a k. `penalties` are the weights that give it to "relu" and
    "gated" (L1) and, of "jump_relu", the width of its kernel: found by L0 alone on other seeds, and checked here by
    `candidates.matched`. ValueError: a penalty missing.
    """
    wanted = {"relu": "l1", "gated": "l1", "jump_relu": "bandwidth"}
    require(penalties.keys() == wanted.keys(), "penalties", sorted(penalties), f"one for each of {sorted(wanted)}")
    own: dict[str, dict[str, Any]] = {name: {} for name in ("topk", "batch_topk", "hierarchical_topk", "matryoshka")}
    own |= {name: {setting: penalties[name]} for name, setting in wanted.items()}
    own["switch"] = {"experts": experts}
    return {name: converged(d_sae, k, steps, architecture=name, **more) for name, more in own.items()}


def unmatched(d_sae: int, k: int, steps: int, l1: float) -> TrainConfig:
    """Return a ReLU whose penalty is too weak for k, as in the published frontier (L0 654 of 1024 beside TopK's 32).

    Source: `run_architecture_frontier_external.py`. Its JumpReLU has a threshold of 0 and no penalty that reaches the
    weights: a ReLU without any, which TopK is when k = d_sae (the last rung of `ladder`).
    """
    return converged(d_sae, k, steps, architecture="relu", l1=l1)


def ladder(d_sae: int, ks: Sequence[int], steps: int) -> dict[int, TrainConfig]:
    """Return TopK over k, all else as in `architectures`: what a change of L0 alone does.

    At k = d_sae it keeps all that is positive: a ReLU without a penalty.
    """
    return {k: converged(d_sae, k, steps) for k in ks}


def grid(
    sites: Mapping[int, Activations], tokens: Sequence[int], widths: Sequence[int], k: int, steps: int, seed: int = 0
) -> dict[Cell, tuple[Activations, TrainConfig]]:
    """Return a condition for every number of training tokens, depth and width: TopK, the same steps and k for all.

    `sites` holds the activations after so many blocks. A smaller number of tokens is a random part of the training
    rows; the held-out rows stay. ValueError: more tokens than a site has for training.
    """
    parts: dict[tuple[int, int], Activations] = {}
    for depth, acts in sites.items():
        rows = int(acts.training.sum())
        require(max(tokens) <= rows, "tokens", max(tokens), f"at most the {rows} training rows after {depth} blocks")
        parts |= {(n, depth): acts.subsample(n / rows, seed) for n in tokens}
    return {
        (n, depth, width): (parts[n, depth], converged(width, k, steps))
        for n in tokens for depth in sites for width in widths
    }  # fmt: skip


def slopes(cells: Mapping[Cell, Candidate], axis: str) -> dict[str, Estimate]:
    """Return how an axis changes with each factor of a grid, the others held: {factor: slope}, seed by seed.

    Least squares of the axis on log2 tokens, depth and log2 width over all cells: the change for twice the tokens, one
    block more and twice the width, each with its interval over seeds. ValueError: a factor with one level only, cells
    of other seeds.
    """
    places = np.array(list(cells), float)
    for index, factor in enumerate(FACTORS):
        levels = sorted({cell[index] for cell in cells})
        require(len(levels) >= 2, factor, levels, "two or more levels, to say how the axis changes with it")
    lists = {candidate.seeds for candidate in cells.values()}
    require(len(lists) == 1, "cells: seeds", sorted(lists), "one list of seeds for all cells")
    design = np.column_stack([np.ones(len(places)), np.log2(places[:, 0]), places[:, 1], np.log2(places[:, 2])])
    values = np.stack([candidate.on(axis) for candidate in cells.values()])
    found = np.linalg.lstsq(design, values, rcond=None)[0][1:]
    return {factor: stats.mean(row) for factor, row in zip(FACTORS, found, strict=True)}


def marginal(cells: Mapping[Cell, Candidate], axis: str, factor: str) -> dict[int, Estimate]:
    """Return the mean of an axis at every level of one factor, over all levels of the others: {level: mean}.

    ValueError: a factor that does not exist.
    """
    require(factor in FACTORS, "factor", factor, f"one of {sorted(FACTORS)}")
    index = list(FACTORS).index(factor)
    levels = sorted({cell[index] for cell in cells})
    rows = {level: [one.on(axis) for cell, one in cells.items() if cell[index] == level] for level in levels}
    return {level: stats.mean(np.mean(found, 0)) for level, found in rows.items()}


def panel(
    cells: Mapping[Cell, Candidate], factor: str, lines: Mapping[str, str]
) -> tuple[str, dict[str, tuple[list[int], list[Estimate]]]]:
    """Return `marginal` of named axes as `plots.interval_panels` draws them: (x label, {name: (levels, means)}).

    ValueError: a factor that does not exist.
    """
    found = {name: marginal(cells, axis, factor) for name, axis in lines.items()}
    return FACTORS[factor], {name: (list(means), list(means.values())) for name, means in found.items()}
