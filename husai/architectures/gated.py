"""Gated: which latents fire and how strongly are told apart (Rajamanoharan et al. 2024, arXiv 2404.16014, section 3).

pi = W_enc^T (x - b_dec) + b_enc opens the gate; z = H(pi) * ReLU(exp(r_mag) * W_enc^T (x - b_dec) + b_mag).
loss = |x - x_hat|^2 + l1 * sum_j ReLU(pi_j) + |x - ReLU(pi) W_dec - b_dec|^2, the last with W_dec and b_dec held fixed.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from husai import objectives
from husai.architectures.base import Architecture, Encoding
from husai.config import SAEConfig


class Gated(Architecture):
    """What the gate lets through; extra: `r_mag` and `b_mag`, the magnitudes' log-scale and bias of each latent."""

    def shapes(self, config: SAEConfig, d_in: int) -> dict[str, tuple[int, ...]]:
        """Two numbers a latent."""
        return {"r_mag": (config.d_sae,), "b_mag": (config.d_sae,)}

    def parameters(self, config: SAEConfig, d_in: int, draw: torch.Generator) -> dict[str, Tensor]:
        """Magnitudes start equal to the gate's pre-activations."""
        return {name: torch.zeros(shape) for name, shape in self.shapes(config, d_in).items()}

    def encode(self, step: Encoding, config: SAEConfig) -> Float[Tensor, "seeds batch d_sae"]:
        """Multiply the magnitudes by the open gates."""
        r_mag, b_mag = (step.weights.extra[name][:, None] for name in ("r_mag", "b_mag"))
        magnitudes = r_mag.exp() * (step.pre - step.weights.bias[:, None]) + b_mag
        return magnitudes.relu() * (step.pre > 0)

    def loss(
        self,
        step: Encoding,
        z: Float[Tensor, "seeds batch d_sae"],
        target: Float[Tensor, "seeds batch d_model"],
        config: SAEConfig,
    ) -> Float[Tensor, " seeds"]:
        """Add the L1 penalty on the gate, and the auxiliary path that teaches the gate to reconstruct."""
        gate = step.pre.relu()
        error = target.detach() - torch.bmm(gate, step.weights.decoder.detach())
        terms = config.l1 * objectives.l1(gate) + objectives.reconstruction(error)
        return super().loss(step, z, target, config) + terms

    def fold(self, extra: dict[str, Tensor], mean: Tensor, x_scale: float, y_scale: float) -> dict[str, Tensor]:
        """The bias is in units of latents."""
        return {"r_mag": extra["r_mag"], "b_mag": extra["b_mag"] / y_scale}
