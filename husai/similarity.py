"""Cosines between the rows of two dictionaries, one block at a time, so that memory stays bounded.

Dictionaries come as [d_sae, d_model]; their rows are normalised here, and a zero row stays zero. A whole
n_a x n_b matrix is held only by `cosine_matrix`.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from husai.config import require

BLOCK = 1024  # rows a block: a block of 1024 x 1024 cosines, 4 MB, is still in cache when its maxima are taken


def best_cosines(
    a: Float[Tensor, "n_a d_model"], b: Float[Tensor, "n_b d_model"], *, signed: bool = False
) -> tuple[Float[Tensor, " n_a"], Float[Tensor, " n_b"]]:
    """Return each row's best cosine (absolute unless signed) in the other dictionary.

    max_j |cos(a_i, b_j)| [n_a] and max_i |cos(a_i, b_j)| [n_b], in one pass over the blocks. ValueError: empty,
    NaN or Inf, unequal d_model.
    """
    same_width(a=a, b=b)
    a, b = unit_rows(a), unit_rows(b)
    best_a, best_b = (x.new_full((len(x),), -torch.inf) for x in (a, b))
    buffer = a.new_empty(BLOCK * BLOCK)
    for rows, best_rows in zip(a.split(BLOCK), best_a.split(BLOCK), strict=True):
        for columns, best_columns in zip(b.split(BLOCK), best_b.split(BLOCK), strict=True):
            cosines = cosine_block(rows, columns, signed, buffer)
            torch.maximum(best_rows, cosines.amax(1), out=best_rows)
            torch.maximum(best_columns, cosines.amax(0), out=best_columns)
    return best_a, best_b


def nearest(
    a: Float[Tensor, "n_a d_model"], b: Float[Tensor, "n_b d_model"], k: int, *, signed: bool = False
) -> tuple[Float[Tensor, "n_a k"], Int[Tensor, "n_a k"]]:
    """Return the k best cosines (absolute unless signed) of each row of a with rows of b, and which rows.

    In no particular order within a row. Holds BLOCK x n_b cosines. ValueError: empty, NaN or Inf, unequal
    d_model, k outside 1..n_b.
    """
    same_width(a=a, b=b)
    require(1 <= k <= len(b), "k", k, f"1 to {len(b)}, the rows of b")
    a, b = unit_rows(a), unit_rows(b)
    buffer = a.new_empty(BLOCK * len(b))
    found = [cosine_block(rows, b, signed, buffer).topk(k, sorted=False) for rows in a.split(BLOCK)]
    return torch.cat([best.values for best in found]), torch.cat([best.indices for best in found])


def cosine_matrix(
    a: Float[Tensor, "n_a d_model"], b: Float[Tensor, "n_b d_model"], *, signed: bool = True
) -> Float[Tensor, "n_a n_b"]:
    """Return the cosines of all pairs of rows, absolute unless signed."""
    return cosine_block(unit_rows(a), unit_rows(b), signed, a.new_empty(len(a) * len(b), dtype=torch.float32))


def cosine_block(
    rows: Float[Tensor, "n_rows d_model"],
    columns: Float[Tensor, "n_columns d_model"],
    signed: bool,
    buffer: Float[Tensor, " room"],
) -> Float[Tensor, "n_rows n_columns"]:
    """Return the cosines of unit rows, written over the start of `buffer`, so that no block allocates."""
    cosines = buffer[: len(rows) * len(columns)].view(len(rows), len(columns))
    torch.mm(rows, columns.T, out=cosines)
    return cosines if signed else cosines.abs_()


def unit_rows(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return rows of length 1 in float32; a zero row stays zero."""
    return torch.nn.functional.normalize(rows.detach().float(), dim=1)


def same_width(**pair: Tensor) -> None:
    """Refuse two dictionaries, by name, that are empty, not finite or of unequal d_model."""
    check(**pair)
    (first, a), (second, b) = pair.items()
    require(len(a[0]) == len(b[0]), f"{second}.shape", tuple(b.shape), f"[d_sae, {len(a[0])}], as {first}")


def same_shape(**pair: Tensor) -> None:
    """Refuse two tensors, by name, of unequal shapes."""
    (first, a), (second, b) = pair.items()
    require(a.shape == b.shape, f"{second}.shape", tuple(b.shape), f"the shape of {first}, {tuple(a.shape)}")


def check(**matrices: Tensor) -> None:
    """Refuse, by name, what is not a finite, non-empty matrix."""
    for name, rows in matrices.items():
        require(rows.ndim == 2 and rows.numel() > 0, f"{name}.shape", tuple(rows.shape), "a non-empty matrix")
        require(bool(torch.isfinite(rows).all()), name, "NaN or Inf", "finite numbers")
