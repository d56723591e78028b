"""The seven cells of the matched-pair study: TopK SAEs on the residual stream of both models, several seeds of each.

The source trained one SAE a cell on one pair of models. Here the seed of the SAE and the seed of the model are two
random factors: every cell has all SAE seeds on all models.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from husai import recipes, stats, study
from husai.activations import Activations
from husai.config import TrainConfig, require
from husai.evidence import Estimate
from husai.formats import require_width
from husai.language import matched
from husai.language.gpt import GPTConfig, GPTs
from husai.language.matched import Texts
from husai.saes import SAEBatch
from husai.study import Study

Cell = tuple[str, int]
"""A style and a layer."""
CELLS: tuple[Cell, ...] = (*(("standard", layer) for layer in range(4)), *(("adhd", layer) for layer in range(1, 4)))
"""The published cells: the standard model's layers 0-3, the adhd model's 1-3."""
WIDE: tuple[Cell, ...] = (("standard", 3), ("adhd", 2))
"""The cells that are trained at the published expansion too."""
EXPANSION = 8
"""Published latents a dimension, 4096 for 512."""
GATES = {"explained variance": 0.85, "dead share": 0.02, "CE recovered": 0.9}
"""Written before the run. The first two are the source's; a latent is dead if no held-out token makes it fire."""
BATCH = 256
"""Texts of like length that are run at once."""


def hook(layer: int) -> str:
    """Return the site of a layer: the residual stream after it."""
    return f"blocks.{layer}.hook_resid_post"


def name(cell: Cell) -> str:
    """Return the published folder name of a cell."""
    return f"{cell[0]}_L{cell[1]}_hook_resid_post"


def recipe(d_sae: int, k: int, steps: int) -> TrainConfig:
    """Return the recipe that all cells share: TopK, until the dictionary stops moving."""
    return recipes.converged(d_sae, k, steps)


@lru_cache
def corpus(style: str, which: str, tokens: int, config: GPTConfig) -> Texts:
    """Return the first texts of a style that hold at least so many tokens; ValueError: as `matched.texts`."""
    require(tokens >= 1, "tokens", tokens, "at least one token")
    n, found = 64, matched.texts(style, which, 64, config)
    while (came := int(found.real.sum())) < tokens:
        n = math.ceil(1.05 * n * tokens / came)
        found = matched.texts(style, which, n, config)
    kept = int((found.real.sum(1).cumsum(0) < tokens).sum()) + 1
    return head(found, kept)


def head(texts: Texts, n: int) -> Texts:
    """Return the first n texts."""
    cut = {key: value[:n] for key, value in texts._asdict().items() if key != "style"}
    return texts._replace(**cut)


@torch.no_grad()
def residuals(model: GPTs, texts: Texts, layers: Sequence[int]) -> dict[int, Float[Tensor, "rows d_model"]]:
    """Return one model's residual stream after some layers, one row a real token, text after text.

    Row r is the r-th of `texts.real.nonzero()`; so `texts.before_onset[texts.real]` marks rows. Texts of like length
    run together, whatever else is asked for: the same model and texts give the same bytes. ValueError: several models.
    """
    require(len(model.seeds) == 1, "model", f"{len(model.seeds)} seeds", "one: model.select(i)")
    lengths = texts.real.sum(1)
    starts = lengths.cumsum(0) - lengths
    found = {layer: torch.empty(int(lengths.sum()), model.config.d_model) for layer in layers}
    wanted = {hook(layer): layer for layer in layers}
    for rows in lengths.argsort(stable=True).split(BATCH):
        longest = int(lengths[rows].max())
        real = texts.real[rows, :longest]
        place = (starts[rows, None] + torch.arange(longest))[real]

        def keep(at: str, value: Tensor, real: Tensor = real, place: Tensor = place) -> None:
            if at in wanted:
                found[wanted[at]][place] = value[0][real]

        model.logits(texts.tokens[rows, :longest], keep)
    return found


def activations(models: GPTs, layers: Sequence[int], fit: int, held_out: int) -> dict[int, list[Activations]]:
    """Return each layer's activations, one entry a model: `fit` tokens of the models' own corpus, and held-out texts.

    Held-out texts are of tasks whose names no model has seen; the SAEs' training rows come first.
    """
    parts = [corpus(models.style, *part, models.config) for part in (("training", fit), ("held_out", held_out))]
    training = torch.cat([torch.full((int(texts.real.sum()),), i == 0) for i, texts in enumerate(parts)])
    found: dict[int, list[Activations]] = {layer: [] for layer in layers}
    for i, seed in enumerate(models.seeds):
        sides = [residuals(models.select(i), texts, layers) for texts in parts]
        for layer in layers:
            values = torch.cat([side[layer] for side in sides])
            label = f"{models.style} model, seed {seed}, {hook(layer)}"
            found[layer].append(Activations(values, training, label))
    return found


def collect(
    models: Mapping[str, GPTs], fit: int, held_out: int, cells: Sequence[Cell] = CELLS
) -> dict[Cell, list[Activations]]:
    """Return the activations of every cell, one entry a model; `models` is {style: GPTs}."""
    found: dict[Cell, list[Activations]] = {}
    for style in dict.fromkeys(style for style, _ in cells):
        layers = [layer for there, layer in cells if there == style]
        by_layer = activations(models[style], layers, fit, held_out)
        found |= {(style, layer): by_layer[layer] for layer in layers}
    return {cell: found[cell] for cell in cells}


def train(
    data: Mapping[Cell, Sequence[Activations]], config: TrainConfig, seeds: Sequence[int]
) -> dict[Cell, list[Study]]:
    """Return the SAEs of every cell, {cell: one study a model}, trained or loaded: all SAE seeds on all models."""
    grid = {(cell, i): (acts, config) for cell, models in data.items() for i, acts in enumerate(models)}
    studies = study.run(grid, seeds)
    return {cell: [studies[cell, i] for i in range(len(models))] for cell, models in data.items()}


def null_arms(
    layer: int, data: Sequence[Activations], models: GPTs, fit: int, held_out: int
) -> dict[str, list[Activations]]:
    """Return what trained nulls of a cell learn from, one entry a model: N4 shuffles `data`, N5 has untrained models.

    N5 reads the same texts with models of the same shape that are still at initialisation, other draws than theirs.
    """
    untrained = matched.untrained(models.style, models.seeds, models.config)
    shuffled = [acts.shuffled(seed) for acts, seed in zip(data, models.seeds, strict=True)]
    fresh = activations(untrained, [layer], fit, held_out)[layer]
    return {"N4": shuffled, "N5": [acts._replace(name=f"untrained {acts.name}") for acts in fresh]}


@torch.no_grad()
def recovered(model: GPTs, texts: Texts, layer: int, saes: SAEBatch, mean: Float[Tensor, " d_model"]) -> list[float]:
    """Return, one an SAE, the share of cross-entropy that a model keeps when its residual stream is reconstructed.

    (H_mean - H_spliced) / (H_mean - H): H is the mean cross-entropy of every token after the first, H_mean that with
    the mean activation in place of all. 1 is perfect; below 0 is worse than no activation. ValueError: SAEs of
    another width.
    """
    require_width(saes, model.config.d_model, f"the {model.style} model")
    tokens = texts.tokens[:, : int(texts.real.sum(1).max())]
    targets = torch.where(tokens > 0, tokens, -100)[:, 1:]

    def entropy(put: Any = None) -> float:
        def replace(at: str, value: Tensor) -> Tensor | None:
            return put(value) if put is not None and at == hook(layer) else None

        logits = model.logits(tokens[:, :-1], replace)[0]
        return float(cross_entropy(logits.flatten(0, 1).double(), targets.flatten(), ignore_index=-100))

    clean, worst = entropy(), entropy(lambda value: mean.expand_as(value))
    spliced = [
        entropy(lambda value, one=saes[i]: one.reconstruct(value.flatten(0, 2)).reshape(value.shape))
        for i in range(len(saes))
    ]
    return [(worst - one) / (worst - clean) for one in spliced]


def quality(
    studies: Sequence[Study], models: GPTs, layer: int, texts: Texts
) -> dict[str, Float[np.ndarray, "models seeds"]]:
    """Return what the gates of one cell ask for, one number an SAE.

    Explained variance, L0, the share of latents that no held-out token makes fire (dead), and of those that at most one
    in a thousand does (rare); the share of cross-entropy recovered on `texts`.
    """
    parts = []
    for i, one in enumerate(studies):
        firing = one.firing
        parts.append({
            "explained variance": [1 - fvu for fvu in one.by_seed["fvu"]],
            "L0": one.by_seed["l0"],
            "dead share": (firing == 0).double().mean(1).tolist(),
            "rare share": (firing <= 1e-3).double().mean(1).tolist(),
            "CE recovered": recovered(models.select(i), texts, layer, one.saes, one.activations.mean),
        })  # fmt: skip
    return {key: np.array([part[key] for part in parts]) for key in parts[0]}


def passed(measured: Mapping[str, Float[np.ndarray, "models seeds"]]) -> dict[str, np.ndarray]:
    """Return which SAEs pass each of `GATES` [models, seeds]; what is not a number passes none."""
    return {gate: measured[gate] < limit if gate == "dead share" else measured[gate] >= limit
            for gate, limit in GATES.items()}  # fmt: skip


SHORT = {"explained variance": "fve", "L0": "l0", "dead share": "dead", "rare share": "rare", "CE recovered": "ce"}


def label(cell: Cell) -> str:
    """Return the short name of a cell, as adhd_L2."""
    return f"{cell[0]}_L{cell[1]}"


def estimates(measured: Mapping[Cell, Mapping[str, np.ndarray]]) -> dict[Cell, dict[str, Estimate]]:
    """Return every quantity of every cell, with its interval over models and SAE seeds, or one model's SAE seeds."""

    def over(table: np.ndarray) -> Estimate:
        if len(table) > 1:
            return stats.crossed(table).estimate
        found = stats.mean(table[0].tolist())
        return replace(found, method=f"{found.method}, in this model")

    return {cell: {key: over(table) for key, table in by_name.items()} for cell, by_name in measured.items()}


def worst(found: Iterable[Estimate], pick: Callable[[list[float]], float]) -> Estimate:
    """Return what holds of every one of some estimates: `pick` (min or max) of their values, and of each of their ends.

    So it lies above a threshold only if all do, and below one if any does (min; max is the other way round).
    """
    rows = list(found)
    value, low, high = (pick([getattr(one, end) for one in rows]) for end in ("value", "low", "high"))
    return Estimate(value, low, high, rows[0].n, rows[0].unit, f"{pick.__name__} of {len(rows)} cells' ends")


def summary(measured: Mapping[Cell, Mapping[str, np.ndarray]]) -> dict[str, Estimate | int | str]:
    """Return the estimates by name, the weakest cell's, and how many SAEs pass every gate.

    `adhd_L2_fve` and so on; `fve_least`, `dead_most` and `ce_least` are the `worst` of all cells, and `fve_least_cell`
    and so on the cell with the worst value.
    """
    by_cell = estimates(measured)
    found: dict[str, Any] = {
        f"{label(cell)}_{SHORT[key]}": value for cell, row in by_cell.items() for key, value in row.items()
    }
    picks: dict[str, tuple[str, Callable]] = {
        "fve_least": ("explained variance", min), "dead_most": ("dead share", max), "ce_least": ("CE recovered", min)
    }  # fmt: skip
    for least, (key, pick) in picks.items():
        values = {cell: row[key].value for cell, row in by_cell.items()}
        found[least] = worst((row[key] for row in by_cell.values()), pick)
        found[f"{least}_cell"] = label(pick(values, key=values.__getitem__))
    states = [np.stack(list(passed(by_name).values())).all(0) for by_name in measured.values()]
    found |= {"saes": sum(table.size for table in states), "passing": int(sum(table.sum() for table in states))}
    return found | {"passing_cells": sum(bool(table.all()) for table in states)}


def table(measured: Mapping[Cell, Mapping[str, np.ndarray]]) -> dict[str, dict[str, str]]:
    """Return the cells as rows of a table: estimates, SAEs that pass, and the gates that any SAE fails."""
    rows = {}
    for cell, row in estimates(measured).items():
        states = passed(measured[cell])
        whole = np.stack(list(states.values())).all(0)
        broken = [gate for gate, found in states.items() if not found.all()]
        gates = f"FAIL: {', '.join(broken)}" if broken else "pass"
        rows[label(cell)] = {key: str(value) for key, value in row.items()} | {
            "SAEs that pass": f"{whole.sum()} of {whole.size}", "gates": gates,
        }  # fmt: skip
    return rows


def house_failures(studies: Sequence[Study]) -> str:
    """Return which gates of `book/quality.toml` any model of a cell fails, each once; "none" when all pass."""
    return ", ".join(dict.fromkeys(part for one in studies for part in one.failures.split(", ") if part)) or "none"


def failing(measured: Mapping[Cell, Mapping[str, np.ndarray]]) -> list[str]:
    """Return every SAE that fails a gate, in words: cell, model, seed, gate and value."""
    return [
        f"{name(cell)}, model {model}, SAE seed {seed}: {gate} {by_gate[gate][model, seed]:.3f}"
        for cell, by_gate in measured.items()
        for gate, table in passed(by_gate).items()
        for model, seed in np.argwhere(~table)
    ]


def require_passed(measured: Mapping[Cell, Mapping[str, np.ndarray]]) -> None:
    """Raise ValueError that lists every SAE that fails a gate: a script that publishes ends with a non-zero status."""
    failed = failing(measured)
    wanted = ", ".join(f"{gate} {'<' if gate == 'dead share' else '>='} {at}" for gate, at in GATES.items())
    require(not failed, "measured", "; ".join(failed), wanted)
