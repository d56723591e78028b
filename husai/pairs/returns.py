"""Which conclusions come back under another SAE seed, and under another model seed.

A conclusion is drawn from one SAE of one model at a time, as the source drew its own. Two draws agree when they say the
same: the same verdict, or a feature that is the same one. Agreement is counted between SAE seeds of one model and
between models; draws of one model share it, so models are the units of the second, and of the exact interval.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import beta
from torch import Tensor

from husai import stats
from husai.comparison import summarise
from husai.config import require
from husai.evidence import Estimate
from husai.pairs.bench import Bench, latents
from husai.pairs.probes import OfSAE
from husai.pairs.steering import Steered
from husai.pairs.swaps import NULLS, PerSeed
from husai.saes import SAEBatch
from husai.similarity import cosine_matrix, unit_rows

SAME = 0.7
"""Cosine of two decoder rows, or correlation of two latents' activations, above which features are the same."""


class Returns(NamedTuple):
    """How often one conclusion comes back."""

    sae: Estimate | None
    """Share of pairs of SAE seeds of one model that agree; None where the conclusion needs no SAE."""
    model: Estimate
    """Share of pairs of models that agree, SAE seeds averaged."""
    holds: Estimate | None
    """Share of models of which it is true, in most SAE seeds, with its exact interval; None for an identity."""

    def row(self) -> dict[str, str]:
        """Return the row of a table."""
        names = ("another SAE seed", "another model", "models of which it holds")
        return {name: "—" if one is None else str(one) for name, one in zip(names, self, strict=True)}


def exact(k: int, n: int) -> Estimate:
    """Return k of n as a share, with the exact 95 % interval of Clopper and Pearson (1934).

    ValueError: not 0 <= k <= n, n below 1.
    """
    require(n >= 1 and 0 <= k <= n, "k, n", (k, n), "0 <= k <= n, n at least 1")
    low = float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0
    high = float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0
    return Estimate(k / n, low, high, n, "", "exact binomial")


def verdicts(holds: Sequence[Sequence[bool]] | np.ndarray) -> Returns:
    """Return how often a verdict comes back, `holds` [models, SAE seeds], or [models, 1] where no SAE takes part.

    Two draws agree when both say yes or both say no. ValueError: fewer than 3 models, or 2 SAE seeds.
    """
    said = np.asarray(holds, bool)
    return identities((said[:, :, None, None] == said[None, None]).astype(float))._replace(
        holds=exact(int((2 * said.sum(1) > said.shape[1]).sum()), len(said))
    )


def identities(same: np.ndarray) -> Returns:
    """Return how often a choice comes back: `same` [models, seeds, models, seeds] is 1 where two draws chose the same.

    Agreement of a pair of models is the mean over their SAE seeds. ValueError: fewer than 3 models, or 2 SAE seeds.
    """
    models, seeds = same.shape[:2]
    require(models >= 3, "same", f"{models} models", stats.SEEDS_WANTED)
    require(seeds != 2, "same", "2 SAE seeds", "3 or more, or 1 where no SAE takes part")
    between = same.mean((1, 3))
    within = np.stack([same[m, :, m] for m in range(models)])
    return Returns(summarise(within) if seeds > 1 else None, stats.pairwise(between), None)


def same_features(
    rows: Float[Tensor, "models seeds d_model"], signals: Float[Tensor, "models seeds tokens"], threshold: float = SAME
) -> np.ndarray:
    """Return which chosen features are the same [models, seeds, models, seeds], as 1 and 0.

    Within a model by the cosine of their decoder `rows`; between models, whose coordinates have nothing to do with each
    other, by the correlation of their activations on the same tokens, `signals`.
    """
    models, seeds = rows.shape[:2]
    flat = signals.flatten(0, 1).double()
    alike = cosine_matrix((flat - flat.mean(1, keepdim=True)).float(), (flat - flat.mean(1, keepdim=True)).float())
    found = alike.unflatten(0, (models, seeds)).unflatten(2, (models, seeds)).double().numpy()
    for m in range(models):
        found[m, :, m] = (unit_rows(rows[m]) @ unit_rows(rows[m]).T).double().numpy()
    return (found > threshold).astype(float)


def same_labels(labels: Sequence[Any]) -> np.ndarray:
    """Return which models have the same label, in the shape of `identities`: [models, 1, models, 1]."""
    column = np.asarray(labels)
    return (column[:, None] == column).astype(float)[:, None, :, None]


def conclusions(
    pairs: Sequence[Mapping[str, Bench]],
    saes: Sequence[SAEBatch],
    swapped: Sequence[PerSeed],
    steered: Sequence[Sequence[Steered]],
    probed: Sequence[Sequence[OfSAE]],
) -> dict[str, Returns]:
    """Return how often each conclusion of the published kind comes back, drawn anew from every SAE of every model.

    Of the swap: that the correlation falls below all of its nulls. Of the head: that taking it away costs more than
    taking any other of its layer does. Of steering: the published verdict, inert in all four panels.
    """
    choices = {"feature": [[one.latent for one in row] for row in steered],
               "top": [[one.top for one in row] for row in probed]}  # fmt: skip
    same: dict[str, list[list[tuple[Tensor, Tensor]]]] = {name: [] for name in choices}
    for i, (pair, batch) in enumerate(zip(pairs, saes, strict=True)):
        codes = [latents(batch[j], pair["adhd"].x)[pair["adhd"].texts.real] for j in range(len(batch))]
        for name, table in choices.items():
            same[name].append([(batch.W_dec[j, table[i][j]], z[:, table[i][j]]) for j, z in enumerate(codes)])
    found = {}
    for name, drawn in same.items():
        rows, signals = (torch.stack([torch.stack([one[side] for one in row]) for row in drawn]) for side in (0, 1))
        found[name] = identities(same_features(rows, signals))
    falls = [one.delta("adhd_attention_from_standard") < min(sum(map(one.deltas, NULLS), [])) for one in swapped]
    found |= {
        "inert": verdicts([[all(p.inert() for p in one.panels.values()) for one in row] for row in steered]),
        "swap": verdicts([[fall] for fall in falls]),
        "head": verdicts([[one.head_drop < min(one.other_drops)] for one in swapped]),
        "head_number": identities(same_labels([one.layout.adhd for one in swapped])),
        "head_moves": verdicts([[one.layout.partner != one.layout.adhd] for one in swapped]),
    }
    return found


def values(found: Mapping[str, Returns]) -> dict[str, Estimate]:
    """Return the shares by name, `returns_<conclusion>_<sae, model or holds>`."""
    return {
        f"returns_{name}_{field}": one
        for name, row in found.items() for field, one in row._asdict().items() if one is not None
    }  # fmt: skip
