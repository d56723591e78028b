"""What a model does when the activation at its read-out is changed: splice an SAE in, ablate a latent, steer.

A `Site` is one model, one hook and some inputs; only the activation at the token where the answer is read changes, so
above the last attention a change is carried through the rest of the model without computing the sequence again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from husai import stats
from husai.activations import Activations
from husai.config import require
from husai.evidence import Estimate
from husai.models import Models
from husai.saes import ROWS, SAEBatch
from husai.shards import in_memory
from husai.similarity import unit_rows
from husai.tasks import generator, sequences


@dataclass(frozen=True)
class Site:
    """One model's activations at one hook and its read-out, on some inputs, and what the model makes of them."""

    model: Models
    """One model: its parameters have a leading dimension of 1."""
    hook: str
    tokens: Int[Tensor, "inputs positions"]
    answers: Int[Tensor, " inputs"]
    x: Float[Tensor, "inputs d_model"]
    """The activations of these inputs."""
    mean: Float[Tensor, " d_model"]
    """Mean activation of the training rows: what mean-ablation puts in."""
    sd: float
    """Standard deviation of the activations at the site, sqrt(E |x - mean|^2) over the training rows."""

    @cached_property
    def clean(self) -> Float[Tensor, "inputs vocabulary"]:
        """Logits of the unchanged model."""
        return self.logits(self.x)

    @torch.no_grad()
    def logits(
        self, x: Float[Tensor, "rows d_model"], at: Int[Tensor, " rows"] | None = None
    ) -> Float[Tensor, "rows vocabulary"]:
        """Return the logits with these activations in place of the model's: of all inputs, or of those `at`."""
        tokens = self.tokens if at is None else self.tokens[at]
        require(x.shape == (len(tokens), len(self.mean)), "x", tuple(x.shape), f"{(len(tokens), len(self.mean))}")
        p = {name: value[0] for name, value in self.model.parameters.items()}
        last = f"blocks.{self.model.config.n_layers - 1}."
        if self.hook == last + "hook_resid_mid":  # nothing but the last MLP and the unembedding lie above
            hidden = torch.relu(x @ p[last + "mlp.W_in"] + p[last + "mlp.b_in"])
            return (x + hidden @ p[last + "mlp.W_out"] + p[last + "mlp.b_out"]) @ p["unembed.W_U"]
        if self.hook == last + "hook_resid_post":
            return x @ p["unembed.W_U"]
        position = sequences(self.model.task).position

        def replace(name: str, value: Tensor) -> Tensor | None:
            return value.index_copy(2, torch.tensor([position]), x[None, :, None]) if name == self.hook else None

        return self.model.logits(tokens, hooks=replace)[0]

    def cross_entropy(self, logits: Float[Tensor, "inputs vocabulary"]) -> float:
        """Return the mean cross-entropy of the right answers."""
        return float(cross_entropy(logits.double(), self.answers))

    def accuracy(self, logits: Float[Tensor, "inputs vocabulary"]) -> float:
        """Return the share of right answers."""
        return float((logits.argmax(-1) == self.answers).double().mean())


def site(model: Models, acts: Activations, hook: str, rows: Int[Tensor, " inputs"] | None = None) -> Site:
    """Return where one model can be changed: its activations at a hook, on `rows`, the held-out inputs unless given.

    `acts` are those of `activations.collect` for this model and hook. ValueError: not one model, no rows, rows outside
    the task, activations of another model, hook or position.
    """
    require(len(model.seeds) == 1, "model", f"{len(model.seeds)} models", "one: `models.select(index)`")
    data, values = sequences(model.task), in_memory(acts.values)
    require(len(values) == len(data.tokens), "acts", f"{len(values)} rows", f"one an input, {len(data.tokens)}")
    rows = (~acts.training).nonzero()[:, 0] if rows is None else rows
    inside = len(rows) > 0 and 0 <= int(rows.min()) and int(rows.max()) < len(values)
    require(inside, "rows", f"{len(rows)} rows", f"at least one, all in 0..{len(values) - 1}; none may be held out")
    sd = float((values[acts.training] - acts.mean).double().square().sum(1).mean().sqrt())
    found = Site(model, hook, data.tokens[rows], data.answers[rows], values[rows], acts.mean, sd)
    own = torch.allclose(found.clean, model.logits(found.tokens)[0], rtol=1e-3, atol=1e-2)
    require(own, "acts", acts.name, f"the activations of this model at {hook}, where its answer is read")
    return found


def inputs(acts: Activations, n: int, held_out: bool = True) -> Int[Tensor, " n"]:
    """Return n random inputs (all, if there are fewer) that SAEs were not trained on, or that they were trained on."""
    require(n >= 1, "n", n, "at least one input")
    rows = (~acts.training if held_out else acts.training).nonzero()[:, 0]
    order = torch.randperm(len(rows), generator=generator(0, "interventions/inputs"))
    return rows[order[:n]].sort().values


def splice(site: Site, sae: SAEBatch) -> Float[Tensor, "inputs vocabulary"]:
    """Return the logits with the activation replaced by the SAE's reconstruction."""
    _one(sae, site)
    return site.logits(sae.reconstruct(site.x)[0])


class Ablation(NamedTuple):
    """What removing a latent does, at every input and latent where the latent fires."""

    latents: Int[Tensor, " pairs"]
    inputs: Int[Tensor, " pairs"]
    """Position of the input among the site's."""
    change: Float[Tensor, "pairs p"]
    """Change of the logits of the p possible answers."""

    def profile(self, latent: int, n: int) -> Float[Tensor, "n p"]:
        """Return the change at each of the site's n inputs: zero where the latent does not fire."""
        here = self.latents == latent
        return self.change.new_zeros(n, self.change.shape[1]).index_put((self.inputs[here],), self.change[here])


def ablate(site: Site, sae: SAEBatch, latents: Int[Tensor, " some"] | None = None) -> Ablation:
    """Return the effect of removing each latent where it fires, the reconstruction error left in: x - z_j d_j.

    x = x_hat + error, and x_hat - z_j d_j + error = x - z_j d_j: all but the latent stays as it was. `latents` are the
    ones to remove, all unless given; memory is that of one logit vector a firing.
    """
    p = site.model.task.p
    wanted = torch.arange(sae.config.d_sae) if latents is None else latents
    without = removals(site, _latents(site, sae)[:, wanted], sae.W_dec[0, wanted])
    found = [(wanted[column], at, (logits - site.clean[at])[:, :p]) for column, at, logits in without]
    return Ablation(*(torch.cat(parts) for parts in zip(*found, strict=True)))


class LatentEffects(NamedTuple):
    """How much each latent matters: means over the inputs on which it fires, zero if it fires on none."""

    rate: Float[Tensor, " d_sae"]
    """Share of the inputs on which it fires."""
    kl: Float[Tensor, " d_sae"]
    """KL divergence, in nats, of the answers without it from those of the unchanged model."""
    cross_entropy: Float[Tensor, " d_sae"]
    """Rise of the cross-entropy of the right answer without it."""

    @property
    def importance(self) -> Float[Tensor, " d_sae"]:
        """Rise of the cross-entropy over all inputs: rate times the rise where it fires."""
        return self.rate * self.cross_entropy


def removals(
    site: Site, z: Float[Tensor, "inputs n"], rows: Float[Tensor, "n d_model"]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield columns, inputs and the logits of x - z_j d_j there, wherever z is not 0, some at a time."""
    for at, column in (part.T for part in (z != 0).nonzero().split(ROWS)):
        yield column, at, site.logits(site.x[at] - z[at, column, None] * rows[column], at)


def latent_effects(site: Site, sae: SAEBatch) -> LatentEffects:
    """Return what `ablate` does to the answers, latent by latent."""
    sums = torch.zeros(3, sae.config.d_sae, dtype=torch.float64)
    clean = site.clean.double().log_softmax(-1)
    for latent, at, logits in removals(site, _latents(site, sae), sae.W_dec[0]):
        without, before = logits.double().log_softmax(-1), clean[at]
        rise = (before - without).gather(1, site.answers[at, None])[:, 0]
        kl = (before.exp() * (before - without)).sum(1)
        for row, values in zip(sums, (torch.ones_like(rise), kl, rise), strict=True):
            row.index_add_(0, latent, values)
    counts = sums[0].clamp(min=1)
    return LatentEffects(*((row / n).float() for row, n in zip(sums, (len(site.x), counts, counts), strict=True)))


def steer(site: Site, directions: Float[Tensor, "n d_model"], dose: float) -> Float[Tensor, "n inputs p"]:
    """Return the change of the answers' logits when dose * sd * d is added, d the unit vector of each direction.

    `sd` is the site's, so that a dose of 1 is as far as an activation lies from the mean. ValueError: a direction of
    length 0, another d_model.
    """
    fits = directions.ndim == 2 and directions.shape[1] == site.x.shape[1]
    require(fits, "directions", tuple(directions.shape), f"[n, {site.x.shape[1]}]")
    require(bool((directions != 0).any(1).all()), "directions", "a row of zeros", "rows that have a direction")
    moves = dose * site.sd * unit_rows(directions)
    n, p = len(site.x), site.model.task.p
    parts = [(part[:, None] + site.x).flatten(0, 1) for part in moves.split(max(1, ROWS // n))]
    logits = torch.cat([site.logits(x, torch.arange(len(x)) % n)[:, :p] for x in parts])
    return logits.unflatten(0, (len(moves), n)) - site.clean[:, :p]


@dataclass(frozen=True)
class Faithfulness:
    """How much of what the model knows survives when each SAE stands in for the activation: one value an SAE seed."""

    seeds: tuple[int, ...]
    accuracy: tuple[float, ...]
    """Share of right answers with the reconstruction spliced in."""
    cross_entropy: tuple[float, ...]
    recovered_zero: tuple[float, ...]
    """(CE_ablate - CE_sae) / (CE_ablate - CE_clean), the ablated activation being zero."""
    recovered_mean: tuple[float, ...]
    """The same with the mean activation, the harder reference."""
    reference: dict[str, float]
    """Accuracy and cross-entropy of the model itself, and of zero- and mean-ablation."""

    @property
    def estimates(self) -> dict[str, Estimate]:
        """Means over SAE seeds with their intervals."""
        keys = ("accuracy", "cross_entropy", "recovered_zero", "recovered_mean")
        return {key: stats.mean(list(getattr(self, key))) for key in keys}


def faithfulness(site: Site, saes: SAEBatch) -> Faithfulness:
    """Return what answering through each SAE's reconstruction keeps of the model's accuracy and cross-entropy.

    ValueError: an SAE that does not fit the site, or a site whose removal does not change the cross-entropy.
    """
    spliced = [splice(site, saes[index]) for index in range(len(saes))]
    entropy, levels = [site.cross_entropy(logits) for logits in spliced], _levels(site)
    recovered = {what: tuple(_recovered(levels, what, one) for one in entropy) for what in ("zero", "mean")}
    accuracy = tuple(map(site.accuracy, spliced))
    return Faithfulness(saes.seeds, accuracy, tuple(entropy), recovered["zero"], recovered["mean"], levels)


class Curves(NamedTuple):
    """What the n most important latents are worth, one row an SAE seed, one column a count n."""

    counts: tuple[int, ...]
    sufficient: Float[Tensor, "seeds counts"]
    """Cross-entropy recovered, against mean-ablation, by those n latents and the decoder bias alone."""
    necessary: Float[Tensor, "seeds counts"]
    """Cross-entropy recovered with those n latents removed and everything else, the error too, left in."""
    sufficient_accuracy: Float[Tensor, "seeds counts"]
    necessary_accuracy: Float[Tensor, "seeds counts"]

    def estimates(self, which: str) -> list[Estimate]:
        """Return one field, a mean over SAE seeds with its interval at every count."""
        return [stats.mean(column.tolist()) for column in getattr(self, which).T]


def causal_order(site: Site, saes: SAEBatch) -> Int[Tensor, "seeds d_sae"]:
    """Return each SAE's latents, the most important first, by the cross-entropy that removing them alone costs."""
    effects = [latent_effects(site, saes[index]).importance for index in range(len(saes))]
    return torch.stack([one.argsort(descending=True, stable=True) for one in effects])


def curves(site: Site, saes: SAEBatch, order: Int[Tensor, "seeds d_sae"], counts: Sequence[int]) -> Curves:
    """Return what the first n latents of an order suffice for, and what is left without them.

    `order` comes from `causal_order` on other inputs, lest the ranking profit from the noise that it is judged on.
    ValueError: an order of other SAEs, counts outside 0..d_sae.
    """
    shape = (len(saes), saes.config.d_sae)
    require(order.shape == shape, "order", tuple(order.shape), f"{shape}, one row an SAE")
    require(bool(counts) and {*counts} <= {*range(shape[1] + 1)}, "counts", list(counts), f"numbers in 0..{shape[1]}")
    levels, found = _levels(site), torch.zeros(4, len(saes), len(counts))
    for index in range(len(saes)):
        sae = saes[index]
        z = _latents(site, sae)
        for column, n in enumerate(counts):
            kept = torch.zeros_like(z).index_copy(1, order[index, :n], z[:, order[index, :n]]) @ sae.W_dec[0]
            for side, x in enumerate((kept + sae.b_dec[0], site.x - kept)):
                logits = site.logits(x)
                found[side, index, column] = _recovered(levels, "mean", site.cross_entropy(logits))
                found[2 + side, index, column] = site.accuracy(logits)
    return Curves(tuple(counts), *found)


def _one(sae: SAEBatch, site: Site) -> None:
    """Refuse what is not one SAE of the activations at the site."""
    require(len(sae) == 1, "sae", f"{len(sae)} seeds", "one: `saes[index]`")
    plain = sae.config.layers == 1 and not sae.config.transcoder
    require(plain, "sae", sae.config.architecture, "an autoencoder of one layer")
    require(sae.W_dec.shape[2] == site.x.shape[1], "sae: d_model", sae.W_dec.shape[2], f"{site.x.shape[1]}")


def _latents(site: Site, sae: SAEBatch) -> Float[Tensor, "inputs d_sae"]:
    _one(sae, site)
    return torch.cat([sae.encode(part)[0] for part in site.x.split(ROWS)])


def _levels(site: Site) -> dict[str, float]:
    """Return accuracy and cross-entropy of the unchanged model, and of the two ablations of the whole activation."""
    swaps = {"clean": site.x, "zero": torch.zeros_like(site.x), "mean": site.mean.expand_as(site.x)}
    found = {name: site.logits(x) for name, x in swaps.items()}
    levels = {f"{name}_cross_entropy": site.cross_entropy(logits) for name, logits in found.items()}
    for what in ("zero", "mean"):
        gap = levels[f"{what}_cross_entropy"] - levels["clean_cross_entropy"]
        require(abs(gap) > 1e-9, "site", f"{what}-ablation changes nothing", "a place that the answer depends on")
    return levels | {f"{name}_accuracy": site.accuracy(logits) for name, logits in found.items()}


def _recovered(levels: dict[str, float], what: str, entropy: float) -> float:
    """Return (CE_ablate - CE) / (CE_ablate - CE_clean)."""
    ablated, clean = (levels[f"{name}_cross_entropy"] for name in (what, "clean"))
    return (ablated - entropy) / (ablated - clean)
