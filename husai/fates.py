"""The unmatched features of whole studies: shares of every kind, over SAE seeds and models."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from husai import comparison
from husai.config import require
from husai.evidence import Estimate
from husai.orbits import Action
from husai.study import Study
from husai.unmatched import EXPLAINED, KINDS, Side, sort


def sides(study: Study, longer: Study | None = None) -> list[Side]:
    """Return what `unmatched.sort` takes of every seed; `longer` are the same seeds, trained for more steps.

    ValueError: `longer` has other seeds or other activations.
    """
    x = study.activations.held_out
    if longer is not None:
        require(longer.seeds == study.seeds, "longer.seeds", longer.seeds, f"those of study, {study.seeds}")
        same = bool((longer.activations.mean == study.activations.mean).all())
        require(same, "longer", "trained on other activations", "those of study")
    after = [(None, None)] * len(study.seeds) if longer is None else zip(longer.saes.W_dec, longer.alive, strict=True)
    return [
        Side(study.saes.W_dec[i], study.alive[i], study.saes[i].encode(x)[0], *later) for i, later in enumerate(after)
    ]


class Fates(NamedTuple):
    """What the latents of one study are to the other seeds."""

    shares: Float[np.ndarray, "kinds seeds seeds"]
    """Share of all latents that are of each of KINDS, mean of both directions, for every pair of seeds."""
    bars: dict[str, float]
    """By kind, the mean over pairs of what the statistic of its test had to exceed."""

    @property
    def unmatched(self) -> Float[np.ndarray, "seeds seeds"]:
        """Share of all latents that are alive and have no partner."""
        return self.shares[2:].sum(0)

    @property
    def explained(self) -> Float[np.ndarray, "seeds seeds"]:
        """Share of the living without a partner that some test accounts for; 0 where all have partners."""
        known = self.shares[[KINDS.index(kind) for kind in EXPLAINED]].sum(0)
        return np.divide(known, self.unmatched, out=np.zeros_like(known), where=self.unmatched > 0)


def fates(study: Study, longer: Study | None = None, turns: Action | None = None, **options: int) -> Fates:
    """Return what every latent of every seed is to every other seed; options go to `unmatched.sort`.

    `together` is the study's k. ValueError: as `sides` and `unmatched.sort`.
    """
    every, x, k = sides(study, longer), study.activations.held_out, study.config.sae.active
    counts = np.zeros((len(KINDS), len(every), len(every)))
    bars: dict[str, list[float]] = {}
    for i, a in enumerate(every):
        for j, b in enumerate(every):
            if i != j:
                found = sort(a, b, x, k, turns, seed=i * len(every) + j, **options)
                counts[:, i, j] = np.bincount(found.kinds.numpy(), minlength=len(KINDS)) / len(found.kinds)
                for kind, value in found.bars.items():
                    bars.setdefault(kind, []).append(value)
    shares = (counts + counts.swapaxes(1, 2)) / 2
    return Fates(shares, {kind: float(np.mean(values)) for kind, values in bars.items()})


def estimates(found: Sequence[Fates]) -> dict[str, Estimate]:
    """Return the share of each kind, of living latents without a partner, and of those explained; one `Fates` a model.

    Intervals are over models and seeds from three models on, else over the seeds of one model.
    """
    of_kind = {kind: np.stack([one.shares[i] for one in found]) for i, kind in enumerate(KINDS)}
    of_kind |= {"unmatched": np.stack([one.unmatched for one in found])}
    of_kind |= {"explained": np.stack([one.explained for one in found])}
    return {kind: comparison.summarise(matrices) for kind, matrices in of_kind.items()}
