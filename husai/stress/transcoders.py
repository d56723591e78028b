"""Transcoders as studies: MLP input to MLP output, beside SAEs of the output (one space) and of the input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from husai import activations, artifacts, comparison, contrasts, saes, stats, study, training
from husai.activations import Activations
from husai.config import TrainConfig, require
from husai.evidence import Estimate
from husai.models import Models
from husai.recipes import published
from husai.stress.sweeps import published_bound
from husai.study import Study


@dataclass(frozen=True)
class TranscoderStudy(Study):
    """Transcoders of one condition on one model; `activations` are their targets, the space of their decoder rows."""

    inputs: Activations | None = None
    """What they read, row by row, with the split of the targets."""

    @property
    def read(self) -> Tensor:
        """Held-out inputs."""
        require(self.inputs is not None, "inputs", None, "the activations that a transcoder reads")
        return self.inputs.held_out  # type: ignore[union-attr]

    @cached_property
    def firing(self) -> Tensor:
        """Firing rate of every latent on held-out inputs [seeds, d_sae]."""
        return self.saes.firing(self.read)

    @cached_property
    def by_seed(self) -> dict[str, list[float]]:
        """FVU of the targets, L0 and alive share of every seed, on held-out inputs."""
        rows = self.saes.quality(self.read, self.activations.mean, self.activations.held_out)
        return {key: [row[key] for row in rows] for key in rows[0]}

    def codes(self, keep: Bool[Tensor, "seeds d_sae"]) -> list[Tensor]:
        """Return every seed's kept latents on held-out inputs."""
        return [self.saes[i].encode(self.read)[0][:, kept] for i, kept in enumerate(keep)]


def run(
    inputs: Activations, targets: Activations, config: TrainConfig, seeds: Sequence[int], at: Sequence[int] = ()
) -> TranscoderStudy:
    """Return the transcoders of a recipe, training them if the store has none; `config` is made one of a transcoder.

    Checkpoints are kept at the start, half-way, at the end and at the steps `at`. ValueError: fewer than 3 seeds, rows
    or a split that differ, a k that is "auto".
    """
    require(len(seeds) >= 3, "seeds", list(seeds), "at least 3 seeds, because every score carries an interval")
    same = inputs.training.shape == targets.training.shape and bool((inputs.training == targets.training).all())
    require(same, "targets", "another split", "the rows and the split of inputs")
    config = replace(config, sae=replace(config.sae, transcoder=True))
    keep = sorted({0, config.steps // 2, config.steps, *at})

    def build(folder: Path) -> None:
        artifacts.clear(folder)
        made = training.train(inputs.fit, config, seeds, targets=targets.fit, keep=keep, log_path=folder / "log.jsonl")
        for step, batch in made.checkpoints.items():
            saes.save(batch, folder / f"step_{step}")

    hashes = [artifacts.content_hash(inputs.fit), artifacts.content_hash(targets.fit)]
    folder = artifacts.stored("saes", [config, list(seeds), keep], build, modules=study.MODULES, inputs=hashes)
    return TranscoderStudy(targets, config, tuple(seeds), folder, inputs=inputs)


def sites(models: Models, layer: int) -> list[tuple[Activations, Activations]]:
    """Return what the MLP of a block reads and what it writes, (inputs, targets), one entry a model."""
    both = [activations.collect(models, f"blocks.{layer}.hook_{name}") for name in ("resid_mid", "mlp_out")]
    return list(zip(*both, strict=True))


class Cell(NamedTuple):
    """One cell of the published sweep, and what is made of it here."""

    transcoder: Study
    sae: Study
    """Of the inputs, as the sources compared: its decoder rows lie in another space."""
    delta: Estimate
    """Score of the transcoder less that of the SAE, all latents; paired over seeds."""
    bound: float
    """The sources' lower bound of it, from the first three seeds."""
    beyond: Estimate
    """The same difference, each score less that of random rows with the covariance of its own space (N2)."""


def sweep(
    inputs: Activations,
    targets: Activations,
    widths: Sequence[int],
    ks: Sequence[int],
    rates: Sequence[float],
    epochs: Sequence[int],
    seeds: Sequence[int],
    batch: int = 512,
) -> dict[str, Cell]:
    """Return the published sweep by the published recipe: transcoders beside SAEs of their inputs, all latents.

    The rate is constant, so a run of fewer epochs is the beginning of a longer one: each is trained once. Cells are
    named "width/k/epochs/rate".
    """
    steps = {epoch: epoch * max(1, round(len(inputs.fit) / batch)) for epoch in epochs}
    last, halves = max(steps.values()), [step // 2 for step in steps.values()]
    at, cells = sorted({*steps.values(), *halves} - {last}), {}
    for d_sae, k, rate in ((d, k, rate) for d in widths for k in ks for rate in rates):
        config = replace(published(d_sae, k), steps=last, batch_size=min(batch, len(inputs.fit)), lr=rate)
        long = run(inputs, targets, config, seeds, at)
        plain = study.run({"": (inputs, config)}, seeds, at=at)[""]
        for epoch, step in steps.items():
            cells[f"{d_sae}/{k}/{epoch}/{rate:g}"] = _cell(long.stopped(step), plain.stopped(step))
    return cells


def _cell(transcoder: Study, sae: Study) -> Cell:
    first, second = (one.scores("mean_max_cosine", "all") for one in (transcoder, sae))
    own = [comparison.compare([one], "N2", latents="all") for one in (transcoder, sae)]
    delta = stats.difference(first, second)
    return Cell(transcoder, sae, delta, published_bound(first, second), contrasts.difference(*own))


def corrected(cells: Mapping[str, Cell]) -> dict[str, float]:
    """Return Holm's adjusted two-sided p of every cell's difference beyond its own null."""
    p = [stats.p_value(cell.beyond) for cell in cells.values()]
    return dict(zip(cells, stats.holm(p).tolist(), strict=True))


def summary(cells: Mapping[str, Cell]) -> dict[str, Estimate | float | int | str]:
    """Return what the sources would report of a sweep, and what is left of it.

    `best`, `best_delta` and `best_bound`: the cell with the largest difference; `positive`, `bounds`: cells whose
    difference, or whose bound, is above 0; `more` and `fewer`: cells in which transcoders agree more, or less, than
    the SAEs do beyond their own nulls, at p < .05 after Holm's correction.
    """
    best = max(cells, key=lambda name: cells[name].delta.value)
    p, sign = np.array([*corrected(cells).values()]), np.array([cell.beyond.value for cell in cells.values()])
    return {
        "best": best,
        "best_delta": cells[best].delta,
        "best_bound": cells[best].bound,
        "positive": sum(cell.delta.value > 0 for cell in cells.values()),
        "bounds": sum(cell.bound > 0 for cell in cells.values()),
        "more": int(((p < 0.05) & (sign > 0)).sum()),
        "fewer": int(((p < 0.05) & (sign < 0)).sum()),
        "cells": len(cells),
    }


def in_one_space(
    places: Sequence[tuple[Activations, Activations]], config: TrainConfig, seeds: Sequence[int]
) -> tuple[list[TranscoderStudy], list[Study]]:
    """Return transcoders and SAEs of their targets by one recipe, one entry a model: decoder rows in one space.

    k is chosen on the first model's targets, where it is "auto", and is one for both.
    """
    config = study.resolved(places[0][1], config, seeds)
    plain = study.run({i: (targets, config) for i, (_, targets) in enumerate(places)}, seeds)
    made = [run(inputs, targets, config, seeds) for inputs, targets in places]
    return made, [plain[i] for i in range(len(places))]
