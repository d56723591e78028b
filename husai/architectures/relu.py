"""ReLU with an L1 penalty (Bricken et al. 2023; Cunningham et al. 2023, arXiv 2309.08600, eq. 4).

z = ReLU(W_enc^T (x - b_dec) + b_enc); loss adds l1 * mean over the batch of sum_j z_j, with unit decoder rows.
"""

from jaxtyping import Float
from torch import Tensor

from husai.config import SAEConfig


def encode(pre: Float[Tensor, "*batch d_sae"], config: SAEConfig) -> Float[Tensor, "*batch d_sae"]:
    """Keep the positive pre-activations."""
    return pre.relu()


def penalty(z: Float[Tensor, "seeds batch d_sae"], config: SAEConfig) -> Float[Tensor, " seeds"]:
    """Return l1 times the mean over the batch of the latents' sum, one value a seed."""
    return config.l1 * z.sum(-1).mean(-1)
