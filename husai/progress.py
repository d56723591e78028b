"""One progress bar for long work, the same in Jupyter and in the logs of `make paper`."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
DELAY = 2.0
"""Seconds before a bar appears: what is loaded from the store shows none."""


def watched(work: Iterable[T], sizes: Sequence[int], unit: str) -> Iterator[T]:
    """Yield the pieces of `work`, moving a bar by each one's size: share done, rate in `unit`/s and time left.

    The bar goes to stderr and is left standing. Pieces are yielded unchanged and in order.
    """
    total = sum(sizes)
    with tqdm(total=total, unit=unit, unit_scale=True, delay=DELAY, file=sys.stderr, mininterval=1.0) as bar:
        for piece, size in zip(work, sizes, strict=True):
            bar.update(size)
            yield piece


def each(items: Sequence[T], unit: str) -> Iterator[T]:
    """Yield `items` in order, moving a bar by one when each has been dealt with: share done, rate and time left."""
    yield from tqdm(items, unit=unit, delay=DELAY, file=sys.stderr, mininterval=1.0)
