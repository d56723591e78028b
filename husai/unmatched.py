"""What a feature is that has no partner in another seed: dead, late, moved by a symmetry, in parts, rotated, or absent.

A latent of one SAE is sorted against one other SAE by the first test that it passes, in the order of `KINDS`, from one
partner over a few to a whole span. No threshold is chosen: to pass is to beat all but ALPHA of random directions to
which the same is done.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from husai.config import require
from husai.consensus import mutual_neighbours
from husai.nulls import covariance_matched
from husai.orbits import Action, best_similarity, scrambled
from husai.similarity import best_cosines, same_width, unit_rows
from husai.tasks import generator

KINDS = ("matched", "dead", "under-trained", "orbit-mate", "split or merged", "rotated", "absent")
"""Where a latent can end, in the order of the tests; absent is what passes none."""
EXPLAINED = KINDS[2:-1]
"""What a living latent without a partner can be, other than absent."""
ALPHA = 0.01
"""Share of random directions that pass one test; what all tests together let through, absent plants tell (`plants`)."""
PARTS = 3
"""How many features are a few."""
DRAWS = 1000
"""Random directions a null."""


class Side(NamedTuple):
    """One SAE as the sorting sees it."""

    rows: Float[Tensor, "n d_model"]
    """Decoder rows."""
    alive: Bool[Tensor, " n"]
    """Which latents fire on more than 0.1 % of the held-out activations."""
    codes: Float[Tensor, "inputs n"]
    """Latents on those activations."""
    later: Float[Tensor, "n d_model"] | None = None
    """Decoder rows of the same latents after more training."""
    later_alive: Bool[Tensor, " n"] | None = None
    """Which of those are alive."""

    @property
    def living(self) -> Float[Tensor, "living d_model"]:
        """Decoder rows of the living latents."""
        return self.rows[self.alive]


class Sorted(NamedTuple):
    """Where every latent of one SAE ended, and what it took to pass."""

    kinds: Int[Tensor, " n"]
    """Index into KINDS."""
    bars: dict[str, float]
    """By kind, the value that the statistic of its test had to exceed; 1 is what it cannot exceed."""
    lost: float
    """Share of all latents that are matched and no longer are after more training; 0 where none was given."""


def sort(
    a: Side, b: Side, x: Float[Tensor, "inputs d_model"], together: int, turns: Action | None = None,
    *, draws: int = DRAWS, seed: int = 0,
) -> Sorted:  # fmt: skip
    """Return what each latent of a is to b; x are the held-out activations, `together` latents fire on an input.

    - dead: it does not fire. Nothing else is asked of it.
    - matched: mutual nearest neighbours among the living, by signed cosine.
    - under-trained: matched after more training, the same latent of a with any of b (needs `later`).
    - orbit-mate: its best cosine with a feature of b over all shifts of the operands (needs `turns`); what would be
      near enough without a shift is none.
    - split or merged: its cosine with the best non-negative sum of PARTS features of b (`composition`); or it is a part
      of such a sum of features of a that makes up a feature of b; or as near to a feature of b as a match, which is
      nearer still to another of a.
    - rotated: the share of its squared norm in the span of the `together` features of b that fire with it.

    Random directions have the covariance of the activations (N2), or the second moment of the living features of a. A
    match has to beat sums of two features of b, too, which match neither; a sum of few, directions drawn in the span of
    the features that fire together, where only sparse sums are few, by the median cosine of matches; an orbit-mate has
    to be as near as a match, and to beat the same freedom with planes turned at random. ValueError: no living latent,
    too few draws for ALPHA, `together` below 1, NaN or Inf.
    """
    require(together >= 1, "together", together, "at least one latent an input")
    mine, theirs = a.living, b.living
    same_width(a=mine, b=theirs)
    passed, bars = {}, {}
    draws = max(draws, len(mine), len(theirs))
    chance, turned_round = (random_rows(rows, x, draws, 2 * seed + side) for side, rows in enumerate((mine, theirs)))
    near, passed["matched"], bars["matched"] = matched(mine, theirs, chance, seed)
    if a.later is not None and b.later is not None:
        then, there = a.later[a.later_alive], b.later[b.later_alive]
        grown = torch.zeros(len(a.rows), dtype=torch.bool)
        _, found, bars["under-trained"] = matched(then, there, random_rows(then, x, draws, seed), seed)
        grown[a.later_alive] = found
        passed["under-trained"] = grown[a.alive]
    if turns is not None:
        rest = ~torch.stack([near, *passed.values()]).any(0)
        passed["orbit-mate"] = torch.zeros_like(rest)
        if bool(rest.any()):
            found, level = moved(mine[rest], theirs, turns, bars["matched"], seed)
            passed["orbit-mate"][rest], bars["orbit-mate"] = found, level
    pairs = best_cosines(mine, theirs, signed=True)[0][passed["matched"]]
    typical = float(pairs.median()) if len(pairs) else 1.0
    bars["split or merged"] = few_level(mine, b, x, together, chance, seed, typical)
    few = composition(mine, theirs).cosines > bars["split or merged"]
    passed["split or merged"] = near | few | part_of(a, theirs, x, together, turned_round, seed, typical)
    passed["rotated"], bars["rotated"] = rotated(mine, b, x, together, chance)
    living = torch.full((len(mine),), KINDS.index("absent"))
    for kind in reversed(passed):  # the first test that is passed is the last to be written
        living[passed[kind]] = KINDS.index(kind)
    kinds = torch.full((len(a.rows),), KINDS.index("dead"))
    kinds[a.alive] = living
    lost = passed["matched"] & ~passed.get("under-trained", passed["matched"])
    return Sorted(kinds, bars, float(lost.sum()) / len(kinds))


def bar(null: Float[Tensor, " draws"], alpha: float = ALPHA) -> float:
    """Return the value above which (1 + number of draws at least as large) / (draws + 1) <= alpha.

    ValueError: fewer than 1 / alpha - 1 draws.
    """
    rank = int(alpha * (len(null) + 1) + 1e-9)
    require(rank >= 1, "draws", len(null), f"at least {math.ceil(1 / alpha) - 1} for alpha = {alpha}")
    return float(null.topk(rank).values[-1])


def random_rows(rows: Float[Tensor, "n d"], x: Float[Tensor, "inputs d"], draws: int, seed: int) -> list[Tensor]:
    """Return two sets of random unit rows: with the covariance of x (N2), and with the second moment of `rows`.

    The second holds where features crowd other directions than the activations do.
    """
    both_signs = torch.cat([rows, -rows])
    return [covariance_matched(x, draws, 2 * seed), covariance_matched(both_signs, draws, 2 * seed + 1)]


def matched(
    mine: Float[Tensor, "n_a d"], theirs: Float[Tensor, "n_b d"], chance: Sequence[Tensor], seed: int
) -> tuple[Bool[Tensor, " n_a"], Bool[Tensor, " n_a"], float]:
    """Return which rows have a row of the other nearer than chance, of which it is the nearest too, and the level.

    Nearer, too, than a sum of two rows of the other is to either of them.
    """
    pairs = torch.randint(len(theirs), (2, len(chance[0])), generator=generator(seed, "unmatched/sums"))
    pairs[1] = torch.where(pairs[0] == pairs[1], (pairs[1] + 1) % len(theirs), pairs[1])
    nulls = [*chance, unit_rows(theirs)[pairs].sum(0)]
    level = max(bar(best_cosines(null, theirs, signed=True)[0]) for null in nulls)
    near = best_cosines(mine, theirs, signed=True)[0] > level
    found = torch.zeros_like(near)
    found[mutual_neighbours(mine, theirs, level)[0]] = True
    return near, found, level


def moved(
    mine: Float[Tensor, "n_a d"], theirs: Float[Tensor, "n_b d"], turns: Action, level: float, seed: int
) -> tuple[Bool[Tensor, " n_a"], float]:
    """Return which rows some shift brings nearer to a row of the other than `level`, which makes a match without one,

    and than shifts do when planes were turned at random; and what it took.
    """
    sets = mine.repeat(math.ceil(1 / ALPHA / len(mine)), 1)[: math.ceil(1 / ALPHA)].split(len(mine))
    mixed = [scrambled(turns, theirs, 1000 * seed + i) for i in range(len(sets))]
    null = [best_similarity(turns, part, other, signed=True) for part, other in zip(sets, mixed, strict=True)]
    level = max(level, bar(torch.cat(null)))
    return best_similarity(turns, mine, theirs, signed=True) > level, level


class Composition(NamedTuple):
    """Each target as a non-negative sum of a few rows."""

    cosines: Float[Tensor, " n"]
    """Cosine of the target with the sum."""
    support: Int[Tensor, "n parts"]
    """The rows."""
    without: Float[Tensor, "n parts"]
    """The cosine that is left without each of them."""


def composition(targets: Float[Tensor, "n d"], rows: Float[Tensor, "rows d"], parts: int = PARTS) -> Composition:
    """Return the greedy non-negative sums of at most `parts` rows that are nearest to the targets.

    The row with the largest cosine to what is left is added, then all weights are fitted anew under w >= 0 (orthogonal
    matching pursuit, non-negative). ValueError: empty, NaN or Inf, unequal d_model.
    """
    same_width(targets=targets, rows=rows)
    targets, rows = unit_rows(targets), unit_rows(rows)
    products, gram = targets @ rows.T, rows @ rows.T
    support = products.argmax(1, keepdim=True)
    while support.shape[1] < min(parts, len(rows)):
        weights = non_negative(gram[support[:, :, None], support[:, None]], products.gather(1, support))
        left = products - torch.einsum("np,npr->nr", weights, gram[support])
        support = torch.cat([support, left.scatter(1, support, -torch.inf).argmax(1, keepdim=True)], 1)
    small, wanted = gram[support[:, :, None], support[:, None]], products.gather(1, support)
    cosines = _cosine(small, wanted)
    without = [_cosine(small, wanted, out) for out in range(support.shape[1])]
    return Composition(cosines, support, torch.stack(without, 1))


def _cosine(gram: Tensor, products: Tensor, out: int | None = None) -> Float[Tensor, " n"]:
    """Return the cosine of the best non-negative sum, one part left out; at the optimum its square is <w, products>."""
    return (non_negative(gram, products, out) * products).sum(1).clamp(0, 1).sqrt()


def non_negative(
    gram: Float[Tensor, "n parts parts"], products: Float[Tensor, "n parts"], out: int | None = None, sweeps: int = 15
) -> Float[Tensor, "n parts"]:
    """Return w >= 0 that minimises w G w / 2 - <w, products>, by cyclic coordinate descent; w_out = 0."""
    weights = torch.zeros_like(products)
    for _ in range(sweeps):
        for j in range(products.shape[1]):
            if j != out:
                left = products[:, j] - (gram[:, j] * weights).sum(1) + gram[:, j, j] * weights[:, j]
                weights[:, j] = left.clamp(min=0) / gram[:, j, j].clamp(min=1e-12)
    return weights


def fire_together(
    targets: Float[Tensor, "n d"], b: Side, x: Float[Tensor, "inputs d"], together: int
) -> Float[Tensor, "n together d"]:
    """Return the living rows of b that fire most with each direction.

    By the correlation over inputs of z_j with the absolute projection of x - mean on the direction: features and random
    directions are treated alike, and features at an angle of more than 90 degrees may still fire together.
    """
    strength, codes = ((x - x.mean(0)) @ unit_rows(targets).T).abs_(), b.codes[:, b.alive]
    strength, codes = (one - one.mean(0) for one in (strength, codes))
    shared = (strength / strength.norm(dim=0).clamp(min=1e-12)).T @ (codes / codes.norm(dim=0).clamp(min=1e-12))
    return unit_rows(b.living)[shared.topk(min(together, shared.shape[1])).indices]


def factor(rows: Float[Tensor, "n together d"]) -> Float[Tensor, "n together together"]:
    """Return the Cholesky factors of the rows' Gram matrices, which may be singular up to a millionth."""
    wide = rows.double()
    return torch.linalg.cholesky(wide @ wide.mT + 1e-6 * torch.eye(rows.shape[1], dtype=torch.float64))


def share_inside(targets: Float[Tensor, "n d"], rows: Float[Tensor, "n together d"]) -> Float[Tensor, " n"]:
    """Return the share of each target's squared norm that lies in the span of its own rows."""
    products = rows.double() @ unit_rows(targets).double()[:, :, None]
    inside = torch.linalg.solve_triangular(factor(rows), products, upper=False)
    return inside.square().sum((1, 2)).float()


def drawn_inside(rows: Float[Tensor, "n together d"], seed: int) -> Float[Tensor, "n d"]:
    """Return one random direction in the span of each set of rows, uniform in it."""
    noise = torch.randn(*rows.shape[:2], 1, generator=generator(seed, "unmatched/inside"), dtype=torch.float64)
    weights = torch.linalg.solve_triangular(factor(rows).mT, noise, upper=True)
    return unit_rows((rows.double().mT @ weights)[..., 0].float())


def few_level(
    mine: Float[Tensor, "n_a d"], b: Side, x: Float[Tensor, "inputs d"],
    together: int, chance: Sequence[Tensor], seed: int, near: float = 1.0,
) -> float:  # fmt: skip
    """Return what the cosine with a sum of few has to exceed: that of `chance`, and of spans of what fires together.

    The second times `near`, the cosine of matches: directions drawn in the span carry no noise of a seed, sums that
    another seed has learned carry as much as matches do.
    """
    rows, sets = fire_together(mine, b, x, together), range(math.ceil(len(chance[0]) / len(mine)))
    inside = torch.cat([drawn_inside(rows, 1000 * seed + i) for i in sets])
    by_chance = max(bar(composition(null, b.living).cosines) for null in chance)
    return max(by_chance, near * bar(composition(inside, b.living).cosines))


def part_of(
    a: Side, theirs: Float[Tensor, "n_b d"], x: Float[Tensor, "inputs d"],
    together: int, chance: Sequence[Tensor], seed: int, near: float = 1.0,
) -> Bool[Tensor, " n_a"]:  # fmt: skip
    """Return which living rows of a are parts of a sum of few that makes up a row of the other.

    The sum is nearer to that row than `few_level` has it, and without the part it no longer is.
    """
    level = few_level(theirs, a, x, together, chance, seed, near)
    found = composition(theirs, a.living)
    needed = (found.cosines > level)[:, None] & (found.without <= level)
    parts = torch.zeros(len(a.living), dtype=torch.bool)
    parts[found.support[needed]] = True
    return parts


def rotated(
    mine: Float[Tensor, "n_a d"], b: Side, x: Float[Tensor, "inputs d"], together: int, chance: Sequence[Tensor]
) -> tuple[Bool[Tensor, " n_a"], float]:
    """Return which rows lie in the span of the rows of b that fire with them, more than random directions do."""
    level = max(bar(share_inside(rows, fire_together(rows, b, x, together))) for rows in chance)
    return share_inside(mine, fire_together(mine, b, x, together)) > level, level
