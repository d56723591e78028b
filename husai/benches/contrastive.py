"""CE-style scores: does one latent stand out where two texts, or two bags of prompts, differ in one attribute?

The scores of CE-Bench (Gulko et al. 2025, arXiv 2509.00691) on pairs of our own, with what they lack: a permutation
null, a form that does not depend on the number of latents, and the bound that the published form obeys.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from husai.activations import Activations
from husai.config import TaskConfig, require, stream_seed
from husai.language.pretrained import LanguageModel, Tokens
from husai.saes import ROWS, SAEBatch
from husai.tasks import generator, sequences
from husai.text.stories import StoryPair

SCORES = ("contrastive", "independence", "independence_coded", "interpretability", "interpretability_coded")
"""As the paper has them, and as its code has them."""
BATCH = 256
"""Sentences that a model reads at a time."""


class Bags(NamedTuple):
    """Activations in contrastive pairs: two sides each, made of units (prompts, sentences) that could change sides."""

    values: Float[Tensor, "n d_model"]
    """One row a token, or a prompt."""
    unit: Int[Tensor, " n"]
    """The unit that each row belongs to."""
    pair: Int[Tensor, " units"]
    """The pair that each unit belongs to, 0 to pairs - 1."""
    side: Int[Tensor, " units"]
    """Which side of it, 0 or 1."""
    match: Int[Tensor, " units"] | None = None
    """What a unit may change places with, the same number; None: with any other."""


class Sums(NamedTuple):
    """One SAE's latents, added up within units."""

    sums: Float[Tensor, "units d_sae"]
    counts: Float[Tensor, " units"]
    """Rows a unit."""


def bound(d_sae: int) -> float:
    """Return the most that a z-score among d_sae latents can be, (F - 1) / sqrt(F): one latent apart, all others equal.

    Source: Samuelson's inequality, max_j |d_j - mean| <= s (F - 1) / sqrt(F), s with F - 1 in its denominator.
    """
    require(d_sae >= 2, "d_sae", d_sae, "at least two latents")
    return (d_sae - 1) / math.sqrt(d_sae)


def width_for(score: float) -> int:
    """Return the fewest latents whose `bound` is at least this score; ValueError: a score that is not above 0.

    (F - 1) / sqrt(F) = x - 1/x with x = sqrt(F), so x = (score + sqrt(score^2 + 4)) / 2.
    """
    require(score > 0, "score", score, "a score above 0")
    return max(2, math.ceil(((score + math.sqrt(score**2 + 4)) / 2) ** 2 - 1e-9))


def largest_z(values: Float[Tensor, "*rows d_sae"]) -> Float[Tensor, "*rows"]:
    """Return the largest z-score of each row: (max - mean) / s over its latents; 0 where all are equal."""
    spread = values.std(-1)
    return (values.amax(-1) - values.mean(-1)) / torch.where(spread > 0, spread, 1)


def residues(acts: Activations, task: TaskConfig, seed: int, units: int = 16) -> Bags:
    """Return pairs of bags of held-out prompts whose answers are two residues: everything else about them is drawn.

    Every residue is in one pair at most, in a seeded order; the prompts, at most `units` a side, are units of one row.
    `acts` are those of all sequences. ValueError: other activations, a residue with fewer than two held-out prompts.
    """
    answers, held = sequences(task).answers, ~acts.training
    held = held if bool(held.any()) else ~held
    require(len(answers) == len(held), "acts", f"{len(held)} rows", f"those of all {len(answers)} sequences")
    draw = generator(seed, "benches/residues")
    order = torch.randperm(task.p, generator=draw)[: task.p // 2 * 2].tolist()
    whole = [(held & (answers == residue)).nonzero()[:, 0] for residue in order]
    fewest = min(len(part) for part in whole)
    require(fewest >= 2, "acts", f"{fewest} held-out prompts with one answer", "at least two of each")
    parts = [part[torch.randperm(len(part), generator=draw)[:units]] for part in whole]
    number = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(part) for part in parts]))
    values = acts.values[torch.cat(parts)]
    require(isinstance(values, Tensor), "acts", "shards", "activations in memory")
    return Bags(values, torch.arange(len(number)), number // 2, number % 2)  # type: ignore[arg-type]


def read(
    model: LanguageModel, hook: str, texts: Sequence[str], context: int = 64
) -> tuple[Float[Tensor, "n d_model"], Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Return the activations of all tokens of some texts, and the text and the token id of each row.

    Special tokens and padding are left out. ValueError: an unknown hook, no texts, a context that does not fit.
    """
    values, document, ids = [], [], []
    for part in model.tokenize(texts, context).split(BATCH):
        longest = int(part.mask.sum(1).max())  # padding changes nothing and costs as much as a token
        part = Tokens(part.ids[:, :longest], part.mask[:, :longest], part.kept[:, :longest], part.document)
        values.append(model.at(part, hook)[part.kept])
        document.append(part.document[:, None].expand_as(part.ids)[part.kept])
        ids.append(part.ids[part.kept])
    return torch.cat(values), torch.cat(document), torch.cat(ids)


def sentences(model: LanguageModel, hook: str, pairs: Sequence[StoryPair], context: int = 64) -> Bags:
    """Return pairs of stories as bags of their tokens at a hook; sentences, each read on its own, are the units.

    Sentences of one frame, where all pairs have frames, match. Special tokens and padding do not count. ValueError: no
    pair, a sentence without a token, an unknown hook.
    """
    require(len(pairs) >= 1, "pairs", "none", "at least one pair of stories")
    texts = [sentence for pair in pairs for story in (pair.high, pair.low) for sentence in story]
    lengths = torch.tensor([len(story) for pair in pairs for story in (pair.high, pair.low)])
    story = torch.arange(len(lengths)).repeat_interleave(lengths)
    values, unit, _ = read(model, hook, texts, context)
    require(len(unit.unique()) == len(texts), "pairs", "a sentence without a token", "sentences with tokens")
    matched = all(len(pair.frames) == len(pair.high) == len(pair.low) for pair in pairs)
    frames = [frame for pair in pairs for frame in 2 * pair.frames]
    return Bags(values, unit, story // 2, story % 2, torch.tensor(frames) if matched else None)


def add_up(sae: SAEBatch, bags: Bags, columns: Int[Tensor, " latents"] | None = None) -> Sums:
    """Return one SAE's latents, or some of them, added up within units; ValueError: not one SAE."""
    require(len(sae) == 1, "sae", f"{len(sae)} seeds", "one: `saes[index]`")
    columns = torch.arange(sae.config.d_sae) if columns is None else columns
    sums = bags.values.new_zeros(len(bags.pair), len(columns))
    for rows, unit in zip(bags.values.split(ROWS), bags.unit.split(ROWS), strict=True):
        sums.index_add_(0, unit, sae.encode(rows)[0][:, columns])
    return Sums(sums, torch.bincount(bags.unit, minlength=len(bags.pair)).to(sums))


def scores(sums: Sums, pair: Int[Tensor, " units"], side: Int[Tensor, " units"]) -> dict[str, Float[Tensor, " pairs"]]:
    """Return every pair's score by the names of `SCORES`, for one assignment of the units to pairs and sides.

    V1, V2: mean latents of the rows of each side; I1: of both. contrastive = max z(|V1 - V2|), independence =
    max z(|I1 - I2|), interpretability = max z(|V1 - V2| + |I1 - I2|), with z over the latents. I2 is the mean of I1
    over the pairs as the paper has it, and 0 as its code has it ("coded"). Source: Gulko et al. (2025) and its code.
    """
    pairs, place = int(pair.max()) + 1, 2 * pair + side
    rows = sums.counts.new_zeros(2 * pairs).index_add_(0, place, sums.counts)
    added = sums.sums.new_zeros(2 * pairs, sums.sums.shape[1]).index_add_(0, place, sums.sums)
    first, second = (added / rows[:, None]).unflatten(0, (pairs, 2)).unbind(1)
    both = added.unflatten(0, (pairs, 2)).sum(1) / rows.unflatten(0, (pairs, 2)).sum(1)[:, None]
    apart, alone, mean = (first - second).abs(), (both - both.mean(0)).abs(), both.abs()
    values = [apart, alone, mean, apart + alone, apart + mean]
    return dict(zip(SCORES, map(largest_z, values), strict=True))


def reassigned(bags: Bags, seed: int, across: bool = False) -> tuple[Int[Tensor, " units"], Int[Tensor, " units"]]:
    """Return the places of units, and the units that come there: shuffled within their pair, or `across` pairs.

    Units that `match` change places only with one another: two sides that share their frames share them still.
    """
    match = torch.zeros_like(bags.pair) if bags.match is None else bags.match
    group = match if across else bags.pair * (int(match.max()) + 1) + match
    keys = torch.rand(len(group), generator=generator(seed, "benches/reassigned")).double()
    return group.argsort(stable=True), (keys + group).argsort()


class Judged(NamedTuple):
    """A score over pairs beside its permutation null."""

    score: float
    """Mean over pairs: what is published."""
    null: float
    """Its mean when units are reassigned."""
    rank: float
    """Mean over pairs of the share of reassignments that score lower: 1/2 by chance at every width, at most 1."""
    share: float
    """Score over its `bound`."""


def judge(
    sae: SAEBatch, bags: Bags, draws: int, seed: int = 0, columns: Int[Tensor, " latents"] | None = None
) -> dict[str, Judged]:
    """Return the scores of one SAE, by all latents or some columns, each beside its permutation null.

    Units change sides within their pair; for independence, which knows no sides, they change pairs; those that match
    with one another only. (Swapping whole sides, or permuting latents, changes no score.) With D draws of which b score
    lower and e the same, a pair's rank is (b + (e + 1) / 2) / (D + 1), of expectation 1/2 if the units that change
    places are exchangeable. ValueError: no draw.
    """
    require(draws >= 1, "draws", draws, "at least one draw")
    sums = add_up(sae, bags, columns)
    found, drawn = scores(sums, bags.pair, bags.side), dict[str, Tensor]()
    for across in (False, True):
        moves = [reassigned(bags, stream_seed(seed, str(draw)), across) for draw in range(draws)]
        rows = [scores(Sums(sums.sums[to], sums.counts[to]), bags.pair[at], bags.side[at]) for at, to in moves]
        names = [name for name in SCORES if name.startswith("independence") == across]
        drawn |= {name: torch.stack([row[name] for row in rows]) for name in names}
    return {name: _beside(value, drawn[name], sums.sums.shape[1]) for name, value in found.items()}


def _beside(value: Float[Tensor, " pairs"], drawn: Float[Tensor, "draws pairs"], d_sae: int) -> Judged:
    same = (drawn - value).abs() <= 1e-5 * value.abs()  # what one order of adding up changes
    ranks = (((drawn < value) & ~same).sum(0) + (same.sum(0) + 1) / 2) / (len(drawn) + 1)
    score = float(value.double().mean())
    return Judged(score, float(drawn.double().mean()), float(ranks.double().mean()), score / bound(d_sae))


def over_seeds(
    saes: SAEBatch, bags: Bags, draws: int, seed: int = 0, columns: Sequence[Tensor] | None = None
) -> dict[str, list[float]]:
    """Return `judge` of every SAE seed, {"contrastive_score": one value a seed, "contrastive_null": ..., ...}.

    `columns`: the latents of every seed that count.
    """
    of = [None] * len(saes) if columns is None else columns
    rows = [judge(saes[index], bags, draws, seed, of[index]) for index in range(len(saes))]
    keys = [(name, field) for name in SCORES for field in Judged._fields]
    return {f"{name}_{field}": [getattr(row[name], field) for row in rows] for name, field in keys}
