"""Fourier spectra of features of modular addition, done right, and the sources' three estimators as they are written.

A feature is a function of the operands: its value on all p*p pairs, in a-major order, as `activations.collect` returns
them. A frequency (f, g) and its negative are one, so each is counted once, in an orthonormal basis.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from husai.config import require
from husai.similarity import check, cosine_matrix, same_width
from husai.tasks import fourier_basis, frequency_power, generator

FAMILIES = ("sum", "difference", "first", "second", "mixed")
"""What a frequency (f, g) makes a wave of: a + b (f = g), a - b (f = -g), a (g = 0), b (f = 0), or anything else."""


class Spectrum(NamedTuple):
    """Where the variance of n functions of (a, b) lies."""

    shares: Float[Tensor, "n frequencies"]
    """Share of each function's variance in each of the (p*p - 1)/2 frequencies; all 0 for a constant."""
    constant: Float[Tensor, " n"]
    """Share of the mean square that is the squared mean."""
    frequencies: Int[Tensor, "frequencies 2"]
    """(f, g) of the wave cos(2 pi (f a + g b)/p + phase); f or the only other one is positive."""

    @property
    def purity(self) -> Float[Tensor, " n"]:
        """Share of the strongest frequency: 1 for a wave, that of a rectified wave below it."""
        return self.shares.amax(1)

    @property
    def strongest(self) -> Int[Tensor, "n 2"]:
        """The strongest frequency."""
        return self.frequencies[self.shares.argmax(1)]

    def family(self, name: str) -> Float[Tensor, " n"]:
        """Return the share of all frequencies of one of FAMILIES."""
        require(name in FAMILIES, "name", name, f"one of {FAMILIES}")
        return self.shares[:, _families(self.frequencies) == FAMILIES.index(name)].sum(1)

    def within(self, keys: Int[Tensor, " keys"]) -> Float[Tensor, " n"]:
        """Return the share of frequencies whose f and g are each 0 or, up to sign, one of the model's key ones."""
        inside = torch.isin(self.frequencies.abs(), torch.cat([keys.new_zeros(1), keys])).all(1)
        return self.shares[:, inside].sum(1)


def _families(frequencies: Tensor) -> Tensor:
    f, g = frequencies.T
    found = torch.full_like(f, FAMILIES.index("mixed"))
    for name, members in (("sum", f == g), ("difference", f == -g), ("first", g == 0), ("second", f == 0)):
        found[members] = FAMILIES.index(name)
    return found


def spectrum(values: Float[Tensor, "pairs n"], p: int) -> Spectrum:
    """Return the spectrum of n functions of (a, b) over all p*p pairs.

    With C_f, S_f the orthonormal cosines and sines, the coefficients of C_f C_g, C_f S_g, S_f C_g and S_f S_g give the
    squared norms of the waves of f a + g b, ((cc - ss)^2 + (sc + cs)^2)/2, and of f a - g b, ((cc + ss)^2 + (sc -
    cs)^2)/2. ValueError: not p*p rows, p even, NaN or Inf.
    """
    check(values=values)
    require(len(values) == p * p, "values", f"{len(values)} rows", f"p*p = {p * p}")
    basis, n, half = fourier_basis(p).float(), values.shape[1], (p - 1) // 2
    found = basis @ values.detach().float().T.reshape(n, p, p) @ basis.T
    cc, cs = found[:, 1::2, 1::2], found[:, 1::2, 2::2]
    sc, ss = found[:, 2::2, 1::2], found[:, 2::2, 2::2]
    first, second = (axis[:, 1:].square().reshape(n, half, 2).sum(2) for axis in (found[:, :, 0], found[:, 0]))
    plus, minus = ((cc - ss).square() + (sc + cs).square()) / 2, ((cc + ss).square() + (sc - cs).square()) / 2
    power = torch.cat([first, second, plus.flatten(1), minus.flatten(1)], 1)
    variance, level = power.sum(1, keepdim=True), found[:, 0, 0].square()
    shares = torch.where(variance > 1e-9 * level[:, None], power / variance.clamp(min=1e-30), 0.0)
    return Spectrum(shares, level / (level + variance[:, 0]).clamp(min=1e-30), _frequencies(half))


def _frequencies(half: int) -> Int[Tensor, "frequencies 2"]:
    k = torch.arange(1, half + 1)
    both = torch.cartesian_prod(k, k)
    none = torch.zeros_like(k)
    return torch.cat([torch.stack([k, none], 1), torch.stack([none, k], 1), both, both * torch.tensor([1, -1])])


def answer_purity(effects: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:
    """Return the share of each row's variance over the p answers that lies in its strongest frequency.

    A row is a feature's direct effect on the logits, d W_U. ValueError: p even, NaN or Inf, a constant row.
    """
    check(effects=effects)
    centred = effects.double() - effects.double().mean(1, keepdim=True)
    power = (centred @ fourier_basis(effects.shape[1])[1:].T).square().reshape(len(effects), -1, 2).sum(2)
    require(bool((power.sum(1) > 0).all()), "effects", "a constant row", "rows that vary")
    return (power.amax(1) / power.sum(1)).float()


def fired(projections: Float[Tensor, "inputs n"], rates: Float[Tensor, " n"]) -> Float[Tensor, "inputs n"]:
    """Return ReLU(projection - threshold), the threshold of each column being where it fires at its rate.

    What a direction does as a latent that fires as often as the one that it stands for. ValueError: rates outside
    (0, 1), or not one a column.
    """
    require(len(rates) == projections.shape[1], "rates", f"{len(rates)} of them", "one a column")
    require(bool(((rates > 0) & (rates < 1)).all()), "rates", "0, 1 or beyond", "firing rates between 0 and 1")
    silent = (len(projections) * (1 - rates.double())).round().long().clamp(1, len(projections) - 1).tolist()
    columns = zip(projections.T.contiguous(), silent, strict=True)
    thresholds = torch.stack([column.kthvalue(rank).values for column, rank in columns])
    return (projections - thresholds).clamp(min=0)


def explained(table: Float[Tensor, "p d"], count: int) -> float:
    """Return R^2 of the `count` strongest frequencies of a table indexed by residues: their share of its variance.

    1 for a table made of so many frequencies. ValueError: fewer than one frequency, or more than (p - 1)/2.
    """
    require(1 <= count <= (len(table) - 1) // 2, "count", count, f"1 to {(len(table) - 1) // 2} frequencies")
    return float(frequency_power(table).topk(count).values.sum())


def planted_table(p: int, d_model: int, frequencies: int, seed: int) -> Float[Tensor, "p d_model"]:
    """Return a perfect Fourier embedding: cosine and sine of so many random frequencies, in random directions.

    ValueError: fewer than one frequency, or more than (p - 1)/2.
    """
    half = (p - 1) // 2
    require(1 <= frequencies <= half, "frequencies", frequencies, f"1 to {half}")
    draw = generator(seed, "fourier/table")
    chosen = torch.randperm(half, generator=draw)[:frequencies]
    waves = fourier_basis(p)[torch.cat([2 * chosen + 1, 2 * chosen + 2])]
    return (waves.T @ torch.randn(len(waves), d_model, generator=draw, dtype=torch.float64)).float()


class Planted(NamedTuple):
    """Activations of a circuit whose features are known: rectified waves of one frequency each."""

    activations: Float[Tensor, "pairs d_model"]
    """Sum of the atoms, each times its latent."""
    atoms: Float[Tensor, "atoms d_model"]
    """Random unit directions."""
    latents: Float[Tensor, "pairs atoms"]
    """max(0, cos(2 pi (f a + g b)/p - phase) - cos(pi rate))."""


def planted_circuit(
    p: int, d_model: int, frequencies: int = 3, phases: int = 4, rate: float = 0.2, seed: int = 0
) -> Planted:
    """Return a circuit of waves of a, of b and of a + b, at so many frequencies and evenly spaced phases each.

    The waves of one frequency share the circle among them, each firing on `rate` of it. ValueError: more frequencies
    than (p - 1)/2, rate outside (0, 1).
    """
    half = (p - 1) // 2
    require(1 <= frequencies <= half, "frequencies", frequencies, f"1 to {half}")
    require(0 < rate < 1, "rate", rate, "a share between 0 and 1")
    draw = generator(seed, "fourier/circuit")
    chosen = torch.randperm(half, generator=draw)[:frequencies] + 1
    a, b = torch.arange(p).repeat_interleave(p), torch.arange(p).repeat(p)
    angles = 2 * torch.pi / p * (torch.stack([a, b, a + b], 1)[:, :, None] * chosen % p).flatten(1)
    offsets = 2 * torch.pi * torch.arange(phases) / phases
    cosines = (angles[:, :, None] - offsets).cos().flatten(1)
    latents = (cosines - torch.tensor(torch.pi * rate).cos()).clamp(min=0)
    noise = torch.randn(latents.shape[1], d_model, generator=draw)
    atoms = torch.nn.functional.normalize(noise, dim=1)
    return Planted(latents @ atoms, atoms, latents)


def published_r2(table: Float[Tensor, "p d"], bins: int = 5) -> float:
    """Return the sources' "Fourier R^2" of an embedding, as written.

    The `bins` strongest of all p bins of the FFT, k and p - k both, each with a unit cosine and sine column; R^2 of B
    B^T although B is not orthonormal. Both columns of k and p - k are the same up to sign, so (I - 2 P) x keeps its
    length, and a frequency whose two bins are in counts for nothing. ValueError: bins outside 1..p, NaN or Inf.
    """
    check(table=table)
    require(1 <= bins <= len(table), "bins", bins, f"1 to p = {len(table)}")
    basis = _published_columns(table, bins)
    centred = table.double() - table.double().mean(0)
    residual = centred - basis @ (basis.T @ centred)
    return float(1 - residual.square().sum() / centred.square().sum())


def published_overlap(rows: Float[Tensor, "n d_model"], p: int) -> float:
    """Return the sources' "Fourier overlap" of directions in activation space, as written.

    The first p of their d_model coordinates (or zeros behind them) are held against 2p waves over the *coordinates*:
    the mean over rows of the largest signed cosine. The coordinates have no order, so a frequency in them is none of
    the model's. ValueError: NaN or Inf, empty.
    """
    check(rows=rows)
    x, k = torch.arange(p, dtype=torch.float64), torch.arange(p, dtype=torch.float64)
    angle = 2 * torch.pi * k[:, None] * x / p
    waves = torch.cat([angle.cos(), angle.sin()]).float()
    cut = torch.nn.functional.pad(rows.detach().float(), (0, p - rows.shape[1]))  # a negative pad cuts off
    kept = torch.cat([waves[:p], waves[p + 1 :]])  # the sine of frequency 0 is zero, and its cosine with all 0
    best = cosine_matrix(cut, kept).amax(1)
    return float(best.clamp(min=0).mean())


def published_alignment(decoder: Float[Tensor, "n d_model"], table: Float[Tensor, "p d_model"], bins: int = 5) -> float:
    """Return the sources' overlap of a decoder with the Fourier directions of an embedding, as written.

    The directions are W_E^T b of the cosine and sine columns b of `published_r2`; the mean over features of the
    largest |cos|. ValueError: NaN or Inf, unequal d_model, bins outside 1..p.
    """
    same_width(decoder=decoder, table=table)
    require(1 <= bins <= len(table), "bins", bins, f"1 to p = {len(table)}")
    directions = (table.double().T @ _published_columns(table, bins)).T
    return float(cosine_matrix(decoder, directions.float(), signed=False).amax(1).mean())


def _published_columns(table: Tensor, bins: int) -> Float[Tensor, "p columns"]:
    """Return unit cosine and sine columns of the bins with the largest mean |FFT|."""
    p = len(table)
    strongest = torch.fft.fft(table.double(), dim=0).abs().mean(1).argsort(descending=True)[:bins]
    angle = 2 * torch.pi * strongest * torch.arange(p, dtype=torch.float64)[:, None] / p
    return torch.nn.functional.normalize(torch.stack([angle.cos(), angle.sin()], 2).flatten(1), dim=0)
