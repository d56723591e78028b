"""Steering one feature: what a push along it does to the probability of a regulation step, beside random pushes.

A null result of steering says something only where a push of the same length along another direction, one that must
move the probability (`control`), does move it: every panel carries that control.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from husai.config import require
from husai.language.gpt import GPTs
from husai.language.matched import Texts, regulation_ids
from husai.pairs.edits import above, only, recorded, regulation
from husai.saes import ROWS, SAEBatch
from husai.similarity import unit_rows
from husai.tasks import generator

PANELS = ("add_in_adhd", "ablate_in_adhd", "add_in_standard", "dose_sweep")
"""The four panels of the source."""
MARGIN = 0.025
"""The published bound on the change of the probability."""


@dataclass(frozen=True)
class Bench:
    """One model's residual stream after one block on some texts, and the probability read of what it makes of them."""

    model: GPTs
    layer: int
    texts: Texts

    def __post_init__(self) -> None:
        only(self.model)

    @cached_property
    def x(self) -> Float[Tensor, "texts positions d_model"]:
        """The model's own activations at `blocks.<layer>.hook_resid_post`."""
        hook = f"blocks.{self.layer}.hook_resid_post"
        return recorded(self.model, self.texts.tokens, [hook])[hook]

    @cached_property
    def wanted(self) -> Bool[Tensor, " vocabulary"]:
        """The tokens that begin a regulation step."""
        return wanted(self.model)

    def logits(self, x: Float[Tensor, "texts positions d_model"]) -> Float[Tensor, "texts positions vocabulary"]:
        """Return what the model says with these activations in place of its own."""
        return above(self.model, self.layer, x)

    @cached_property
    def base(self) -> Float[Tensor, " texts"]:
        """Probability of a regulation step, per text, in the unchanged model."""
        return self.probability(self.x)

    @cached_property
    def control(self) -> Float[Tensor, " d_model"]:
        """The unembedding difference: mean of the wanted tokens' read-out directions less that of all others, unit.

        The logit of a token is <E_t * w, x> / rms(x), w the weight of the final norm: this push must raise theirs.
        """
        p = self.model.parameters
        rows = p["embed.W_E"][0] * p["ln_final.w"][0]
        return unit_rows((rows[self.wanted].mean(0) - rows[~self.wanted].mean(0))[None])[0]

    def probability(self, x: Float[Tensor, "texts positions d_model"]) -> Float[Tensor, " texts"]:
        """Return the probability, per text, with these activations: where first tokens of steps are predicted."""
        return regulation(self.logits(x), self.texts.before_onset, self.wanted)

    def push(
        self, amount: Float[Tensor, "texts positions"], directions: Float[Tensor, "n d_model"]
    ) -> Float[np.ndarray, "n texts"]:
        """Return the change of the probability when amount * d is added, one row a unit direction d."""
        moved = [self.probability(self.x + amount[..., None] * d) - self.base for d in unit_rows(directions)]
        return torch.stack(moved).double().numpy()


def wanted(model: GPTs) -> Bool[Tensor, " vocabulary"]:
    """Return which tokens begin a regulation step."""
    found = torch.zeros(model.config.vocabulary, dtype=torch.bool)
    found[list(regulation_ids(model.tokenizer))] = True
    return found


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


def random_directions(d_model: int, n: int, seed: int) -> Float[Tensor, "n d_model"]:
    """Return n random unit directions."""
    return unit_rows(torch.randn(n, d_model, generator=generator(seed, "steering/directions")))


def alike(
    rates: Float[Tensor, " d_sae"], rate: float, n: int, without: Sequence[int] = ()
) -> Int[Tensor, " n"]:
    """Return the n latents whose firing rates are nearest to one, on a log scale; none that is silent or `without`.

    ValueError: fewer than n of them.
    """
    usable = rates > 0
    usable[list(without)] = False
    require(int(usable.sum()) >= n, "n", n, f"at most {int(usable.sum())}, the other latents that fire")
    gap = (rates.clamp(min=1e-12).log() - np.log(max(rate, 1e-12))).abs().masked_fill(~usable, torch.inf)
    return gap.argsort(stable=True)[:n]


@torch.no_grad()
def latents(sae: SAEBatch, x: Float[Tensor, "texts positions d_model"]) -> Float[Tensor, "texts positions d_sae"]:
    """Return the latents of one SAE at every place of every text."""
    require(len(sae) == 1, "sae", f"{len(sae)} seeds", "one: `saes[index]`")
    rows = torch.cat([sae.encode(part)[0] for part in x.flatten(0, 1).split(ROWS)])
    return rows.unflatten(0, x.shape[:2])


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
    at = [float(fires[where].double().mean()) for where in (own.texts.onset, own.texts.before_onset)]
    return Steered(latent, unit, float(rates[latent]), *at, panels, sweep)


def benches(models: Mapping[str, GPTs], texts: Mapping[str, Texts], layer: int) -> list[dict[str, Bench]]:
    """Return one bench a style, {"standard": , "adhd": }, for every model seed.

    ValueError: styles with other seeds.
    """
    seeds = {style: one.seeds for style, one in models.items()}
    require(len(set(seeds.values())) == 1, "models", seeds, "the same seeds of both styles")
    count = len(next(iter(seeds.values())))
    return [{style: Bench(one.select(i), layer, texts[style]) for style, one in models.items()} for i in range(count)]


def chosen(pair: Mapping[str, Bench], sae: SAEBatch, smoothing: float = 0.5) -> int:
    """Return the feature of the source's rule: the largest smoothed ratio of firing rates at step onsets.

    ((f_adhd + s) / (n_adhd + 2 s)) / ((f_standard + s) / (n_standard + 2 s)), f of n onsets, each model on its own
    texts and both through the adhd SAE.
    """
    rates = []
    for style in ("adhd", "standard"):
        onset = pair[style].texts.onset
        fires = (latents(sae, pair[style].x[onset][None])[0] != 0).sum(0)
        rates.append((fires + smoothing) / (int(onset.sum()) + 2 * smoothing))
    return int((rates[0] / rates[1]).argmax())


def every(
    pairs: Sequence[Mapping[str, Bench]],
    saes: Sequence[SAEBatch],
    features: Sequence[Sequence[int]],
    doses: Sequence[float],
    draws: int = 8,
) -> list[list[Steered]]:
    """Return the four panels of every model (rows) and SAE seed (columns), each for a feature of its own."""
    return [
        [steer(pair, batch[j], latent, doses, draws=draws, seed=100 * i + j) for j, latent in enumerate(row)]
        for i, (pair, batch, row) in enumerate(zip(pairs, saes, features, strict=True))
    ]


def across(found: Sequence[Sequence[Steered]], name: str, field: str) -> Float[np.ndarray, "models seeds"]:
    """Return one field of one panel, one number a model and SAE seed."""
    return np.array([[getattr(one.panels[name], field) for one in row] for row in found])
