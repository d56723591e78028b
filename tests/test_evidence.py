"""Numbers print with the digits that their interval allows; intervals, not points, decide claims."""

import json

import pytest

from husai import evidence
from husai.evidence import Claim, Estimate, Run, format_value, judge


def claim(**fields):
    return Claim(id="T1", quantity="q", reported="0.3", source="s", notebook="99", statement="S", **fields)


def test_estimate_prints_two_digits_of_its_interval():
    assert str(Estimate(0.30006, 0.29941, 0.30071, 5)) == "0.3001 [0.2994, 0.3007]"
    assert str(Estimate(-0.01, -0.05, 0.03, 5)) == "−0.010 [−0.050, 0.030]"
    assert str(Estimate(12.3, 11.0, 13.6, 4, unit="s")) == "12.30 [11.00, 13.60] s"


def test_estimate_refuses_an_interval_that_misses_its_value():
    with pytest.raises(ValueError, match="low <= value <= high"):
        Estimate(0.5, 0.6, 0.7, 5)


@pytest.mark.parametrize(
    "value, text",
    [
        (True, "yes"),
        (12769, "12,769"),
        (0.2988, "0.299"),
        (2e-5, "2.0e−05"),
        (float("nan"), "not defined"),
        ("x", "x"),
    ],
)
def test_plain_values_have_one_format(value, text):
    assert format_value(value) == text


@pytest.mark.parametrize(
    "low, high, rule, verdict",
    [
        (0.03, 0.05, {"rule": "above", "threshold": 0.02}, "supported"),
        (0.01, 0.05, {"rule": "above", "threshold": 0.02}, "inconclusive"),
        (0.00, 0.01, {"rule": "above", "threshold": 0.02}, "refuted"),
        (0.00, 0.01, {"rule": "below", "threshold": 0.02}, "supported"),
        (-0.01, 0.01, {"rule": "equivalent", "margin": 0.02}, "supported"),
        (-0.03, 0.01, {"rule": "equivalent", "margin": 0.02}, "inconclusive"),
        (0.03, 0.05, {"rule": "equivalent", "margin": 0.02}, "refuted"),
    ],
)
def test_verdicts_follow_the_interval(low, high, rule, verdict):
    values = {"gap": Estimate((low + high) / 2, low, high, 5)}
    assert judge(claim(verdict=({"value": "gap", **rule},)), values).verdict == verdict


def test_a_failed_need_makes_a_verdict_inconclusive_and_says_so():
    rule = {"value": "gap", "rule": "above", "threshold": 0, "needs": ["converged"]}
    result = judge(claim(verdict=(rule,)), {"gap": Estimate(0.5, 0.4, 0.6, 5), "converged": False})
    assert result.verdict == "inconclusive" and "converged does not hold" in result.reason


def test_conjunction_is_refuted_by_one_rule_and_supported_by_all():
    rules = tuple({"value": key, "rule": "above", "threshold": 0} for key in ("a", "b"))
    good, bad, open_ = Estimate(1.0, 0.5, 1.5, 5), Estimate(-1.0, -1.5, -0.5, 5), Estimate(0.0, -1.0, 1.0, 5)
    assert judge(claim(verdict=rules), {"a": good, "b": good}).verdict == "supported"
    assert judge(claim(verdict=rules), {"a": open_, "b": bad}).verdict == "refuted"
    assert judge(claim(verdict=rules), {"a": good, "b": open_}).verdict == "inconclusive"


def test_reproduced_compares_with_the_published_number():
    rule = {"value": "x", "near": 0.3001, "within": 0.005}
    assert judge(claim(reproduce=rule), {"x": Estimate(0.302, 0.30, 0.304, 5)}).reproduced == "yes"
    assert judge(claim(reproduce=rule), {"x": 0.31}).reproduced == "no"


def test_a_missing_value_is_named():
    with pytest.raises(ValueError, match="claim T1: value is 'gone'"):
        judge(claim(verdict=({"value": "gone", "rule": "above", "threshold": 0},)), {"gap": 1.0})


def test_a_number_out_of_reach_says_what_would_settle_it():
    rules = ({"value": "gap", "rule": "above", "threshold": 0.0},)
    claim = evidence.Claim("X", "q", "1", "s", "99", settle="needs the published weights", verdict=rules)
    found = evidence.judge(claim, {"gap": 1.0})
    assert (found.reproduced, found.verdict) == ("not run", "supported")
    assert found.reason.startswith("the published number needs the published weights; gap = ")


def test_the_criterion_hash_covers_every_number_of_it():
    one = claim(verdict=({"value": "gap", "rule": "equivalent", "margin": 0.02},))
    two = claim(verdict=({"value": "gap", "rule": "equivalent", "margin": 0.03},))
    assert one.criterion != two.criterion


def test_an_unknown_rule_is_refused_when_the_ledger_is_read(tmp_path):
    path = tmp_path / "claims.toml"
    path.write_text('[A]\nquantity="q"\nreported="r"\nsource="s"\nnotebook="11"\nverdict=[{value="x", rule="feels"}]\n')
    with pytest.raises(ValueError, match="claim A: rule is 'feels'"):
        evidence.load_claims(path)


def test_a_run_writes_values_apart_from_provenance_and_identical_runs_agree(tmp_path, monkeypatch):
    monkeypatch.setenv("HUSAI_OUT", str(tmp_path))
    texts = []
    for _ in range(2):
        run = Run("99_test", {"profile": "smoke", "steps": 3, "seeds": [1, 2], "_hidden": 1, "In": []})
        run["gap"] = Estimate(0.1, 0.0, 0.2, 3)
        run.record(inputs={"models/abc": "123"})
        texts.append((tmp_path / "results" / "99_test.json").read_text())
    assert texts[0] == texts[1]
    assert evidence.load("99", tmp_path / "results")["values"]["gap"]["n"] == 3
    provenance = json.loads((tmp_path / "results" / "99_test.provenance.json").read_text())
    assert provenance["parameters"] == {"profile": "smoke", "steps": 3, "seeds": [1, 2]}
    assert provenance["seeds"] == [1, 2] and provenance["inputs"] == {"models/abc": "123"}
    assert {"commit", "dirty", "versions", "machine", "threads", "seconds"} <= set(provenance)


def test_a_run_refuses_a_key_twice_and_an_unknown_profile():
    run = Run("99_test", {"profile": "smoke"})
    run["x"] = 1
    with pytest.raises(ValueError, match="key is 'x'"):
        run["x"] = 2
    with pytest.raises(ValueError, match="profile is 'fast'"):
        Run("99_test", {"profile": "fast"})


def test_a_failed_write_leaves_the_old_results(tmp_path):
    path = tmp_path / "r.json"
    evidence.write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        evidence.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}


def test_missing_results_are_named(tmp_path):
    with pytest.raises(ValueError, match="notebook is '77'"):
        evidence.load("77", tmp_path)
