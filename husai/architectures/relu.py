"""ReLU with an L1 penalty (Bricken et al. 2023; Cunningham et al. 2023, arXiv 2309.08600, eq. 4).

z = ReLU(W_enc^T (x - b_dec) + b_enc); loss adds l1 * mean over the batch of sum_j z_j |d_j|, where |d_j| = 1.
"""

from jaxtyping import Float
from torch import Tensor

from husai import objectives
from husai.architectures.base import Architecture, Encoding
from husai.config import SAEConfig


class ReLU(Architecture):
    """As many latents as are positive."""

    def encode(self, step: Encoding, config: SAEConfig) -> Float[Tensor, "seeds batch d_sae"]:
        """Keep the positive pre-activations."""
        return step.pre.relu()

    def loss(
        self,
        step: Encoding,
        z: Float[Tensor, "seeds batch d_sae"],
        target: Float[Tensor, "seeds batch d_model"],
        config: SAEConfig,
    ) -> Float[Tensor, " seeds"]:
        """Add the L1 penalty."""
        return super().loss(step, z, target, config) + config.l1 * objectives.l1(z)
