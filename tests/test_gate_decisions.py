"""The release gate passes a sound candidate, and fails on each defect of the sources' gate, with its reason."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from husai import gate, stats
from husai.evidence import Estimate
from husai.gate import Candidate, Decision, Evidence, Threshold, decide, exit_status, ranking

CANDIDATE = Candidate("topk", "config", "weights", (0, 1, 2, 3, 4), data="held out")
GATES = gate.load()
GOOD = {"stability_N2": 0.3, "stability_N4": 0.2, "stability_N5": 0.1, "fvu": 0.1, "faithfulness": 0.95}
GOOD |= {"ood_fvu": 0.02, "ood_agreement": -0.03, "ood_auc": 0.02, "plateau": -0.04}


def estimate(value: float, unit: str = "") -> Estimate:
    return stats.mean([value - 0.01, value, value + 0.01, value - 0.002, value + 0.002], unit=unit)


def proof(name: str, at: float, **changes) -> Evidence:
    unit = GATES[name].unit if name in GATES else ""
    one = Evidence(name, estimate(at, unit), "weights", (0, 1, 2, 3, 4), "texts", "paper", True, f"75:{name}")
    return replace(one, **changes)


def evidence(**changes: Evidence | None) -> list[Evidence]:
    found = {name: proof(name, value) for name, value in GOOD.items()}
    found |= {"probe": proof("probe", 0.03), "transcoder": proof("transcoder", -0.1)} | changes
    return [one for one in found.values() if one is not None]


def only(decision: Decision, name: str) -> str:
    """Return why this gate failed, having checked that no other did and that the whole fails."""
    assert [one.gate for one in decision.judged if not one.passed] == decision.binding == [name]
    assert not decision.pass_all and exit_status([decision], "topk") == 2
    return next(one.reason for one in decision.outcomes if one.gate == name)


def test_a_sound_candidate_passes_every_gate() -> None:
    decision = decide(CANDIDATE, evidence(), GATES)
    assert decision.pass_all and decision.reasons == [] and exit_status([decision], "topk") == 0
    assert [one.gate for one in decision.outcomes] == list(GATES)
    by_name = {one.gate: one for one in decision.outcomes}
    fvu, probe = by_name["fvu"], by_name["probe"]
    assert fvu.margin == pytest.approx(0.2 - fvu.value.high) and probe.margin == pytest.approx(probe.value.low)
    assert decision.binding == [min(decision.judged, key=lambda one: one.relative).gate] == ["probe"]
    assert {row["outcome"] for row in decision.table()} == {"pass", "information"}
    assert by_name["transcoder"].value.value < 0  # a less stable transcoder decides nothing


@pytest.mark.parametrize("name, changes, why", [
    ("stability_N5", {"candidate": "a modular-addition TopK"}, "other weights"),
    ("ood_fvu", {"candidate": ""}, "other weights (unnamed)"),
    ("ood_auc", {"data": "held out"}, "the SAEs' own held-out rows"),
    ("stability_N2", {"seeds": (0, 1, 2)}, "measured on seeds [0, 1, 2], not on all of [0, 1, 2, 3, 4]"),
    ("stability_N2", {"value": None}, "no evidence"),
    ("fvu", {"value": Estimate(math.nan, math.nan, math.nan, 5, method="t(4)")}, "not a finite number"),
    ("fvu", {"value": Estimate(0.1, 0.1, math.inf, 5, method="t(4)")}, "not a finite number"),
    ("stability_N2", {"value": Estimate(0.3, 0.3, 0.3, 1, method="mean over seeds, t(0)")}, "n = 1"),
    ("stability_N2", {"value": Estimate(0.3, 0.3, 0.3, 5, method="mean over seeds, t(4)")}, "the point itself"),
    ("stability_N2", {"value": Estimate(0.3, 0.29, 0.31, 5, method="1.96 sd / sqrt(5)")}, "not one of t"),
    ("probe", {"value": estimate(0.5, "CE-Bench")}, "in units of CE-Bench, wanted AUC"),
    ("probe", {"against": "another slice"}, "different data"),
    ("probe", {"attainable": (-47.95, -2.7)}, "out of reach"),
    ("fvu", {"attainable": (0.4, 1.0)}, "out of reach"),
    ("faithfulness", {"profile": "smoke"}, "smoke profile is not for citation"),
    ("faithfulness", {"profile": "lab"}, "lab profile is not for citation"),
    ("stability_N4", {"sound": False}, "not sound"),
    ("ood_fvu", {"data": ""}, "does not name its data"),
    ("ood_fvu", {"address": ""}, "does not say where"),
])  # fmt: skip
def test_evidence_that_does_not_count_fails_with_its_reason(name: str, changes: dict, why: str) -> None:
    one = proof(name, GOOD.get(name, 0.03), **changes)
    assert why in only(decide(CANDIDATE, evidence(**{name: one}), GATES), name)


def test_missing_evidence_fails_and_so_does_evidence_for_no_gate() -> None:
    assert only(decide(CANDIDATE, evidence(ood_fvu=None), GATES), "ood_fvu") == "no evidence"
    odd = proof("cebench", 1.0)
    assert only(decide(CANDIDATE, evidence(cebench=odd), GATES), "cebench") == "no such gate is declared"
    nothing = decide(CANDIDATE, [], GATES)
    assert [one.passed for one in nothing.judged] == [False] * 10 + [True]  # the seeds it counts itself
    assert not decide(CANDIDATE, evidence(), {}).pass_all and not Decision("a", "b", ()).pass_all


def test_the_best_of_several_measurements_is_none() -> None:
    cells = [proof("stability_N2", value) for value in (0.3, -0.1, 0.25)]
    decision = decide(CANDIDATE, [*evidence(stability_N2=None), *cells], GATES)
    assert "3 pieces of evidence" in only(decision, "stability_N2")


def test_the_interval_decides_and_zero_is_a_value() -> None:
    touching = Estimate(0.03, 0.0, 0.06, 5, "AUC", "mean over seeds, t(4)")
    reason = only(decide(CANDIDATE, evidence(probe=proof("probe", 0.0, value=touching)), GATES), "probe")
    assert "not inside" in reason
    at_zero = {"ood_fvu": replace(GATES["ood_fvu"], bound=0.1)}
    value = Estimate(0.0, -0.01, 0.01, 5, method="mean over seeds, t(4)")
    decision = decide(CANDIDATE, [proof("ood_fvu", 0.0, value=value)], at_zero)
    assert decision.pass_all and decision.outcomes[0].value.value == 0.0
    zero_bound = {"ood_fvu": replace(GATES["ood_fvu"], bound=0.0)}
    assert not decide(CANDIDATE, [proof("ood_fvu", 0.0, value=value)], zero_bound).pass_all  # 0.0 is a bound
    wide = Estimate(0.15, 0.05, 0.25, 5, method="mean over seeds, t(4)")
    assert "fvu" in decide(CANDIDATE, evidence(fvu=proof("fvu", 0.0, value=wide)), GATES).binding


def test_four_seeds_are_too_few() -> None:
    few = replace(CANDIDATE, seeds=(0, 1, 2, 3))
    found = decide(few, [replace(one, seeds=few.seeds) for one in evidence()], GATES)
    assert only(found, "seeds") == "4 seeds, wanted at least 5"


def test_a_ranking_does_not_change_when_others_join() -> None:
    def decision(name: str, **values: float) -> Decision:
        proofs = {gate: proof(gate, value) for gate, value in values.items()}
        return replace(decide(CANDIDATE, evidence(**proofs), GATES), candidate=name)

    good, close, fails = decision("good", probe=0.2), decision("close"), decision("fails", fvu=0.5)
    far = [decision(f"far{i}", fvu=0.9 - i / 10, probe=-5.0 * i) for i in range(4)]
    assert [one.candidate for one in ranking([fails, close, good])] == ["good", "close", "fails"]
    for others in (far, far[:1], []):
        names = [one.candidate for one in ranking([*others, fails, close, good])]
        assert [name for name in names if not name.startswith("far")] == ["good", "close", "fails"]
    assert exit_status([good, fails], "fails") == 2 and exit_status([good, fails], "good") == 0
    assert exit_status([good], "nobody") == 2


def test_the_front_comes_first_and_what_has_no_margin_is_not_ranked() -> None:
    good, fails = (replace(decide(CANDIDATE, evidence(fvu=proof("fvu", at)), GATES), candidate=name)
                   for name, at in (("good", 0.1), ("fails", 0.5)))  # fmt: skip
    assert [one.candidate for one in ranking([good, fails], ["fails"])] == ["fails", "good"]
    nothing = decide(CANDIDATE, [proof(name, at, candidate="others") for name, at in GOOD.items()], GATES)
    with pytest.raises(ValueError, match="no margin at any gate .*other weights"):
        ranking([nothing, replace(nothing, candidate="b")])
    assert ranking([nothing, good])[0] is good


def test_evidence_that_is_not_for_citation_has_a_margin_and_fails() -> None:
    smoke = decide(CANDIDATE, [replace(one, profile="smoke") for one in evidence()], GATES)
    margins = {one.gate: one.margin for one in smoke.judged if one.direction != "at least"}
    known = {one.gate: one.margin for one in decide(CANDIDATE, evidence(), GATES).judged if one.gate in margins}
    assert margins == known and not any(one.passed for one in smoke.judged if one.gate in margins)
    assert ranking([smoke]) == [smoke]


@pytest.mark.parametrize("text, why", [
    ("", "at least one gate"),
    ('[a]\ndirection = "information"\nreason = "r"', "at least one gate"),
    ('[a]\ndirection = "above"\nbound = 0.0', "reason"),
    ('[a]\ndirection = "above"\nbound = 0.0\nreason = " "', "reason"),
    ('[a]\ndirection = "above"\nreason = "r"', "bound"),
    ('[a]\ndirection = "over"\nbound = 0.0\nreason = "r"', "direction"),
    ('[a]\ndirection = "above"\nbound = nan\nreason = "r"', "bound"),
    ('[a]\ndirection = "above"\nbound = 0.0\nreason = "r"\nrequired = false', "required"),
])  # fmt: skip
def test_thresholds_need_a_side_a_bound_and_a_reason(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "gates.toml").write_text(text)
    with pytest.raises(ValueError, match=why):
        gate.load(tmp_path / "gates.toml")


def test_every_declared_gate_can_fail() -> None:
    assert len([one for one in GATES.values() if one.direction != "information"]) == 11
    for name, threshold in GATES.items():
        if threshold.direction in ("above", "below"):
            beyond = threshold.bound + (-0.5 if threshold.direction == "above" else 0.5)
            assert only(decide(CANDIDATE, evidence(**{name: proof(name, beyond)}), GATES), name)
    assert isinstance(GATES["fvu"], Threshold) and GATES["seeds"].bound == 5
