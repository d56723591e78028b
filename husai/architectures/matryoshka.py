"""Matryoshka BatchTopK: the first latents must reconstruct alone (Bussmann et al. 2025, arXiv 2503.17547).

z as in BatchTopK over the whole dictionary; loss = mean over prefix widths m of |x - sum_(j<m) z_j d_j - b_dec|^2 (the
paper sums; the mean keeps the weight of AuxK). `groups` are the widths.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from husai import objectives
from husai.architectures.base import Encoding
from husai.architectures.batch_topk import BatchTopK
from husai.config import SAEConfig


class Matryoshka(BatchTopK):
    """Nested dictionaries, one within the next."""

    def loss(
        self,
        step: Encoding,
        z: Float[Tensor, "seeds batch d_sae"],
        target: Float[Tensor, "seeds batch d_model"],
        config: SAEConfig,
    ) -> Float[Tensor, " seeds"]:
        """Return the mean over prefixes of the squared error."""
        terms, error, first = [], target, 0
        for last in prefixes(config):
            error = error - torch.bmm(z[:, :, first:last], step.weights.decoder[:, first:last])
            terms.append(objectives.reconstruction(error))
            first = last
        return torch.stack(terms).mean(0)


def prefixes(config: SAEConfig) -> list[int]:
    """Return the widths, rising to d_sae."""
    return list(config.groups) or sorted({max(1, config.d_sae // share) for share in (16, 8, 4, 2, 1)})
