"""Numbers with their uncertainty, claims with their criteria, and the one writer of results."""

import json
import math
import os
import time
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from husai import provenance
from husai.config import fingerprint, require
from husai.provenance import ROOT

PROFILES = ("smoke", "paper", "full", "lab")


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; `str()` of it is the only formatter of uncertain numbers."""

    value: float
    """The point estimate."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""
    n: int
    """Number of independent units (seeds, or models) behind the interval, never of pairs."""
    unit: str = ""
    """Unit of measurement; empty for a pure number."""
    method: str = ""
    """How the interval was made."""

    def __post_init__(self) -> None:
        ordered = self.low <= self.value <= self.high
        require(
            ordered or math.isnan(self.value),
            "low, value, high",
            (self.low, self.value, self.high),
            "low <= value <= high",
        )

    def __str__(self) -> str:
        digits = decimals(self.high - self.low)
        text = f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"
        return f"{text} {self.unit}".strip().replace("-", "−")


def decimals(width: float) -> int:
    """Return how many decimals show an interval of this width to two digits (two to five)."""
    if not math.isfinite(width) or width <= 0:
        return 3
    return min(5, max(2, 1 - math.floor(math.log10(width))))


def format_value(value: Any) -> str:
    """Return the text of any stored value: estimates with intervals, floats to three significant digits."""
    if isinstance(value, Mapping) and {"value", "low", "high"} <= value.keys():
        value = Estimate(**value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if not math.isfinite(value):
            return "not defined"
        small = value != 0 and abs(value) < 1e-3
        text = f"{value:.1e}" if small else f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
        return text.replace("-", "−")
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    return str(value)


@dataclass(frozen=True)
class Claim:
    """A published statement and the criterion by which a run judges it (`book/claims.toml`)."""

    id: str
    """Key in the ledger, as P1."""
    quantity: str
    """What was reported."""
    reported: str
    """The number or sentence as the source prints it."""
    source: str
    """Where it was reported."""
    notebook: str
    """Two-digit stem of the notebook that settles it."""
    configuration: str = ""
    """Settings under which it was reported."""
    statement: str = ""
    """The sentence that the verdict is about; empty while no criterion exists."""
    reproduce: Mapping[str, Any] = field(default_factory=dict)
    """`{value, near, within}`: the published number came back when |value - near| <= within."""
    verdict: tuple[Mapping[str, Any], ...] = ()
    """Conjunction of `{value, rule, threshold or margin, needs}`."""
    settle: str = ""
    """What a published number needs that cannot be had here; the verdict is then about our own analogue."""

    @property
    def criterion(self) -> str:
        """Hash of everything that decides the judgement."""
        return fingerprint([self.statement, dict(self.reproduce), [dict(rule) for rule in self.verdict]])


def load_claims(path: Path | None = None) -> dict[str, Claim]:
    """Return the ledger by claim id; what is no TOML, and a claim with an unknown rule or field, is refused."""
    path = path or ROOT / "book" / "claims.toml"
    try:
        ledger = tomllib.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from None
    claims = {}
    for name, entry in ledger.items():
        try:
            claims[name] = Claim(id=name, **{**entry, "verdict": tuple(entry.get("verdict", ()))})
            for rule in claims[name].verdict:
                known = rule.get("rule") in RULES
                require(known, f"claim {name}: rule", rule.get("rule"), f"one of {sorted(RULES)}")
        except (TypeError, AttributeError) as error:
            raise ValueError(f"claim {name} in {path.name}: {error}") from None
    return claims


def _above(estimate: Estimate, rule: Mapping[str, Any]) -> str:
    return _side(estimate.low - rule["threshold"], estimate.high - rule["threshold"])


def _below(estimate: Estimate, rule: Mapping[str, Any]) -> str:
    return _side(rule["threshold"] - estimate.high, rule["threshold"] - estimate.low)


def _equivalent(estimate: Estimate, rule: Mapping[str, Any]) -> str:
    margin = rule["margin"]
    if -margin < estimate.low and estimate.high < margin:
        return "supported"
    return "refuted" if estimate.low > margin or estimate.high < -margin else "inconclusive"


def _side(low: float, high: float) -> str:
    return "supported" if low > 0 else "refuted" if high < 0 else "inconclusive"


RULES = {"above": _above, "below": _below, "equivalent": _equivalent}


@dataclass(frozen=True)
class Result:
    """What a run says about one claim."""

    reproduced: str
    """yes, no or not run: did the published number come back under the published protocol."""
    verdict: str
    """supported, refuted, inconclusive or not run."""
    reason: str
    """One line: the numbers that decided."""
    criterion: str
    """Hash of the criterion that judged."""


def judge(claim: Claim, values: Mapping[str, Any]) -> Result:
    """Judge a claim by its criterion: intervals decide, a failed need makes the verdict inconclusive.

    A conjunction is supported when every rule is, refuted when any is, inconclusive otherwise.
    Raises ValueError naming the key when a criterion asks for a value that the run does not have.
    """
    reproduced, verdict, reasons = "not run", "not run", []
    if claim.reproduce:
        value = _lookup(claim, values, claim.reproduce["value"])
        near, within = claim.reproduce["near"], claim.reproduce["within"]
        reproduced = "yes" if abs(_point(value) - near) <= within else "no"
        reasons.append(f"published {near}, here {format_value(value)}")
    if claim.settle:
        reasons.append(f"the published number {claim.settle}")
    if claim.verdict:
        found = []
        for rule in claim.verdict:
            estimate = _lookup(claim, values, rule["value"])
            failed = [need for need in rule.get("needs", ()) if not _lookup(claim, values, need)]
            found.append("inconclusive" if failed else RULES[rule["rule"]](_estimate(estimate), rule))
            bound = rule.get("threshold", rule.get("margin"))
            reasons.append(f"{rule['value']} = {format_value(estimate)}, wanted {rule['rule']} {bound}")
            reasons += [f"{need} does not hold" for need in failed]
        verdict = "refuted" if "refuted" in found else "supported" if set(found) == {"supported"} else "inconclusive"
    return Result(reproduced, verdict, "; ".join(reasons), claim.criterion)


def _lookup(claim: Claim, values: Mapping[str, Any], key: str) -> Any:
    require(key in values, f"claim {claim.id}: value", key, f"one of {sorted(values)}")
    return values[key]


def _estimate(value: Any) -> Estimate:
    return value if isinstance(value, Estimate) else Estimate(value, value, value, 1)


def _point(value: Any) -> float:
    return float(value.value if isinstance(value, Estimate) else value)


def output_directory() -> Path:
    """Return where executed notebooks, results and figures go: $HUSAI_OUT, else `_build/lab`."""
    return Path(os.environ.get("HUSAI_OUT") or ROOT / "_build" / "lab").resolve()


class Run:
    """One execution of a notebook: its parameters, the values it found, and the record it leaves.

    >>> run = Run("22_trained_vs_random", globals())
    >>> run["gap"] = stats.difference(a, b)
    >>> run.record(inputs=artifacts.opened())
    """

    def __init__(self, notebook: str, namespace: Mapping[str, Any]) -> None:
        plain = (bool, int, float, str, list, tuple)
        self.notebook = notebook
        self.parameters = {
            name: value
            for name, value in namespace.items()
            if isinstance(value, plain) and not name.startswith("_") and name not in ("In", "Out")
        }
        self.profile = str(self.parameters.get("profile", "lab"))
        require(self.profile in PROFILES, "profile", self.profile, f"one of {PROFILES}")
        self.values: dict[str, Any] = {}
        self.started = time.monotonic()

    def __setitem__(self, key: str, value: Any) -> None:
        require(key not in self.values, "key", key, "a key that this run has not recorded yet")
        self.values[key] = value

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def update(self, values: Mapping[str, Any], prefix: str = "") -> None:
        """Record several values, each key with a prefix."""
        for key, value in values.items():
            self[prefix + key] = value

    def record(self, inputs: Mapping[str, str] | None = None) -> dict[str, Result]:
        """Judge every claim of this notebook, write results and provenance, return the judgements."""
        claims = [claim for claim in load_claims().values() if claim.notebook == self.notebook[:2]]
        judged = {claim.id: judge(claim, self.values) for claim in claims if claim.reproduce or claim.verdict}
        results = {
            "notebook": self.notebook,
            "profile": self.profile,
            "values": {key: _plain(value) for key, value in self.values.items()},
            "claims": {name: asdict(result) for name, result in judged.items()},
        }
        directory = output_directory() / "results"
        write_json(
            directory / f"{self.notebook}.provenance.json",
            provenance.manifest(self.parameters, inputs or {}, time.monotonic() - self.started),
        )
        write_json(directory / f"{self.notebook}.json", results)
        return judged


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return asdict(value)
    return value.item() if hasattr(value, "item") else value


def write_json(path: Path, content: Any) -> None:
    """Write canonical JSON (sorted keys, indent 1) under a temporary name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")
    os.replace(temporary, path)


def load(notebook: str, directory: Path | None = None) -> dict[str, Any]:
    """Return the results JSON of a notebook, named by its stem or its two digits.

    Raises ValueError when no results of it lie in `directory` (default: the output directory).
    """
    directory = directory or output_directory() / "results"
    paths = [p for p in sorted(directory.glob(f"{notebook}*.json")) if not p.name.endswith(".provenance.json")]
    require(len(paths) == 1, "notebook", notebook, f"one results file in {directory.name}/, found {len(paths)}")
    return json.loads(paths[0].read_text())
