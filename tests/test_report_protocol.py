"""The reference cases tell a right implementation from a wrong one, and the schema a report from something else."""

import copy
import json

import jsonschema
import pytest

from husai.report import protocol


@pytest.mark.parametrize("name", protocol.read_cases())
def test_a_reference_case_gives_its_known_answers(name):
    case = protocol.read_cases()[name]
    found = protocol.evaluate_case(case)
    protocol.validate(found)
    assert protocol.differences(found, case["expected"]) == []


def test_an_implementation_that_errs_is_told_so():
    def unsigned(case):
        found = protocol.evaluate_case(case)
        for row in found["scores"]:
            if row["name"] == "hungarian_mcc" and row["latents"] == "all":
                row["estimate"]["value"] = abs(row["estimate"]["value"]) + 0.01
        return found

    found = protocol.check_cases(unsigned)
    assert set(found) == set(protocol.read_cases()) and found["sign_flipped"] and found["greedy_is_not_optimal"]
    assert "hungarian_mcc all None estimate/value" in found["sign_flipped"][0]


def test_the_schema_is_one_and_refuses_what_is_not_a_report():
    jsonschema.Draft202012Validator.check_schema(json.loads(protocol.SCHEMA.read_text()))
    good = protocol.evaluate_case(protocol.read_cases()["half_shared"])
    protocol.validate(good)
    for spoil in (
        lambda r: r.pop("scores"),
        lambda r: r.update(protocol="stability-v2"),
        lambda r: r["inputs"][0].update(sha256="short"),
        lambda r: r["features"].pop("matched"),
        lambda r: r.update(quality=None),
        lambda r: r["scores"][0]["estimate"].pop("n"),
    ):
        bad = copy.deepcopy(good)
        spoil(bad)
        with pytest.raises(ValueError, match="stability-v1"):
            protocol.validate(bad)
