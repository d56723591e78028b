"""TopK: the k largest pre-activations are kept (Gao et al. 2024, arXiv 2406.04093, eq. 2).

z = TopK(ReLU(W_enc^T (x - b_dec) + b_enc)); `signed` leaves the ReLU out, as the sources did.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from husai.config import SAEConfig


def encode(pre: Float[Tensor, "*batch d_sae"], config: SAEConfig) -> Float[Tensor, "*batch d_sae"]:
    """Keep the k largest pre-activations of each row and set the others to zero."""
    values, indices = pre.topk(config.k, dim=-1)
    values = values if config.signed else values.relu()
    return torch.zeros_like(pre).scatter(-1, indices, values)


def penalty(z: Float[Tensor, "seeds batch d_sae"], config: SAEConfig) -> Float[Tensor, " seeds"]:
    """Nothing: the sparsity is exact."""
    return z.new_zeros(z.shape[0])
