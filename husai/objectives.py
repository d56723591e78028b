"""Terms of an SAE's loss: pure functions that return one value a seed."""

import torch
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment
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


def alignment(
    decoder: Float[Tensor, "seeds d_sae d_model"], reference: Float[Tensor, "#seeds rows d_model"]
) -> Float[Tensor, " seeds"]:
    """Return 1 - mean_j max_i |cos(d_j, r_i)|: how far latents are from their nearest row of a reference.

    Many latents may share a row. Source: the sources' consistency regularisation.
    """
    return 1 - _cosines(decoder, reference).abs().amax(2).mean(1)


def assignment(
    decoder: Float[Tensor, "seeds d_sae d_model"], reference: Float[Tensor, "#seeds rows d_model"]
) -> Float[Tensor, " seeds"]:
    """Return 1 - mean |cos| over the one-to-one matching with a reference whose sum of |cos| is largest.

    The matching itself has no gradient. Source: the sources' assignment consistency, v2 and v3.
    """
    cosines = _cosines(decoder, reference).abs()
    return torch.stack([1 - one[_one_to_one(one)].mean() for one in cosines])


def contrastive(
    decoder: Float[Tensor, "seeds d_sae d_model"], group: int, temperature: float = 0.0
) -> Float[Tensor, " seeds"]:
    """Return the mean over partners of 2 - mean_j s_j - mean_i s_i: how far dictionaries trained together are apart.

    Partners are the other seeds of a block of `group`; s is a latent's largest |cos| with the partner's latents, or,
    with a temperature t, their mean under softmax(|cos| / t), which every candidate gets a gradient from. A partner is
    a constant here: a seed's gradient is that of its own pairs, each counted once. Sources: the sources' contrastive
    follow-up; Marks et al. (2024), arXiv 2411.01220 (mutual feature regularisation).
    """
    totals = []
    for s, own in enumerate(decoder):
        block = range(s - s % group, s - s % group + group)
        cosines = _cosines(own[None], torch.stack([decoder[t].detach() for t in block if t != s])).abs()
        found = [cosines.amax(axis) if not temperature else _softly(cosines, temperature, axis) for axis in (1, 2)]
        totals.append((2 - found[0].mean(1) - found[1].mean(1)).mean())
    return torch.stack(totals)


def consensus(
    decoder: Float[Tensor, "seeds d_sae d_model"], reference: Float[Tensor, "#seeds rows d_model"]
) -> Float[Tensor, " seeds"]:
    """Return the mean over reference rows m of 1 - cos^2(d_m, c_m): latent m is held near row m."""
    rows = torch.nn.functional.normalize(decoder[:, : reference.shape[1]], dim=-1)
    return 1 - (rows * torch.nn.functional.normalize(reference, dim=-1)).sum(-1).square().mean(1)


def l2(
    encoder: Float[Tensor, "seeds d_sae d_in"], decoder: Float[Tensor, "seeds d_sae d_model"]
) -> Float[Tensor, " seeds"]:
    """Return ||W_enc||^2 + ||W_dec||^2 (Jedryszek & Crook 2026, arXiv 2603.04198)."""
    return encoder.square().sum((1, 2)) + decoder.square().sum((1, 2))


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosines [seeds, n_a, n_b] of rows, where one seed may stand for all."""
    a, b = (torch.nn.functional.normalize(side, dim=-1) for side in (a, b))
    return a @ b.transpose(1, 2)


def _one_to_one(scores: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = linear_sum_assignment(scores.detach().cpu().numpy(), maximize=True)
    return torch.from_numpy(rows), torch.from_numpy(columns)


def _softly(scores: Tensor, temperature: float, axis: int) -> Tensor:
    return ((scores / temperature).softmax(axis) * scores).sum(axis)
