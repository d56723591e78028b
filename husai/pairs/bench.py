"""Where a matched pair is steered and probed: the residual stream of each model after one block, on its texts."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from husai.config import require
from husai.language.gpt import GPTs
from husai.language.matched import Texts, regulation_ids
from husai.pairs.edits import above, only, reads, recorded, regulation
from husai.saes import ROWS, SAEBatch
from husai.similarity import unit_rows
from husai.tasks import generator


@dataclass(frozen=True)
class Bench:
    """One model's residual stream after one block on some texts, and the probability read of what it makes of them."""

    model: GPTs
    layer: int
    texts: Texts

    def __post_init__(self) -> None:
        only(self.model)

    @cached_property
    def x(self) -> Float[Tensor, "texts positions d_model"]:
        """The model's own activations at `blocks.<layer>.hook_resid_post`."""
        hook = f"blocks.{self.layer}.hook_resid_post"
        return recorded(self.model, self.texts.tokens, [hook])[hook]

    @cached_property
    def wanted(self) -> Bool[Tensor, " vocabulary"]:
        """The tokens that begin a regulation step."""
        return wanted(self.model)

    def logits(self, x: Float[Tensor, "texts positions d_model"]) -> Float[Tensor, "texts positions vocabulary"]:
        """Return what the model says with these activations in place of its own."""
        return above(self.model, self.layer, x)

    @cached_property
    def base(self) -> Float[Tensor, " texts"]:
        """Probability of a regulation step, per text, in the unchanged model."""
        return self.probability(self.x)

    @cached_property
    def control(self) -> Float[Tensor, " d_model"]:
        """The unembedding difference: mean of the wanted tokens' read-out directions less that of all others, unit.

        The logit of a token is <E_t * w, x> / rms(x), w the weight of the final norm: this push must raise theirs.
        """
        p = self.model.parameters
        rows = p["embed.W_E"][0] * p["ln_final.w"][0]
        return unit_rows((rows[self.wanted].mean(0) - rows[~self.wanted].mean(0))[None])[0]

    def probability(self, x: Float[Tensor, "texts positions d_model"]) -> Float[Tensor, " texts"]:
        """Return the probability, per text, with these activations: where first tokens of later steps are predicted."""
        return regulation(self.logits(x), reads(self.texts), self.wanted)

    def push(
        self, amount: Float[Tensor, "texts positions"], directions: Float[Tensor, "n d_model"]
    ) -> Float[np.ndarray, "n texts"]:
        """Return the change of the probability when amount * d is added, one row a unit direction d."""
        moved = [self.probability(self.x + amount[..., None] * d) - self.base for d in unit_rows(directions)]
        return torch.stack(moved).double().numpy()


def wanted(model: GPTs) -> Bool[Tensor, " vocabulary"]:
    """Return which tokens begin a regulation step."""
    found = torch.zeros(model.config.vocabulary, dtype=torch.bool)
    found[list(regulation_ids(model.tokenizer))] = True
    return found


def benches(models: Mapping[str, GPTs], texts: Mapping[str, Texts], layer: int) -> list[dict[str, Bench]]:
    """Return one bench a style, {"standard": , "adhd": }, for every model seed.

    ValueError: styles with other seeds.
    """
    seeds = {style: one.seeds for style, one in models.items()}
    require(len(set(seeds.values())) == 1, "models", seeds, "the same seeds of both styles")
    count = len(next(iter(seeds.values())))
    return [{style: Bench(one.select(i), layer, texts[style]) for style, one in models.items()} for i in range(count)]


@torch.no_grad()
def latents(sae: SAEBatch, x: Float[Tensor, "texts positions d_model"]) -> Float[Tensor, "texts positions d_sae"]:
    """Return the latents of one SAE at every place of every text."""
    require(len(sae) == 1, "sae", f"{len(sae)} seeds", "one: `saes[index]`")
    rows = torch.cat([sae.encode(part)[0] for part in x.flatten(0, 1).split(ROWS)])
    return rows.unflatten(0, x.shape[:2])


def random_directions(d_model: int, n: int, seed: int) -> Float[Tensor, "n d_model"]:
    """Return n random unit directions."""
    return unit_rows(torch.randn(n, d_model, generator=generator(seed, "steering/directions")))
