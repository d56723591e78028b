"""HierarchicalTopK: one SAE for every sparsity budget up to k (Balagansky et al. 2025, arXiv 2505.24473).

z = TopK(ReLU(pre)); loss = mean over budgets j of |x - b_dec - (the j largest latents of the row) W_dec|^2.
`groups` are the budgets, 1..k when empty.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from husai.architectures.base import Encoding
from husai.architectures.topk import TopK
from husai.config import SAEConfig


class HierarchicalTopK(TopK):
    """TopK whose every leading part of the selection reconstructs."""

    def loss(
        self,
        step: Encoding,
        z: Float[Tensor, "seeds batch d_sae"],
        target: Float[Tensor, "seeds batch d_model"],
        config: SAEConfig,
    ) -> Float[Tensor, " seeds"]:
        """Return the mean over budgets of the squared error."""
        budgets = torch.tensor(config.groups or range(1, config.active + 1), device=z.device)
        values, indices = z.topk(int(budgets[-1]), dim=-1)
        shift = torch.arange(len(z), device=z.device)[:, None, None] * config.d_sae
        rows = torch.nn.functional.embedding(indices + shift, step.weights.decoder.flatten(0, 1))
        explained = (values[..., None] * rows).cumsum(2)[:, :, budgets - 1]
        return (target[:, :, None] - explained).square().mean((1, 2, 3))
