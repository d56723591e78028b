"""What methods gain over a baseline between disjoint groups of seeds, and what it costs: studies paired by group."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from husai import comparison, ensembles, frontier, health, metrics, nulls, pinning, stats, study
from husai.activations import Activations
from husai.config import TrainConfig, require
from husai.ensembles import METRIC, WORSE
from husai.evidence import Estimate
from husai.shards import in_memory
from husai.study import Study
from husai.tasks import generator

Point = tuple[Estimate, Estimate]
"""FVU and agreement."""


def against(
    outcomes: Mapping[str, Study], baseline: str = "tuned", truth: Float[Tensor, "atoms d_model"] | None = None
) -> dict[str, dict[str, Any]]:
    """Return every method's quality, agreement between groups and gain over the baseline.

    `agreement` is METRIC beside its null N2 and kappa_N2, `start` the one-to-one agreement of all latents before the
    first step. `gain` is the difference to the baseline, the jackknife leaving the same group out of both; `gain_N2`
    that of what goes beyond N2, `gain_unweighted` and `gain_shared` those of `hungarian_mcc` and `shared_fraction`. `p`
    is two-sided, `p_holm` over all methods; `clear` says that it is below 5 %. `fvu_ratio` is that of the means
    over groups and `p_fvu` that of TOST within WORSE - 1; `detectable` is the gain found with a power of 80 %. With the
    `truth`, `recovery` is GT-MCC and `recovery_gain` its difference. ValueError: no such baseline, unequal groups.
    """
    require(baseline in outcomes, "baseline", baseline, f"one of {list(outcomes)}")
    sizes = {len(one.seeds) for one in outcomes.values()}
    require(len(sizes) == 1, "outcomes", sorted(sizes), "the same groups for all methods")
    chance = {name: comparison.compare([one], "N2", METRIC) for name, one in outcomes.items()}
    rows = {name: _alone(one, chance[name], truth) for name, one in outcomes.items()}
    for name, one in outcomes.items():
        if name != baseline:
            beyond = stats.difference(chance[name].gaps[0], chance[baseline].gaps[0])
            rows[name] |= {**_paired(one, outcomes[baseline], truth), "gain_N2": by_group(beyond)}
    others = [name for name in outcomes if name != baseline]
    for name, p in zip(others, stats.holm([rows[name]["p"] for name in others]), strict=True):
        rows[name] |= {"p_holm": float(p), "clear": bool(p < 0.05)}
    return rows


def _alone(one: Study, null: comparison.Comparison, truth: Tensor | None) -> dict[str, Any]:
    start = stats.pairwise(metrics.pairwise_matrix(metrics.hungarian_mcc, one.at(one.steps[0]).decoders()))
    row: dict[str, Any] = {**one.quality, "sound": sound(one), "agreement": null.score, "N2": null.null_score}
    row |= {"kappa_N2": null.kappa, "start": start}
    if truth is not None:
        row["recovery"] = stats.mean(_recovered(one, truth))
    return {key: by_group(value) if isinstance(value, Estimate) else value for key, value in row.items()}


def _paired(one: Study, base: Study, truth: Tensor | None) -> dict[str, Any]:
    gain = by_group(stats.difference(one.scores(METRIC), base.scores(METRIC)))
    ratio = by_group(pinning.times(one.by_seed["fvu"], base.by_seed["fvu"]))
    shift = replace(ratio, value=ratio.value - 1, low=ratio.low - 1, high=ratio.high - 1)
    row: dict[str, Any] = {"gain": gain}
    for key, metric in (("gain_unweighted", "hungarian_mcc"), ("gain_shared", "shared_fraction")):
        row[key] = by_group(stats.difference(one.scores(metric), base.scores(metric)))
    row |= {"p": stats.p_value(gain), "detectable": stats.detectable(gain)}
    row |= {"fvu_ratio": ratio, "p_fvu": stats.tost(shift, WORSE - 1)}
    if truth is not None:
        row["recovery_gain"] = by_group(stats.difference(_recovered(one, truth), _recovered(base, truth)))
    return row


def sound(one: Study) -> bool:
    """Return whether SAEs reconstruct, live and have their L0, by `book/quality.toml`.

    The gates of the plateau are the baseline's alone: what starts from other SAEs, or is put together of them, has no
    random start to leave and no second half to compare with.
    """
    return all(health.passes(one.quality, one.config.sae.active, True).values())


def centroids(way: ensembles.Method, acts: Activations, seeds: Sequence[Sequence[int]]) -> Estimate:
    """Return the mean number of latents that a group agrees on, those of `ensembles.shared`."""
    return by_group(stats.mean([len(one.bias) for one in ensembles.shared(way, acts, seeds)]))


def by_group(estimate: Estimate) -> Estimate:
    """Return an estimate over groups with a method that says so."""
    method = estimate.method.removesuffix(", in this model").replace("seeds", "groups of seeds")
    return replace(estimate, method=f"{method}, in this model")


def _recovered(one: Study, truth: Tensor) -> list[float]:
    return [metrics.recovery(rows, truth) for rows in one.decoders]


def best(tables: Sequence[Mapping[str, Mapping[str, Any]]], baseline: str = "tuned") -> str:
    """Return the method whose smallest gain over several data sets is largest.

    Among those that pass their gates and whose FVU is at most WORSE times the baseline's, by the upper end of the
    interval, on every data set; if there is none, among all.
    """
    names = [name for name in tables[0] if name != baseline]
    fit = [n for n in names if all(t[n]["sound"] and t[n]["fvu_ratio"].high < WORSE for t in tables)]
    return max(fit or names, key=lambda name: min(table[name]["gain"].value for table in tables))


def point(one: Study) -> Point:
    """Return FVU and agreement of a study."""
    return by_group(one.quality["fvu"]), by_group(stats.pairwise(one.scores(METRIC)))


def principal(acts: Activations, k: int, seeds: Sequence[int]) -> Point:
    """Return FVU and agreement of k principal axes, each seed's from its own random half of the training rows.

    The anchor of what agrees without having found any feature; axes have no sign, and agree up to it.
    """
    x, mean, held_out = in_memory(acts.fit), acts.mean, acts.held_out
    axes = []
    for seed in seeds:
        order = torch.randperm(len(x), generator=generator(seed, "gains/halves"))
        axes.append(nulls.principal_axes(x[order[: len(x) // 2]], k))
    fvus = [metrics.fvu(held_out, mean + (held_out - mean) @ one.T @ one, mean) for one in axes]
    agreed = stats.pairwise(metrics.pairwise_matrix(metrics.hungarian_mcc, axes, signed=False))
    return by_group(stats.mean(fvus)), by_group(agreed)


def anchors(acts: Activations, config: TrainConfig, seeds: Sequence[int]) -> dict[str, list[Point]]:
    """Return what agreement alone is worth: principal axes, no more latents than are active, a decoder left alone."""
    tiny = replace(config, sae=replace(config.sae, d_sae=config.sae.active))
    tried = {"as few latents as k": tiny, "frozen decoder": replace(config, frozen="decoder")}
    found = study.run({name: (acts, one) for name, one in tried.items()}, seeds)
    axes = {"k principal axes": [principal(acts, config.sae.active, seeds)]}
    return axes | {name: [point(one)] for name, one in found.items()}


def swept(
    made: Mapping[str, Study],
    ways: Mapping[str, ensembles.Method],
    ks: Sequence[int],
    acts: Activations,
    seeds: Sequence[Sequence[int]],
) -> dict[str, list[Study]]:
    """Return each method's studies over rising k: those of `ensembles.grouped` at `ks`, and `made` at its own k.

    `made` has the same groups first, and is cut to them.
    """
    first = range(len(seeds))
    main = next(iter(ways.values())).config.sae.active
    found: dict[int, dict[str, Study]] = {
        main: {name: ensembles.picked([made[name]] * len(first), first) for name in ways}
    }
    for k in ks:
        at = {name: replace(way.config, sae=replace(way.config.sae, k=k)) for name, way in ways.items()}
        found[k] = ensembles.grouped({name: way._replace(config=at[name]) for name, way in ways.items()}, acts, seeds)
    return {name: [found[k][name] for k in sorted(found)] for name in ways}


def at_fvu(first: Sequence[Study], second: Sequence[Study], wanted: float) -> Estimate | str:
    """Return how much further one sweep over k agrees than a second at one FVU, or that they do not reach it."""
    a, b = (frontier.of(side, "fvu", METRIC) for side in (first, second))
    found = frontier.difference(a, b, wanted)
    return by_group(found) if found else "not reached by both"
