"""RouteSAE: one dictionary for a stack of layers (Shi et al. 2025, arXiv 2503.08200, section 3).

p = softmax(W_router^T sum_l x_l + b_router), i = argmax p; a TopK SAE encodes and reconstructs r = p_i x_i, so that
the router learns through p_i. loss = mean over the batch of |r - r_hat|^2 / |r|^2: a smaller p gains nothing.
The paper reads raw activations and has no b_router; here each layer's mean is taken off first, and b_router stands for
what the means would add to the router. Without biases TopK is homogeneous, r_hat(p x) = p r_hat(x), so that the loss
does not depend on p: the published router learns only by way of b_enc and b_dec.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from husai.architectures.base import Encoding, residual
from husai.architectures.topk import TopK
from husai.config import SAEConfig


class Route(TopK):
    """TopK of the routed layer; extra: `W_router`, `b_router`, and `b_in`, each layer's mean."""

    def shapes(self, config: SAEConfig, d_in: int) -> dict[str, tuple[int, ...]]:
        """One column and one bias of the router, and one mean, a layer."""
        return {"W_router": (d_in, config.layers), "b_router": (config.layers,), "b_in": (config.layers, d_in)}

    def parameters(self, config: SAEConfig, d_in: int, draw: torch.Generator) -> dict[str, Tensor]:
        """Kaiming-uniform, no bias."""
        router = (2 * torch.rand(d_in, config.layers, generator=draw) - 1) / math.sqrt(d_in)
        return {"W_router": router, "b_router": torch.zeros(config.layers)}

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

    def fold(self, extra: dict[str, Tensor], mean: Tensor, x_scale: float, y_scale: float) -> dict[str, Tensor]:
        """The router reads raw layers, less b_in."""
        return {"W_router": extra["W_router"] * x_scale, "b_router": extra["b_router"]}


def choose(
    x: Float[Tensor, "seeds batch layers d_in"], extra: dict[str, Tensor]
) -> tuple[Float[Tensor, "seeds batch d_in"], Int[Tensor, "seeds batch"]]:
    """Return the routed input p_i x_i and the layer i."""
    logits = torch.bmm(x.sum(2), extra["W_router"]) + extra["b_router"][:, None]
    weight, layer = logits.softmax(-1).max(-1)
    return weight[..., None] * x.take_along_dim(layer[..., None, None], 2).squeeze(2), layer
