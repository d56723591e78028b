"""Steering one feature: what a push along it does to the probability of a regulation step, beside random pushes.

A null result of steering says something only where a push of the same length along another direction, one that must
move the probability (`control`), does move it: every panel carries that control.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from husai import progress, stats
from husai.config import require
from husai.evidence import Estimate
from husai.language.gpt import GPTs
from husai.language.matched import Texts
from husai.pairs import cells, diff
from husai.pairs.bench import Bench, latents, random_directions
from husai.pairs.edits import reads
from husai.saes import SAEBatch

PANELS = ("add_in_adhd", "ablate_in_adhd", "add_in_standard", "dose_sweep")
"""The four panels of the source."""
MARGIN = 0.025
"""The published bound on the change of the probability."""


class Panel(NamedTuple):
    """What one intervention changes, in probability: means over texts of one model."""

    delta: float
    """Change under the intervention."""
    null: float
    """Mean change under pushes of the same length, at the same places, along random directions."""
    null_sd: float
    """Standard deviation over random directions of their mean change."""
    features: float
    """Mean change under the same pushes along other features that fire about as often."""
    difference: float
    """delta - null."""
    sem: float
    """Standard error of the difference over texts, paired."""
    control: float
    """Change under the same push along the unembedding difference: the positive control."""

    def inert(self, margin: float = MARGIN) -> bool:
        """Return the published verdict: the difference lies within the margin and below two standard errors."""
        return bool(abs(self.difference) <= margin and abs(self.difference) < 2 * self.sem)


def panel(
    bench: Bench,
    amount: Float[Tensor, "texts positions"],
    direction: Float[Tensor, " d_model"],
    random: Float[Tensor, "n d_model"],
    features: Float[Tensor, "m d_model"],
) -> Panel:
    """Return what a push along a direction does, beside random directions, other features and the positive control.

    `amount` [texts, positions] is the signed length of the push at every place. ValueError: fewer than 2 texts.
    """
    texts = len(amount)
    require(texts >= 2, "texts", texts, "two or more, for a standard error")
    effects = bench.push(amount, torch.cat([direction[None], bench.control[None], random, features]))
    own, moved, drawn, others = effects[0], effects[1], effects[2 : 2 + len(random)], effects[2 + len(random) :]
    gap = own - drawn.mean(0)
    return Panel(
        float(own.mean()), float(drawn.mean()), float(drawn.mean(1).std(ddof=1)), float(others.mean()),
        float(gap.mean()), float(gap.std(ddof=1) / np.sqrt(texts)), float(moved.mean()),
    )  # fmt: skip


def alike(rates: Float[Tensor, " d_sae"], rate: float, n: int, without: Sequence[int] = ()) -> Int[Tensor, " n"]:
    """Return the n latents whose firing rates are nearest to one, on a log scale; none that is silent or `without`.

    ValueError: fewer than n of them.
    """
    usable = rates > 0
    usable[list(without)] = False
    require(int(usable.sum()) >= n, "n", n, f"at most {int(usable.sum())}, the other latents that fire")
    gap = (rates.clamp(min=1e-12).log() - np.log(max(rate, 1e-12))).abs().masked_fill(~usable, torch.inf)
    return gap.argsort(stable=True)[:n]


class Steered(NamedTuple):
    """The four panels of one feature of one SAE of one model, and the dose sweep behind the last of them."""

    latent: int
    unit: float
    """Mean activation of the feature where it fires: a dose of 1."""
    rate: float
    """Share of the tokens on which it fires."""
    rate_onset: float
    """Share of first tokens of steps on which it fires."""
    rate_before: float
    """Share of the places where first tokens of steps are predicted, at which it fires."""
    panels: dict[str, Panel]
    """One a name of `PANELS`."""
    sweep: dict[float, Panel]
    """One a dose."""

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        panels = {name: {**one._asdict(), "inert": one.inert()} for name, one in self.panels.items()}
        sweep = [{"dose": dose, **one._asdict(), "inert": one.inert()} for dose, one in self.sweep.items()]
        rates = {"rate": self.rate, "rate_onset": self.rate_onset, "rate_before": self.rate_before}
        return {"latent": self.latent, "unit": self.unit, **rates, "panels": panels, "sweep": sweep}


def steer(
    benches: Mapping[str, Bench],
    sae: SAEBatch,
    latent: int,
    doses: Sequence[float],
    *,
    draws: int = 8,
    seed: int = 0,
) -> Steered:
    """Return the four panels of one feature: `benches` of "adhd", whose SAE it is, and of "standard".

    A dose of 1 adds the feature's mean activation where it fires, on every token of a text; the panels that add use the
    middle dose, the sweep is judged at the largest. Ablation takes z_f d_f away where the feature fires.
    ValueError: fewer than two doses, not rising; a feature that never fires on these texts.
    """
    require(len(doses) >= 2 and sorted(doses) == list(doses), "doses", list(doses), "two or more, rising")
    own = benches["adhd"]
    z = latents(sae, own.x).masked_fill(~own.texts.real[..., None], 0)
    count = (z != 0).sum((0, 1))
    require(int(count[latent]) > 0, "latent", latent, "a feature that fires on these texts")
    unit = float(z[..., latent].sum() / count[latent])
    rates = count / own.texts.real.sum()
    rows = sae.W_dec[0]
    random = random_directions(rows.shape[1], draws, seed)
    others = rows[alike(rates, float(rates[latent]), draws, [latent])]

    def pushed(name: str, amount: Tensor) -> Panel:
        return panel(benches[name], amount, rows[latent], random, others)

    length = unit * float(rows[latent].norm())
    sweep = {float(dose): pushed("adhd", dose * length * own.texts.real) for dose in doses}
    middle = float(doses[len(doses) // 2])
    panels = {
        "add_in_adhd": sweep[middle],
        "ablate_in_adhd": pushed("adhd", -z[..., latent] * rows[latent].norm()),
        "add_in_standard": pushed("standard", middle * length * benches["standard"].texts.real),
        "dose_sweep": sweep[float(doses[-1])],
    }
    fires = z[..., latent] != 0
    onset, before = (float(fires[where].double().mean()) for where in (own.texts.onset, reads(own.texts)))
    return Steered(latent, unit, float(rates[latent]), onset, before, panels, sweep)


def choices(
    models: Mapping[str, GPTs], texts: Mapping[str, Texts], saes: Sequence[SAEBatch], layer: int
) -> list[list[int]]:
    """Return the feature of the source's rule for every model (rows) and SAE seed (columns).

    That of the largest smoothed ratio of firing rates where steps begin, each model on its own texts, both through the
    adhd SAE (`diff.contrast`): on the texts of the feature diff it is the same latent that the diff puts first.
    """
    at = {style: diff.onsets(texts[style]) for style in models}
    found = []
    for i, batch in enumerate(saes):
        x = {}
        for style, where in at.items():
            rows = cells.residuals(models[style].select(i), where.texts, [layer])[layer]
            x[style] = rows[reads(where.texts)[where.texts.real]]

        def chosen(sae: SAEBatch, x: Mapping[str, Tensor] = x) -> int:
            here, there = (sae.encode(x[style])[0] != 0 for style in ("adhd", "standard"))
            return diff.contrast(here, at["adhd"].document, there, at["standard"].document).chosen

        found.append([chosen(batch[j]) for j in range(len(batch))])
    return found


def every(
    pairs: Sequence[Mapping[str, Bench]],
    saes: Sequence[SAEBatch],
    features: Sequence[Sequence[int]],
    doses: Sequence[float],
    draws: int = 8,
) -> list[list[Steered]]:
    """Return the four panels of every model (rows) and SAE seed (columns), each for a feature of its own."""
    sides = list(zip(pairs, saes, features, strict=True))
    return [
        [steer(pair, batch[j], latent, doses, draws=draws, seed=100 * i + j) for j, latent in enumerate(row)]
        for i, (pair, batch, row) in enumerate(progress.each(sides, "model"))
    ]


def across(found: Sequence[Sequence[Steered]], name: str, field: str, dose: float | None = None) -> Estimate:
    """Return one field of one panel, or of one dose of the sweep, over models and SAE seeds.

    ValueError: fewer than 3 models or 3 SAE seeds.
    """
    panels = [[one.panels[name] if dose is None else one.sweep[dose] for one in row] for row in found]
    return stats.crossed([[getattr(one, field) for one in row] for row in panels]).estimate


def summary(found: Sequence[Sequence[Steered]], margin: float = MARGIN) -> dict[str, Estimate | bool | float]:
    """Return the four panels over models and SAE seeds: change, nulls, control, what is beyond the null, its TOST p.

    `control_<panel>` says whether the control's change, less that of the random pushes, lies beyond the margin with its
    whole interval: only then is a change within the margin a finding. `inert` is the share of SAEs with the published
    verdict in all four panels.
    """
    values: dict[str, Estimate | bool | float] = {}
    for name in PANELS:
        names = {"delta": "delta", "null": "null", "features": "features", "difference": "beyond", "control": "moved"}
        values |= {f"{label}_{name}": across(found, name, field) for field, label in names.items()}
        beyond, panels = values[f"beyond_{name}"], [[one.panels[name] for one in row] for row in found]
        moved = stats.crossed([[one.control - one.null for one in row] for row in panels]).estimate
        values[f"control_beyond_{name}"] = moved
        values[f"control_{name}"] = moved.low > margin or moved.high < -margin
        if isinstance(beyond, Estimate) and beyond.high > beyond.low:
            values[f"tost_{name}"] = stats.tost(beyond, margin, min(len(found), len(found[0])) - 1.0)
    values["control_effect"] = across(found, "add_in_adhd", "control")
    said = [[one.inert(margin) for one in steered.panels.values()] for row in found for steered in row]
    values["inert"] = float(np.mean([all(panels) for panels in said]))
    for field in ("rate", "rate_onset", "rate_before"):
        values[f"feature_{field}"] = stats.crossed([[getattr(one, field) for one in row] for row in found]).estimate
    return values


def artifact(found: Sequence[Sequence[Steered]], seeds: Sequence[int], hook: str) -> dict[str, Any]:
    """Return what `deepdive_steering.json` holds; `feature` is that of the first SAE of the first model."""
    doses = list(found[0][0].sweep)
    at = dict.fromkeys(PANELS, doses[len(doses) // 2]) | {"ablate_in_adhd": -1.0, "dose_sweep": doses[-1]}
    panels = []
    for name in PANELS:
        rows = [
            {"model_seed": seed, "sae": j, "latent": one.latent, "dose": at[name], "effect": one.panels[name].delta,
             "null": one.panels[name].null, "sem": one.panels[name].sem, "control": one.panels[name].control}
            for seed, row in zip(seeds, found, strict=True) for j, one in enumerate(row)
        ]  # fmt: skip
        fields = {"effect": "delta", "null": "null", "difference": "difference"}
        panels.append({"panel": name, "rows": rows, **{key: across(found, name, f) for key, f in fields.items()}})
    control = {key: across(found, "add_in_adhd", field) for key, field in (("effect", "control"), ("null", "null"))}
    return {
        "site": {"style": "adhd", "model_seed": seeds[0], "hook": hook}, "feature": found[0][0].latent,
        "metric": "P(regulation) where a step begins", "panels": panels, "margin": MARGIN,
        "positive_control": {"direction": "unembedding difference of regulation tokens", **control},
        "every": [[one.as_dict() for one in row] for row in found],
    }  # fmt: skip
