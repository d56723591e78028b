"""The four artifacts of the matched-pair study by their published names, and what each must hold (JSON Schema).

The published repository describes its files in one line each; these schemas are ours. What they name has to be there
and of that type; what they do not name may stand beside it.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from husai.config import require
from husai.evidence import PROFILES, Estimate, write_json

VERSION = 1

TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
NUMBER: dict[str, Any] = {"type": "number"}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
SHARE: dict[str, Any] = {"type": "number", "minimum": 0, "maximum": 1}
YES: dict[str, Any] = {"type": "boolean"}


def record(needed: Mapping[str, Any], **optional: Any) -> dict[str, Any]:
    """Return the schema of an object that has at least these entries."""
    return {"type": "object", "required": list(needed), "properties": {**needed, **optional}}


def several(item: Mapping[str, Any], least: int = 0) -> dict[str, Any]:
    """Return the schema of a list of at least so many of one thing."""
    return {"type": "array", "items": item, "minItems": least}


ESTIMATE = record({"value": NUMBER, "low": NUMBER, "high": NUMBER, "n": COUNT}, unit={"type": "string"}, method=TEXT)
"""A number with its 95 % interval, as `evidence.Estimate` is stored."""
SUMMARY: dict[str, Any] = {"type": "object", "additionalProperties": {"anyOf": [ESTIMATE, NUMBER, YES, TEXT]}}
"""Numbers, with or without an interval, by name."""
SITE = record({"style": TEXT, "model_seed": COUNT, "hook": TEXT})
"""A place in one model."""
HEAD = record({"layer": COUNT, "head": COUNT})


def artifact(name: str, needed: Mapping[str, Any], **optional: Any) -> dict[str, Any]:
    """Return the schema of an artifact: who it is, the run's profile, its numbers in short, and what it needs."""
    head = {"artifact": {"const": name}, "version": {"const": VERSION}, "profile": {"enum": list(PROFILES)}}
    schema = record({**head, "summary": SUMMARY, **needed}, limits=TEXT, **optional)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": name, **schema}


LATENT = record(
    {"feature": COUNT, "rate_adhd": ESTIMATE, "rate_standard": ESTIMATE, "fired_adhd": COUNT, "fired_standard": COUNT,
     "ratio": {"type": "number", "exclusiveMinimum": 0}, "q": SHARE, "silent": YES, "no_decoder_match": YES,
     "no_functional_match": YES},
    contexts=several(TEXT),
)  # fmt: skip
"""One asymmetric latent: rates and counts at step onsets, and in which of three senses the standard model lacks it."""

INTERVENTION = record({"name": TEXT, "metric": TEXT, "clean": NUMBER, "changed": NUMBER, "delta": NUMBER})
"""What one intervention, or one null, did to one metric: delta = changed - clean."""

PANEL = record(
    {"panel": {"enum": ["add_in_adhd", "ablate_in_adhd", "add_in_standard", "dose_sweep"]},
     "rows": several(record({"model_seed": COUNT, "dose": NUMBER, "effect": NUMBER, "null": NUMBER}, sem=NUMBER), 1),
     "effect": ESTIMATE, "null": ESTIMATE},
    difference=ESTIMATE,
)  # fmt: skip

PROBE = record(
    {"probe": {"enum": ["step_onset_decodability", "ablation_at_onsets", "patching_standard_from_adhd"]},
     "rows": several(record({"model_seed": COUNT, "effect": NUMBER, "control": NUMBER}), 1),
     "effect": ESTIMATE, "control": ESTIMATE},
)  # fmt: skip

SCHEMAS: dict[str, dict[str, Any]] = {
    "feature_diff": artifact(
        "feature_diff",
        {"site": SITE, "sae": record({"seed": COUNT, "d_sae": COUNT, "k": COUNT}),
         "onsets": record({"adhd": COUNT, "standard": COUNT}), "latents_tested": COUNT,
         "rule": record({"false_discovery_rate": SHARE, "smoothing": NUMBER, "least_ratio": NUMBER}),
         "features": several(LATENT)},
    ),
    "causal_nulls_per_seed": artifact(
        "causal_nulls_per_seed",
        {"layer": COUNT,
         "seeds": several(record({"seed": COUNT, "interventions": several(INTERVENTION, 1),
                                  "nulls": several(INTERVENTION, 1)},
                                 standard_head=HEAD, adhd_head=HEAD, cosine_matched=NUMBER, cosine_same_index=NUMBER),
                          1)},
    ),
    "deepdive_steering": artifact(
        "deepdive_steering",
        {"site": SITE, "feature": COUNT, "metric": TEXT, "panels": several(PANEL, 4),
         "positive_control": record({"direction": TEXT, "effect": ESTIMATE, "null": ESTIMATE}), "margin": NUMBER},
    ),
    "three_probes": artifact("three_probes", {"hook": TEXT, "probes": several(PROBE, 3)}),
}  # fmt: skip


def check(name: str, content: Any) -> None:
    """Raise ValueError naming the entry when content is not what the artifact of this name must hold."""
    from jsonschema import Draft202012Validator

    require(name in SCHEMAS, "name", name, f"one of {', '.join(SCHEMAS)}")
    found = sorted(Draft202012Validator(SCHEMAS[name]).iter_errors(content), key=lambda error: error.json_path)
    if found:
        raise ValueError(f"{name}.json: {found[0].json_path}: {found[0].message[:300]} ({len(found)} in all)")


def write(name: str, content: Mapping[str, Any], folder: Path) -> Path:
    """Write `<folder>/<name>.json` if it is what its schema asks for; estimates may be `evidence.Estimate`s.

    `artifact` and `version` are added. ValueError names the entry that is missing or of another type, before anything
    is written.
    """
    whole = plain({"artifact": name, "version": VERSION, **content})
    check(name, whole)
    path = folder / f"{name}.json"
    write_json(path, whole)
    return path


def plain(value: Any) -> Any:
    """Return nested values as JSON has them: estimates as objects, tuples as lists, tensors' and arrays' items."""
    if isinstance(value, Estimate):
        return asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value.item() if hasattr(value, "item") else value
