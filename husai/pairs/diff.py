"""Features that one model of a matched pair has and the other lacks: how they are found, and whether they come back.

One SAE reads the residuals of both models at step onsets, each model on texts of its own style. "Lacks" has three
meanings, kept apart: the latent is silent on the other model's tokens; no decoder row of the other model's SAE is near
its own; no latent of the other model's SAE does the same on the same texts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from scipy import stats as distributions
from torch import Tensor

from husai.activations import Activations
from husai.config import require
from husai.evidence import Estimate
from husai.language.gpt import GPTs
from husai.language.matched import Texts
from husai.nulls import covariance_matched
from husai.pairs import cells
from husai.pairs.edits import reads
from husai.saes import SAEBatch
from husai.similarity import best_cosines, same_shape
from husai.tasks import generator

ALPHA = 0.05
"""False discovery rate over all latents of an SAE."""
LEAST_RATIO = 10.0
"""Smoothed ratio of the two rates from which a latent counts as asymmetric."""
SILENT = 1e-3
"""Largest firing rate on all tokens of the other model at which a latent is silent there."""
MATCH = 0.7
"""Correlation, or cosine of decoder rows, from which two latents count as the same."""


class Onsets(NamedTuple):
    """Where steps of some texts open: the position at which a step's first token is predicted, one row each."""

    texts: Texts
    document: Int[Tensor, " rows"]
    position: Int[Tensor, " rows"]

    @property
    def regulation(self) -> Bool[Tensor, " rows"]:
        """Whether the step that opens is a regulation action."""
        return self.texts.regulation[self.document, self.position + 1]

    def context(self, row: int, decode: Callable[[list[int]], str], width: int = 7) -> str:
        """Return the text before an onset, a bar, and the token that follows."""
        tokens = self.texts.tokens[int(self.document[row])]
        at = int(self.position[row]) + 1
        return f"{decode(tokens[max(0, at - width) : at].tolist())} | {decode(tokens[at : at + 2].tolist())}"


def onsets(texts: Texts) -> Onsets:
    """Return the step onsets of texts, the first of a text left out (`edits.reads`)."""
    document, position = reads(texts).nonzero(as_tuple=True)
    return Onsets(texts, document, position)


Residuals = Mapping[tuple[str, int, str], Float[Tensor, "rows d_model"]]
"""{(style of the model, its position among the seeds, style of the texts): residuals at step onsets}."""


def residuals(
    models: Mapping[str, GPTs], at: Mapping[str, Onsets], layer: int, own: Mapping[str, Sequence[Activations]]
) -> Residuals:
    """Return the residual stream of every model at the step onsets of both styles of texts.

    `own` holds what is known already, one entry a model: activations whose held-out rows are the real tokens of its own
    style's texts. ValueError: other texts.
    """
    found = {}
    for style, several in models.items():
        for i in range(len(several.seeds)):
            for corpus, where in at.items():
                real, marked = where.texts.real, reads(where.texts)
                if corpus == style:
                    values = own[style][i].held_out
                    require(len(values) == int(real.sum()), "own", f"{len(values)} rows", f"{int(real.sum())}")
                else:
                    values = cells.residuals(several.select(i), where.texts, [layer])[layer]
                found[style, i, corpus] = values[marked[real]]
    return found


class Rates(NamedTuple):
    """How often each latent fires, with 95 % intervals over documents."""

    fired: Int64[np.ndarray, " latents"]
    rows: int
    rate: Float64[np.ndarray, " latents"]
    low: Float64[np.ndarray, " latents"]
    high: Float64[np.ndarray, " latents"]
    documents: int

    def estimate(self, latent: int) -> Estimate:
        """Return one latent's rate; its unit of independence is the document."""
        value, low, high = (float(table[latent]) for table in (self.rate, self.low, self.high))
        return Estimate(value, low, high, self.documents, "", "Wilson, at the effective count over documents")


def rates(fires: Bool[Tensor, "rows latents"], document: Int[Tensor, " rows"]) -> Rates:
    """Return firing rates with Wilson's interval at the effective number of rows, n / max(1, design effect).

    The design effect is the variance of the rate over documents, that of a ratio of sums, over r (1 - r) / n. Sources:
    Wilson (1927); Kish (1965). ValueError: no row, one document.
    """
    require(len(fires) > 0, "fires", tuple(fires.shape), "at least one row")
    _, place = document.unique(return_inverse=True)
    count = int(place.max()) + 1
    require(count >= 2, "document", f"{count} document", "two or more")
    sums = torch.zeros(count, fires.shape[1], dtype=torch.float64).index_add_(0, place, fires.double())
    sizes = torch.bincount(place, minlength=count).double()
    n = float(sizes.sum())
    rate = sums.sum(0) / n
    spread = (sums - rate * sizes[:, None]).square().sum(0) * count / (count - 1) / n**2
    effect = (spread / (rate * (1 - rate) / n).clamp(min=1e-300)).clamp(min=1)
    effective = (n / effect).numpy()
    r, z = rate.numpy(), distributions.norm.ppf(0.975)
    centre, scale = (r + z**2 / (2 * effective)), 1 + z**2 / effective
    half = z * np.sqrt(r * (1 - r) / effective + z**2 / (4 * effective**2))
    low, high = np.minimum((centre - half) / scale, r).clip(0), np.maximum((centre + half) / scale, r).clip(max=1)
    return Rates(sums.sum(0).long().numpy(), int(n), r, low, high, count)


class Contrast(NamedTuple):
    """Every latent of one SAE on two models' step onsets."""

    here: Rates
    """On the model that the SAE was trained on."""
    there: Rates
    """On the other."""
    ratio: Float64[np.ndarray, " latents"]
    """(fired + 1/2) / (rows + 1) here, over the same there: finite where nothing fired."""
    q: Float64[np.ndarray, " latents"]
    """False discovery rate at which the latent would be found to fire more often here."""

    def asymmetric(self, alpha: float = ALPHA, least: float = LEAST_RATIO) -> Bool[np.ndarray, " latents"]:
        """Return which latents fire more often here, `least` times and more."""
        return (self.q <= alpha) & (self.ratio >= least)

    @property
    def chosen(self) -> int:
        """The latent that one would pick: asymmetric if any is, of the largest ratio, the more frequent of equals."""
        keys = (self.here.rate, self.ratio, self.asymmetric())
        return int(np.lexsort(keys)[-1])


def contrast(
    here: Bool[Tensor, "rows latents"], document: Int[Tensor, " rows"],
    there: Bool[Tensor, "others latents"], other_document: Int[Tensor, " others"], seed: int = 0,
) -> Contrast:  # fmt: skip
    """Return rates, ratios and false discovery rates of latents that fire here and there.

    The test is Fisher's, one-sided, on one onset drawn from every document, as onsets of one text are not independent;
    q is Benjamini and Hochberg's (1995) over all latents. Rates and ratios count every onset. ValueError: unequal
    numbers of latents, no row.
    """
    same_shape(here=here[0], there=there[0])
    sides = rates(here, document), rates(there, other_document)
    smoothed = [(side.fired + 0.5) / (side.rows + 1) for side in sides]
    single = [
        fires[_one_each(documents, seed + i)].sum(0).numpy()
        for i, (fires, documents) in enumerate(((here, document), (there, other_document)))
    ]
    n, m = (side.documents for side in sides)
    p = distributions.hypergeom.sf(single[0] - 1, n + m, single[0] + single[1], n)
    q = distributions.false_discovery_control(np.clip(p, 0, 1), method="bh")
    return Contrast(*sides, smoothed[0] / smoothed[1], q)


def _one_each(document: Int[Tensor, " rows"], seed: int) -> Int[Tensor, " documents"]:
    """Return one row of every document, drawn at random."""
    order = torch.randperm(len(document), generator=generator(seed, "diff/onsets"))
    values, place = document[order].unique(return_inverse=True)
    first = torch.full((len(values),), len(order)).scatter_reduce(0, place, torch.arange(len(order)), "amin")
    return order[first]


def correlations(
    a: Float[Tensor, "rows n_a"], b: Float[Tensor, "rows n_b"]
) -> Float[Tensor, "n_a n_b"]:  # fmt: skip
    """Return the correlations of latents over the same rows; a latent that never varies correlates with none."""
    sides = [one - one.mean(0) for one in (a, b)]
    sides = [one / one.norm(dim=0).clamp(min=1e-9) for one in sides]
    return sides[0].T @ sides[1]


class Reader(NamedTuple):
    """One SAE of one model: its decoder, and its latents at the step onsets of both styles of texts."""

    decoder: Float[Tensor, "latents d_model"]
    codes: Float[Tensor, "rows latents"]
    asymmetric: Bool[Tensor, " latents"]
    """Its latents that are asymmetric; none for an SAE of the other model."""
    chosen: int = -1
    """The asymmetric latent of the largest ratio; -1 for none."""
    split: int = 0
    """How many of the rows, the first, are of adhd texts."""


class Return(NamedTuple):
    """What becomes of the asymmetric latents of one SAE in another: shares of them."""

    function: float
    """Some latent of the other correlates with them at MATCH or more, at the same step onsets."""
    again: float
    """... and is itself asymmetric."""
    decoder: float
    """A decoder row of the other has a cosine of MATCH or more; NaN between models, which share no axes."""
    chance: float
    """Matched at random: the same activations at random onsets of the same style, so at the same rate in each."""
    others: float
    """The same of as many latents that are not asymmetric, of the nearest firing rates."""
    chosen: float
    """Whether the latents that one would pick are the same: 1 or 0."""
    any_pair: float
    """The same of a latent drawn from each's asymmetric ones: what `chosen` is by chance."""


def returns(a: Reader, b: Reader, same_model: bool, seed: int = 0) -> Return:
    """Return what becomes of the asymmetric latents of a in b; all shares are 0 when a or b has none.

    ValueError: latents of other rows.
    """
    require(len(a.codes) == len(b.codes), "b.codes", tuple(b.codes.shape), f"{len(a.codes)} rows, those of a")
    found = torch.nonzero(a.asymmetric)[:, 0]
    decoder = 0.0 if same_model else float("nan")
    if len(found) == 0 or not bool(b.asymmetric.any()):
        return Return(0.0, 0.0, decoder, 0.0, 0.0, 0.0, 0.0)
    near = correlations(a.codes[:, found], b.codes) >= MATCH
    draw, behind = generator(seed, "diff/chance"), len(a.codes) - a.split
    order = torch.cat([torch.randperm(a.split, generator=draw), a.split + torch.randperm(behind, generator=draw)])
    chance = correlations(a.codes[:, found][order], b.codes) >= MATCH
    others = correlations(a.codes[:, like(a.codes, a.asymmetric)], b.codes) >= MATCH
    if same_model:
        decoder = share(best_cosines(a.decoder[found], b.decoder, signed=True)[0] >= MATCH)
    asymmetric = near[:, b.asymmetric]
    chosen = float(correlations(a.codes[:, [a.chosen]], b.codes[:, [b.chosen]]) >= MATCH)
    return Return(share(near.any(1)), share(asymmetric.any(1)), decoder, share(chance.any(1)), share(others.any(1)),
                  chosen, share(asymmetric))  # fmt: skip


def share(found: Bool[Tensor, "..."]) -> float:
    """Return how many are true, of all; 0 of none."""
    return float(found.double().mean()) if found.numel() else 0.0


def like(codes: Float[Tensor, "rows latents"], chosen: Bool[Tensor, " latents"]) -> Int[Tensor, " n"]:
    """Return, for each chosen latent in falling order of rate, the latent not chosen whose firing rate is nearest.

    None is taken twice; latents that never fire are not taken, so there may be fewer.
    """
    rate = (codes != 0).double().mean(0)
    free = (~chosen) & (rate > 0)
    found: list[int] = []
    for latent in sorted(torch.nonzero(chosen)[:, 0].tolist(), key=lambda j: -float(rate[j])):
        if not bool(free.any()):
            break
        nearest = int((rate - rate[latent]).abs().masked_fill(~free, torch.inf).argmin())
        free[nearest] = False
        found.append(nearest)
    return torch.tensor(found, dtype=torch.long)


class Senses(NamedTuple):
    """In which of three senses the other model lacks each latent."""

    silent: Bool[Tensor, " latents"]
    """It fires on at most SILENT of all the other model's tokens."""
    no_decoder: Bool[Tensor, " latents"]
    """No decoder row of the other model's SAE has a cosine of MATCH or more."""
    no_function: Bool[Tensor, " latents"]
    """No latent of the other model's SAE correlates at MATCH or more, at the same step onsets."""


def senses(reader: Reader, other: Reader, sae: SAEBatch, tokens: Float[Tensor, "rows d_model"]) -> Senses:
    """Return in which senses the other model lacks the latents of an SAE; `tokens` are residuals of all its tokens."""
    rate = sae.firing(tokens)[0]
    decoder = best_cosines(reader.decoder, other.decoder, signed=True)[0]
    function = correlations(reader.codes, other.codes).amax(1)
    return Senses(rate <= SILENT, decoder < MATCH, function < MATCH)


def near_by_chance(
    acts: Float[Tensor, "rows d_model"], decoder: Float[Tensor, "latents d_model"], seed: int = 0, n: int = 1000
) -> float:
    """Return the share of covariance-matched random directions (N2) that have a decoder row at MATCH or more."""
    return share(best_cosines(covariance_matched(acts, n, seed), decoder, signed=True)[0] >= MATCH)
