"""Dictionaries as unit rows, a tile at a time: those of SAEs and those drawn by chance."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from husai import nulls
from husai.config import stream_seed
from husai.similarity import unit_rows

TILE = 4096  # rows a tile: 4096 x 4096 cosines are 64 MB
DRAW = 1024  # rows that are drawn together, whatever the tile


@runtime_checkable
class Source(Protocol):
    """Rows that can be read some at a time."""

    @property
    def d_sae(self) -> int: ...

    def rows(self, start: int, stop: int) -> Float[Tensor, "rows d_model"]:
        """Return rows start..stop."""


class Drawn:
    """A dictionary of chance, drawn when it is read: isotropic (N0), or, given its root, of a covariance (N2)."""

    def __init__(self, d_sae: int, d_model: int, seed: int, root: Float[Tensor, "d d"] | None = None) -> None:
        self.d_sae, self._d_model, self._seed, self._root = d_sae, d_model, seed, root

    def rows(self, start: int, stop: int) -> Float[Tensor, "rows d_model"]:
        """Return rows start..stop: the same whichever others are read."""
        first = start // DRAW
        parts = [self._block(i) for i in range(first, -(-stop // DRAW))]
        return torch.cat(parts)[start - first * DRAW : stop - first * DRAW]

    def _block(self, index: int) -> Tensor:
        seed = stream_seed(self._seed, f"report/null/{index}")
        if self._root is None:
            return nulls.isotropic(DRAW, self._d_model, seed)
        return nulls.coloured(self._root, DRAW, seed).float()


class Tiles:
    """Unit rows of a source, TILE at a time; in every tile the kept rows come first."""

    def __init__(self, source: Source, keep: Bool[Tensor, " d_sae"] | None = None) -> None:
        self.source = source
        self.keep = torch.ones(source.d_sae, dtype=torch.bool) if keep is None else keep
        parts = self.keep.split(TILE)
        order = [part.logical_not().int().argsort(stable=True) for part in parts]
        self.order = [rows + i * TILE for i, rows in enumerate(order)]
        """Which rows, tile by tile."""
        self.kept = [int(part.sum()) for part in parts]
        """How many rows of each tile are kept."""

    def __len__(self) -> int:
        return len(self.order)

    @property
    def sizes(self) -> dict[str, int]:
        """How many rows there are, and how many are kept."""
        return {"all": self.source.d_sae, "kept": sum(self.kept)}

    def load(self, tile: int) -> Float[Tensor, "rows d_model"]:
        """Return the unit rows of a tile, in the order `order[tile]`."""
        start = tile * TILE
        rows = unit_rows(self.source.rows(start, min(start + TILE, self.source.d_sae)))
        return rows if self.kept[tile] in (0, len(rows)) else rows[self.order[tile] - start]

    def take(self, wanted: Int[Tensor, " n"]) -> Float[Tensor, "n d_model"]:
        """Return the unit rows at some positions, in their order; one tile at a time is read."""
        parts = []
        for part in wanted.split(TILE):
            order = part.argsort()
            tiles = part.div(TILE, rounding_mode="floor").unique().tolist()
            found = [self._within(part[order], tile) for tile in tiles]
            parts.append(torch.cat(found)[order.argsort()])
        return torch.cat(parts)

    def _within(self, ascending: Tensor, tile: int) -> Tensor:
        start = tile * TILE
        here = ascending[(ascending >= start) & (ascending < start + TILE)] - start
        return unit_rows(self.source.rows(start, min(start + TILE, self.source.d_sae))[here])

    def gram(self) -> tuple[Float[Tensor, "d d"], Float[Tensor, " d"]]:
        """Return sum d_j d_j^T and sum d_j over the kept rows, in float64."""
        found = [(rows.T @ rows, rows.sum(0)) for rows in self._kept_rows()]
        return sum(gram.double() for gram, _ in found), sum(total.double() for _, total in found)  # type: ignore[return-value]

    def _kept_rows(self) -> Iterator[Tensor]:
        for tile, kept in enumerate(self.kept):
            if kept:
                yield self.load(tile)[:kept]
