"""The two recipes of the book, by name: what the sources did, and what trains until the dictionary stops moving."""

import math
from typing import Any, Literal

from husai.config import SAEConfig, TrainConfig, require


def published(d_sae: int = 1024, k: int = 32, architecture: str = "topk") -> TrainConfig:
    """Return the recipe behind the sources' headline: 140 steps of Adam, no decoder bias, signed TopK."""
    sae = SAEConfig(architecture, d_sae, k, signed=architecture == "topk", decoder_bias=False)
    return TrainConfig(
        sae, "published", steps=140, batch_size=2048, lr=3e-4, decay_share=0.0, standardise=False,
        tied_init=False, project_gradient=False, clip_norm=0.0, auxk=0.0,
    )  # fmt: skip


def converged(d_sae: int = 1024, k: int | Literal["auto"] = 32, steps: int = 4096, **sae: Any) -> TrainConfig:
    """Return recipe G: centred data, tied initialisation, TopK of ReLU, AuxK, projected gradient, lr decay.

    At least 2e4 updates a latent are wanted, steps * batch * k / d_sae; `study` checks them and the plateau.
    """
    return TrainConfig(SAEConfig(d_sae=d_sae, k=k, **sae), "converged", steps=steps)


def steps_for(config: TrainConfig, updates: float) -> int:
    """Return the fewest steps at which a latent has had this many updates on average, steps * batch * k / d_sae.

    ValueError: k is "auto", or updates not above 0.
    """
    require(updates > 0, "updates", updates, "a number of updates a latent above 0")
    return math.ceil(updates * config.sae.d_sae / (config.batch_size * config.sae.active))
