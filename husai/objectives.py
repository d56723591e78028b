"""Terms of an SAE's loss: pure functions that return one value a seed."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def reconstruction(error: Float[Tensor, "seeds batch d_model"]) -> Float[Tensor, " seeds"]:
    """Return the mean over batch and dimensions of error^2, error = x - x_hat."""
    return error.square().mean((1, 2))


def l1(z: Float[Tensor, "seeds batch d_sae"]) -> Float[Tensor, " seeds"]:
    """Return the mean over the batch of sum_j z_j: the L1 norm of non-negative latents."""
    return z.sum(-1).mean(-1)


def auxk(
    error: Float[Tensor, "seeds batch d_model"],
    pre: Float[Tensor, "seeds batch d_sae"],
    W_dec: Float[Tensor, "seeds d_sae d_model"],
    dead: Bool[Tensor, "seeds d_sae"],
    k: int,
) -> Float[Tensor, " seeds"]:
    """Return the error left when the k strongest dead latents explain the detached residual `error` = x - x_hat.

    mean (error - z_dead W_dec)^2, zero for a seed without dead latents (Gao et al. 2024, arXiv 2406.04093, app. A.2).
    Only as many latents are looked at as are dead in the seed that has most; other seeds fill up with living ones.
    """
    most = int(dead.sum(1).max())
    index = dead.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    packed = pre.take_along_dim(index[:, None], 2).masked_fill(~dead.gather(1, index)[:, None], -torch.inf)
    values, chosen = packed.topk(min(k, most), dim=-1)
    z = torch.zeros_like(packed).scatter(-1, chosen, values.relu())
    term = (error.detach() - torch.bmm(z, W_dec.take_along_dim(index[..., None], 1))).square().mean((1, 2))
    return torch.where(dead.any(1), term, torch.zeros_like(term))
