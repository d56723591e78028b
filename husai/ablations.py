"""Whether stable latents matter more: their effect on the answer beside that of unstable ones that fire as often."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import stats as distributions
from torch import Tensor

from husai import consensus, interventions, nulls, pairing
from husai.config import require, stream_seed
from husai.evidence import Estimate
from husai.models import Models
from husai.saes import SAEBatch
from husai.similarity import best_cosines
from husai.study import Study

STABLE = 0.5
"""A latent is stable if it has a match in at least this share of the other seeds, unstable if in none of them."""
CALIPER = 0.25
"""Farthest that two matched latents' firing rates (and sizes) lie apart, in doublings."""
LEAST = 8
"""Inputs on which a latent has to fire to be looked at."""
RELABELLINGS = 50
"""Times that the labels of an SAE are mixed."""
FLOOR = 1e-6
"""Smallest divergence that logarithms are taken of, in nats: below it there is rounding."""


@dataclass(frozen=True)
class Effects:
    """The latents of one SAE that fire often enough, and what removing each of them does where it fires."""

    stability: Float[np.ndarray, " n"]
    """Share of the other seeds in which it has a match."""
    rate: Float[np.ndarray, " n"]
    """Share of the inputs on which it fires."""
    size: Float[np.ndarray, " n"]
    """Mean value where it fires."""
    proxy: Float[np.ndarray, " n"]
    """mean |z| times the standard deviation of z: the sources' score, for which the model is not run."""
    kl: dict[str, Float[np.ndarray, " n"]]
    """KL divergence of the answers without it, in nats: "own"; "double", twice its contribution being taken off; and
    the same amount along another direction, isotropic ("N0") or drawn with the covariance of the activations ("N2")."""

    @property
    def log_kl(self) -> dict[str, Float[np.ndarray, " n"]]:
        """Decimal logarithm of `kl`, not below that of `FLOOR`."""
        return {name: np.log10(np.maximum(values, FLOOR)) for name, values in self.kl.items()}


def sites(models: Models, hook: str, studies: Sequence[Study], inputs: int) -> list[interventions.Site]:
    """Return where each model is changed, on at most so many held-out inputs; one study a model.

    ValueError: studies of other models or another hook.
    """
    wanted = f"{len(models.seeds)}, one a model"
    require(len(studies) == len(models.seeds), "studies", f"{len(studies)} of them", wanted)
    rows = [interventions.inputs(one.activations, inputs) for one in studies]
    return [
        interventions.site(models.select(i), one.activations, hook, at)
        for i, (one, at) in enumerate(zip(studies, rows, strict=True))
    ]


def effects(where: Sequence[interventions.Site], studies: Sequence[Study], tau: float = 0.7) -> list[list[Effects]]:
    """Return what every latent does at the site of its model, by model and SAE seed.

    Ablation is `interventions.latent_effects`: x - z_j d_j, the reconstruction error left in.
    """
    found = []
    for site, study in zip(where, studies, strict=True):
        stability = consensus.stability(study.decoders, tau, signed=not study.config.sae.signed)
        found.append([_of(site, study, i, shares) for i, shares in enumerate(stability)])
    return found


def _of(site: interventions.Site, study: Study, index: int, stability: Tensor) -> Effects:
    sae, seed = study.saes[index], study.seeds[index]
    n, d = sae.config.d_sae, sae.W_dec.shape[2]
    rows = {
        "own": sae.W_dec[0],
        "double": 2 * sae.W_dec[0],
        "N0": nulls.isotropic(n, d, seed),
        "N2": nulls.coloured(study.activations.root, n, seed),
    }
    divergence = {name: interventions.latent_effects(site, replace(sae, W_dec=one[None])) for name, one in rows.items()}
    z = sae.encode(site.x)[0]
    shares = torch.full((n,), -1.0)
    shares[study.alive[index]] = stability
    kept = ((z != 0).sum(0) >= LEAST) & study.alive[index]
    rate = (z != 0).double().mean(0)
    size = z.abs().double().mean(0) / rate.clamp(min=1e-9)
    stable, often, mean, score = (one[kept].double().numpy() for one in (shares, rate, size, proxy(z)))
    return Effects(
        stable, often, mean, score, {name: one.kl[kept].double().numpy() for name, one in divergence.items()}
    )


def proxy(z: Float[Tensor, "inputs n"]) -> Float[Tensor, " n"]:
    """Return the sources' score of every latent, mean |z| times the standard deviation of z."""
    return z.abs().mean(0) * z.std(0, correction=0)


def contrast(
    found: Sequence[Sequence[Effects]],
    labels: Literal["true", "permuted", "planted"] = "true",
    *,
    sized: bool = False,
    nats: bool = False,
) -> Estimate:
    """Return how much larger the effect of stable latents is than that of unstable ones that fire as often.

    Pairs are matched within an SAE by firing rate, with `sized` by mean value too (`pairing.matched_pairs`); what is
    averaged is the difference of log10 KL, with `nats` of KL itself; the interval is over models. With `permuted`
    labels stable and unstable latents are mixed, `RELABELLINGS` times in every SAE: the null, around zero. `planted`
    mixes them too and takes twice the contribution of those that are called stable: the control that has to be found.
    ValueError: a model without pairs.
    """
    require(labels in ("true", "permuted", "planted"), "labels", labels, "'true', 'permuted' or 'planted'")
    differences: list[list[np.ndarray]] = []
    for m, model in enumerate(found):
        differences.append([])
        for s, one in enumerate(model):
            groups = [(one.stability >= STABLE, one.stability == 0)]
            if labels != "true":
                seeds = [stream_seed(m, f"ablations/labels/{s}/{draw}") for draw in range(RELABELLINGS)]
                groups = [_mixed(*groups[0], seed) for seed in seeds]
            values = one.kl if nats else one.log_kl
            covariates = np.log2(np.stack([one.rate, one.size][: 1 + sized], 1))
            for first, second in groups:
                value = np.where(first, values["double"], values["own"]) if labels == "planted" else values["own"]
                left, right = pairing.matched_pairs(first, second, covariates, CALIPER)
                differences[-1].append(value[left] - value[right])
    return pairing.over_models(differences)


def _mixed(first: np.ndarray, second: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two random groups of the same sizes and of the same members."""
    members = np.random.default_rng(seed).permutation(np.flatnonzero(first | second))
    groups = np.zeros((2, len(first)), dtype=bool)
    groups[0, members[: first.sum()]] = True
    groups[1, members[first.sum() :]] = True
    return groups[0], groups[1]


def beyond(found: Sequence[Sequence[Effects]], null: str, stable: bool) -> Estimate:
    """Return the mean log10 of a latent's effect over that of the same amount along another direction, over models.

    Of stable or of unstable latents; `null` is "N0" or "N2". ValueError: a model without such latents.
    """
    groups = [[one.stability >= STABLE if stable else one.stability == 0 for one in model] for model in found]
    values = [[one.log_kl["own"] - one.log_kl[null] for one in model] for model in found]
    pairs = [zip(a, b, strict=True) for a, b in zip(values, groups, strict=True)]
    return pairing.over_models([[value[group] for value, group in model] for model in pairs])


def by_stability(found: Sequence[Sequence[Effects]]) -> dict[float, Estimate]:
    """Return the mean log10 KL of the latents with each stability that all models have, over models."""
    levels = [{float(v) for one in model for v in one.stability} for model in found]
    return {
        level: pairing.over_models([[one.log_kl["own"][one.stability == level] for one in model] for model in found])
        for level in sorted(set.intersection(*levels))
    }


def stable_share(found: Sequence[Sequence[Effects]]) -> Estimate:
    """Return the share of the latents looked at that are stable, over models and seeds."""
    return pairing.across([[float((one.stability >= STABLE).mean()) for one in model] for model in found])


def ranks(found: Sequence[Sequence[Effects]]) -> dict[str, Estimate]:
    """Return Spearman's correlation of the proxy, over an SAE's latents, with their effect and with their firing rate.

    `causal` and `rate`; the intervals are over models and seeds.
    """

    def across(others: Sequence[Sequence[np.ndarray]]) -> Estimate:
        pairs = [zip(model, theirs, strict=True) for model, theirs in zip(found, others, strict=True)]
        return pairing.across([[float(distributions.spearmanr(a.proxy, b)[0]) for a, b in model] for model in pairs])

    causal = [[one.kl["own"] for one in model] for model in found]
    return {"causal": across(causal), "rate": across([[one.rate for one in model] for model in found])}


def summary(found: Sequence[Sequence[Effects]]) -> dict[str, Estimate]:
    """Return `contrast` (effect_rated, _sized, _nats, _null, _control), `beyond`, `by_stability` and `ranks` by key.

    `beyond_<null>_<group>`; `kl_at_<stability>`, decimal logarithms; `proxy_causal` and `proxy_rate`; `stable_share`.
    """
    rows = {"effect_rated": contrast(found), "effect_sized": contrast(found, sized=True)}
    rows |= {"effect_nats": contrast(found, nats=True), "effect_null": contrast(found, "permuted")}
    rows["effect_control"] = contrast(found, "planted")
    for null in ("N0", "N2"):
        for group in ("stable", "unstable"):
            rows[f"beyond_{null}_{group}"] = beyond(found, null, group == "stable")
    rows |= {f"kl_at_{level:.2f}": value for level, value in by_stability(found).items()}
    rows |= {f"proxy_{name}": value for name, value in ranks(found).items()}
    return rows | {"stable_share": stable_share(found)}


class Groups(NamedTuple):
    """The sources' stable and unstable latents: a tenth of all latents of all seeds each, as [seed, latent] rows."""

    stable: Int[np.ndarray, "n 2"]
    unstable: Int[np.ndarray, "n 2"]


def groups(dictionaries: Sequence[Tensor]) -> Groups:
    """Return the tenths with the largest and smallest mean over the other seeds of max |cos|, as the sources had it.

    ValueError: fewer than 2 seeds, unequal widths, fewer than 10 latents in all.
    """
    widths = {len(rows) for rows in dictionaries}
    require(len(dictionaries) >= 2 and len(widths) == 1, "dictionaries", sorted(widths), "two or more of one width")
    scores = [
        torch.stack([best_cosines(a, b)[0] for j, b in enumerate(dictionaries) if j != i]).mean(0)
        for i, a in enumerate(dictionaries)
    ]
    order = torch.cat(scores).argsort(stable=True).numpy()
    tenth, width = len(order) // 10, widths.pop()
    require(tenth >= 1, "dictionaries", f"{len(order)} latents", "at least 10")
    return Groups(*(np.stack(np.divmod(one, width), 1) for one in (order[-tenth:], order[:tenth])))


def as_published(model: Models, hook: str, study: Study, draws: int = 1000) -> dict[str, float]:
    """Return the sources' two measures of the latents that they call stable and unstable, and what those hide.

    On 30 % of the inputs, the SAE's own training inputs among them. `proxy_*`: means of `proxy` over each group, their
    ratio, and in which share of random draws of 10 + 10 latents a t test gives p < .05. `drop_*`: accuracy of the
    unchanged model less that with the reconstruction without the latent, of 10 + 10 drawn ones; `spliced`: accuracy
    with nothing but the reconstruction; `left_*`: the drop with the reconstruction error left in; `kl_*`: KL of the
    same ablation, in nats over all these inputs. `rate_*`: share of the inputs on which latents of the group fire.
    """
    acts = study.activations
    site = interventions.site(model, acts, hook, interventions.inputs(acts, round(0.3 * len(acts.values)), False))
    z = [study.saes[i].encode(site.x)[0] for i in range(len(study.seeds))]
    scores = np.stack([proxy(one).double().numpy() for one in z])
    rates = np.stack([(one != 0).double().mean(0).numpy() for one in z])
    rng = np.random.default_rng(stream_seed(0, "ablations/published"))
    found: dict[str, float] = {"accuracy": site.accuracy(site.clean)}
    found["spliced"] = float(np.mean([site.accuracy(interventions.splice(site, study.saes[i])) for i in range(len(z))]))
    drawn = []
    for name, rows in groups(study.saes.decoders())._asdict().items():
        seed, latent = rows.T
        found[f"proxy_{name}"], found[f"rate_{name}"] = scores[seed, latent].mean(), rates[seed, latent].mean()
        ten = rows[rng.permutation(len(rows))[:10]].tolist()
        lost = [_lost(site, study.saes[s], z[s], j) for s, j in ten]
        for key, values in zip(("drop", "left", "kl"), zip(*lost, strict=True), strict=True):
            found[f"{key}_{name}"] = float(np.mean(values))
        drawn.append(np.stack([scores[seed, latent][rng.permutation(len(rows))[:10]] for _ in range(draws)]))
    found["proxy_ratio"] = found["proxy_stable"] / max(found["proxy_unstable"], FLOOR)  # dead ones score 0
    found["proxy_significant"] = float((distributions.ttest_ind(*drawn, axis=1).pvalue < 0.05).mean())
    return {name: float(value) for name, value in found.items()}


def _lost(site: interventions.Site, sae: SAEBatch, z: Tensor, latent: int) -> tuple[float, float, float]:
    """Return the accuracy lost without a latent, rebuilt and with the error left in, and the KL of the latter."""
    part = z[:, latent, None] * sae.W_dec[0, latent]
    alone, left = site.logits(sae.decode(z[None])[0] - part), site.logits(site.x - part)
    before, after = site.clean.double().log_softmax(-1), left.double().log_softmax(-1)
    kl = float((before.exp() * (before - after)).sum(1).mean())
    accuracy = site.accuracy(site.clean)
    return accuracy - site.accuracy(alone), accuracy - site.accuracy(left), kl
