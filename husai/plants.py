"""Pairs of dictionaries in which it is known what every feature is to the other: what `unmatched` is judged by."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from husai import stats
from husai.config import require
from husai.evidence import Estimate
from husai.nulls import covariance_matched, isotropic
from husai.orbits import Action, action, shift
from husai.similarity import unit_rows
from husai.tasks import generator
from husai.unmatched import KINDS, Side, drawn_inside, fire_together, sort

P, D, PLANES, GROUP = 29, 128, 24, 8
"""Of the synthetic plants: the modulus, the dimensions, the planes that shifts turn, the dimensions of a subspace."""
EACH = 12
"""Features planted of every kind."""
NOISE = 0.1
"""Norm of what is added to every planted row; two with noise of their own have a cosine of 1 / (1 + NOISE^2)."""

NOISES = (0.1, 0.3, 0.5)
"""At which it is seen how near partners have to be: cosines of .99, .92 and .80."""


class Plant(NamedTuple):
    """Two SAEs, the activations on which they fire, and what every latent of the first is to the second."""

    a: Side
    b: Side
    x: Float[Tensor, "inputs d_model"]
    """Held-out activations."""
    truth: Int[Tensor, " n"]
    """Index into KINDS of every latent of a."""
    together: int
    """Latents that fire on an input."""
    turns: Action | None
    """The symmetry of the activations."""


def synthetic(seed: int, noise: float = NOISE) -> Plant:
    """Return EACH features of every kind in activations of p*p inputs; splits and merges are EACH of three parts each.

    Half of the dimensions hold planes that shifts of the operands turn; the other half sparse features, of which some
    are in both SAEs, some only in one, some as sums of three in the other, and two subspaces in which normal vectors
    fire, so that either SAE has directions of its own. Every row has noise of its own, of norm `noise`: partners have a
    cosine of 1 / (1 + noise^2).
    """
    draw = generator(seed, "plants/synthetic")
    frame = torch.linalg.qr(torch.randn(D, D, generator=draw)).Q.T
    waves, rest = _waves(draw) @ frame[: 2 * PLANES], frame[2 * PLANES :]
    base = isotropic(10 * EACH, len(rest), 3 * seed) @ rest
    both, late, whole, pieces, mine, theirs = base.split([EACH, EACH, 3 * EACH, 3 * EACH, EACH, EACH])
    fires = (torch.rand(P * P, len(base), generator=draw) < 0.1).float()
    x = waves + (fires * torch.randn(fires.shape, generator=draw).abs().add(1)) @ base
    spans = [torch.linalg.qr(torch.randn(len(rest), GROUP, generator=draw)).Q.T @ rest for _ in range(2)]
    for span in spans:
        x += (torch.rand(P * P, 1, generator=draw) < 0.1) * torch.randn(P * P, GROUP, generator=draw) @ span * 3
    x += 0.05 * torch.randn(x.shape, generator=draw)
    turns = action(x, P)
    turns = turns._replace(planes=turns.planes[:PLANES], frequencies=turns.frequencies[:PLANES])
    turned = isotropic(EACH, 2 * PLANES, 3 * seed + 1) @ frame[: 2 * PLANES]
    orbit = _moved(turned, turns, draw)

    def bases() -> Tensor:
        turnings = [torch.linalg.qr(torch.randn(GROUP, GROUP, generator=draw)).Q for _ in spans]
        return torch.cat([turn @ span for turn, span in zip(turnings, spans, strict=True)])

    def sums(rows: Tensor) -> Tensor:
        return unit_rows(rows.reshape(-1, 3, D).sum(1))

    dead, early, early_b = isotropic(3 * EACH, D, 3 * seed + 2).split(EACH)
    in_a = {"matched": both, "dead": dead, "under-trained": early, "orbit-mate": turned}
    in_a |= {"split or merged": torch.cat([sums(whole), pieces]), "rotated": bases(), "absent": mine}
    rows_b = torch.cat([both, early_b, orbit, whole, sums(pieces), bases(), theirs])
    truth = _labels({kind: len(rows) for kind, rows in in_a.items()})
    rows_a, index = torch.cat(list(in_a.values())), KINDS.index("under-trained")
    later_a, later_b = rows_a.clone(), rows_b.clone()
    later_a[truth == index], later_b[EACH : 2 * EACH] = late, late
    alive_a = truth != KINDS.index("dead")
    a = _side(rows_a, alive_a, x, draw, noise, later_a)
    b = _side(rows_b, torch.ones(len(rows_b), dtype=torch.bool), x, draw, noise, later_b)
    return Plant(a, b, x, truth, GROUP, turns)


def in_geometry(
    b: Side,
    x: Float[Tensor, "inputs d_model"],
    together: int,
    turns: Action | None = None,
    each: int = 2 * EACH,
    seed: int = 0,
    noise: float = NOISE,
) -> Plant:
    """Return features planted into an SAE that was trained: the kinds that a test could tell apart here, if any can.

    Of living features of b: the feature itself, its shift, the mean of three, and a random direction in the span of
    those that fire together with it, each with noise; absent are random directions with the covariance of the
    activations. What sorting finds of these is its power in this geometry, and what it takes absent ones for is chance.
    """
    draw = generator(seed, "plants/geometry")
    living = unit_rows(b.living)
    each = min(each, len(living))

    def some() -> Tensor:
        return living[torch.randperm(len(living), generator=draw)[:each]]

    rows = {"matched": some()}
    if turns is not None:
        rows["orbit-mate"] = _moved(some(), turns, draw)
    rows["split or merged"] = some() + some() + some()
    rows["rotated"] = drawn_inside(fire_together(some(), b, x, together), seed)
    rows["absent"] = covariance_matched(x, each, seed)
    planted = torch.cat(list(rows.values()))
    truth = _labels({kind: len(part) for kind, part in rows.items()})
    alive = torch.ones(len(planted), dtype=torch.bool)
    return Plant(_side(planted, alive, x, draw, noise), b._replace(later=None), x, truth, together, turns)


def confusion(plants: Sequence[Plant], **options: int) -> Float[np.ndarray, "plants kinds kinds"]:
    """Return, for every plant, the share of the latents of each true kind (rows) that is sorted into each kind.

    Rows without a plant are NaN; options go to `unmatched.sort`.
    """
    require(len(plants) >= 1, "plants", "none", "at least one")
    tables = np.full((len(plants), len(KINDS), len(KINDS)), np.nan)
    for index, (table, one) in enumerate(zip(tables, plants, strict=True)):
        found = sort(one.a, one.b, one.x, one.together, one.turns, seed=index, **options).kinds
        for kind in one.truth.unique().tolist():
            table[kind] = torch.bincount(found[one.truth == kind], minlength=len(KINDS)) / (one.truth == kind).sum()
    return tables


def known(noise: float, count: int, **options: int) -> Float[np.ndarray, "plants kinds kinds"]:
    """Return `confusion` of so many `synthetic` plants."""
    return confusion([synthetic(seed, noise) for seed in range(count)], **options)


def recognised(tables: Float[np.ndarray, "plants kinds kinds"]) -> dict[str, Estimate]:
    """Return, by planted kind, the share that is sorted into its own, with its interval over plants.

    ValueError: fewer than 3 plants.
    """
    shares = {kind: tables[:, i, i] for i, kind in enumerate(KINDS)}
    return {kind: stats.mean(found) for kind, found in shares.items() if not np.isnan(found).any()}


def _waves(draw: torch.Generator) -> Float[Tensor, "inputs coordinates"]:
    """Return the coordinates of all p*p inputs in PLANES planes, each of a frequency pair of its own."""
    a, b = torch.arange(P).repeat_interleave(P), torch.arange(P).repeat(P)
    half = torch.cartesian_prod(torch.arange(1, P // 2 + 1), torch.arange(P))
    pairs = half[torch.randperm(len(half), generator=draw)[:PLANES]]
    angles = 2 * torch.pi * (a[:, None] * pairs[:, 0] + b[:, None] * pairs[:, 1]) / P
    return 3 * torch.stack([angles.cos(), angles.sin()], 2).flatten(1)


def _moved(rows: Float[Tensor, "n d"], turns: Action, draw: torch.Generator) -> Float[Tensor, "n d"]:
    """Return every row under a shift of its own."""
    moves = torch.randint(1, turns.p, (len(rows), 2), generator=draw).tolist()
    return torch.cat([shift(turns, row[None], s, t) for row, (s, t) in zip(rows, moves, strict=True)])


def _labels(counts: dict[str, int]) -> Int[Tensor, " n"]:
    return torch.cat([torch.full((count,), KINDS.index(kind)) for kind, count in counts.items()])


def _side(
    rows: Tensor, alive: Tensor, x: Tensor, draw: torch.Generator, noise: float, later: Tensor | None = None
) -> Side:
    """Return an SAE with noisy rows whose latents fire where the projection on them is in its upper tenth."""

    def noisy(one: Tensor) -> Tensor:
        return unit_rows(unit_rows(one) + noise * unit_rows(torch.randn(one.shape, generator=draw)))

    rows = noisy(rows)
    projections = (x - x.mean(0)) @ rows.T
    codes = (projections - projections.quantile(0.9, dim=0)).relu() * alive
    if later is None:
        return Side(rows, alive, codes)
    return Side(rows, alive, codes, noisy(later), torch.ones_like(alive))
