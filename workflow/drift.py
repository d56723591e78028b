"""One way to compare two runs of a notebook, for `make audit` and for the book's page on what changed.

An estimate drifts when its new value leaves the interval it had; a number without an interval when it changes by more
than 1 %; anything else when it is not the same.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from husai.evidence import format_value

TOLERANCE = 0.01
"""Relative change of a number without an interval that is not called drift."""
KINDS = ("identical", "within", "drifted", "gone", "new")
"""What can become of a value: the same to the byte; moved, but not by more than what is called drift; drifted; not
recorded any more; not recorded before."""
ABSENT = object()


@dataclass(frozen=True)
class Change:
    """One value of two runs."""

    key: str
    """Its name in the results."""
    was: Any
    """Its value in the reference run, ABSENT where it had none."""
    now: Any
    """Its value in the later run, ABSENT where it has none."""

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        if self.was is ABSENT or self.now is ABSENT:
            return "new" if self.was is ABSENT else "gone"
        if json.dumps(self.was, sort_keys=True) == json.dumps(self.now, sort_keys=True):
            return "identical"
        return "within" if same(self.was, self.now) else "drifted"

    @property
    def refitted(self) -> list[str]:
        """Which of an estimate's n and method are not what they were."""
        if not isinstance(self.was, Mapping) or not isinstance(self.now, Mapping):
            return []
        return [field for field in ("n", "method") if self.was.get(field) != self.now.get(field)]

    @property
    def overlap(self) -> bool | None:
        """Whether both intervals share a point; None where one of the two values has no interval."""
        if not is_estimate(self.was) or not is_estimate(self.now):
            return None
        return bool(self.was["low"] <= self.now["high"] and self.now["low"] <= self.was["high"])


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Return every value of either run, by name."""
    keys = sorted(was["values"].keys() | now["values"].keys())
    return [Change(key, was["values"].get(key, ABSENT), now["values"].get(key, ABSENT)) for key in keys]


def turned(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield (claim, verdict or reproduced, what it was, what it is) for each judgement that is not the same."""
    for name in sorted(was["claims"].keys() | now["claims"].keys()):
        then, again = (run["claims"].get(name, {}) for run in (was, now))
        for field in ("verdict", "reproduced"):
            if then.get(field) != again.get(field):
                yield name, field, then.get(field, "absent"), again.get(field, "absent")


def inputs(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (input, what it was, what it is) for what one run read and the other did not, or in another state."""
    old, new = (dict(provenance.get("inputs") or {}) for provenance in (was, now))
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    return [(key, old.get(key, "absent"), new.get(key, "absent")) for key in changed]


def words(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return, in words, how a second run differs: judgements, missing or new values, values that drifted.

    An estimate's n and method must be the same, too.
    """
    found = [f"{name}: {field} was {old}, is {new}" for name, field, old, new in turned(was, now)]
    every = changes(was, now)
    found += [f"{change.key}: not recorded any more" for change in every if change.kind == "gone"]
    found += [f"{change.key}: not in the reference" for change in every if change.kind == "new"]
    for change in every:
        key, old, new = change.key, change.was, change.now
        if change.kind == "drifted":
            found.append(f"{key}: was {format_value(old)}, is {format_value(new)}")
        elif change.kind == "within":
            found += [f"{key}: {field} was {old.get(field)}, is {new.get(field)}" for field in change.refitted]
    return found


def same(old: Any, new: Any) -> bool:
    """Return whether a value has not drifted."""
    if is_estimate(old) and is_estimate(new):
        width = old["high"] - old["low"]
        inside = old["low"] <= new["value"] <= old["high"]
        return bool(inside) if width > 0 else same(old["value"], new["value"])
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (old, new))
    if numbers:
        return math.isclose(old, new, rel_tol=TOLERANCE, abs_tol=1e-6)
    return bool(old == new)


def is_estimate(value: Any) -> bool:
    """Return whether a stored value carries an interval."""
    return isinstance(value, Mapping) and {"value", "low", "high"} <= value.keys()
