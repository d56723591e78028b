"""Activations larger than memory: rows in a folder of safetensors files, gathered and streamed in bounded memory.

How many rows a file holds changes no result: rows have global numbers, and blocks cross the borders of files.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from torch import Tensor

from husai.artifacts import check_files, digest, write_tensors
from husai.config import require
from husai.evidence import write_json

BLOCK = 4096
"""Rows of the blocks whose sums make the moments: fixed, because a sum's bytes depend on its grouping."""
SPAN = 2**22
"""Bytes that are read in one piece at most."""
GAP = 2**14
"""Bytes between two wanted rows up to which reading on costs less than a second read."""
DTYPES = {name: getattr(torch, name) for name in ("float16", "bfloat16", "float32", "float64")}
"""Types that activations may have."""


@dataclass(frozen=True, eq=False)
class Shards:
    """The rows of a folder of shards, or some of them; only their numbers are in memory.

    `len`, `shape`, `dtype`, `split` and a boolean mask in brackets mean what they mean for a tensor.
    """

    folder: Path
    """Where the files and their index.json lie."""
    name: str
    """Where the activations come from."""
    dtype: torch.dtype
    """Floating-point type of the rows."""
    row: tuple[int, ...]
    """Shape of a row: (d_model,), or (layers, d_model)."""
    rows_per_shard: int
    """Rows of every file but the last, which may hold fewer."""
    numbers: Int[Tensor, " n"]
    """Number in the folder of each of these rows."""

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def shape(self) -> torch.Size:
        """Rows first, like a tensor's."""
        return torch.Size((len(self), *self.row))

    def __getitem__(self, mask: Bool[Tensor, " n"]) -> "Shards":
        """Return the rows that a mask keeps, without reading them; ValueError: a mask of another length."""
        require(len(mask) == len(self), "mask", f"{len(mask)} entries", f"one for each of {len(self)} rows")
        return replace(self, numbers=self.numbers[mask])

    def rows(self, index: Int[Tensor, " rows"]) -> Float[Tensor, "rows *row"]:
        """Return the rows at these positions, in any order and as often as asked for, as a tensor.

        ValueError: a position outside 0 to n - 1, or a file that became shorter since it was opened.
        """
        inside = bool(((index >= 0) & (index < len(self))).all())
        require(inside, "index", "a position out of range", f"positions from 0 to {len(self) - 1}")
        found = torch.empty(len(index), *self.row, dtype=self.dtype)
        numbers, places = self.numbers[index].sort()
        files, counts = (numbers // self.rows_per_shard).unique_consecutive(return_counts=True)
        parts = (rows.split(counts.tolist()) for rows in (numbers % self.rows_per_shard, places))
        for file, wanted, place in zip(files.tolist(), *parts, strict=True):
            path = self.folder / _file_name(file)
            _read(path, wanted.numpy(), found.flatten(1).view(torch.uint8).numpy(), place.numpy())
        return found

    def split(self, size: int, /) -> Iterator[Float[Tensor, "rows *row"]]:
        """Yield all rows in order as tensors of `size` rows; the last may be shorter."""
        for start in range(0, len(self), size):
            yield self.rows(torch.arange(start, min(start + size, len(self))))

    def load(self) -> Float[Tensor, "n *row"]:
        """Return all rows as one tensor."""
        return self.rows(torch.arange(len(self)))


def write(
    folder: Path,
    blocks: Iterable[Float[Tensor, "_ *row"]],
    rows_per_shard: int = 2**14,
    name: str = "",
) -> Shards:
    """Write blocks of rows, of any lengths, as shards; memory holds one shard and one block at a time.

    The index is written last: what a killed writer leaves is never read, and writing there again replaces it.
    ValueError: no rows, NaN or infinity, integers, rows of another shape or type than the first, rows_per_shard
    below 1, a folder of finished shards.
    """
    require(rows_per_shard >= 1, "rows_per_shard", rows_per_shard, "at least one row")
    require(not (folder / "index.json").exists(), "folder", folder.name, "one without finished shards")
    index: dict[str, Any] = {"name": name, "rows_per_shard": rows_per_shard, "rows": 0, "files": {}}
    for shard in _cut(_checked(blocks), rows_per_shard):
        path = folder / _file_name(len(index["files"]))
        write_tensors(path, {"rows": shard})
        index["files"][path.name] = digest(path)
        index["rows"] += len(shard)
        index |= {"row": list(shard.shape[1:]), "dtype": str(shard.dtype).removeprefix("torch.")}
    require(index["rows"] > 0, "blocks", "without rows", "at least one row")
    write_json(folder / "index.json", index)
    return _whole(folder, index)


def read(folder: Path) -> Shards:
    """Return the rows that `write` left in a folder, after checking every file against the index.

    ValueError: no readable index (a killed writer leaves none), a size in it that no shard has, or a missing,
    truncated or altered file, by name.
    """
    try:
        index = json.loads((folder / "index.json").read_text())
        shards, files = _whole(folder, index), dict(index["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"folder is {folder.name!r}; wanted finished shards with a readable index.json") from None
    size = shards.rows_per_shard
    require(type(size) is int and size >= 1, f"rows_per_shard of {folder.name}/index.json", size, "an integer above 0")
    check_files(folder, files)
    shapes = []
    for number in range(len(files)):
        with safe_open(folder / _file_name(number), framework="pt") as file:
            shapes.append(file.get_slice("rows").get_shape())
    wanted = [[len(numbers), *shards.row] for numbers in shards.numbers.split(size)]
    require(shapes == wanted, f"index.json of {folder.name}", "at odds with the files", "their true shapes")
    return shards


def _whole(folder: Path, index: dict[str, Any]) -> Shards:
    return Shards(
        folder,
        index["name"],
        DTYPES[index["dtype"]],
        tuple(index["row"]),
        index["rows_per_shard"],
        torch.arange(index["rows"]),
    )


def _file_name(number: int) -> str:
    return f"{number:05}.safetensors"


def _checked(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Pass on blocks of finite floating-point rows that have the shape and type of the first."""
    first = None
    for block in blocks:
        require(block.ndim >= 2, "blocks", f"one of shape {tuple(block.shape)}", "rows of at least one dimension")
        require(block.dtype in DTYPES.values(), "blocks", block.dtype, f"one of {sorted(DTYPES)}")
        kind = (*block.shape[1:], block.dtype)
        first = first or kind
        require(kind == first, "blocks", f"rows of {kind} after rows of {first}", "one shape and type of row")
        require(bool(block.isfinite().all()), "blocks", "NaN or infinity among them", "finite activations")
        yield block.detach()


def _cut(blocks: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Yield the same rows `size` at a time; the last may be fewer. Each tensor is overwritten by the next."""
    buffer, filled = torch.empty(0), 0
    for block in blocks:
        if not len(buffer):
            buffer = block.new_empty(size, *block.shape[1:], device="cpu")
        while len(block):
            part, block = block[: size - filled], block[size - filled :]
            buffer[filled : filled + len(part)] = part
            filled += len(part)
            if filled == size:
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]


def _read(path: Path, wanted: np.ndarray, found: np.ndarray, places: np.ndarray) -> None:
    """Read rows of one file, in ascending order, to their places in `found` [rows, bytes].

    At offsets, because a mapping's pages count as the process's memory. Near rows are read in one piece.
    """
    width = found.shape[1]
    buffer = np.empty((max(1, SPAN // width), width), np.uint8)
    far = (np.diff(wanted) * width > GAP) | (np.diff(wanted // len(buffer)) > 0)
    borders = [0, *(np.flatnonzero(far) + 1).tolist(), len(wanted)]
    with path.open("rb", buffering=0) as file:
        start = 8 + int.from_bytes(file.read(8), "little")  # safetensors: length of the header, header, rows
        for low, high in pairwise(borders):
            first = int(wanted[low])
            piece = buffer[: int(wanted[high - 1]) + 1 - first]
            file.seek(start + first * width)
            whole = file.readinto(piece.data) == piece.nbytes
            require(whole, path.name, "shorter than when it was opened", "an unchanged file")
            found[places[low:high]] = piece[wanted[low:high] - first]


class Moments(NamedTuple):
    """Where activations lie and how far they spread."""

    mean: Float[Tensor, "*row"]
    """Mean of each coordinate, in float64 on the CPU."""
    spread: float
    """Mean squared distance from the mean, summed over d_model."""


def moments(x: Float[Tensor, "n *row"] | Shards) -> Moments:
    """Return the mean, and the mean squared distance from it, to the same bytes from memory and from any shards.

    mean = c + sum_i (x_i - c) / n, spread = sum_i |x_i - c|^2 / n - |mean - c|^2 (averaged over layers, if there are),
    in float64 and in the order of the rows. c is the first row, so that a mean far from zero costs no digits.
    ValueError: no rows.
    """
    require(len(x) > 0, "x", "without rows", "at least one row")
    origin, total, square = torch.empty(0), torch.zeros(x.shape[1:], dtype=torch.float64), 0.0
    for block in x.split(BLOCK):
        rows = block.to("cpu", torch.float64).contiguous()
        origin = origin if len(origin) else rows[0].clone()
        apart = rows - origin
        total += apart.sum(0)
        square += apart.square_().sum(-1).mean().item() * len(rows)
    shift = total / len(x)
    return Moments(origin + shift, square / len(x) - shift.square().sum(-1).mean().item())


def in_memory(x: Float[Tensor, "n *row"] | Shards) -> Float[Tensor, "n *row"]:
    """Return a tensor as it is and refuse shards, for what needs every row at once.

    ValueError: shards; `Shards.load` is for those that do fit.
    """
    if isinstance(x, Shards):
        raise ValueError(f"x is shards, {x.folder.name!r}; wanted a tensor, because all rows are needed at once")
    return x
