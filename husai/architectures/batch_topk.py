"""BatchTopK: k latents an input on average, not each (Bussmann et al. 2024, arXiv 2412.06410, section 3).

Training: z = the k * batch largest of ReLU(W_enc^T (x - b_dec) + b_enc) over the whole batch of a seed.
Use: z = ReLU(pre) where pre > threshold, the mean over batches of the smallest positive activation that was kept.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from husai.architectures.base import Architecture, Encoding
from husai.config import SAEConfig


class BatchTopK(Architecture):
    """The k * batch largest of each seed's batch; extra: `threshold`, one number a seed."""

    def shapes(self, config: SAEConfig, d_in: int) -> dict[str, tuple[int, ...]]:
        """One threshold."""
        return {"threshold": ()}

    def encode(self, step: Encoding, config: SAEConfig) -> Float[Tensor, "seeds batch d_sae"]:
        """Keep the k * batch largest positive pre-activations of each seed."""
        return largest(step.pre, config.active)

    def infer(self, step: Encoding, config: SAEConfig) -> Float[Tensor, "seeds batch d_sae"]:
        """Keep what exceeds the seed's threshold."""
        kept = step.pre > step.weights.extra["threshold"][:, None, None]
        return step.pre.relu() * kept

    def buffers(self, batches: Iterator[Float[Tensor, "seeds batch d_sae"]], config: SAEConfig) -> dict[str, Tensor]:
        """Return the threshold: batches in which nothing is positive do not count."""
        kept = (largest(pre, config.active) for pre in batches)
        smallest = torch.stack([torch.where(z > 0, z, torch.inf).amin((1, 2)) for z in kept])
        found = smallest.isfinite()
        return {"threshold": torch.where(found, smallest, 0).sum(0) / found.sum(0).clamp(min=1)}

    def fold(self, extra: dict[str, Tensor], mean: Tensor, x_scale: float, y_scale: float) -> dict[str, Tensor]:
        """The threshold is in units of latents."""
        return {"threshold": extra["threshold"] / y_scale}


def largest(pre: Float[Tensor, "seeds batch d_sae"], k: int) -> Float[Tensor, "seeds batch d_sae"]:
    """Return ReLU(pre) with all but the k * batch largest entries of each seed set to zero."""
    flat = pre.relu().flatten(1)
    values, indices = flat.topk(k * pre.shape[1], dim=1)
    return torch.zeros_like(flat).scatter(1, indices, values).view_as(pre)
