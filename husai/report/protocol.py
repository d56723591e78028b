"""The protocol `stability-v1`: its schema, and cases with known answers for any implementation."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).parent / "stability-v1.schema.json"
CASES = Path(__file__).parent / "cases"


def validate(report: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the place, unless a report is one of `stability-v1`."""
    raise NotImplementedError


def check_cases(evaluate: Callable[[Path], Mapping[str, Any]] | None = None) -> dict[str, list[str]]:
    """Return, per reference case, what differs from its known answers; empty lists where all agree.

    `evaluate` turns a case's folder into a report (default: this library's).
    """
    raise NotImplementedError
