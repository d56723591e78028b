"""Studies as candidates for release, what decisions about them record, and how far each stands from each gate."""

from collections.abc import Iterable, Mapping, Sequence

from husai import artifacts, gate
from husai.config import fingerprint, require
from husai.evidence import Estimate
from husai.study import Study

BETTER = (
    gate.Metric("stability_N2"), gate.Metric("faithfulness"), gate.Metric("ood_fvu", "lower"), gate.Metric("probe"),
)  # fmt: skip
"""What the front is of, in units that no other candidate changes."""


def candidate(name: str, study: Study, evidence: Iterable[gate.Evidence] = ()) -> gate.Candidate:
    """Return a study as a candidate: its configuration, and the hash of the stored weights, which is verified.

    Its scores are the values of evidence about it. ValueError: evidence of other weights.
    """
    digest, scores = artifacts.verify(study.folder), {}
    for one in evidence:
        require(one.candidate == digest, f"evidence for {one.gate}", one.candidate, f"{digest}, the SAEs of {name}")
        if one.value is not None:
            scores[one.gate] = gate.Score(one.value, one.data, f"as the gate {one.gate}")
    return gate.Candidate(name, fingerprint(study.config), digest, study.seeds, scores, data(study))


def data(study: Study) -> str:
    """Return the digest of the held-out activations that a study is judged on."""
    return artifacts.content_hash(study.activations.held_out)


def distances(
    values: Mapping[str, Mapping[str, Estimate]], gates: Mapping[str, gate.Threshold]
) -> dict[str, dict[str, Estimate]]:
    """Return {gate: {candidate: distance from the bound}} of {candidate: {gate: value}}, above 0 where it passes."""
    judged = [name for name, one in gates.items() if one.direction in ("above", "below")]
    return {
        name: {who: gates[name].distance(found[name]) for who, found in values.items() if name in found}
        for name in judged
    }


def verdicts(ranked: Sequence[gate.Decision]) -> dict[str, bool | str | int]:
    """Return what is recorded of ranked decisions: who comes first, what each passed, and the gates that bind.

    ValueError: no decision.
    """
    require(len(ranked) > 0, "ranked", "none", "one or more")
    first = ranked[0]
    found: dict[str, bool | str | int] = {"first": first.candidate, "first_binding": ", ".join(first.binding)}
    found["first_failed"] = sum(not outcome.passed for outcome in first.judged)
    found["exit_status"] = gate.exit_status(ranked, first.candidate)
    for one in ranked:
        found[f"{one.candidate}_pass_all"] = one.pass_all
        found[f"{one.candidate}_failed"] = sum(not outcome.passed for outcome in one.judged)
        found[f"{one.candidate}_binding"] = ", ".join(one.binding)
    return found
