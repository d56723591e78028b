"""What every configuration rests on: fingerprints, refusals, independent random streams, checkpoint grids."""

import hashlib
import json
import sys
from dataclasses import asdict, fields, is_dataclass
from typing import Any


def stream_seed(seed: int, stream: str) -> int:
    """Return the 63-bit seed of one named random stream, so that init, data order and split never share draws.

    `sha256("<seed>/<stream>")`, first eight bytes without the sign bit: equal on every platform.
    """
    digest = hashlib.sha256(f"{int(seed)}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def canonical(value: Any) -> str:
    """Return the one JSON text of a value (sorted keys, dataclasses by name and fields)."""

    def default(item: Any) -> Any:
        if is_dataclass(item) and not isinstance(item, type):
            return {"type": type(item).__name__, **asdict(item)}
        raise TypeError(f"{item!r} has no canonical JSON form")

    return json.dumps(value, default=default, sort_keys=True, separators=(",", ":"))


def fingerprint(value: Any) -> str:
    """Return the first twelve hex digits of the SHA-256 of `canonical(value)`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:12]


def require(ok: bool, argument: str, came: Any, wanted: str) -> None:
    """Raise the house's ValueError (the argument, what came, what was wanted) unless `ok`."""
    if not ok:
        raise ValueError(f"{argument} is {came!r}; wanted {wanted}")


KINDS = {
    str: "a string", bool: "True or False", int: "an integer", float: "a finite number", tuple: "a tuple of integers",
}  # fmt: skip


def require_types(config: Any, *skip: str) -> None:
    """Refuse, by name, a field whose value is not of its default's type: files and callers may bring any.

    An integer will do for a number, but a bool for neither; the entries of a tuple are integers.
    """
    for entry in fields(config):
        value, kind = getattr(config, entry.name), type(entry.default)
        if entry.name not in skip:
            fits = type(value) is kind or (kind is float and type(value) is int)
            fits = fits and (kind is not float or abs(value) <= sys.float_info.max)
            fits = fits and (kind is not tuple or all(type(item) is int for item in value))
            require(fits, entry.name, value, KINDS[kind])


def log_grid(steps: int, first: int = 8) -> list[int]:
    """Return 0, the powers of two from `first` up, and `steps`: where checkpoints are kept."""
    grid = {0, steps}
    while first < steps:
        grid.add(first)
        first *= 2
    return sorted(grid)
