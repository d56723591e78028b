"""Three probes of step onsets: can they be read off, does removing what is read matter there, does it carry over."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.metrics import roc_auc_score
from torch import Tensor

from husai import stats
from husai.config import require
from husai.evidence import Estimate
from husai.pairs.bench import Bench, latents, random_directions
from husai.pairs.edits import reads
from husai.saes import SAEBatch
from husai.tasks import generator

RIDGE = 1e-2
"""Penalty of the linear probe, in units of the number of rows."""


def readable(
    x: Float[Tensor, "texts positions d"],
    label: Bool[Tensor, "texts positions"],
    real: Bool[Tensor, "texts positions"],
    *,
    shuffled: int | None = None,
) -> float:
    """Return the held-out AUC of a linear probe (ridge, standardised inputs) for a label of tokens.

    Fitted on the first half of the texts, judged on the second; the first token of a text, which nothing stands before,
    is left out. `shuffled` is the seed of the control task: the labels of the fitted half are permuted.
    ValueError: a half without both labels.
    """
    keep = real.clone()
    keep[:, 0] = False
    half = len(x) // 2
    parts = [(x[rows][keep[rows]].double(), label[rows][keep[rows]]) for rows in (slice(half), slice(half, None))]
    for name, (_, y) in zip(("first", "second"), parts, strict=True):
        require(0 < int(y.sum()) < len(y), "label", f"one value alone in the {name} half", "both labels in each half")
    (rows, y), (others, truth) = parts
    if shuffled is not None:
        y = y[torch.randperm(len(y), generator=generator(shuffled, "probes/control"))]
    mean, spread = rows.mean(0), rows.std(0)
    spread = torch.where(spread > 0, spread, 1.0)
    rows, others = (rows - mean) / spread, (others - mean) / spread
    gram = rows.T @ rows + RIDGE * len(rows) * torch.eye(rows.shape[1], dtype=rows.dtype)
    weight = torch.linalg.solve(gram, rows.T @ (y.double() - y.double().mean()))
    return float(roc_auc_score(truth.numpy(), (others @ weight).numpy()))


def best_latent(
    z: Float[Tensor, "texts positions d_sae"],
    label: Bool[Tensor, "texts positions"],
    real: Bool[Tensor, "texts positions"],
) -> int:
    """Return the latent whose own value separates a label best, by AUC: the top probe of one latent."""
    keep = real.clone()
    keep[:, 0] = False
    rows, y = z[keep], label[keep].numpy()
    fires = (rows != 0).any(0).nonzero()[:, 0]
    require(len(fires) > 0, "z", "no latent that fires", "at least one")
    scores = [roc_auc_score(y, rows[:, j].numpy()) for j in fires]
    return int(fires[int(np.argmax(scores))])


class OfModel(NamedTuple):
    """What the probes find in one pair of models, without an SAE; effects are means over texts."""

    residual: float
    """Held-out AUC of onsets from the residual stream."""
    residual_control: float
    """The same, fitted on shuffled labels."""
    embedding: float
    """From the token alone: its embedding."""
    ablated: float
    """KL, in nats a text, of what the model says without what onsets have on average, taken off at onsets."""
    ablated_matched: float
    """The same, taken off at as many other places of the same text."""
    ablated_random: float
    """The same at onsets, random vectors of that length taken off."""
    patched: float
    """Change of P(regulation) in the standard model with adhd's residual where steps begin."""
    patched_shuffled: float
    """The same with adhd's residual from other places where steps begin."""
    patched_random: float
    """The same with a random change of the same length."""


class OfSAE(NamedTuple):
    """What the latents of one SAE say of onsets."""

    auc: float
    """Held-out AUC from all latents together."""
    control: float
    """The same, fitted on shuffled labels."""
    top: int
    """The latent that separates onsets best alone."""


def of_model(pair: Mapping[str, Bench], *, draws: int = 4, seed: int = 0) -> OfModel:
    """Return the probes that need no SAE: `pair` holds the benches of "adhd" and of "standard"."""
    own, real, onset = pair["adhd"], pair["adhd"].texts.real, pair["adhd"].texts.onset
    embedding = own.model.parameters["embed.W_E"][0][own.texts.tokens]
    read = readable(own.x, onset, real), readable(own.x, onset, real, shuffled=seed), readable(embedding, onset, real)
    return OfModel(*read, *ablation(own, draws, seed), *patching(pair, draws, seed))


def of_sae(bench: Bench, sae: SAEBatch, *, seed: int = 0) -> OfSAE:
    """Return how well one SAE's latents tell onsets from other tokens."""
    z, onset, real = latents(sae, bench.x), bench.texts.onset, bench.texts.real
    found = readable(z, onset, real), readable(z, onset, real, shuffled=seed)
    return OfSAE(*found, best_latent(z, onset, real))


def every(
    pairs: Sequence[Mapping[str, Bench]], saes: Sequence[SAEBatch], draws: int = 4
) -> tuple[list[OfModel], list[list[OfSAE]]]:
    """Return the probes of every model, and of every SAE of every model."""
    models = [of_model(pair, draws=draws, seed=i) for i, pair in enumerate(pairs)]
    latent = [
        [of_sae(pair["adhd"], batch[j], seed=100 * i + j) for j in range(len(batch))]
        for i, (pair, batch) in enumerate(zip(pairs, saes, strict=True))
    ]
    return models, latent


def summary(models: Sequence[OfModel], latents: Sequence[Sequence[OfSAE]]) -> dict[str, Estimate]:
    """Return the probes over models, those of latents over models and SAE seeds.

    ValueError: fewer than 3 models or 3 SAE seeds.
    """
    found = {f"probe_{name}": stats.mean([getattr(one, name) for one in models]) for name in OfModel._fields}
    auc, control = (np.array([[getattr(one, name) for one in row] for row in latents]) for name in ("auc", "control"))
    table = {"onset_auc": auc, "onset_auc_control": control, "onset_auc_gain": auc - control}
    found |= {key: stats.crossed(values).estimate for key, values in table.items()}
    embedding = np.array([one.embedding for one in models])
    found["onset_auc_beyond_token"] = stats.crossed(auc - embedding[:, None]).estimate
    gaps = {"onset_ablation_gap": ("ablated", "ablated_matched"), "onset_ablation_beyond_random": ("ablated",
            "ablated_random"), "patch_gap": ("patched", "patched_random"),
            "patch_beyond_shuffled": ("patched", "patched_shuffled")}  # fmt: skip
    for key, (name, null) in gaps.items():
        found[key] = stats.mean([getattr(one, name) - getattr(one, null) for one in models])
    return found


def artifact(
    models: Sequence[OfModel], latents: Sequence[Sequence[OfSAE]], seeds: Sequence[int], hook: str
) -> dict[str, Any]:
    """Return what `three_probes.json` holds: effect and control of every probe, one row a model (and an SAE)."""
    aucs = [
        {"model_seed": seed, "sae": j, "effect": one.auc, "control": one.control, "top": one.top}
        for seed, row in zip(seeds, latents, strict=True) for j, one in enumerate(row)
    ]  # fmt: skip
    short = summary(models, latents)
    probes = [{"probe": "step_onset_decodability", "rows": aucs, "effect": short["onset_auc"],
               "control": short["onset_auc_control"]}]  # fmt: skip
    for name, (effect, control) in {
        "ablation_at_onsets": ("ablated", "ablated_matched"),
        "patching_standard_from_adhd": ("patched", "patched_random"),
    }.items():
        rows = [
            {"model_seed": seed, "effect": getattr(one, effect), "control": getattr(one, control), **one._asdict()}
            for seed, one in zip(seeds, models, strict=True)
        ]
        sides = {"effect": short[f"probe_{effect}"], "control": short[f"probe_{control}"]}
        probes.append({"probe": name, "rows": rows, **sides})
    return {"hook": hook, "probes": probes}


def ablation(bench: Bench, draws: int, seed: int) -> tuple[float, float, float]:
    """Return the KL of taking away what onsets have, at onsets and at matched places, and of random changes at onsets.

    What onsets have is the mean activation at onsets less that elsewhere; the same vector is taken off at as many other
    places of the same text, drawn at random, and random ones of its length at onsets.
    """
    onset, rest = bench.texts.onset, bench.texts.real & ~bench.texts.onset
    gap = bench.x[onset].mean(0) - bench.x[rest].mean(0)
    matched = drawn_places(rest, onset.sum(1), seed)
    random = gap.norm() * random_directions(len(gap), draws, seed)
    found = [removal(bench, gap, onset), removal(bench, gap, matched)]
    return found[0], found[1], float(np.mean([removal(bench, one, onset) for one in random]))


def removal(bench: Bench, gap: Float[Tensor, " d_model"], where: Bool[Tensor, "texts positions"]) -> float:
    """Return the KL of the unchanged model's predictions from those with a vector taken off at some places.

    Summed over the tokens of a text, as later ones may suffer too; mean over texts, in nats.
    """
    before, after = (bench.logits(x).log_softmax(-1) for x in (bench.x, bench.x - where[..., None] * gap))
    kl = (before.exp() * (before - after)).sum(-1) * bench.texts.real
    return float(kl.sum(1).mean())


def drawn_places(
    allowed: Bool[Tensor, "texts positions"], counts: Tensor, seed: int
) -> Bool[Tensor, "texts positions"]:
    """Return counts[i] random places of row i among those allowed, or all of them where there are fewer."""
    draw = torch.rand(allowed.shape, generator=generator(seed, "probes/places")).masked_fill(~allowed, 2.0)
    return allowed & (draw.argsort(1).argsort(1) < counts[:, None])


def patching(pair: Mapping[str, Bench], draws: int, seed: int) -> tuple[float, float, float]:
    """Return the change of P(regulation) in standard with adhd's residual where later steps begin, and its two nulls.

    Both models read the standard texts. Nulls: adhd's residual of another such place, and a random change as long.
    """
    own, places = pair["standard"], reads(pair["standard"].texts)
    donated = Bench(pair["adhd"].model, own.layer, own.texts).x[places]
    gap = (donated - own.x[places]).norm(dim=1, keepdim=True)

    def changed(rows: Tensor) -> float:
        return float((own.probability(own.x.masked_scatter(places[..., None], rows)) - own.base).mean())

    order = [torch.randperm(len(donated), generator=generator(seed, f"probes/pairs/{i}")) for i in range(draws)]
    noise = [random_directions(donated.shape[1], len(donated), seed + 1000 * (i + 1)) for i in range(draws)]
    shuffled = [changed(donated[rows]) for rows in order]
    random = [changed(own.x[places] + gap * one) for one in noise]
    return changed(donated), float(np.mean(shuffled)), float(np.mean(random))
