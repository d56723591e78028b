"""The release gate: every threshold needs evidence of this very candidate, and what is not shown fails.

`decide` never averages gates away: it passes when every gate does. Evidence that is missing, not a number, of other
weights, of a scale that is not for citation, of SAEs that are not sound, or for a gate that nobody declared, fails with
a reason. Convergence is a gate of its own; all other evidence is of SAEs after equal training, whose L0 and living
latents are as `book/quality.toml` asks. `book/gates.toml` holds the thresholds, each with its reason, written before
the run.
"""

import math
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from husai.config import require
from husai.evidence import Estimate
from husai.gate.selection import Candidate, sound
from husai.provenance import ROOT

DIRECTIONS = ("above", "below", "at least", "information")
CITABLE = ("paper", "full")


@dataclass(frozen=True)
class Threshold:
    """One gate: a bound, the side of it that passes, and why it stands there."""

    name: str
    direction: str
    """`above`, `below`: the whole interval; `at least`: a count of the candidate's; `information`: judged by nobody."""
    reason: str
    bound: float = math.nan
    unit: str = ""
    elsewhere: bool = False
    """Whether the evidence must be of other data than the SAEs' own held-out rows."""

    def distance(self, value: Estimate) -> Estimate:
        """Return a value as its distance from the bound, above 0 on the side that passes."""
        sign = -1 if self.direction == "below" else 1
        middle, *ends = (sign * (end - self.bound) for end in (value.value, value.low, value.high))
        return Estimate(middle, min(ends), max(ends), value.n, value.unit, value.method)

    def __post_init__(self) -> None:
        known = self.direction in DIRECTIONS
        require(known, f"gate {self.name}: direction", self.direction, f"one of {DIRECTIONS}")
        require(bool(self.reason.strip()), f"gate {self.name}: reason", self.reason, "a sentence")
        set_ = math.isfinite(self.bound) != (self.direction == "information")
        require(set_, f"gate {self.name}: bound", self.bound, "a finite number; none for information")


def load(path: Path | None = None) -> dict[str, Threshold]:
    """Return the gates of a TOML file, `book/gates.toml` unless given; ValueError for an unknown field or no gate."""
    path = path or ROOT / "book" / "gates.toml"
    known, gates = {entry.name for entry in fields(Threshold)}, {}
    for name, entry in tomllib.loads(path.read_text()).items():
        extra = sorted({*entry} - known)
        require(not extra, f"gate {name} in {path.name}", extra, f"fields of {sorted(known)}")
        lacking = sorted({"direction", "reason"} - {*entry})
        require(not lacking, f"gate {name} in {path.name}", f"no {lacking}", "a direction and a reason")
        gates[name] = Threshold(name, **entry)
    judged = [gate for gate in gates.values() if gate.direction != "information"]
    require(bool(judged), path.name, sorted(gates), "at least one gate that judges")
    return gates


@dataclass(frozen=True)
class Evidence:
    """One measured value for one gate, and what it was measured on."""

    gate: str
    value: Estimate | None
    """None where nothing was measured: an absence, which 0.0 is not."""
    candidate: str
    """`Candidate.digest` of the SAEs that it was measured on."""
    seeds: tuple[int, ...]
    """Their seeds: all of the candidate's."""
    data: str
    """Digest of the inputs that it was measured on."""
    profile: str
    sound: bool
    """Whether these SAEs have the L0 that they should and living latents, by `book/quality.toml`."""
    address: str
    """Where a reader finds the value: `75:key`, or an artifact."""
    against: str = ""
    """Digest of the inputs of what it is compared with; empty when it is compared with nothing."""
    attainable: tuple[float, float] = (-math.inf, math.inf)
    """The least and most that any SAE of this shape can score: a gate beyond it decides nothing."""


@dataclass(frozen=True)
class Outcome:
    """What one gate says of one candidate."""

    gate: str
    value: Estimate | None
    threshold: float
    direction: str
    margin: float
    """How far the worse end of the interval lies on the passing side, in the gate's unit; NaN where nothing counts.

    Evidence that is not for citation, or of SAEs that are not sound, has its margin and fails all the same.
    """
    evidence: str
    passed: bool
    reason: str

    @property
    def relative(self) -> float:
        """The margin in units of the interval's half width; a count has no such error and is infinitely far."""
        half = (self.value.high - self.value.low) / 2 if self.value else 0.0
        return self.margin / half if half > 0 else math.inf if self.passed else -math.inf


@dataclass(frozen=True)
class Decision:
    """What all gates say of one candidate."""

    candidate: str
    digest: str
    outcomes: tuple[Outcome, ...]

    @property
    def judged(self) -> list[Outcome]:
        """The outcomes that decide: information is none."""
        return [one for one in self.outcomes if one.direction != "information"]

    @property
    def pass_all(self) -> bool:
        """Whether there are gates and every one of them passed."""
        return bool(self.judged) and all(one.passed for one in self.judged)

    @property
    def binding(self) -> list[str]:
        """The gates that failed; where none did, the one with the smallest margin in units of its own error."""
        failed = [one.gate for one in self.judged if not one.passed]
        return failed or [min(self.judged, key=lambda one: one.relative).gate]

    @property
    def reasons(self) -> list[str]:
        """What failed and why, a line a gate."""
        return [f"{one.gate}: {one.reason}" for one in self.judged if not one.passed]

    def table(self) -> list[dict[str, str]]:
        """Return one row of text a gate."""
        rows = []
        for one in self.outcomes:
            margin = "" if math.isnan(one.margin) else f"{one.margin:+.3f}".replace("-", "−")
            wanted = "" if math.isnan(one.threshold) else f"{one.direction} {one.threshold:g}".replace("-", "−")
            said = "information" if one.direction == "information" else "pass" if one.passed else "fail"
            value = str(one.value) if one.value else "missing"
            rows.append({"gate": one.gate, "value": value, "wanted": wanted, "margin": margin, "outcome": said,
                         "evidence": one.evidence, "reason": one.reason})  # fmt: skip
        return rows


def decide(candidate: Candidate, evidence: Iterable[Evidence], thresholds: Mapping[str, Threshold]) -> Decision:
    """Return what every gate says of a candidate, in the order of the thresholds; unknown gates come last and fail.

    A gate `above` passes when the low end of the interval lies above its bound, `below` when the high end lies below;
    `at least` counts the candidate's own seeds and takes no evidence.
    """
    found: dict[str, list[Evidence]] = {}
    for one in evidence:
        found.setdefault(one.gate, []).append(one)
    outcomes = [_outcome(candidate, gate, found.pop(name, [])) for name, gate in thresholds.items()]
    for name, given in found.items():
        outcomes.append(_failed(name, given[0].value, math.nan, "above", given[0].address, "no such gate is declared"))
    return Decision(candidate.name, candidate.digest, tuple(outcomes))


def _failed(gate: str, value: Estimate | None, bound: float, direction: str, address: str, reason: str) -> Outcome:
    return Outcome(gate, value, bound, direction, math.nan, address, False, reason)


def _outcome(candidate: Candidate, gate: Threshold, given: list[Evidence]) -> Outcome:
    if gate.direction == "at least":
        count = float(len(candidate.seeds))
        passed, margin = count >= gate.bound, count - gate.bound
        counted = Estimate(count, count, count, int(count), gate.unit, "counted")
        reason = f"{count:g} seeds, wanted at least {gate.bound:g}"
        return Outcome(gate.name, counted, gate.bound, gate.direction, margin, candidate.digest, passed, reason)
    value, address = (given[0].value, given[0].address) if given else (None, "")
    trouble = _trouble(candidate, gate, given)
    if gate.direction == "information":
        reason = ". ".join(filter(None, (trouble or _unfit(given), gate.reason)))
        return Outcome(gate.name, value, math.nan, gate.direction, math.nan, address, reason == gate.reason, reason)
    if trouble or value is None:
        return _failed(gate.name, value, gate.bound, gate.direction, address, trouble)
    margin, unfit = gate.distance(value).low, _unfit(given)
    side = "inside" if margin > 0 else "not inside"
    reason = unfit or f"the interval is {side} the region {gate.direction} {gate.bound:g}"
    passed = margin > 0 and not unfit
    return Outcome(gate.name, value, gate.bound, gate.direction, margin, address, passed, reason)


def _trouble(candidate: Candidate, gate: Threshold, given: list[Evidence]) -> str:
    """Return why evidence is none about this candidate, the first reason of several; empty when it is."""
    if not given or given[0].value is None:
        return "no evidence"
    if len(given) > 1:
        return f"{len(given)} pieces of evidence for one gate: the best of several is not a measurement"
    one, value = given[0], given[0].value
    assert value is not None
    low, high = one.attainable
    least_possible = gate.direction == "above" and high <= gate.bound
    most_possible = gate.direction == "below" and low >= gate.bound
    reasons: dict[str, Any] = {
        f"measured on other weights ({one.candidate or 'unnamed'})": one.candidate != candidate.digest,
        f"measured on seeds {list(one.seeds)}, not on all of {list(candidate.seeds)}": one.seeds != candidate.seeds,
        "does not name its data": not one.data,
        "measured on the SAEs' own held-out rows, wanted other data": gate.elsewhere and one.data == candidate.data,
        "candidate and baseline were measured on different data": bool(one.against) and one.against != one.data,
        sound(value): bool(sound(value)),
        f"in units of {value.unit or 'a pure number'}, wanted {gate.unit or 'a pure number'}": value.unit != gate.unit,
        f"the gate is out of reach: this shape can score {low:g} to {high:g}": least_possible or most_possible,
        "does not say where it is found": not one.address,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _unfit(given: list[Evidence]) -> str:
    """Return why evidence about this candidate decides nothing; empty when it does."""
    one = given[0]
    if one.profile not in CITABLE:
        return f"the {one.profile} profile is not for citation"
    return "" if one.sound is True else "the SAEs are not sound: L0 off target, or too many dead latents"


def ranking(decisions: Iterable[Decision], front: Collection[str] | None = None) -> list[Decision]:
    """Return decisions by how many gates failed, then by the smallest margin in units of its error, best first.

    Those whose candidate is not on a given front come after it. Within it, and without one, the key of a candidate is
    its own: no other candidate can change the order of two. A gate without a margin counts as infinitely far on the
    wrong side; ties fall by name. ValueError: no candidate has a margin at any gate that needs evidence.
    """
    given = list(decisions)
    measured = [one for decision in given for one in decision.judged if one.direction != "at least"]
    known = any(not math.isnan(one.margin) for one in measured)
    reasons = sorted({one.reason for one in measured})
    require(known, "decisions", f"no margin at any gate ({'; '.join(reasons)})", "evidence that can be ranked")

    def key(decision: Decision) -> tuple[bool, int, float, str]:
        margins = [-math.inf if math.isnan(one.margin) else one.relative for one in decision.judged]
        failed = sum(not one.passed for one in decision.judged)
        outside = front is not None and decision.candidate not in front
        return outside, failed, -min(margins, default=-math.inf), decision.candidate

    return sorted(given, key=key)


def exit_status(decisions: Iterable[Decision], chosen: str) -> int:
    """Return what a continuous integration job ends with: 0 when the chosen candidate passes, 2 otherwise."""
    return 0 if any(one.pass_all for one in decisions if one.candidate == chosen) else 2
