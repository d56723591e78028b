"""How fast and in how much memory two large dictionaries are compared."""

import torch

from benchmarks.timing import interleaved, peak_memory, spread
from husai import similarity
from husai.matching import assignment_gap, exact_matching, sparse_matching
from husai.metrics import mean_max_cosine
from husai.nulls import isotropic

SIZES = {  # d_model, the sizes of the many-to-one score, of both matchings, and of the sparse one alone
    "full": (512, (1024, 2048, 4096, 8192, 16384), (1024, 2048, 4096), (16384,)),
    "smoke": (32, (64,), (96,), (128,)),
}


def rows(scale: str = "full", repeats: int = 5) -> list[dict]:
    """Return one row a measurement: what, n, d_model, median, low, high (over interleaved repeats) and unit.

    Dictionaries are isotropic, and half shared for the gap of the matchings. KeyError: unknown scale.
    """
    d_model, scored, matched, sparse_only = SIZES[scale]
    table = []

    def add(what: str, n: int, values: list[float], unit: str) -> None:
        found = spread(values, unit)
        measured = {"median": found.value, "low": found.low, "high": found.high, "unit": unit}
        table.append({"what": what, "n": n, "d_model": d_model, **measured})

    for n in scored:
        pair = isotropic(n, d_model, 0), isotropic(n, d_model, 1)
        took, bare = interleaved([lambda p=pair: mean_max_cosine(*p), lambda p=pair: products(*p)], repeats)
        add("mean_max_cosine", n, took, "s")
        shares = [floor / ours for floor, ours in zip(bare, took, strict=True)]
        add("mean_max_cosine, share of the GEMM rate", n, shares, "")
        add("mean_max_cosine, extra peak memory", n, [extra_memory("mean_max_cosine(a, b)", n, d_model)], "MB")
    for n in matched:
        pair = isotropic(n, d_model, 0), half_shared(n, d_model)
        ways = [lambda p=pair: exact_matching(*p), lambda p=pair: sparse_matching(*p)]
        for name, seconds in zip(("exact", "sparse"), interleaved(ways, repeats), strict=True):
            add(f"{name} matching", n, seconds, "s")
        for name, other in (("half shared", pair[1]), ("independent", isotropic(n, d_model, 1))):
            gap = assignment_gap(pair[0], other)
            add(f"exact - sparse mean matched cosine, {name}", n, [gap.exact - gap.sparse], "")
    for n in sparse_only:
        pair = isotropic(n, d_model, 0), half_shared(n, d_model)
        add("sparse matching", n, interleaved([lambda p=pair: sparse_matching(*p)], 1)[0], "s")
        add("sparse matching, extra peak memory", n, [extra_memory("sparse_matching(a, b)", n, d_model)], "MB")
        shared = extra_memory("shared_fraction(a, a, b, b)", n, d_model)
        add("shared_fraction, extra peak memory", n, [shared], "MB")
    return table


def half_shared(n: int, d_model: int) -> torch.Tensor:
    """Return a partner of `isotropic(n, d_model, 0)`: half of its rows with noise (cosine .9), half unrelated."""
    other = isotropic(n, d_model, 1)
    other[: n // 2] = isotropic(n, d_model, 0)[: n // 2] + 0.5 * other[: n // 2]
    return other.flip(0)


def products(a: torch.Tensor, b: torch.Tensor) -> None:
    """Multiply the same blocks as `mean_max_cosine` and do nothing else: the bound of its speed."""
    buffer = a.new_empty(similarity.BLOCK**2)
    for some in a.split(similarity.BLOCK):
        for others in b.split(similarity.BLOCK):
            similarity.cosine_block(some, others, True, buffer)


PREPARE = """
import torch
from husai.matching import exact_matching, sparse_matching
from husai.metrics import mean_max_cosine, shared_fraction

draw = torch.Generator().manual_seed(0)
a, b = torch.randn(2, 8, {d_model}, generator=draw)
{call}  # loads whatever is loaded on the first call
a, b = torch.randn(2, {n}, {d_model}, generator=draw)
"""


def extra_memory(call: str, n: int, d_model: int) -> float:
    """Return by how many MB a call on two [n, d_model] dictionaries a and b raises its process's peak (Linux)."""
    return peak_memory(PREPARE.format(call=call, n=n, d_model=d_model), call)
