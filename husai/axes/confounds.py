"""What the published frontier's numbers measured instead: routers without a task, a penalty without a gradient, EV."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from husai.config import require
from husai.evidence import Estimate
from husai.saes import SAEBatch
from husai.tasks import generator

RATE = 0.02
"""Learning rate of the router that is trained alone."""


def published_ev(fvu: Estimate, d_model: int) -> Estimate:
    """Return the explained variance as the sources computed it: 1 - FVU / d_model.

    They divided the mean of the squared error over rows and dimensions by the sum of the dimensions' variances.
    """
    low, value, high = (1 - part / d_model for part in (fvu.high, fvu.value, fvu.low))
    return Estimate(value, low, high, fvu.n, fvu.unit, fvu.method)


def blind_router(
    x: Float[Tensor, "n d_model"], experts: int, steps: int = 300, seed: int = 0, balance: float = 1.0
) -> Float[Tensor, " n"]:
    """Return the entropy in nats, input by input, of a router that only its two regularisers train.

    p = softmax(W x), loss = balance * sum_e (mean p_e - 1/experts)^2 - mean entropy(p): no reconstruction, as where a
    hard mask chooses the expert and p multiplies no latent. The minimum is p = 1/experts for every input.
    ValueError: fewer than two experts. Source: the routed TopK of the sources.
    """
    require(experts >= 2, "experts", experts, "two or more")
    draw = generator(seed, "axes/router")
    centred = x - x.mean(0)
    inputs = centred / centred.square().mean().sqrt()
    start = (2 * torch.rand(x.shape[1], experts, generator=draw) - 1) / math.sqrt(x.shape[1])
    weights = start.clone().requires_grad_()
    adam = torch.optim.Adam([weights], lr=RATE)
    for step in range(steps):
        adam.param_groups[0]["lr"] = RATE * (1 - step / steps)
        with torch.enable_grad():
            p = (inputs @ weights).softmax(1)
            even = (p.mean(0) - 1 / experts).square().sum()
            loss = balance * even - entropy(p).mean()
            adam.zero_grad()
            loss.backward()
        adam.step()
    return entropy((inputs @ weights.detach()).softmax(1))


def routing_entropy(saes: SAEBatch, x: Float[Tensor, "n d_model"]) -> Float[Tensor, " seeds"]:
    """Return the mean entropy in nats of each Switch SAE's router on x; ValueError: another architecture."""
    name = saes.config.architecture
    require(name == "switch", "architecture", name, "'switch', whose router chooses among experts")
    logits = torch.matmul(x - saes.extra["b_router"][:, None], saes.extra["W_router"])
    return entropy(logits.softmax(-1)).mean(1)


def entropy(p: Float[Tensor, "*rows experts"]) -> Float[Tensor, " *rows"]:
    """Return -sum_e p_e ln p_e; 0 ln 0 = 0."""
    return torch.special.entr(p).sum(-1)


def without_straight_through(saes: SAEBatch, x: Float[Tensor, "n d_model"], weight: float = 1e-3) -> float:
    """Return how far the gradient of a JumpReLU without straight-through gradients is from that of a ReLU.

    z = pre * H(pre - 0) with the loss |x - x_hat|^2 + weight * mean H(z), as published, against z = ReLU(pre) and no
    penalty: the norm of the difference of all gradients (encoder, biases, decoder) over that of the ReLU's.
    """
    found = []
    for jump in (True, False):
        weights = [part.detach().clone().requires_grad_() for part in (saes.W_enc, saes.b_enc, saes.W_dec, saes.b_dec)]
        W_enc, b_enc, W_dec, b_dec = weights
        with torch.enable_grad():
            pre = torch.matmul(x - b_dec[:, None], W_enc) + b_enc[:, None]
            z = pre * (pre > 0) if jump else pre.relu()
            loss = (x - torch.matmul(z, W_dec) - b_dec[:, None]).square().mean()
            if jump:
                loss = loss + weight * (z > 0).to(z.dtype).mean()
            loss.backward()
        found.append(torch.cat([part.grad.flatten() for part in weights if part.grad is not None]))
    return float((found[0] - found[1]).norm() / found[1].norm())
