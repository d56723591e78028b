"""TopK: the k largest pre-activations are kept (Gao et al. 2024, arXiv 2406.04093, eq. 2).

z = TopK(ReLU(W_enc^T (x - b_dec) + b_enc)); `signed` leaves the ReLU out, as the sources did.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from husai.architectures.base import Architecture, Encoding
from husai.config import SAEConfig


class TopK(Architecture):
    """The k largest of each row; fewer where fewer are positive."""

    def encode(self, step: Encoding, config: SAEConfig) -> Float[Tensor, "seeds batch d_sae"]:
        """Keep the k largest pre-activations of each row and set the others to zero."""
        values, indices = step.pre.topk(config.active, dim=-1)
        values = values if config.signed else values.relu()
        return torch.zeros_like(step.pre).scatter(-1, indices, values)
