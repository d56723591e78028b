"""What SAEs do on activations: one SAE in memory at a time, inputs some at a time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
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
    fires, strength = torch.zeros(d_sae, dtype=torch.float64), torch.zeros(d_sae, dtype=torch.float64)
    error = 0.0
    for part in x.split(step):
        z = sae.encode(part)
        error += float((part.double() - sae.decode(z)[0]).square().sum())
        fires += (z[0] != 0).sum(0)
        strength += z[0].abs().sum(0)
    firing = fires / len(x)
    total = float((x.double() - x.double().mean(0)).square().sum())
    quality = {"fvu": error / total, "l0": metrics.l0(firing), "alive": metrics.alive_fraction(firing, dead)}
    alive = firing > dead
    rows, encoder = unit_rows(sae.W_dec[0]), sae.W_enc[0].T
    alignment = (unit_rows(encoder) * rows).sum(1)
    if int(alive.sum()) < 2:
        return Activity(firing, quality, alignment, np.zeros((int(alive.sum()), 5)))
    mean = strength[alive] / fires[alive]
    columns = [
        (fires[alive] / fires[alive].mean()).log(),
        (mean / mean.mean()).log(),
        alignment[alive].double(),
        _projection_rank(sae, x[:PROJECTED], rows[alive], alive, step),
        torch.zeros(int(alive.sum()), dtype=torch.float64),
    ]
    return Activity(firing, quality, alignment, torch.stack(columns, 1).numpy())


def _projection_rank(
    sae: SAEBatch, x: Tensor, rows: Float[Tensor, "alive d_model"], alive: Bool[Tensor, " d_sae"], step: int
) -> Float[Tensor, " alive"]:
    """Return the mean rank of <x - b_dec, d> among the alive latents where each fires, 0 the largest, 1 the least."""
    ranks, fires = torch.zeros(len(rows), dtype=torch.float64), torch.zeros(len(rows), dtype=torch.float64)
    for part in x.split(step):
        active = (sae.encode(part)[0][:, alive] != 0).nonzero()
        projected = (part - sae.b_dec[0]) @ rows.T
        # numpy sorts float32 several times faster; a rank is then how many are larger
        ascending = torch.from_numpy(np.sort(projected.numpy(), axis=1))
        for index, block in enumerate(ascending):
            latents = active[active[:, 0] == index, 1]
            below = torch.searchsorted(block, projected[index, latents], right=True)
            ranks.index_add_(0, latents, (len(rows) - below).double())
            fires.index_add_(0, latents, torch.ones(len(latents), dtype=torch.float64))
    seen = fires > 0
    mean = ranks / fires.clamp(min=1) / max(len(rows) - 1, 1)
    return torch.where(seen, mean, mean[seen].mean() if bool(seen.any()) else torch.tensor(0.5, dtype=torch.float64))
