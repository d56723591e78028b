"""The published artifacts: what their schemas accept, and what they refuse by name."""

import copy
import json

import pytest
from jsonschema import Draft202012Validator

from husai.evidence import Estimate
from husai.pairs import schemas

ONE = Estimate(0.5, 0.4, 0.6, 3, "", "mean over seeds")
SITE = {"style": "adhd", "model_seed": 0, "hook": "blocks.2.hook_resid_post"}
STEP = {"name": "ablate_head", "metric": "spearman", "clean": 0.83, "changed": 0.78, "delta": -0.05}
PANELS = ["add_in_adhd", "ablate_in_adhd", "add_in_standard", "dose_sweep"]
PROBES = ["step_onset_decodability", "ablation_at_onsets", "patching_standard_from_adhd"]
CONTENT = {
    "feature_diff": {
        "site": SITE, "sae": {"seed": 0, "d_sae": 64, "k": 8}, "onsets": {"adhd": 100, "standard": 90},
        "latents_tested": 64, "rule": {"false_discovery_rate": 0.05, "smoothing": 0.5, "least_ratio": 10.0},
        "features": [{"feature": 7, "rate_adhd": ONE, "rate_standard": ONE, "fired_adhd": 59, "fired_standard": 0,
                      "ratio": 100.0, "q": 1e-9, "silent": True, "no_decoder_match": True,
                      "no_functional_match": False, "contexts": ["sip water"]}],
    },
    "causal_nulls_per_seed": {
        "layer": 3, "seeds": [{"seed": 0, "interventions": [STEP], "nulls": [STEP],
                               "adhd_head": {"layer": 3, "head": 5}, "cosine_matched": 0.99}],
    },
    "deepdive_steering": {
        "site": SITE, "feature": 7, "metric": "P(regulation)", "margin": 0.025,
        "panels": [{"panel": name, "rows": [{"model_seed": 0, "dose": 1.0, "effect": 0.1, "null": 0.0}],
                    "effect": ONE, "null": ONE} for name in PANELS],
        "positive_control": {"direction": "unembedding difference", "effect": ONE, "null": ONE},
    },
    "three_probes": {
        "hook": "blocks.2.hook_resid_post",
        "probes": [{"probe": name, "rows": [{"model_seed": 0, "effect": 0.9, "control": 0.5}], "effect": ONE,
                    "control": ONE} for name in PROBES],
    },
}  # fmt: skip
each = pytest.mark.parametrize("name", list(CONTENT))


def content(name):
    return {"profile": "smoke", "summary": {"share": ONE, "count": 3, "found": True}, **copy.deepcopy(CONTENT[name])}


@each
def test_a_complete_artifact_is_written_under_its_published_name(name, tmp_path):
    path = schemas.write(name, content(name), tmp_path)
    assert path.name == f"{name}.json"
    stored = json.loads(path.read_text())
    schemas.check(name, stored)
    assert stored["summary"]["share"]["low"] == 0.4 and stored["artifact"] == name


@each
def test_every_schema_is_a_schema(name):
    Draft202012Validator.check_schema(schemas.SCHEMAS[name])
    assert schemas.SCHEMAS.keys() == CONTENT.keys()


@each
def test_whatever_is_missing_is_named_and_nothing_is_written(name, tmp_path):
    for entry in CONTENT[name]:
        broken = {key: value for key, value in content(name).items() if key != entry}
        with pytest.raises(ValueError, match=f"{name}.json.*'{entry}' is a required property"):
            schemas.write(name, broken, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_wrong_types_shares_and_panels_are_refused(tmp_path):
    wrong = content("feature_diff")
    wrong["features"][0]["q"] = 1.5
    with pytest.raises(ValueError, match=r"features\[0\].q"):
        schemas.write("feature_diff", wrong, tmp_path)
    wrong = content("feature_diff")
    wrong["features"][0]["fired_standard"] = 0.3
    with pytest.raises(ValueError, match=r"features\[0\].fired_standard"):
        schemas.write("feature_diff", wrong, tmp_path)
    wrong = content("deepdive_steering")
    wrong["panels"].pop()
    with pytest.raises(ValueError, match="panels"):
        schemas.write("deepdive_steering", wrong, tmp_path)
    wrong = content("three_probes") | {"profile": "quick"}
    with pytest.raises(ValueError, match="profile"):
        schemas.write("three_probes", wrong, tmp_path)
    with pytest.raises(ValueError, match="one of feature_diff"):
        schemas.write("four_probes", content("three_probes"), tmp_path)
