"""How the sources chose a weight and accepted it, as they wrote it: kept to show what the rules let pass."""

from collections.abc import Sequence
from typing import NamedTuple

from husai.config import require

MOST_DROP = 0.05
"""Largest fall of explained variance that the rules allow."""
SHARES = {"bound": 0.45, "kept": 0.15, "saebench": 0.2, "cebench": 0.2}
"""Weight of each dimension in the joint score of the third version."""


class Candidate(NamedTuple):
    """What the rules look at for one weight; None where an external evaluation was not run."""

    weight: float
    gap: float
    """Mean agreement less that of random matrices."""
    bound: float
    """`resampling.conservative_bound` of that gap."""
    drop: float
    """Explained variance without the pull, less that with it."""
    alignment: float = 0.0
    """Mean |cos| of a latent with its row of the reference: the nearest, or one to one, as the pull has it."""
    saebench: float | None = None
    """SAEBench, less that of a baseline."""
    cebench: float | None = None
    """CE-Bench, less that of a baseline."""

    @property
    def kept(self) -> float:
        """The drop with its sign turned, so that more is better in every dimension."""
        return -self.drop


def consistency(candidates: Sequence[Candidate]) -> Candidate:
    """Return the choice of the consistency sweep: largest (bound, gap, alignment) where the drop is allowed.

    Where none is, all are eligible. ValueError: no candidate.
    """
    require(len(candidates) > 0, "candidates", "none", "at least one weight")
    allowed = [one for one in candidates if one.drop <= MOST_DROP] or list(candidates)
    return max(allowed, key=lambda one: (one.bound, one.gap, one.alignment))


def second(candidates: Sequence[Candidate]) -> Candidate:
    """Return the choice of assignment v2: the largest bound, whatever it costs. ValueError: no candidate."""
    require(len(candidates) > 0, "candidates", "none", "at least one weight")
    return max(candidates, key=lambda one: one.bound)


def third(candidates: Sequence[Candidate]) -> Candidate:
    """Return the choice of assignment v3: on the Pareto front, then the largest joint score, then the largest bound.

    A dimension that either side lacks is skipped by `dominates`, and adds nothing to the score. The score is the sum of
    SHARES times each dimension, scaled to 0..1 over the candidates that have it (1/2 if they are equal). ValueError: no
    candidate.
    """
    require(len(candidates) > 0, "candidates", "none", "at least one weight")
    front = pareto(candidates)

    def joint(one: Candidate) -> float:
        score = 0.0
        for name, share in SHARES.items():
            known = [v for v in (getattr(other, name) for other in candidates) if v is not None]
            value = getattr(one, name)
            if value is not None:
                width = max(known) - min(known)
                score += share * ((value - min(known)) / width if width else 0.5)
        return score

    def rank(one: Candidate) -> tuple[bool, float, float]:
        return one in front, joint(one), one.bound

    return max(candidates, key=rank)


def pareto(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that no other one dominates."""
    return [one for one in candidates if not any(dominates(other, one) for other in candidates)]


def dominates(a: Candidate, b: Candidate) -> bool:
    """Return whether a is as good as b in every dimension that both have, and better in one.

    It is not transitive where dimensions are missing: a may beat b and b beat c without a beating c.
    """
    pairs = [(getattr(a, name), getattr(b, name)) for name in SHARES]
    both = [(x, y) for x, y in pairs if x is not None and y is not None]
    return all(x >= y for x, y in both) and any(x > y for x, y in both)


def gates(one: Candidate) -> dict[str, str]:
    """Return each gate of acceptance as "pass", "fail" or "not run": bound >= 0, drop allowed, externals >= 0."""
    found = {"bound": one.bound >= 0, "explained variance": one.drop <= MOST_DROP}
    words = {name: "pass" if passed else "fail" for name, passed in found.items()}
    for name in ("saebench", "cebench"):
        value = getattr(one, name)
        words[name] = "not run" if value is None else "pass" if value >= 0 else "fail"
    return words


def accepted(one: Candidate, require_external: bool = False) -> bool:
    """Return whether every gate is passed; what was not run passes too, unless it is required.

    The sources' default lets a weight pass that no benchmark has seen.
    """
    return set(gates(one).values()) <= ({"pass"} if require_external else {"pass", "not run"})


def outcome(one: Candidate) -> dict[str, float | bool]:
    """Return the chosen weight, and whether it is accepted by default and where external evaluations are required."""
    return {"choice": one.weight, "accepted": accepted(one), "accepted_if_required": accepted(one, True)}
