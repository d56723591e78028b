"""JumpReLU: every latent has a learned threshold (Rajamanoharan et al. 2024, arXiv 2407.14435, section 3).

z = pre * H(pre - theta); loss adds l1 * mean over the batch of the L0 norm sum_j H(pre_j - theta_j). With K the
rectangle of width and height 1 and e the bandwidth, the threshold's straight-through gradients are
dz/dtheta = -(theta/e) K((pre - theta)/e) and dH/dtheta = -(1/e) K((pre - theta)/e); the penalty gives pre none.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from husai import objectives
from husai.architectures.base import Architecture, Encoding
from husai.config import SAEConfig


class JumpReLU(Architecture):
    """What exceeds its latent's threshold; extra: `threshold`, one a latent (its logarithm in training)."""

    def shapes(self, config: SAEConfig, d_in: int) -> dict[str, tuple[int, ...]]:
        """One threshold a latent."""
        return {"threshold": (config.d_sae,)}

    def parameters(self, config: SAEConfig, d_in: int, draw: torch.Generator) -> dict[str, Tensor]:
        """Thresholds start at the bandwidth."""
        return {"log_threshold": torch.full((config.d_sae,), math.log(config.bandwidth))}

    def encode(self, step: Encoding, config: SAEConfig) -> Float[Tensor, "seeds batch d_sae"]:
        """Keep what exceeds the threshold, with the gradients above."""
        threshold = step.weights.extra["log_threshold"].exp()[:, None]
        open_ = heaviside(step.pre.detach(), threshold, config.bandwidth)
        return step.pre * open_.detach() + threshold.detach() * (open_ - open_.detach())

    def infer(self, step: Encoding, config: SAEConfig) -> Float[Tensor, "seeds batch d_sae"]:
        """Keep what exceeds the threshold."""
        return step.pre * (step.pre > step.weights.extra["threshold"][:, None])

    def loss(
        self,
        step: Encoding,
        z: Float[Tensor, "seeds batch d_sae"],
        target: Float[Tensor, "seeds batch d_model"],
        config: SAEConfig,
    ) -> Float[Tensor, " seeds"]:
        """Add the L0 penalty."""
        threshold = step.weights.extra["log_threshold"].exp()[:, None]
        open_ = heaviside(step.pre.detach(), threshold, config.bandwidth)
        return super().loss(step, z, target, config) + config.l1 * objectives.l1(open_)

    def fold(self, extra: dict[str, Tensor], mean: Tensor, x_scale: float, y_scale: float) -> dict[str, Tensor]:
        """The threshold is in units of latents."""
        return {"threshold": extra["log_threshold"].exp() / y_scale}


def heaviside(
    pre: Float[Tensor, "seeds batch d_sae"], threshold: Float[Tensor, "seeds 1 d_sae"], bandwidth: float
) -> Float[Tensor, "seeds batch d_sae"]:
    """Return H(pre - threshold), whose gradient with respect to the threshold is -K((pre - threshold)/e)/e."""
    near = (pre - threshold).abs() < bandwidth / 2
    # threshold - threshold.detach() is exactly zero: it only carries the gradient
    return (pre > threshold).to(pre.dtype) - near / bandwidth * (threshold - threshold.detach())
