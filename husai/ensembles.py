"""One SAE out of a group of seeds: methods of equal total compute, and what each gains between disjoint groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch

from husai import activations, centroids, saes, study
from husai.activations import Activations
from husai.config import Objective, TrainConfig, require
from husai.recipes import converged
from husai.saes import SAEBatch
from husai.shards import in_memory
from husai.study import Study

METRIC = "frequency_weighted_hungarian"
"""The primary endpoint: raw, signed, over alive latents, between groups."""
PULL = Objective("consensus", weight=0.1, fade=0.5, every=8)
"""How a retrained SAE is held near the centroids: T3's weight, gone after half of the steps."""
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
        starts = [centroids.filled(centroids.none(x), way.config, x.mean(0), x, group[0]) for group in seeds]
        return _retrained(way.config, Objective("consensus"), acts, starts, [group[0] for group in seeds])
    parts = _members(way, acts, seeds, members)
    if way.how == "best":
        return best_of(parts)
    agreed = _agreed(way, parts)
    starts = []
    for index, (latents, group) in enumerate(zip(agreed, seeds, strict=True)):
        centre = torch.stack([part.saes.b_dec[index] for part in parts]).mean(0)
        starts.append(centroids.filled(latents, way.config, centre, x, group[-1]))
    if way.how == "consensus":
        rows = min(way.config.sae.d_sae // 2, *(len(latents.bias) for latents in agreed))
        pull = replace(PULL, rows=rows) if rows else Objective("consensus")
        return _retrained(replace(way.config, k_start=1.0), pull, acts, starts, [group[-1] for group in seeds])
    made = saes.stack(starts)
    return Outcome(acts, parts[0].config, made.seeds, parts[0].folder, made={way.config.steps: made})


def shared(way: Method, acts: Activations, seeds: Sequence[Sequence[int]]) -> list[centroids.Latents]:
    """Return the centroids from which each group makes its SAE; a consensus holds the first ones while it retrains.

    It holds half as many as there are latents, or as few as the group with the fewest has: centroids alone.
    """
    return _agreed(way, _members(way, acts, seeds, {}))


def _agreed(way: Method, parts: Sequence[Study]) -> list[centroids.Latents]:
    root = parts[0].activations.root
    tau = centroids.thresholds(root, way.config.sae.d_sae)
    places = range(len(parts[0].seeds))
    batches = [saes.stack([part.saes[index] for part in parts]) for index in places]
    rates = [torch.stack([part.fitted[1][index] for part in parts]) for index in places]
    return [centroids.of(batch, rate, root, *tau) for batch, rate in zip(batches, rates, strict=True)]


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
