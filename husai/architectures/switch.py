"""Switch SAE: each input goes to one expert, a block of latents (Mudide et al. 2024, arXiv 2410.08201, section 3).

p = softmax(W_router^T (x - b_router)), i = argmax p; z = p_i * TopK(ReLU(pre)) within block i, zero elsewhere; loss
adds balance * N sum_i f_i P_i: f_i the share of the batch that expert i gets, P_i the batch mean of p_i, N the experts.
All blocks' pre-activations are computed: the definition is the paper's, the saving of its sparse products is not.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from husai.architectures.base import Architecture, Encoding
from husai.config import SAEConfig


class Switch(Architecture):
    """TopK within the expert that the router names; extra: `W_router`, `b_router`."""

    def shapes(self, config: SAEConfig, d_in: int) -> dict[str, tuple[int, ...]]:
        """One column of the router an expert, and the router's own centre."""
        return {"W_router": (d_in, config.experts), "b_router": (d_in,)}

    def parameters(self, config: SAEConfig, d_in: int, draw: torch.Generator) -> dict[str, Tensor]:
        """Kaiming-uniform around the mean."""
        router = (2 * torch.rand(d_in, config.experts, generator=draw) - 1) / math.sqrt(d_in)
        return {"W_router": router, "b_router": torch.zeros(d_in)}

    def encode(self, step: Encoding, config: SAEConfig) -> Float[Tensor, "seeds batch d_sae"]:
        """Keep the k largest pre-activations of the expert's block, times its probability."""
        weight, expert = probabilities(step).max(-1, keepdim=True)
        blocks = step.pre.unflatten(-1, (config.experts, -1))
        values, indices = blocks.take_along_dim(expert[..., None], 2).squeeze(2).topk(config.active, dim=-1)
        indices = indices + expert * blocks.shape[-1]
        return torch.zeros_like(step.pre).scatter(-1, indices, weight * values.relu())

    def loss(
        self,
        step: Encoding,
        z: Float[Tensor, "seeds batch d_sae"],
        target: Float[Tensor, "seeds batch d_model"],
        config: SAEConfig,
    ) -> Float[Tensor, " seeds"]:
        """Add the load-balancing loss."""
        p = probabilities(step)
        share = torch.nn.functional.one_hot(p.argmax(-1), config.experts).to(p.dtype).mean(1)
        load = config.experts * (share * p.mean(1)).sum(-1)
        return super().loss(step, z, target, config) + config.balance * load

    def fold(self, extra: dict[str, Tensor], mean: Tensor, x_scale: float, y_scale: float) -> dict[str, Tensor]:
        """The router reads raw inputs."""
        return {"W_router": extra["W_router"] * x_scale, "b_router": mean + extra["b_router"] / x_scale}


def probabilities(step: Encoding) -> Float[Tensor, "seeds batch experts"]:
    """Return the router's softmax."""
    extra = step.weights.extra
    return torch.bmm(step.x - extra["b_router"][:, None], extra["W_router"]).softmax(-1)
