"""What a training is fed: standardised activations, from memory or from shards, in every seed's own order."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from husai.config import TrainConfig, require
from husai.engines import Data
from husai.shards import Shards, moments
from husai.tasks import generator

CHUNK = 512
"""Optimiser steps a call of the engine: bounds the memory of the precomputed data order."""
GATHERED = 2**23
"""Bytes of activations that are gathered from shards at a time, if one step's fit into them."""


class Units(NamedTuple):
    """Raw activations are standardised as (x - mean) * scale."""

    mean: Float[Tensor, "*layers d_model"]
    scale: float

    def standardise(self, x: Float[Tensor, "n *layers d_model"]) -> Float[Tensor, "n *layers d_model"]:
        """Return the activations that the SAEs train on."""
        return (x - self.mean).mul_(self.scale).contiguous()


def standardiser(activations: Float[Tensor, "n *layers d_model"] | Shards) -> Units:
    """Return the mean, and the scale such that scale * (x - mean) has a mean squared norm of d_model.

    Layers have a mean each and one scale together, so that their norms stay comparable.
    """
    mean, spread = moments(activations)
    require(spread > 0, "activations", "identical rows", "rows that differ")
    like = activations if isinstance(activations, Tensor) else torch.empty(0, dtype=activations.dtype)
    return Units(mean.to(like), math.sqrt(activations.shape[-1] / spread))


class Feed:
    """The activations (and a transcoder's targets) of one training, and the order in which each seed sees them.

    A seed draws a fresh permutation of all rows an epoch (seed 0's, where the order is `shared`), so its order depends
    neither on where the rows lie nor on how many are read at a time: shards train the SAEs that the same rows in memory
    do, to the byte.
    """

    def __init__(
        self,
        activations: Num[Tensor, "n *layers d_in"] | Shards,
        targets: Num[Tensor, "rows d_model"] | Shards | None,
        config: TrainConfig,
        seeds: Sequence[int],
    ) -> None:
        _check(activations, targets, config)
        given = [activations] if targets is None else [activations, targets]
        self.sources = [source.detach() if isinstance(source, Tensor) else source for source in given]
        self.units = [
            standardiser(source) if config.standardise else Units(_first_row(source)[0] * 0, 1.0)
            for source in self.sources
        ]
        tensors = [source for source in self.sources if isinstance(source, Tensor)]
        self.whole = self._standardised(tensors) if len(tensors) == len(self.sources) else None
        self.first = self._standardised([_first_row(source) for source in self.sources])
        bytes_a_step = len(seeds) * config.batch_size * sum(part.nbytes for part in {*self.first})
        self.stretch = CHUNK if self.whole else min(CHUNK, max(1, GATHERED // bytes_a_step))
        """Steps that may be taken at a time."""
        self.n, self.batch_size, self.seeds = len(activations), config.batch_size, seeds
        self.drawn = [config.drawn_as(seed, "order") for seed in seeds]
        self.orders = [_Order(self.n, config.batch_size, seed) for seed in self.drawn]

    def take(self, steps: int) -> tuple[Data, Int[Tensor, "seeds steps batch"]]:
        """Return data, and which of its rows the next `steps` steps of every seed are about."""
        return self._gather(torch.stack([order.take(steps) for order in self.orders]))

    def shuffled(self, batches: int) -> Iterator[Data]:
        """Yield up to so many batches, each with one part a seed, of a shuffle apart from the training order."""
        count = min(batches, self.n // self.batch_size) * self.batch_size
        draws = [generator(seed, "sae/threshold") for seed in self.drawn]
        order = torch.stack([torch.randperm(self.n, generator=draw)[:count] for draw in draws])
        for index in order.split(self.batch_size, 1):
            data, local = self._gather(index)
            yield data.rows(local.to(data.x.device))

    def _gather(self, order: Tensor) -> tuple[Data, Tensor]:
        if self.whole:
            return self.whole, order
        positions, local = order.unique(return_inverse=True)
        parts = [source.rows(positions) if isinstance(source, Shards) else source[positions] for source in self.sources]
        return self._standardised(parts), local

    def _standardised(self, parts: Sequence[Tensor]) -> Data:
        values = [units.standardise(part) for units, part in zip(self.units, parts, strict=True)]
        return Data(values[0], values[-1])


def _first_row(source: Tensor | Shards) -> Tensor:
    return source[:1] if isinstance(source, Tensor) else source.rows(torch.zeros(1, dtype=torch.int64))


class _Order:
    """One seed's endless stream of row indices: a fresh permutation an epoch, cut into batches."""

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        self.n, self.batch_size, self.draw = n, batch_size, generator(seed, "sae/order")
        self.epoch, self.seen = torch.empty(0, dtype=torch.int32), 0

    def take(self, steps: int) -> Tensor:
        """Return the next [steps, batch_size] indices."""
        need, parts = steps * self.batch_size, []
        while need:
            if self.seen == len(self.epoch):
                kind = torch.int32 if self.n < 2**31 else torch.int64
                self.epoch, self.seen = torch.randperm(self.n, generator=self.draw, dtype=kind), 0
            parts.append(self.epoch[self.seen : self.seen + need])
            self.seen += len(parts[-1])
            need -= len(parts[-1])
        return torch.cat(parts).long().reshape(steps, self.batch_size)


def _check(activations: Tensor | Shards, targets: Tensor | Shards | None, config: TrainConfig) -> None:
    n, layers, shape = len(activations), config.sae.layers, tuple(activations.shape)
    if layers > 1:
        fits = len(shape) == 3 and shape[1] == layers
        require(fits, "activations", shape, f"a stack [n, layers, d_model] with layers = {layers}")
    else:
        require(len(shape) == 2, "activations", shape, "a matrix [n, d_model]")
    if config.sae.transcoder:
        came = None if targets is None else tuple(targets.shape)
        require(came is not None and len(came) == 2 and came[0] == n, "targets", came, f"a matrix of {n} rows")
    else:
        require(targets is None, "targets", "given", "none: only a transcoder has targets")
    for name, values in {"activations": activations, "targets": targets}.items():
        if values is not None:
            require(values.dtype in (torch.float32, torch.float64), name, values.dtype, "float32 or float64")
            require(values.dtype == activations.dtype, name, values.dtype, f"{activations.dtype}, as activations")
            finite = isinstance(values, Shards) or bool(values.isfinite().all())  # shards were checked when written
            require(finite, name, "NaN or infinity among them", "finite numbers")
    require(n >= config.batch_size, "batch_size", config.batch_size, f"at most the number of activations, {n}")
