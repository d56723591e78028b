"""The swap of the matched pair, one model seed at a time: one model's attention or residual in the other, head by head.

Every swap stands beside pushes of the same length at the same places: along a random direction, along the features that
fire most often, and towards what the donor makes of another text (a shuffled pair).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import spearmanr
from torch import Tensor

from husai import progress, stats
from husai.config import require
from husai.evidence import Estimate
from husai.language.gpt import GPTs
from husai.language.matched import Texts
from husai.pairs.bench import random_directions, wanted
from husai.pairs.decoding import greedy, steps
from husai.pairs.edits import Mix, Reader, edited, reads, recorded, regulation, swapped, without_head
from husai.saes import SAEBatch
from husai.similarity import cosine_matrix, unit_rows

SITES = {"attention": "hook_attn_out", "residual": "hook_resid_post"}
"""What is swapped, and the hook of a block where it stands."""
NULLS = {"random_direction": "directions", "random_feature": "features", "shuffled_pair": "shuffled"}
"""The nulls of a swap, and what comparisons with them are called."""
SPAN = 32
"""Tokens back that an attention profile covers."""


class Outcome(NamedTuple):
    """What a model, changed or not, does with a set of tasks."""

    spearman: float
    """Rank correlation of a task's complexity with the number of steps that the model writes; 0 where all are equal."""
    regulation: float
    """Mean probability of a regulation token where a step begins, on the texts as they stand."""
    steps: float
    """Mean number of steps that the model writes."""


class Tasks(NamedTuple):
    """Texts of one style as prompts to go on from, and as texts to read."""

    texts: Texts
    lengths: Int[Tensor, " n"]
    """Tokens up to and with <|steps|>: the prompt."""
    separator: int
    end: int
    longest: int
    """Most tokens that are written, prompt included."""
    wanted: Bool[Tensor, " vocabulary"]

    def outcome(self, reader: Reader) -> Outcome:
        """Return what a reader does with these tasks, writing greedily."""
        read = regulation(reader(self.texts.tokens), reads(self.texts), self.wanted)
        written = greedy(reader, self.texts.tokens, self.lengths, self.end, self.longest)
        number = steps(written, self.lengths, self.separator, self.end)
        return Outcome(correlation(self.texts.complexity, number), float(read.mean()), float(number.double().mean()))


def tasks(model: GPTs, texts: Texts, written: int = 0) -> Tasks:
    """Return texts as tasks for a model of their style, which writes at most so many tokens, if that is not 0."""
    name = model.tokenizer.id
    opens = (texts.tokens == name("<|steps|>")).int()
    lengths, longest = opens.argmax(1) + 1, min(model.config.context, texts.tokens.shape[1] + 8)
    longest = min(longest, int(lengths.max()) + written) if written else longest
    return Tasks(texts, lengths, name("<|sep|>"), name("<|end|>"), longest, wanted(model))


def correlation(complexity: Int[Tensor, " n"], number: Int[Tensor, " n"]) -> float:
    """Return Spearman's rank correlation, ties sharing their ranks; 0 where one side does not vary."""
    if len(number.unique()) < 2 or len(complexity.unique()) < 2:
        return 0.0
    return float(spearmanr(complexity.numpy(), number.numpy()).statistic)


class Layout(NamedTuple):
    """The step-layout heads of one pair of models, and how alike the heads of their layer are."""

    adhd: int
    """The adhd head that attends most, where a step begins, to earlier beginnings of steps."""
    standard: int
    """The same of the standard model."""
    partner: int
    """The standard head whose attention profile is most like that of the adhd layout head."""
    cosines: Float[np.ndarray, "heads heads"]
    """Cosines of the attention profiles of all adhd heads (rows) and all standard heads (columns)."""
    shares: Float[np.ndarray, "styles heads"]
    """Attention to earlier beginnings of steps: adhd, then standard."""
    profiles: Float[np.ndarray, "styles heads span"]
    """Attention by distance: adhd, then standard."""

    @property
    def matched(self) -> float:
        """Cosine of the adhd layout head with its partner: the largest of a row."""
        return float(self.cosines[self.adhd].max())

    @property
    def same_index(self) -> float:
        """Cosine of the adhd layout head with the standard head of the same number."""
        return float(self.cosines[self.adhd, self.adhd])

    @property
    def gains(self) -> Float[np.ndarray, " heads"]:
        """Largest cosine less that of the same number, of every adhd head: never negative, whatever the heads do."""
        return self.cosines.max(1) - np.diag(self.cosines)


def profiles(
    pattern: Float[Tensor, "n heads positions positions"], reads: Bool[Tensor, "n positions"], span: int = SPAN
) -> Float[Tensor, "heads span"]:
    """Return the mean attention by distance back, 0 to span - 1, of every head at the positions `reads`."""
    text, query = reads.nonzero().T
    rows = pattern[text, :, query]  # [reads, heads, positions]
    back = query[:, None] - torch.arange(span)
    found = rows.gather(2, back.clamp(min=0)[:, None].expand(-1, rows.shape[1], -1))
    return found.masked_fill((back < 0)[:, None], 0.0).mean(0)


def boundary_share(
    pattern: Float[Tensor, "n heads positions positions"], reads: Bool[Tensor, "n positions"]
) -> Float[Tensor, " heads"]:
    """Return the mean attention of every head, at the positions `reads`, to earlier ones of them."""
    text, query = reads.nonzero().T
    earlier = reads[text] & (torch.arange(reads.shape[1]) < query[:, None])
    return (pattern[text, :, query] * earlier[:, None]).sum(2).mean(0)


def layout(standard: GPTs, adhd: GPTs, texts: Mapping[str, Texts], layer: int) -> Layout:
    """Return the step-layout heads of a layer: each model by its own texts, the profiles of both on the adhd texts."""
    hook, models = f"blocks.{layer}.attn.hook_pattern", {"adhd": adhd, "standard": standard}
    found, shares = [], []
    for style, model in models.items():
        own = recorded(model, texts[style].tokens, [hook])[hook]
        shares.append(boundary_share(own, texts[style].before_onset))
        shown = own if style == "adhd" else recorded(model, texts["adhd"].tokens, [hook])[hook]
        found.append(profiles(shown, texts["adhd"].before_onset))
    cosines = cosine_matrix(*found).double().numpy()
    head = int(shares[0].argmax())
    partner = int(cosines[head].argmax())
    return Layout(
        head, int(shares[1].argmax()), partner, cosines, torch.stack(shares).double().numpy(),
        torch.stack(found).double().numpy(),
    )  # fmt: skip


def towards(directions: Float[Tensor, "batch d_model"]) -> Mix:
    """Return the null of a swap: a push as long as the swap's at every place, along one direction a text."""

    def mix(own: Tensor, given: Tensor) -> Tensor:
        return own + (given - own).norm(dim=-1, keepdim=True) * directions[:, None]

    return mix


class PerSeed(NamedTuple):
    """All outcomes of one model seed."""

    seed: int
    layer: int
    clean: dict[str, Outcome]
    """By style."""
    interventions: dict[str, tuple[str, Outcome]]
    """Name to the style of the changed model and what it does."""
    nulls: dict[str, tuple[str, Outcome]]
    layout: Layout

    def delta(self, name: str, metric: str = "spearman") -> float:
        """Return the change of a metric under an intervention or a null."""
        style, changed = (self.interventions | self.nulls)[name]
        return float(getattr(changed, metric) - getattr(self.clean[style], metric))

    def deltas(self, prefix: str, metric: str = "spearman") -> list[float]:
        """Return the changes under all interventions and nulls whose names begin so."""
        return [self.delta(name, metric) for name in self.interventions | self.nulls if name.startswith(prefix)]

    @property
    def head_drop(self) -> float:
        """Change of the correlation without the adhd layout head."""
        return self.delta(f"adhd_without_head_{self.layout.adhd}")

    @property
    def other_drops(self) -> list[float]:
        """Its changes without each other head of the layer."""
        own = f"adhd_without_head_{self.layout.adhd}"
        heads = [name for name in self.interventions if name.startswith("adhd_without_head_") and name != own]
        return [self.delta(name) for name in heads]

    def as_dict(self) -> dict[str, Any]:
        """Return what `causal_nulls_per_seed.json` holds of one seed."""

        def rows(of: Mapping[str, tuple[str, Outcome]]) -> list[dict[str, Any]]:
            return [
                {"name": name, "model": style, "metric": metric, "clean": getattr(self.clean[style], metric),
                 "changed": getattr(changed, metric), "delta": self.delta(name, metric)}
                for name, (style, changed) in of.items() for metric in Outcome._fields
            ]  # fmt: skip

        heads = {"adhd": self.layout.adhd, "standard": self.layout.partner}
        return {
            "seed": self.seed, "interventions": rows(self.interventions), "nulls": rows(self.nulls),
            "cosine_matched": self.layout.matched, "cosine_same_index": self.layout.same_index,
            **{f"{style}_head": {"layer": self.layer, "head": head} for style, head in heads.items()},
        }  # fmt: skip


def per_seed(
    standard: GPTs,
    adhd: GPTs,
    texts: Mapping[str, Texts],
    features: Float[Tensor, "n d_model"],
    *,
    layer: int = 3,
    draws: int = 2,
    written: int = 0,
) -> PerSeed:
    """Return the swaps of a layer both ways, every single-head ablation in adhd, and the nulls of its attention swap.

    `features` are decoder rows of an SAE at that layer, the ones that fire most often: a swap changes every place.
    ValueError: not one model each, another seed, fewer features than draws.
    """
    require(standard.seeds == adhd.seeds, "adhd.seeds", adhd.seeds, f"{standard.seeds}, as the standard model")
    require(len(features) >= draws, "features", f"{len(features)} rows", f"at least one a draw, {draws}")
    models, seed = {"standard": standard, "adhd": adhd}, adhd.seeds[0]
    both = {style: tasks(model, texts[style], written) for style, model in models.items()}
    changed: dict[str, tuple[str, Reader]] = {}
    for style, donor in (("adhd", "standard"), ("standard", "adhd")):
        for site, hook in SITES.items():
            reader = swapped(models[style], models[donor], f"blocks.{layer}.{hook}")
            changed[f"{style}_{site}_from_{donor}"] = (style, reader)
    for head in range(adhd.config.n_heads):
        edit = {f"blocks.{layer}.attn.hook_z": without_head(head)}
        changed[f"adhd_without_head_{head}"] = ("adhd", edited(adhd, edit))
    hook, n = f"blocks.{layer}.{SITES['attention']}", len(texts["adhd"].tokens)
    null: dict[str, tuple[str, Reader]] = {"shuffled_pair_0": ("adhd", swapped(adhd, standard, hook, other=True))}
    for draw in range(draws):
        drawn = random_directions(adhd.config.d_model, n, 1000 * seed + draw)
        feature = unit_rows(features[draw : draw + 1]).expand(n, -1)
        null[f"random_direction_{draw}"] = ("adhd", swapped(adhd, standard, hook, towards(drawn)))
        null[f"random_feature_{draw}"] = ("adhd", swapped(adhd, standard, hook, towards(feature)))
    clean = {style: both[style].outcome(edited(model)) for style, model in models.items()}
    found, beside = (
        {name: (style, both[style].outcome(reader)) for name, (style, reader) in group.items()}
        for group in (changed, null)
    )
    return PerSeed(seed, layer, clean, found, beside, layout(standard, adhd, texts, layer))


def every(
    models: Mapping[str, GPTs], texts: Mapping[str, Texts], saes: Sequence[SAEBatch], *, layer: int = 3, draws: int = 2,
    written: int = 0,
) -> list[PerSeed]:  # fmt: skip
    """Return `per_seed` of every model seed; `saes`: of the adhd models at the layer, the first seed of each.

    ValueError: as `per_seed`.
    """
    found = []
    for i, batch in enumerate(progress.each(saes, "model")):
        standard, adhd = (models[style].select(i) for style in ("standard", "adhd"))
        x = recorded(adhd, texts["adhd"].tokens, [f"blocks.{layer}.hook_resid_post"])
        rate = batch[0].firing(next(iter(x.values()))[texts["adhd"].real])[0]
        rows = batch.W_dec[0][rate.argsort(descending=True, stable=True)[:draws]]
        found.append(per_seed(standard, adhd, texts, rows, layer=layer, draws=draws, written=written))
    return found


def artifact(found: Sequence[PerSeed]) -> dict[str, Any]:
    """Return what `causal_nulls_per_seed.json` holds."""
    return {"layer": found[0].layer, "seeds": [one.as_dict() for one in found]}


def summary(found: Sequence[PerSeed]) -> dict[str, Estimate]:
    """Return what the swaps and heads do over model seeds, with intervals; ValueError: fewer than 3 model seeds."""
    values: dict[str, list[float]] = {}
    for one in found:
        row = {f"clean_{metric}_{style}": getattr(one.clean[style], metric) for style in one.clean
               for metric in Outcome._fields}  # fmt: skip
        for name in one.interventions:
            if "_from_" in name:
                row |= {f"{metric}_{name}": one.delta(name, metric) for metric in Outcome._fields}
        nulls = {name: float(np.mean(one.deltas(name))) for name in NULLS}
        swap = one.delta("adhd_attention_from_standard")
        row |= {f"spearman_{name}": value for name, value in nulls.items()}
        row |= {f"swap_beyond_{short}": swap - nulls[name] for name, short in NULLS.items()}
        others, layout = float(np.mean(one.other_drops)), one.layout
        rest = np.delete(layout.gains, layout.adhd)
        row |= {
            "head_drop": one.head_drop, "other_heads_drop": others, "head_drop_beyond_others": one.head_drop - others,
            "layout_matched": layout.matched, "layout_same_index": layout.same_index,
            "layout_gain_beyond_others": layout.matched - layout.same_index - float(rest.mean()),
        }  # fmt: skip
        for key, value in row.items():
            values.setdefault(key, []).append(value)
    return {key: stats.mean(column) for key, column in values.items()}
