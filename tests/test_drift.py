"""The comparison of two runs: what is identical, what moved, what drifted, turned, came or went."""

from typing import Any

import drift
import pytest

ESTIMATE = {"value": 0.2, "low": 0.1, "high": 0.3, "n": 5, "unit": "", "method": "t(4)"}


def test_another_n_another_method_and_other_inputs_are_listed() -> None:
    now = {**ESTIMATE, "n": 4, "method": "t(3)"}
    assert drift.words(results(x=ESTIMATE), results(x=now)) == ["x: n was 5, is 4", "x: method was t(4), is t(3)"]
    old, new = {"inputs": {"a/1": "x", "b/1": "y"}}, {"inputs": {"a/1": "z", "c/1": "y"}}
    assert drift.inputs(old, new) == [("a/1", "x", "z"), ("b/1", "y", "absent"), ("c/1", "absent", "y")]
    assert drift.inputs(old, old) == []


@pytest.mark.parametrize("value, said", [
    ({**ESTIMATE, "value": 0.29}, []),
    ({**ESTIMATE, "value": 0.31, "high": 0.4}, ["x: was 0.20 [0.10, 0.30], is 0.31 [0.10, 0.40]"]),
    (0.2, ["x: was 0.20 [0.10, 0.30], is 0.200"]),
])  # fmt: skip
def test_an_estimate_drifts_when_it_leaves_the_interval(value: Any, said: list[str]) -> None:
    assert drift.words(results(x=ESTIMATE), results(x=value)) == said


@pytest.mark.parametrize("old, new, drifts", [
    (1.0, 1.001, False), (1.0, 1.02, True), (0.0, 1e-9, False), (0.0, 1e-3, True), (3, 4, True), (True, False, True),
    (True, 1, False), ("none", "none", False), ("none", "dead", True), (None, 0.0, True), (1.0, float("nan"), True),
    ([1, 2], [1, 3], True),
])  # fmt: skip
def test_plain_values_drift_by_more_than_one_percent(old: Any, new: Any, drifts: bool) -> None:
    assert bool(drift.words(results(x=old), results(x=new))) == drifts


def test_changed_judgements_and_lost_or_new_values_are_listed() -> None:
    old, new = results(x=1.0, y=2.0), results(x=1.0, z=3.0)
    new["claims"]["P1"]["verdict"] = "refuted"
    new["claims"]["P2"] = {"verdict": "supported", "reproduced": "not run"}
    assert drift.words(old, new) == [
        "P1: verdict was supported, is refuted",
        "P2: verdict was absent, is supported",
        "P2: reproduced was absent, is not run",
        "y: not recorded any more",
        "z: not in the reference",
    ]


def results(**values: Any) -> dict[str, Any]:
    return {"values": values, "claims": {"P1": {"verdict": "supported", "reproduced": "not run"}}}


@pytest.mark.parametrize("now, kind, overlap", [
    (ESTIMATE, "identical", True),
    ({**ESTIMATE, "value": 0.21}, "within", True),
    ({**ESTIMATE, "value": 0.3, "high": 0.4}, "within", True),  # the end of an interval belongs to it
    ({**ESTIMATE, "value": 0.35, "low": 0.3, "high": 0.4}, "drifted", True),
    ({**ESTIMATE, "value": 0.5, "low": 0.4, "high": 0.6}, "drifted", False),
    ({**ESTIMATE, "value": 0.0, "low": -0.1, "high": 0.05}, "drifted", False),
    ({**ESTIMATE, "n": 4}, "within", True),  # the same number from other seeds is not the same to the byte
    (0.2, "drifted", None),
])  # fmt: skip
def test_the_kind_of_a_change_and_whether_intervals_overlap(now: Any, kind: str, overlap: bool | None) -> None:
    (change,) = drift.changes(results(x=ESTIMATE), results(x=now))
    assert (change.kind, change.overlap) == (kind, overlap)


def test_every_value_of_either_run_is_one_change() -> None:
    found = drift.changes(results(a=1, b=2.0, c=None), results(b=2.001, c=None, d=[1]))
    assert [(change.key, change.kind) for change in found] == [
        ("a", "gone"), ("b", "within"), ("c", "identical"), ("d", "new")
    ]  # fmt: skip
    assert {change.kind for change in found} <= set(drift.KINDS)
