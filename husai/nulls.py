"""What a stability score would be with nothing learnt, as far as that needs no training.

N0 is the closed form for isotropic directions, N2 directions with the data's covariance, N3 data points
themselves (an upper anchor), and N4's input is data with the same covariance and no other structure. One seed
is one independent draw.
"""

import torch
from jaxtyping import Float
from scipy.integrate import quad
from scipy.special import betainc
from torch import Tensor

from husai.config import require
from husai.similarity import check, unit_rows
from husai.tasks import generator


def expected_max_cosine(d_model: int, n: int, signed: bool = False, n_other: int | None = None) -> float:
    """Return the expected `mean_max_cosine` of two independent isotropic dictionaries of n rows: N0.

    cos^2 ~ Beta(1/2, (d-1)/2), so F(t) = P(|cos| <= t) = I_{t^2}(1/2, (d-1)/2) and E = int_0^1 1 - F^n dt;
    signed, G(t) = (1 + sgn(t) F(|t|))/2 and E = int_0^1 1 - G(t)^n dt - int_-1^0 G(t)^n dt. If the other has
    n_other rows, the mean of both directions. ValueError: d_model < 2, fewer than 1 row. Source: the maximum
    of n independent draws of that law.
    """
    require(d_model >= 2, "d_model", d_model, "at least 2 dimensions")
    require(n >= 1, "n", n, "at least 1 row")
    if n_other is not None:
        return (expected_max_cosine(d_model, n, signed) + expected_max_cosine(d_model, n_other, signed)) / 2

    def exceeds(t: float) -> float:
        within = float(betainc(0.5, (d_model - 1) / 2, t * t))
        if signed:  # both integrals at once, the second one mirrored
            return 1 - ((1 + within) / 2) ** n - ((1 - within) / 2) ** n
        return 1 - within**n

    return float(quad(exceeds, 0, 1, limit=200, epsabs=1e-9)[0])


def isotropic(n: int, d_model: int, seed: int) -> Float[Tensor, "n d_model"]:
    """Return n unit rows, uniform on the sphere: the draws of which N0 is the closed form.

    ValueError: n or d_model below 1.
    """
    require(n >= 1 and d_model >= 1, "n, d_model", (n, d_model), "at least 1 of each")
    return unit_rows(torch.randn(n, d_model, generator=generator(seed, "nulls/isotropic")))


def covariance_matched(acts: Float[Tensor, "inputs d"], n: int, seed: int) -> Float[Tensor, "n d"]:
    """Return n unit rows Sigma^(1/2) g / |.|, g normal and Sigma the centred covariance of the data: N2.

    ValueError: n below 1, NaN or Inf, activations that do not vary.
    """
    return coloured(covariance_root(acts), n, seed)


def covariance_root(acts: Float[Tensor, "inputs d"]) -> Float[Tensor, "d d"]:
    """Return Sigma^(1/2), Sigma the centred covariance: cos(e Sigma^(1/2), f Sigma^(1/2)) correlates acts e and acts f.

    ValueError: NaN or Inf, activations that do not vary.
    """
    centred = centre(acts)
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(acts))
    return axes * variances.clamp(min=0).sqrt() @ axes.T


def coloured(root: Float[Tensor, "d d"], n: int, seed: int) -> Float[Tensor, "n d"]:
    """Return the draw of `covariance_matched` from a root that many draws share; ValueError: n below 1."""
    require(n >= 1, "n", n, "at least 1 row")
    noise = torch.randn(n, len(root), generator=generator(seed, "nulls/covariance"), dtype=root.dtype)
    return unit_rows(noise @ root)


def gaussian(acts: Float[Tensor, "inputs d"], seed: int) -> Float[Tensor, "inputs d"]:
    """Return as many normal samples with the activations' mean and covariance: data without further structure.

    ValueError: NaN or Inf, activations that do not vary.
    """
    centred = centre(acts)
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(acts))
    noise = torch.randn(acts.shape, generator=generator(seed, "nulls/gaussian"), dtype=torch.float64)
    return ((noise * variances.clamp(min=0).sqrt()) @ axes.T + acts.double().mean(0)).to(acts.dtype)


def data_atoms(acts: Float[Tensor, "inputs d"], n: int, seed: int) -> Float[Tensor, "n d"]:
    """Return n different centred data points as unit rows: N3, an upper anchor, as all seeds share one pool.

    ValueError: NaN or Inf, n outside 1 to the number of points away from the mean.
    """
    centred = centre(acts)
    pool = centred[centred.norm(dim=1) > 0]
    require(1 <= n <= len(pool), "n", n, f"1 to {len(pool)}, the data points away from the mean")
    return unit_rows(pool[torch.randperm(len(pool), generator=generator(seed, "nulls/data_atoms"))[:n]])


def principal_axes(acts: Float[Tensor, "inputs d"], k: int) -> Float[Tensor, "k d"]:
    """Return the k directions of largest variance as unit rows: the best linear code of k numbers, an anchor.

    ValueError: NaN or Inf, activations that do not vary, k outside 1 to d.
    """
    require(1 <= k <= acts.shape[1], "k", k, f"1 to {acts.shape[1]}, the dimensions")
    centred = centre(acts)
    return unit_rows(torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -k:].T)


def rotated(
    acts: Float[Tensor, "inputs d"], rows: Float[Tensor, "n d"], seed: int, share: float = 0.99
) -> Float[Tensor, "n d"]:
    """Return a dictionary turned at random within the subspace that its data fill, as unit rows.

    The fewest principal axes that hold `share` of the variance are turned by one Haar rotation; what lies outside
    stays. Angles between the rows are kept, what they point at is not. ValueError: NaN or Inf, activations that do not
    vary, a share outside (0, 1].
    """
    require(0 < share <= 1, "share", share, "a share above 0, at most 1")
    centred = centre(acts)
    variances, axes = torch.linalg.eigh(centred.T @ centred)
    held = variances.flip(0).clamp(min=0).cumsum(0)
    kept = min(int((held < share * held[-1]).sum()) + 1, len(held))
    axes = axes[:, -kept:]
    noise = torch.randn(kept, kept, generator=generator(seed, "nulls/rotated"), dtype=torch.float64)
    turn, scale = torch.linalg.qr(noise)
    inside = unit_rows(rows).double() @ axes
    return unit_rows(unit_rows(rows) + (inside @ (turn * scale.diagonal().sign()) - inside) @ axes.T)


def shuffle_coordinates(acts: Float[Tensor, "inputs d"], seed: int) -> Float[Tensor, "inputs d"]:
    """Return activations with each principal coordinate permuted across inputs: what N4 is trained on.

    The mean and every coordinate's distribution are kept exactly, the covariance up to correlations of order
    1/sqrt(inputs); which coordinates occur together, the structure that a dictionary could learn, is gone.
    ValueError: NaN or Inf, activations that do not vary.
    """
    centred = centre(acts)
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors
    coordinates = centred @ axes
    keys = torch.rand(acts.shape, generator=generator(seed, "nulls/shuffle"), dtype=torch.float64)
    order = keys.T.contiguous().argsort(1)  # every coordinate's inputs side by side: twice as fast
    shuffled = coordinates.T.contiguous().gather(1, order).T.contiguous()
    return (shuffled @ axes.T + acts.double().mean(0)).to(acts.dtype)


def centre(acts: Float[Tensor, "inputs d"]) -> Float[Tensor, "inputs d"]:
    """Return activations minus their mean in float64, refusing NaN, Inf and activations that do not vary."""
    check(acts=acts)
    require(bool((acts != acts[0]).any()), "acts", "one repeated row", "activations that vary")
    rows = acts.double()
    return rows - rows.mean(0)
