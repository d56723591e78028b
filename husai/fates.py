"""The unmatched features of whole studies: shares of every kind, over SAE seeds and models."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from husai import comparison, progress
from husai.config import require
from husai.evidence import Estimate
from husai.orbits import Action
from husai.study import Study
from husai.unmatched import EXPLAINED, KINDS, Side, sort

TESTS = ("matched", *EXPLAINED)
"""Kinds that a living latent ends in by passing a test."""
HERE = {kind: KINDS.index(kind) for kind in KINDS if kind not in ("dead", "under-trained")}
"""Kinds that `plants.in_geometry` plants, with their places in KINDS."""


def key(kind: str) -> str:
    """Return a name without spaces and hyphens, as keys of results are."""
    return kind.replace(" ", "_").replace("-", "_")


def sides(
    study: Study, longer: Study | None = None, seeds: int | None = None, counts: Sequence[int] | None = None
) -> list[Side]:
    """Return what `unmatched.sort` takes of every seed; `longer` are the same seeds, trained for more steps.

    Where `longer` has fewer, only those are taken, which have to be the first of `study`; without it, the first `seeds`
    or all. With `counts` only so many living latents a seed are left, the commonest. ValueError: `longer` has other
    seeds or other activations.
    """
    x, after = study.activations.held_out, [(None, None)] * (seeds or len(study.seeds))
    if longer is not None:
        first = study.seeds[: len(longer.seeds)]
        require(longer.seeds == first, "longer.seeds", longer.seeds, f"the first of study, {study.seeds}")
        same = torch.equal(longer.activations.mean, study.activations.mean)
        require(same, "longer", "trained on other activations", "those of study")
        after = list(zip(longer.saes.W_dec, longer.alive, strict=True))
    alive = study.alive if counts is None else study.commonest(counts)
    return [Side(study.saes.W_dec[i], alive[i], study.saes[i].encode(x)[0], *later) for i, later in enumerate(after)]


class Fates(NamedTuple):
    """What the latents of one study are to the other seeds."""

    shares: Float[np.ndarray, "kinds seeds seeds"]
    """Share of all latents that are of each of KINDS, mean of both directions, for every pair of seeds."""
    bars: dict[str, float]
    """By kind, the mean over pairs of what the statistic of its test had to exceed."""
    lost: Float[np.ndarray, "seeds seeds"]
    """Share of all latents whose partner is gone after more training."""

    @property
    def unmatched(self) -> Float[np.ndarray, "seeds seeds"]:
        """Share of all latents that are alive and have no partner."""
        return self.shares[2:].sum(0)

    @property
    def explained(self) -> Float[np.ndarray, "seeds seeds"]:
        """Share of the living without a partner that some test accounts for, of late ones the surplus over `lost`.

        Partners come and go while SAEs train on, and what only goes back and forth explains nothing. NaN where all
        have partners.
        """
        return _ratio(self._known - self.lost, self.unmatched)

    @property
    def gross(self) -> Float[np.ndarray, "seeds seeds"]:
        """`explained` with all that find a partner late, those made up for by `lost` too."""
        return _ratio(self._known, self.unmatched)

    @property
    def _known(self) -> Float[np.ndarray, "seeds seeds"]:
        return self.shares[[KINDS.index(kind) for kind in EXPLAINED]].sum(0)


def fates(
    study: Study, longer: Study | None = None, turns: Action | None = None, *,
    seeds: int | None = None, counts: Sequence[int] | None = None, **options: int,
) -> Fates:  # fmt: skip
    """Return what every latent of every seed is to every other seed; options go to `unmatched.sort`.

    `together` is the study's k, `seeds` and `counts` as in `sides`; latents beyond the counts are dead here.
    ValueError: as `sides` and `unmatched.sort`.
    """
    every, x, k = sides(study, longer, seeds, counts), study.activations.held_out, study.config.sae.active
    tally, lost = np.zeros((len(KINDS), len(every), len(every))), np.zeros((len(every), len(every)))
    bars: dict[str, list[float]] = {}
    for i, a in enumerate(progress.each(every, "SAE")):
        for j, b in enumerate(every):
            if i != j:
                found = sort(a, b, x, k, turns, seed=i * len(every) + j, **options)
                tally[:, i, j] = np.bincount(found.kinds.numpy(), minlength=len(KINDS)) / len(found.kinds)
                lost[i, j] = found.lost
                for kind, value in found.bars.items():
                    bars.setdefault(kind, []).append(value)
    shares, gone = ((one + one.swapaxes(-1, -2)) / 2 for one in (tally, lost))
    return Fates(shares, {kind: float(np.mean(values)) for kind, values in bars.items()}, gone)


def estimates(found: Sequence[Fates]) -> dict[str, Estimate]:
    """Return the share of each kind, and what follows from it; one `Fates` a model.

    `unmatched`, `explained` and its `gross` as in `Fates`; `dead_of_rest` the dead among all without a partner;
    `net_late` how many more find a partner with more training than lose theirs, as a share of all latents.
    Shares of those without a partner leave out pairs, and models, that have none, and are left out where all have none.
    Intervals are over models and seeds from three models on, else over the seeds of one model.
    """
    of_kind = {kind: np.stack([one.shares[i] for one in found]) for i, kind in enumerate(KINDS)}
    of_kind |= {"unmatched": np.stack([one.unmatched for one in found])}
    of_kind |= {name: np.stack([getattr(one, name) for one in found]) for name in ("explained", "gross")}
    of_kind["dead_of_rest"] = np.stack([_ratio(one.shares[1], one.shares[1] + one.unmatched) for one in found])
    of_kind["net_late"] = np.stack([one.shares[KINDS.index("under-trained")] - one.lost for one in found])
    told = {kind: _told(matrices) for kind, matrices in of_kind.items()}
    return {kind: comparison.summarise(matrices) for kind, matrices in told.items() if len(matrices)}


def beyond(
    study: Study, null: Study, name: str = "N4", *, seeds: int | None = None, **options: int
) -> dict[str, Estimate]:
    """Return `explained` of a study and of a trained null, and the first less the second, by sums and spans alone.

    Seed by seed both keep as many living latents, the commonest. Shares that no pair of seeds has are left out.
    """
    counts = comparison.equal_counts(study, null)[0].sum(1).tolist()
    a, b = (fates(one, None, None, seeds=seeds, counts=counts, **options).explained for one in (study, null))
    rows = {"plain": a, name: b, f"beyond_{name}": a - b}
    told = {f"explained_{row}": _told(one[None]) for row, one in rows.items()}
    return {row: comparison.summarise(matrices) for row, matrices in told.items() if len(matrices)}


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, NaN for pairs of seeds where the whole is 0; the diagonal is 0."""
    return np.divide(part, whole, out=np.where(np.eye(len(part)), 0.0, np.nan), where=whole > 0)


def _told(matrices: np.ndarray) -> np.ndarray:
    """Return the models that have values, each of their pairs without one at the mean of the model's others."""
    off = ~np.eye(matrices.shape[-1], dtype=bool)
    kept = [one for one in matrices if np.isfinite(one[off]).any()]
    return np.array([np.where(np.isnan(one), np.nanmean(one[off]), one) for one in kept])
