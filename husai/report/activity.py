"""What SAEs do on activations: one SAE in memory at a time, inputs some at a time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from scipy.sparse import csr_array
from torch import Tensor

from husai import metrics
from husai.artifacts import digest
from husai.config import require
from husai.report.inputs import Input
from husai.saes import SAEBatch
from husai.similarity import unit_rows
from husai.tasks import generator

LEAST = 100
"""Fewest rows on which anything is said."""
BLOCK = 2**24  # latents of all inputs that are encoded at a time: 64 MB
SPARSE = 16  # where at most one latent in so many is active, only the active ones are decoded
PROJECTED = 2048  # inputs on which projections are ranked, of more the first: each is a product with all decoder rows


@dataclass(frozen=True)
class Sample:
    """Rows of a file of activations."""

    x: Float[Tensor, "inputs d_model"]
    rows: int
    """How many the file has."""
    sha256: str

    def entry(self) -> dict[str, Any]:
        """Return its entry in the report."""
        used, d_model = self.x.shape
        return {"rows": self.rows, "used": used, "d_model": d_model, "sha256": self.sha256}


def read_activations(path: Path | str, d_model: int, rows: int) -> Sample:
    """Return at most `rows` rows of a safetensors file with one matrix [inputs, d_model]; of more a random share.

    Of several tensors the one named "activations" counts. Only the rows used are read, some at a time. ValueError: no
    such file or tensor, not a matrix, another width, fewer than LEAST rows, not finite.
    """
    path = Path(path)
    require(rows >= LEAST, "rows", rows, f"at least {LEAST}")
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            key = keys[0] if len(keys) == 1 else "activations"
            require(key in keys, f"keys of {path.name}", keys, "one tensor, or one that is named 'activations'")
            stored = file.get_slice(key)
            shape = list(stored.get_shape())
            require(len(shape) == 2, f"{key} of {path.name}", shape, "a matrix [inputs, d_model]")
            require(shape[1] == d_model, f"width of {path.name}", shape[1], f"{d_model}, the d_model of the SAEs")
            require(shape[0] >= LEAST, f"rows of {path.name}", shape[0], f"at least {LEAST}")
            chosen = torch.randperm(shape[0], generator=generator(0, "report/rows"))[:rows].sort().values
            starts = range(0, shape[0], 4096)
            parts = [stored[i : i + 4096][chosen[(chosen >= i) & (chosen < i + 4096)] - i] for i in starts]
    except (OSError, SafetensorError) as error:
        raise ValueError(f"activations is {path.name!r}; wanted a complete safetensors file ({error})") from None
    x = torch.cat(parts)
    fine = x.is_floating_point() and bool(x.isfinite().all())
    require(fine, f"{key} of {path.name}", f"{x.dtype}, or NaN or infinity among them", "finite numbers")
    require(bool((x != x[0]).any()), f"{key} of {path.name}", "one repeated row", "activations that vary")
    return Sample(x.float(), shape[0], digest(path))


@dataclass(frozen=True)
class Activity:
    """One SAE on the activations."""

    firing: Float[Tensor, " d_sae"]
    quality: dict[str, float]
    alignment: Float[Tensor, " d_sae"]
    """cos of encoder and decoder row."""
    covariates: Float[np.ndarray, "alive covariates"]
    """Those of `replication.covariates`, of the alive latents, but for `neighbour`, the last, which is left 0."""


def measure(one: Input, x: Float[Tensor, "inputs d_model"], dead: float) -> Activity:
    """Return what one SAE does on x; projections are ranked on the first PROJECTED rows on which a latent fires.

    `projection_rank` of a latent that is alive but fires on none of those is the mean of the others'.
    """
    sae = one.sae()
    x = x.to(sae.W_enc)
    d_sae, step = one.d_sae, max(64, BLOCK // one.d_sae)
    fires, strength, error, first = np.zeros(d_sae, np.int64), np.zeros(d_sae), 0.0, []
    for start, part in zip(range(0, len(x), step), x.split(step), strict=True):
        z = sae.encode(part)
        flat = np.flatnonzero(z.numpy())  # few of all: nothing else looks at every latent of every input
        at, latents = np.divmod(flat, d_sae)
        values = z.flatten()[torch.from_numpy(flat)]
        error += float((part.double() - _decoded(sae, z, at, latents, values)).square().sum())
        fires += np.bincount(latents, minlength=d_sae)
        strength += np.bincount(latents, values.abs().numpy(), d_sae)
        if start < PROJECTED:
            early = at < PROJECTED - start
            first.append((at[early] + start, latents[early]))
    firing = torch.from_numpy(fires / len(x))
    total = float((x.double() - x.double().mean(0)).square().sum())
    quality = {"fvu": error / total, "l0": metrics.l0(firing), "alive": metrics.alive_fraction(firing, dead)}
    alive = firing > dead
    rows, encoder = unit_rows(sae.W_dec[0]), sae.W_enc[0].T
    alignment = (unit_rows(encoder) * rows).sum(1)
    if int(alive.sum()) < 2:
        return Activity(firing, quality, alignment, np.zeros((int(alive.sum()), 5)))
    often, mean = fires[alive], strength[alive] / fires[alive]
    active = tuple(np.concatenate(part) for part in zip(*first, strict=True))
    columns = [
        np.log(often / often.mean()),
        np.log(mean / mean.mean()),
        alignment[alive].double().numpy(),
        _projection_rank(x[:PROJECTED] - sae.b_dec[0], rows[alive], active[0], _places(alive)[active[1]], step),
        np.zeros(len(often)),
    ]
    return Activity(firing, quality, alignment, np.stack(columns, 1))


def _decoded(sae: SAEBatch, z: Tensor, rows: np.ndarray, latents: np.ndarray, values: Tensor) -> Tensor:
    """Return what z [1, n, d_sae] is decoded to; `values` are its entries that are not 0, at `rows` and `latents`."""
    if len(values) * SPARSE > z.numel():
        return sae.decode(z)[0]
    ends = np.bincount(rows + 1, minlength=z.shape[1] + 1).cumsum()
    sparse = csr_array((values.numpy(), latents, ends), shape=tuple(z.shape[1:]))
    return torch.from_numpy(sparse @ sae.W_dec[0].numpy()) + sae.b_dec[0]


def _places(mask: Bool[Tensor, " d_sae"]) -> np.ndarray:
    """Return where each latent stands among those of a mask, -1 of the others."""
    places = np.full(len(mask), -1)
    places[mask.numpy()] = np.arange(int(mask.sum()))
    return places


def _projection_rank(
    centred: Float[Tensor, "inputs d_model"],
    rows: Float[Tensor, "alive d_model"],
    inputs: Int[np.ndarray, " active"],
    latents: Int[np.ndarray, " active"],
    step: int,
) -> Float[np.ndarray, " alive"]:
    """Return the mean rank of <x - b_dec, d> among the alive latents where each fires, 0 the largest, 1 the least.

    `latents` (-1: one that is not alive) fire on `inputs`, in whose order they are.
    """
    inputs, latents = inputs[latents >= 0], latents[latents >= 0]
    ranks = np.zeros(len(rows))
    ends = np.searchsorted(inputs, np.arange(len(centred) + 1))
    for start in range(0, len(centred), step):
        projected = (centred[start : start + step] @ rows.T).numpy()
        # numpy sorts float32 several times faster than torch; a rank is then how many are larger
        for index, (line, ascending) in enumerate(zip(projected, np.sort(projected, axis=1), strict=True), start):
            here = latents[ends[index] : ends[index + 1]]
            ranks[here] += len(rows) - np.searchsorted(ascending, line[here], side="right")
    fires = np.bincount(latents, minlength=len(rows))
    seen = fires > 0
    mean = ranks / fires.clip(1) / max(len(rows) - 1, 1)
    return np.where(seen, mean, mean[seen].mean() if seen.any() else 0.5)
