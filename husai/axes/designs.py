"""Which SAEs stand beside each other: architectures at one L0, TopK over L0, and a grid of tokens, depth and width."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from husai.activations import Activations
from husai.axes.candidates import Candidate, over
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
    """Return one configuration an architecture: as many steps of one batch size for all, and the same L0.

    Equal training is equal steps times batch, not equal arithmetic: a step costs more where encoders are dense.

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
    """Return a condition for every number of training tokens, depth and width: TopK, the same k for all.

    `steps` are those of the narrowest; a wider one has more in proportion, so that a latent has as many updates on
    average, whatever the width (the sources held epochs). `sites` holds the activations after so many blocks. A smaller
    number of tokens is a random part of the training rows, seen as many more times; the held-out rows stay. ValueError:
    more tokens than a site has for training.
    """
    parts: dict[tuple[int, int], Activations] = {}
    for depth, acts in sites.items():
        rows = int(acts.training.sum())
        require(max(tokens) <= rows, "tokens", max(tokens), f"at most the {rows} training rows after {depth} blocks")
        parts |= {(n, depth): acts.subsample(n / rows, seed) for n in tokens}
    return {
        (n, depth, width): (parts[n, depth], converged(width, k, steps * width // min(widths)))
        for n in tokens for depth in sites for width in widths
    }  # fmt: skip


def slopes(cells: Mapping[Cell, Candidate], axis: str) -> dict[str, Estimate]:
    """Return how an axis changes with each factor of a grid, the others held: {factor: slope}.

    Least squares of the axis on log2 tokens, depth and log2 width over all cells: the change for twice the tokens, one
    block more and twice the width, each with the interval of `candidates.over`. ValueError: a factor with one
    level only, cells of other seeds.
    """
    places = np.array(list(cells), float)
    for index, factor in enumerate(FACTORS):
        levels = sorted({cell[index] for cell in cells})
        require(len(levels) >= 2, factor, levels, "two or more levels, to say how the axis changes with it")
    lists = {candidate.seeds for candidate in cells.values()}
    require(len(lists) == 1, "cells: seeds", sorted(lists), "one list of seeds for all cells")
    design = np.column_stack([np.ones(len(places)), np.log2(places[:, 0]), places[:, 1], np.log2(places[:, 2])])
    values = np.stack([candidate.on(axis) for candidate in cells.values()])
    found = np.linalg.lstsq(design, values.reshape(len(cells), -1), rcond=None)[0][1:]
    tasks = next(iter(cells.values())).tasks
    return {factor: over(row.reshape(values.shape[1:]), tasks) for factor, row in zip(FACTORS, found, strict=True)}


def named(cells: Mapping[Cell, Candidate], axis: str) -> dict[str, Estimate | bool]:
    """Return an axis in every cell and whether its SAEs are sound: {"cell_few_L0_narrow_axis", "sound_few_L0_narrow"}.

    ValueError: other than two numbers of tokens and two widths.
    """
    levels = [sorted({cell[index] for cell in cells}) for index in (0, 2)]
    require([len(found) for found in levels] == [2, 2], "cells", levels, "two numbers of tokens and two widths")
    few, narrow = levels[0][0], levels[1][0]
    found: dict[str, Estimate | bool] = {}
    for (tokens, depth, width), one in cells.items():
        label = f"{'few' if tokens == few else 'many'}_L{depth}_{'narrow' if width == narrow else 'wide'}"
        found |= {f"cell_{label}_{axis}": one.estimate(axis), f"sound_{label}": one.sound}
    return found


def marginal(cells: Mapping[Cell, Candidate], axis: str, factor: str) -> dict[int, Estimate]:
    """Return the mean of an axis at every level of one factor, over all levels of the others: {level: mean}.

    ValueError: a factor that does not exist.
    """
    require(factor in FACTORS, "factor", factor, f"one of {sorted(FACTORS)}")
    index = list(FACTORS).index(factor)
    levels = sorted({cell[index] for cell in cells})
    rows = {level: [one.on(axis) for cell, one in cells.items() if cell[index] == level] for level in levels}
    tasks = next(iter(cells.values())).tasks
    return {level: over(np.mean(found, 0), tasks) for level, found in rows.items()}


def panel(
    cells: Mapping[Cell, Candidate], factor: str, lines: Mapping[str, str]
) -> tuple[str, dict[str, tuple[list[int], list[Estimate]]]]:
    """Return `marginal` of named axes as `plots.interval_panels` draws them: (x label, {name: (levels, means)}).

    ValueError: a factor that does not exist.
    """
    found = {name: marginal(cells, axis, factor) for name, axis in lines.items()}
    return FACTORS[factor], {name: (list(means), list(means.values())) for name, means in found.items()}
