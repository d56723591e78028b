"""Matching up to the symmetry of modular addition: what no SAE can decide is not counted as disagreement.

Where a model is equivariant, replacing (a, b) by (a + s, b + t) rotates its activations plane by plane, x(a + s, b
+ t) = T_st x(a, b). A dictionary and its rotation then serve equally well, and seeds may settle on either.
Dictionaries come as [d_sae, d_model], activations of all p*p pairs in a-major order, as `activations.collect`
returns them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from husai.config import require
from husai.metrics import hungarian_mcc, pairwise_matrix
from husai.similarity import check, same_width, unit_rows
from husai.tasks import generator

PAIRS = 128  # pairs of features at a time: their similarities under all p*p shifts, 7 MB at p = 113, stay in cache


class Action(NamedTuple):
    """The rotations T_st of activation space that stand for the shifts (a, b) -> (a + s, b + t)."""

    planes: Float[Tensor, "planes 2 d_model"]
    """Orthonormal: the cosine and the sine direction of each plane."""
    frequencies: Int[Tensor, "planes 2"]
    """(f, g): the plane turns by 2 pi (f s + g t) / p."""
    p: int
    """The modulus."""
    variance: float
    """Share of the activations' variance that lies at these frequencies."""
    equivariance: float
    """Share of the variance of x(a + s, b + t) that T_st x(a, b) explains, mean of the shifts (1, 0) and (0, 1)."""


def action(activations: Float[Tensor, "pairs d_model"], p: int, share: float = 0.99) -> Action:
    """Return the rotations that best stand for shifts of the operands, estimated from the activations of all pairs.

    Centred, x(a, b) = sum_fg C_fg cos theta + S_fg sin theta with theta = 2 pi (f a + g b) / p. The fewest
    frequencies that hold `share` of the variance are kept, at most d_model / 2; their planes are the orthonormal
    frame nearest to the (C_fg, S_fg). What lies outside them stays as it is. ValueError: NaN or Inf, not p*p rows,
    p even, constant activations. Source: the orthogonal Procrustes problem, Schoenemann (1966), on the Fourier
    components.
    """
    check(activations=activations)
    require(len(activations) == p * p, "activations", f"{len(activations)} rows", f"p*p = {p * p}")
    require(p % 2 == 1, "p", p, "an odd modulus")
    centred = activations.double() - activations.double().mean(0)
    require(bool((centred.abs() > 1e-9).any()), "activations", "one repeated row", "activations that vary")
    spectrum = torch.fft.fft2(centred.reshape(p, p, -1), dim=(0, 1), norm="ortho")
    f, g = (axis.flatten() for axis in torch.meshgrid(torch.arange(p), torch.arange(p), indexing="ij"))
    half = (f * p + g)[((f > 0) & (f <= p // 2)) | ((f == 0) & (g > 0) & (g <= p // 2))]  # one of each f, -f
    waves = spectrum.flatten(0, 1)[half]
    power = waves.abs().square().sum(1)
    order = power.argsort(descending=True, stable=True)
    held = power[order].cumsum(0) / power.sum()
    kept = order[: min(int((held < share).sum()) + 1, activations.shape[1] // 2)]
    left, _, right = torch.linalg.svd(
        torch.stack([waves[kept].real, -waves[kept].imag], 1).flatten(0, 1), full_matrices=False
    )
    planes = (left @ right).reshape(len(kept), 2, -1)
    frequencies = torch.stack([f, g], 1)[half[kept]]
    found = Action(planes.float(), frequencies, p, float(held[len(kept) - 1]), 0.0)
    return found._replace(equivariance=equivariance(found, centred.float()))


def equivariance(found: Action, centred: Float[Tensor, "pairs d_model"]) -> float:
    """Return the share of the shifted activations' variance that the rotation explains, mean of (1, 0) and (0, 1)."""
    table, total = centred.reshape(found.p, found.p, -1), centred.square().sum()
    errors = [
        (table.roll(-1, axis) - shift(found, centred, *step).reshape(table.shape)).square().sum() / total
        for axis, step in ((0, (1, 0)), (1, (0, 1)))
    ]
    return 1 - float(sum(errors)) / 2


def shift(found: Action, rows: Float[Tensor, "n d_model"], s: int, t: int) -> Float[Tensor, "n d_model"]:
    """Return T_st of every row."""
    return turn(found, rows, 2 * torch.pi * (found.frequencies @ torch.tensor([s, t])) / found.p)


def scrambled(found: Action, rows: Float[Tensor, "n d_model"], seed: int) -> Float[Tensor, "n d_model"]:
    """Return a dictionary whose planes are turned by random angles: the null of matching up to shifts.

    Every angle between two of its features, and every feature's weight on every plane, stay as they are; but the
    angles are not those of any one shift, so what a match gains by the freedom to choose among p*p shifts alone is
    left.
    """
    angles = 2 * torch.pi * torch.rand(len(found.planes), generator=generator(seed, "orbits/scrambled"))
    return turn(found, rows, angles)


def turn(
    found: Action, rows: Float[Tensor, "n d_model"], angles: Float[Tensor, " planes"]
) -> Float[Tensor, "n d_model"]:
    """Return rows with every plane turned by its angle."""
    before = coordinates(found, rows)
    change = before * torch.polar(torch.ones_like(angles), angles) - before
    return rows + torch.view_as_real(change).flatten(1) @ found.planes.flatten(0, 1)


def coordinates(found: Action, rows: Float[Tensor, "n d_model"]) -> Complex[Tensor, "n planes"]:
    """Return each row's coordinates in the planes, cosine direction + i sine direction."""
    return torch.complex(rows @ found.planes[:, 0].T, rows @ found.planes[:, 1].T)


def similarity(
    found: Action, a: Float[Tensor, "n_a d_model"], b: Float[Tensor, "n_b d_model"]
) -> Float[Tensor, "n_a n_b"]:
    """Return max over all p*p shifts (s, t) of |cos(a_i, T_st b_j)|.

    With c the coordinates in the planes and r the rest: |Re sum_fg conj(c_i) c_j e^(2 pi i (f s + g t) / p) + <r_i,
    r_j>|. Holds PAIRS x p*p values. ValueError: empty, NaN or Inf, unequal d_model.
    """
    same_width(a=a, b=b)
    a, b = unit_rows(a), unit_rows(b)
    in_a, in_b = coordinates(found, a), coordinates(found, b)
    products = (in_a.conj()[:, None] * in_b).flatten(0, 1)
    rest = (a @ b.T - (in_a.conj() @ in_b.T).real).flatten()
    return _over_shifts(_waves(found), products, rest).reshape(len(a), len(b))


def best_similarity(
    found: Action, a: Float[Tensor, "n_a d_model"], b: Float[Tensor, "n_b d_model"], at_once: int = 8,
    signed: bool = False,
) -> Float[Tensor, " n_a"]:  # fmt: skip
    """Return each row's largest `similarity` with a row of b; signed, with the cosine in place of its absolute value.

    No shift brings a pair nearer than sum_fg |c_i| |c_j| + |<r_i, r_j>|, signed + <r_i, r_j>. Partners are tried in
    the order of this bound, until it falls below what was found: far fewer pairs are turned than there are. ValueError:
    as `similarity`.
    """
    same_width(a=a, b=b)
    a, b = unit_rows(a), unit_rows(b)
    in_a, in_b = coordinates(found, a), coordinates(found, b)
    rest = a @ b.T - (in_a.conj() @ in_b.T).real
    bounds, order = (in_a.abs() @ in_b.abs().T + (rest if signed else rest.abs())).sort(1, descending=True)
    best, waves = torch.full((len(a),), -1.0), _waves(found)
    for columns, bound in zip(order.split(at_once, 1), bounds.split(at_once, 1), strict=True):
        i, place = (bound > best[:, None]).nonzero(as_tuple=True)
        if not len(i):
            break
        j = columns[i, place]
        best.scatter_reduce_(0, i, _over_shifts(waves, in_a[i].conj() * in_b[j], rest[i, j], signed), "amax")
    return best


def _waves(found: Action) -> Float[Tensor, "terms shifts"]:
    """Return cos, -sin of every plane's angle, and 1, under all p*p shifts."""
    steps = torch.cartesian_prod(torch.arange(found.p), torch.arange(found.p))
    angles = 2 * torch.pi * ((found.frequencies @ steps.T) % found.p) / found.p
    return torch.cat([angles.cos(), -angles.sin(), torch.ones_like(angles[:1])])


def _over_shifts(
    waves: Float[Tensor, "terms shifts"], products: Complex[Tensor, "pairs planes"], rest: Float[Tensor, " pairs"],
    signed: bool = False,
) -> Float[Tensor, " pairs"]:  # fmt: skip
    """Return max over all p*p shifts of |Re sum_fg products e^(2 pi i (f s + g t) / p) + rest|, signed without | |."""
    terms = torch.cat([products.real, products.imag, rest[:, None]], 1)
    turned = (part @ waves for part in terms.split(PAIRS))
    return torch.cat([(one if signed else one.abs_()).amax(1) for one in turned])


def orbit_mcc(found: Action, a: Float[Tensor, "n_a d_model"], b: Float[Tensor, "n_b d_model"]) -> float:
    """Return the mean of `similarity` under the best one-to-one matching, features left over counting as 0.

    Never below `metrics.hungarian_mcc(signed=False)`, of which it is the analogue: read it beside its own null, the
    score of `scrambled` dictionaries. Every pair of features may choose a shift of its own. ValueError: as
    `similarity`.
    """
    scores = similarity(found, a, b).numpy()
    rows, columns = linear_sum_assignment(scores, maximize=True)
    return float(scores[rows, columns].sum()) / max(scores.shape)


class Panel(NamedTuple):
    """Seed-by-seed scores [S, S], each the input of `stats.pairwise`."""

    plain: np.ndarray
    """`metrics.hungarian_mcc(signed=False)`: no shift."""
    orbit: np.ndarray
    """`orbit_mcc`: every pair of features at its best shift."""
    scrambled: np.ndarray
    """`orbit_mcc` with each seed's planes turned by angles of its own: the null of `orbit`."""


def panel(found: Action, dictionaries: Sequence[Tensor]) -> Panel:
    """Return the scores of all pairs of seeds as they are, up to shifts, and up to shifts with nothing to find.

    ValueError: as `similarity`.
    """
    mixed = [scrambled(found, rows, seed) for seed, rows in enumerate(dictionaries)]

    def up_to_shifts(a: Tensor, b: Tensor) -> float:
        return orbit_mcc(found, a, b)

    plain = pairwise_matrix(hungarian_mcc, dictionaries, signed=False)
    return Panel(plain, pairwise_matrix(up_to_shifts, dictionaries), pairwise_matrix(up_to_shifts, mixed))
