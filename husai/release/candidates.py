"""Studies as candidates for release, and measured values as evidence about them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from torch import Tensor

from husai import artifacts, comparison, gate, stats
from husai.benches import probing
from husai.config import fingerprint, require
from husai.evidence import Estimate
from husai.stress.shifts import Part, Shift, fvu_drops
from husai.study import Study

BASELINES = ("pca", "neurons", "random", "matched")
"""What k latents must beat: k principal axes, coordinates, isotropic and covariance-matched directions."""


def candidate(name: str, study: Study) -> gate.Candidate:
    """Return a study as a candidate: its configuration, and the hash of the stored weights, which is verified."""
    scores = {
        "agreement": gate.Score(stats.pairwise(study.scores("mean_max_cosine")), data(study), "mean max cosine, alive"),
        "fvu": gate.over_seeds(study.by_seed["fvu"], data(study), "held-out FVU"),
    }
    return gate.Candidate(name, fingerprint(study.config), artifacts.verify(study.folder), study.seeds, scores)


def data(study: Study) -> str:
    """Return the digest of the held-out activations that a study is judged on."""
    return artifacts.content_hash(study.activations.held_out)


def evidence(
    study: Study, name: str, value: Estimate | None, profile: str, address: str, on: str = "", against: str = ""
) -> gate.Evidence:
    """Return a value as evidence about these SAEs and no others.

    `on` is its data, the held-out activations unless given; `against` that of what it is compared with.
    """
    digest, settled = artifacts.verify(study.folder), comparison.settled([study])
    return gate.Evidence(name, value, digest, on or data(study), profile, settled, address, against)


def proofs(
    name: str, study: Study, values: Mapping[str, Estimate], profile: str, on: Mapping[str, tuple[str, str]]
) -> list[gate.Evidence]:
    """Return all values of a candidate as evidence, found at `75:<name>_<gate>`; `on` names its data."""
    where = {key: f"75:{name}_{key}" for key in values}
    return [evidence(study, key, value, profile, where[key], *on.get(key, ())) for key, value in values.items()]


def internal(study: Study, trained: Mapping[str, Study]) -> dict[str, Estimate]:
    """Return what a study says about itself: the gap to N2 and to each trained null of the same recipe, and FVU."""
    gaps = {"stability_N2": comparison.compare([study], "N2").gap}
    gaps |= {f"stability_{name}": comparison.compare([study], [null], name=name).gap for name, null in trained.items()}
    return gaps | {"fvu": study.quality["fvu"]}


def out_of_distribution(study: Study, rows: Float[Tensor, "n d_model"]) -> Estimate:
    """Return FVU on rows that no SAE was trained on less FVU on held-out rows, over seeds."""
    nothing = study.activations.training
    shift = Shift(study.activations, nothing, {"outside": Part(rows, nothing.new_zeros(len(rows)))})
    return stats.mean(fvu_drops(study, shift, "outside"))


def against_baselines(scores: probing.Scores) -> tuple[str, Estimate]:
    """Return the best of the baselines with as few numbers, and the AUC of latents less its, over classes and seeds.

    The best is the one with the highest mean AUC over all tasks, the same for all of them.
    """
    best = max(BASELINES, key=lambda code: float(np.mean(scores.chosen[code])))
    return best, replace(probing.over_classes(scores.delta("sae", best), scores.tasks), unit="AUC")


def distances(
    values: Mapping[str, Mapping[str, Estimate]], gates: Mapping[str, gate.Threshold]
) -> dict[str, dict[str, Estimate]]:
    """Return {gate: {candidate: distance from the bound}} of {candidate: {gate: value}}, above 0 where it passes."""
    judged = [name for name, one in gates.items() if one.direction in ("above", "below")]
    return {
        name: {who: gates[name].distance(found[name]) for who, found in values.items() if name in found}
        for name in judged
    }


def verdicts(decisions: Sequence[gate.Decision]) -> dict[str, bool | str | int]:
    """Return what is recorded of decisions: who comes first, what each passed, and the gates that bind.

    ValueError: no decision.
    """
    require(len(decisions) > 0, "decisions", "none", "one or more")
    first = gate.ranking(decisions)[0]
    found: dict[str, bool | str | int] = {"first": first.candidate}
    found["exit_status"] = gate.exit_status(decisions, first.candidate)
    for one in decisions:
        found[f"{one.candidate}_pass_all"] = one.pass_all
        found[f"{one.candidate}_failed"] = sum(not outcome.passed for outcome in one.judged)
        found[f"{one.candidate}_binding"] = ", ".join(one.binding)
    return found
