"""Synthetic activations with known features that are hard to find: rare, hierarchical, correlated, noisy."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from husai.config import require, require_types
from husai.tasks import SparseDictionary, generator


@dataclass(frozen=True)
class SyntheticConfig:
    """What is known about the features; the defaults are independent, equally frequent and without noise.

    Features are numbered level by level: first the roots from the commonest to the rarest, of which the first `trees`
    have children, then the children in the order of their parents.
    """

    d_model: int = 64
    """Dimensions of the activations."""
    features: int = 128
    """Number of true features, roots and children."""
    l0: float = 4.0
    """Mean number of active features an input."""
    zipf: float = 0.0
    """Exponent of the firing rates: the root of rank r fires proportionally to r^-zipf, below the ceiling."""
    ceiling: float = 0.5
    """Largest firing rate."""
    trees: int = 0
    """Number of roots, the commonest ones, that have children."""
    children: int = 3
    """Children of a root, and of each of its descendants but the last level."""
    depth: int = 1
    """Levels below a root."""
    follow: float = 0.75
    """Probability that a child fires when its parent does; of exclusive siblings, that one of them does."""
    exclusive: bool = True
    """Whether at most one of the siblings fires."""
    rank: int = 0
    """Rank of the correlation between the roots' firings; 0 is independence."""
    correlation: float = 0.0
    """Share of the variance behind each root's firing that the common factors carry."""
    coefficient: float = 0.0
    """Mean m of the coefficients |N(m, 1)|: 0 is the half-normal law, above it folded."""
    noise: float = 0.0
    """Standard deviation of the normal noise in each coordinate."""

    def __post_init__(self) -> None:
        require_types(self)
        for name in ("d_model", "features", "children", "depth"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("trees", "rank", "zipf", "coefficient", "noise"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name in ("ceiling", "follow"):
            require(0 < getattr(self, name) <= 1, name, getattr(self, name), "a share above 0, at most 1")
        room = f"room for {self.trees} trees, {1 + self._below} features each"
        require(self.trees * (1 + self._below) <= self.features, "features", self.features, room)
        require(0 <= self.correlation < 1, "correlation", self.correlation, "a share of at least 0, below 1")
        wanted = "0 where there are no factors (rank 0), above 0 where there are some"
        require((self.rank > 0) == (self.correlation > 0), "correlation", self.correlation, wanted)
        most = self.ceiling * float(self._sizes.sum())
        require(0 < self.l0 <= most, "l0", self.l0, f"above 0, at most {most:g} under this ceiling")

    @property
    def _below(self) -> int:
        """Features below one root."""
        return sum(self.children**level for level in range(1, self.depth + 1))

    @property
    def roots(self) -> int:
        """Number of features without a parent."""
        return self.features - self.trees * self._below

    @property
    def _sizes(self) -> Float[Tensor, " roots"]:
        """Mean number of features that fire when a root does, itself included."""
        sizes = torch.ones(self.roots, dtype=torch.float64)
        brought = self.follow * (1 if self.exclusive else self.children)
        sizes[: self.trees] = sum(brought**level for level in range(self.depth + 1))
        return sizes

    @property
    def parents(self) -> Int[Tensor, " features"]:
        """The parent of every feature, -1 for a root."""
        found, level = [torch.full((self.roots,), -1)], torch.arange(self.trees)
        for _ in range(self.depth if self.trees else 0):
            found.append(level.repeat_interleave(self.children))
            level = torch.arange(len(found[-1])) + sum(map(len, found[:-1]))
        return torch.cat(found)

    @property
    def rates(self) -> Float[Tensor, " features"]:
        """The firing rate of every feature: of a root min(ceiling, s r^-zipf), with s such that all sum to l0."""
        weights = torch.arange(1, self.roots + 1, dtype=torch.float64) ** -self.zipf
        sizes, rates = self._sizes, torch.full_like(weights, self.ceiling)
        for capped in range(self.roots):  # the commonest roots are those at the ceiling
            left = self.l0 - self.ceiling * float(sizes[:capped].sum())
            scale = left / float((sizes * weights)[capped:].sum())
            if scale * weights[capped] <= self.ceiling:
                rates[capped:] = scale * weights[capped:]
                break
        every = torch.cat([rates, rates.new_empty(self.features - self.roots)])
        each = self.follow / self.children if self.exclusive else self.follow
        for child, parent in enumerate(self.parents.tolist()):
            if parent >= 0:
                every[child] = each * every[parent]
        return every


HARD = SyntheticConfig(
    features=512, l0=12.0, zipf=1.0, ceiling=0.4, trees=32, depth=2, follow=0.9, rank=4, correlation=0.6, noise=0.1,
)  # fmt: skip
"""Rare, hierarchical, correlated and noisy at once, eight features a dimension: room above a well-tuned SAE."""


class Synthetic(NamedTuple):
    """Activations whose features are known: activations = codes @ atoms + noise."""

    activations: Float[Tensor, "n d_model"]
    """What SAEs are trained on."""
    atoms: Float[Tensor, "features d_model"]
    """The true features: unit rows."""
    codes: Float[Tensor, "n features"]
    """The coefficients, none negative; a feature fires where its coefficient is above 0."""
    rates: Float[Tensor, " features"]
    """The share of these inputs on which each feature fires."""
    parents: Int[Tensor, " features"]
    """The parent of every feature, -1 for a root."""


def sample(config: SyntheticConfig, n: int, seed: int) -> Synthetic:
    """Return n activations of random unit atoms with the firing rates, hierarchy and correlations of `config`.

    A root fires where a standard normal variable lies below its rate's quantile; the variables of all roots are
    sqrt(c) F f + sqrt(1 - c) e, with common factors f (rank r) and random unit rows of F. A child fires only where its
    parent does. So all marginal rates hold exactly, and children are correlated through their parents. Atoms,
    factors, firing, coefficients and noise have random streams of their own. ValueError: n below 1. Source: after
    Chanin & Garriga-Alonso (2026), arXiv:2602.14687, where the factors correlate children as well.
    """
    require(n >= 1, "n", n, "at least one input")
    draw = {part: generator(seed, f"synthetic/{part}") for part in ("atoms", "coefficients", "noise")}
    atoms = torch.randn(config.features, config.d_model, generator=draw["atoms"])
    atoms = torch.nn.functional.normalize(atoms, dim=1)
    fires = _firing(config, n, seed)
    law = torch.randn(n, config.features, generator=draw["coefficients"]).add_(config.coefficient).abs_()
    codes = law * fires
    noise = config.noise * torch.randn(n, config.d_model, generator=draw["noise"])
    return Synthetic(codes @ atoms + noise, atoms, codes, fires.float().mean(0), config.parents)


def _firing(config: SyntheticConfig, n: int, seed: int) -> Bool[Tensor, "n features"]:
    """Return which features fire, level by level."""
    draw = generator(seed, "synthetic/firing")
    behind = torch.randn(n, config.roots, generator=draw)
    if config.rank:
        common = generator(seed, "synthetic/factors")
        loadings = torch.nn.functional.normalize(torch.randn(config.roots, config.rank, generator=common), dim=1)
        factors = torch.randn(n, config.rank, generator=common)
        behind = math.sqrt(config.correlation) * factors @ loadings.T + math.sqrt(1 - config.correlation) * behind
    levels = [behind < torch.special.ndtri(config.rates[: config.roots]).float()]
    above = levels[0][:, : config.trees]
    for _ in range(config.depth if config.trees else 0):
        above = _children(above, config, draw)
        levels.append(above)
    return torch.cat(levels, 1)


def _children(
    parents: Bool[Tensor, "n parents"], config: SyntheticConfig, draw: torch.Generator
) -> Bool[Tensor, "n children"]:
    """Return which children of these parents fire: one of the siblings at most, or each by itself."""
    siblings = torch.arange(config.children)
    if config.exclusive:
        uniform = torch.rand(*parents.shape, 1, generator=draw)
        chosen = (uniform * (config.children / config.follow)).long() == siblings
    else:
        chosen = torch.rand(*parents.shape, config.children, generator=draw) < config.follow
    return (chosen & parents[..., None]).flatten(1)


def rotating(d_model: int, rank: int, rate: float, n: int, seed: int) -> tuple[Tensor, Float[Tensor, "rank d_model"]]:
    """Return n activations with a subspace in which no direction is preferred, and its orthonormal basis.

    In the subspace stand normal vectors, on a share `rate` of the inputs and with a variance of 1 / rate, so that all
    of them have variance 1 a dimension. At rate 1 the rest is noise of variance 0.01: the covariance shows the
    subspace. Below it, the rest is normal of variance 1: the covariance shows nothing, only that the subspace is silent
    on most inputs. Features in it cannot be identified, as every basis describes the data equally well. ValueError:
    rank outside 1 to d_model, rate outside (0, 1].
    """
    require(1 <= rank <= d_model, "rank", rank, f"1 to d_model = {d_model}")
    require(0 < rate <= 1, "rate", rate, "a share above 0, at most 1")
    draw = generator(seed, "synthetic/rotating")
    frame = torch.linalg.qr(torch.randn(d_model, d_model, generator=draw)).Q.T
    fires = torch.rand(n, 1, generator=draw) < rate
    inside = fires * torch.randn(n, rank, generator=draw) / rate**0.5
    outside = torch.randn(n, d_model - rank, generator=draw) * (0.1 if rate == 1 else 1.0)
    return torch.cat([inside, outside], 1) @ frame, frame[:rank]


def orthonormal(
    d_model: int, atoms: int, k: int, n: int, seed: int, *, signed: bool = False, noise: float = 0.0
) -> SparseDictionary:
    """Return n sums of k of the orthonormal atoms, uniformly chosen, with coefficients |N(0, 1)|, or signed N(0, 1).

    ValueError: atoms outside 1 to d_model, k outside 1 to atoms. Source: the sources' ten known directions, which they
    call orthonormal.
    """
    require(1 <= atoms <= d_model, "atoms", atoms, f"1 to d_model = {d_model}")
    require(1 <= k <= atoms, "k", k, f"1 to atoms = {atoms}")
    draw = generator(seed, "synthetic/orthonormal")
    truth = torch.linalg.qr(torch.randn(d_model, atoms, generator=draw)).Q.T
    chosen = torch.rand(n, atoms, generator=draw).topk(k).indices
    values = torch.randn(n, k, generator=draw)
    codes = torch.zeros(n, atoms).scatter_(1, chosen, values if signed else values.abs())
    return SparseDictionary(codes @ truth + noise * torch.randn(n, d_model, generator=draw), truth, codes)
