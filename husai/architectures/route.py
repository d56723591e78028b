"""RouteSAE: one dictionary for a stack of layers (Shi et al. 2025, arXiv 2503.08200, eqs. 3-7).

p = softmax(W_router^T sum_l x_l), i = argmax p; the TopK SAE encodes and reconstructs r = p_i x_i, so that the router
learns through p_i. loss = mean over the batch of |r - r_hat|^2 / |r|^2: a smaller p gains nothing.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from husai.architectures.base import Encoding, residual
from husai.architectures.topk import TopK
from husai.config import SAEConfig


class Route(TopK):
    """TopK of the routed layer; extra: `W_router`, and `b_in`, each layer's mean, which is taken off first."""

    def shapes(self, config: SAEConfig, d_in: int) -> dict[str, tuple[int, ...]]:
        """One column of the router and one mean a layer."""
        return {"W_router": (d_in, config.layers), "b_in": (config.layers, d_in)}

    def parameters(self, config: SAEConfig, d_in: int, draw: torch.Generator) -> dict[str, Tensor]:
        """Kaiming-uniform."""
        return {"W_router": (2 * torch.rand(d_in, config.layers, generator=draw) - 1) / math.sqrt(d_in)}

    def inputs(
        self, x: Float[Tensor, "seeds batch layers d_in"], extra: dict[str, Tensor]
    ) -> Float[Tensor, "seeds batch d_in"]:
        """Return p_i x_i."""
        return choose(x, extra)[0]

    def loss(
        self,
        step: Encoding,
        z: Float[Tensor, "seeds batch d_sae"],
        target: Float[Tensor, "seeds batch d_model"],
        config: SAEConfig,
    ) -> Float[Tensor, " seeds"]:
        """Return the squared error relative to the routed input's squared norm."""
        error = residual(step.weights, z, target).square().sum(-1)
        return (error / step.x.square().sum(-1).clamp(min=torch.finfo(error.dtype).tiny)).mean(1)

    def fold(
        self, extra: dict[str, Tensor], mean: Tensor, x_scale: float, y_scale: float
    ) -> dict[str, Tensor]:
        """The router reads raw layers, less b_in."""
        return {"W_router": extra["W_router"] * x_scale}


def choose(
    x: Float[Tensor, "seeds batch layers d_in"], extra: dict[str, Tensor]
) -> tuple[Float[Tensor, "seeds batch d_in"], Int[Tensor, "seeds batch"]]:
    """Return the routed input p_i x_i and the layer i."""
    weight, layer = torch.bmm(x.sum(2), extra["W_router"]).softmax(-1).max(-1)
    return weight[..., None] * x.take_along_dim(layer[..., None, None], 2).squeeze(2), layer
