"""The logit lens at step onsets: what each layer of a GPT would say next if it were the last one."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from husai.language.gpt import GPTs, unembed
from husai.language.matched import Texts, regulation_ids, texts


class Onsets(NamedTuple):
    """What the residual stream says, layer by layer, where a step's first token is predicted."""

    hooks: tuple[str, ...]
    """The embedding, then the residual stream after every block."""
    regulation: Float[Tensor, "seeds hooks"]
    """P(first token of a regulation action), mean over onsets."""
    openings: Float[Tensor, "seeds hooks"]
    """P(any token that opens a step in this style), mean over onsets: how legible the layer is."""

    @property
    def share(self) -> Float[Tensor, "seeds hooks"]:
        """P(regulation) / P(openings): regulation, given that the layer speaks of steps at all."""
        return self.regulation / self.openings

    def rise(self, layer: int) -> list[float]:
        """Return log10 of P(regulation) after block `layer` over that before it, a value a seed."""
        return (self.regulation[:, layer + 1] / self.regulation[:, layer]).log10().tolist()

    def legibility_rise(self, layer: int) -> list[float]:
        """Return log10 of P(openings) after block `layer` over that before it, a value a seed."""
        return (self.openings[:, layer + 1] / self.openings[:, layer]).log10().tolist()


def at_onsets(models: GPTs, of: Texts) -> Onsets:
    """Return the logit lens at the positions before step onsets: the final norm and unembedding at every layer.

    P_l(T) = mean over onsets of sum_{t in T} softmax(unembed(resid_l))_t. Source: nostalgebraist (2020), logit lens.
    """
    wanted = ("hook_embed", *(f"blocks.{layer}.hook_resid_post" for layer in range(models.config.n_layers)))
    regulation, opening = torch.tensor(regulation_ids(models.tokenizer)), openings(of.style, models)
    sums = torch.zeros(2, len(models.seeds), len(wanted))
    for tokens, before in zip(of.tokens.split(128), of.before_onset.split(128), strict=True):

        def read(name: str, value: Tensor, before: Tensor = before) -> None:
            if name in wanted:
                said = unembed(models.parameters, value[:, before]).softmax(-1)
                for total, ids in zip(sums, (regulation, opening), strict=True):
                    total[:, wanted.index(name)] += said[:, :, ids].sum((1, 2))

        models.logits(tokens, read)
    return Onsets(wanted, *(sums / of.before_onset.sum()))


def openings(style: str, models: GPTs) -> Tensor:
    """Return the ids that open a step in 500 training texts of a style, and the regulation actions' first tokens."""
    known = texts(style, "training", 500, models.config)
    return torch.cat([known.tokens[known.onset], torch.tensor(regulation_ids(models.tokenizer))]).unique()
