"""Which latents say something of the answer that the others do not: knockoffs on real latents and real labels."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from husai import consensus, knockoffs, pairing, progress
from husai.ablations import CALIPER, LEAST, STABLE
from husai.config import require, stream_seed
from husai.evidence import Estimate
from husai.knockoffs import Design, Rates
from husai.models import Models
from husai.study import Study
from husai.tasks import frequency_power, sequences

LABELS = 3
"""Labels an SAE: one of each of its model's strongest frequencies."""


class Selection(NamedTuple):
    """One SAE's latents that fire often enough, and how often each is selected."""

    stability: Float[np.ndarray, " n"]
    """Share of the other seeds in which it has a match."""
    rate: Float[np.ndarray, " n"]
    """Share of the held-out inputs on which it fires."""
    selected: Float[np.ndarray, " n"]
    """Share of the real labels for which it is selected."""
    at_random: float
    """Whether (1) or not (0) anything is selected for a label in random order, which is a false discovery."""
    linear: Rates
    """False discoveries and power with labels planted on these latents, linear in their values."""
    firing: Rates
    """The same with labels made of whether latents fire."""
    zeros: float
    """Share of zeros among the values: a normal column has none."""


def labels(model: Models, rows: np.ndarray, count: int = LABELS) -> Float[np.ndarray, "labels rows"]:
    """Return whether cos(2 pi w c / p) > 0 for the right answers c of some inputs, w the embedding's strongest.

    ValueError: not one model, more labels than frequencies.
    """
    require(len(model.seeds) == 1, "model", f"{len(model.seeds)} models", "one: `models.select(index)`")
    p = model.task.p
    require(1 <= count <= (p - 1) // 2, "count", count, f"1 to {(p - 1) // 2}, the number of frequencies")
    strongest = frequency_power(model.parameters["embed.W_E"][0, :p]).topk(count).indices.numpy() + 1
    answers = sequences(model.task).answers.numpy()[rows]
    return (np.cos(2 * np.pi * np.outer(strongest, answers) / p) > 0).astype(float)


def of(
    models: Models, studies: Sequence[Study], *, q: float = 0.1, repeats: int = 2, tau: float = 0.7
) -> list[list[Selection]]:
    """Return the selection of every SAE by model and seed, on held-out inputs; one study a model.

    Each real label has knockoffs of its own, and so has each of `repeats` planted labels of either kind.
    """
    require(len(studies) == len(models.seeds), "studies", f"{len(studies)} of them", f"{len(models.seeds)}")
    found = []
    for m, study in enumerate(progress.each(studies, "model")):
        real = labels(models.select(m), (~study.activations.training).nonzero()[:, 0].numpy())
        stability = consensus.stability(study.decoders, tau, signed=not study.config.sae.signed)
        found.append([
            _of(codes.double().numpy(), shares.double().numpy(), real, q, repeats, stream_seed(m, f"selection/{i}"))
            for i, (codes, shares) in enumerate(zip(study.codes(study.alive), stability, strict=True))
        ])  # fmt: skip
    return found


def _of(z: np.ndarray, stability: np.ndarray, real: np.ndarray, q: float, repeats: int, seed: int) -> Selection:
    kept = ((z != 0).sum(0) >= LEAST) & (z.std(0) > 0)
    of: Design = knockoffs.design(z[:, kept])
    chosen = [knockoffs.select(of, y, q, stream_seed(seed, f"label/{i}")) for i, y in enumerate(real)]
    mixed = np.random.default_rng(stream_seed(seed, "mixed")).permutation(real[0])
    linear, firing = (knockoffs.rates(of, law, repeats, q, seed=seed) for law in ("linear", "firing"))
    at_random = float(knockoffs.select(of, mixed, q, seed).any())
    fires = z[:, kept] != 0
    zeros = float(1 - fires.mean())
    return Selection(stability[kept], fires.mean(0), np.mean(chosen, 0), at_random, linear, firing, zeros)


def estimates(found: Sequence[Sequence[Selection]]) -> dict[str, Estimate]:
    """Return false discovery rates and power with planted labels, and what real ones select, over models and seeds.

    `share`: of all latents, for real labels; `at_random`: how often a label in random order selects anything; `zeros`:
    share of zeros among the values.
    """
    values = [
        [
            {
                "fdr_linear": one.linear.false,
                "power_linear": one.linear.power,
                "fdr_firing": one.firing.false,
                "power_firing": one.firing.power,
                "share": float(one.selected.mean()),
                "at_random": one.at_random,
                "zeros": one.zeros,
            }
            for one in model
        ]
        for model in found
    ]
    return {key: pairing.across([[one[key] for one in model] for model in values]) for key in values[0][0]}


def stable_less_unstable(found: Sequence[Sequence[Selection]]) -> Estimate:
    """Return how much more often stable latents are selected than unstable ones that fire as often, over models.

    Groups and matching are those of `ablations.contrast`. ValueError: a model without pairs.
    """
    differences: list[list[np.ndarray]] = []
    for model in found:
        differences.append([])
        for one in model:
            first, second = one.stability >= STABLE, one.stability == 0
            left, right = pairing.matched_pairs(first, second, np.log2(one.rate)[:, None], CALIPER)
            differences[-1].append(one.selected[left] - one.selected[right])
    return pairing.over_models(differences)
