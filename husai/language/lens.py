"""The logit lens at step onsets: what each layer of a GPT would say next if it were the last one.

A text's first onset is left out: no text begins with a regulation action. So is the rise from the embedding to the
first block: with tied embeddings the lens at the embedding mostly says the token that was read.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from husai import stats
from husai.evidence import Estimate
from husai.language.gpt import GPTs, unembed
from husai.language.matched import Texts, regulation_ids, texts


class Onsets(NamedTuple):
    """What the residual stream says, layer by layer, where the first token of a step but the first is predicted."""

    hooks: tuple[str, ...]
    """The embedding, then the residual stream after every block."""
    regulation: Float[Tensor, "seeds hooks"]
    """P(first token of a regulation action), mean over onsets."""
    openings: Float[Tensor, "seeds hooks"]
    """P(any token that opens a step in this style), mean over onsets: how legible the layer is."""
    there: Float[Tensor, "seeds hooks"]
    """P(regulation), mean over the onsets where the text has a regulation action; NaN in a style without."""

    @property
    def lift(self) -> Float[Tensor, "seeds hooks"]:
        """P(regulation) where it comes over P(regulation) at all onsets: 1 for a layer that does not know when."""
        return self.there / self.regulation

    def by_layer(self, of: str) -> list[Estimate]:
        """Return log10 of the probability at every layer, `of` "regulation", "openings" or "lift", with intervals."""
        return [stats.mean(column.tolist()) for column in getattr(self, of).log10().T]

    def rise(self, of: str, layer: int) -> list[float]:
        """Return log10 of the probability after block `layer` over that before it, a value a seed."""
        p = getattr(self, of).log10()
        return (p[:, layer + 1] - p[:, layer]).tolist()


def at_onsets(models: GPTs, of: Texts) -> Onsets:
    """Return the logit lens at the positions before later step onsets: the final norm and unembedding at every layer.

    P_l(T) = mean over onsets of sum_{t in T} softmax(unembed(resid_l))_t. Source: nostalgebraist (2020), logit lens.
    """
    wanted = ("hook_embed", *(f"blocks.{layer}.hook_resid_post" for layer in range(models.config.n_layers)))
    regulation, opening = torch.tensor(regulation_ids(models.tokenizer)), openings(of.style, models)
    sums = torch.zeros(3, len(models.seeds), len(wanted))
    later = of.before_onset & (of.before_onset.cumsum(1) > 1)
    comes = later & torch.nn.functional.pad(of.regulation[:, 1:], (0, 1))
    for tokens, before, now in zip(*(x.split(128) for x in (of.tokens, later, comes)), strict=True):

        def read(name: str, value: Tensor, before: Tensor = before, now: Tensor = now) -> None:
            if name in wanted:
                said = unembed(models.parameters, value[:, before]).softmax(-1)
                place = wanted.index(name)
                of_regulation = said[:, :, regulation].sum(-1)
                sums[0, :, place] += of_regulation.sum(1)
                sums[1, :, place] += said[:, :, opening].sum((1, 2))
                sums[2, :, place] += of_regulation[:, now[before]].sum(1)

        models.logits(tokens, read)
    n = later.sum()
    return Onsets(wanted, sums[0] / n, sums[1] / n, sums[2] / comes.sum())


def openings(style: str, models: GPTs) -> Tensor:
    """Return the ids that open a step in 500 training texts of a style, and the regulation actions' first tokens."""
    known = texts(style, "training", 500, models.config)
    return torch.cat([known.tokens[known.onset], torch.tensor(regulation_ids(models.tokenizer))]).unique()


def chance(models: GPTs) -> float:
    """Return log10 P(regulation) of a layer that says nothing: all entries of the softmax are equally likely.

    These are `config.vocabulary`, more than the tokenizer has ids where the texts did not fill its vocabulary.
    """
    return math.log10(len(regulation_ids(models.tokenizer)) / models.config.vocabulary)


def summary(found: Mapping[str, Onsets], uniform: float, layer: int = 2) -> dict[str, Estimate | bool | str]:
    """Return the values by which the published circuit is judged, with intervals over model seeds.

    `<style>_embedding`, `<style>_L<l>`: P(regulation). In adhd: `rise`, log10 of the last layer's over that of a layer
    that says nothing, whose log10 is `uniform` (`chance`); `rises_adhd`: whether every model has one; `share_L2`,
    the part of it in the block `layer`; `rise_L2`, log10 of the rise in that block; `rise_beyond_legibility`, that less
    the rise of P(any step opening); `largest_rise`, of any block after the first; `largest_in`, which blocks these are,
    and in how many models; `lift_L<l>`, `Onsets.lift`. `standard_times_uniform`: the standard models' largest
    P(regulation) after any block, as a multiple of a silent layer's.
    """
    values: dict[str, Estimate | bool | str] = {
        f"{style}_{'embedding' if i == 0 else f'L{i - 1}'}": stats.mean(column.tolist())
        for style, one in found.items()
        for i, column in enumerate(one.regulation.T)
    }
    adhd, standard = found["adhd"], found["standard"]
    values |= {f"lift_L{i}": stats.mean(column.tolist()) for i, column in enumerate(adhd.lift.T[1:])}
    here, total = adhd.rise("regulation", layer), (adhd.regulation[:, -1].log10() - uniform).tolist()
    rises = adhd.regulation[:, 1:].log10().diff(dim=1)  # of the blocks from 1 up
    return values | {
        "rise": stats.mean(total),
        "rises_adhd": min(total) > 0,
        f"share_L{layer}": stats.mean([part / whole for part, whole in zip(here, total, strict=True)]),
        f"rise_L{layer}": stats.mean(here),
        "rise_beyond_legibility": stats.difference(here, adhd.rise("openings", layer)),
        "largest_rise": stats.mean(rises.amax(1).tolist()),
        "largest_in": ", ".join(f"L{i + 1} in {n} of {len(rises)} models" for i, n in _counted(rises.argmax(1))),
        "standard_times_uniform": stats.mean((standard.regulation[:, 1:].amax(1) / 10**uniform).tolist()),
    }


def _counted(values: Tensor) -> list[tuple[int, int]]:
    """Return (value, how often it is there), the most frequent first."""
    return Counter(values.tolist()).most_common()
