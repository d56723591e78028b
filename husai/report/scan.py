"""Which cosines of a tile reach the floor of their row or of their column, found by all threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from husai.kernels import tiles


def near(
    cosines: Float[Tensor, "rows columns"], row_floor: Float[Tensor, " n"], column_floor: Float[Tensor, " m"]
) -> tuple[Int[Tensor, " found"], Int[Tensor, " found"], Float[Tensor, " found"]]:
    """Return where, in the first n rows and m columns, cosines reach the floor of row or column, and which, by rows."""
    tile, floors, n = cosines.numpy(), (row_floor.numpy(), column_floor.numpy()), len(row_floor)
    ends = np.zeros(n + 1, np.int64)
    _shared(n, lambda low, high: tiles.count(tile, low, high, *floors, ends))
    ends = ends.cumsum()
    rows = np.repeat(np.arange(n, dtype=np.int32), np.diff(ends))
    columns, values = np.empty(len(rows), np.int32), np.empty(len(rows), np.float32)
    _shared(n, lambda low, high: tiles.collect(tile, low, high, *floors, ends, columns, values))
    return torch.from_numpy(rows), torch.from_numpy(columns), torch.from_numpy(values)


def _shared(count: int, work: Callable[[int, int], object]) -> None:
    """Do work(low, high) on parts of 0..count, one a thread."""
    workers = torch.get_num_threads()
    bounds = [count * part // workers for part in range(workers + 1)]
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, bounds[:-1], bounds[1:]))
