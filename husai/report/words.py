"""What a report says in plain words: the answers first, each with its numbers and their intervals."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from husai.evidence import Estimate, format_value
from husai.report.tables import missing

SCORES = {
    "mean_max_cosine": "mean max cosine", "hungarian_mcc": "Hungarian MCC", "shared": "shared, one to one",
    "mutual": "mutual nearest", "frequency_weighted_max_cosine": "frequency-weighted max cosine",
    "frequency_weighted_hungarian": "frequency-weighted Hungarian MCC",
}  # fmt: skip
"""What a score of the schema is called."""
NULLS = {"N0": "chance", "N2": "directions with the covariance of the activations"}


class Answer(NamedTuple):
    """One question of a practitioner, and what the report says."""

    question: str
    answer: str


def bounded(entry: Mapping[str, Any]) -> bool:
    """Return whether an estimate of the report has an interval."""
    return entry["low"] is not None and entry["high"] is not None


def estimate(entry: Mapping[str, Any]) -> Estimate:
    """Return an estimate of the report; one without an interval has both ends at its value (`bounded` tells)."""
    low, high = (entry["low"], entry["high"]) if bounded(entry) else (entry["value"], entry["value"])
    return Estimate(entry["value"], low, high, entry["n"], method=entry["method"])


def say(entry: Any) -> str:
    """Return the text of anything that a report holds; of what it does not have, why."""
    if missing(entry):
        return f"not available: {entry['reason']}"
    if isinstance(entry, Mapping) and {"value", "low", "high"} <= entry.keys():
        spread = bounded(entry) and entry["low"] < entry["high"]  # a closed form, for one, has none
        return str(estimate(entry)) if spread else format_value(float(entry["value"]))
    return "none" if entry is None else format_value(entry)


def label(name: str, latents: str, threshold: float | None) -> str:
    """Return what a score is called, with its latents and its threshold."""
    above = "" if threshold is None else f" above {format_value(float(threshold))}"
    return f"{SCORES[name]}{above}, {latents} latents"


def pick(
    scores: Sequence[Mapping[str, Any]], name: str = "mean_max_cosine", threshold: float | None = None
) -> Mapping[str, Any]:
    """Return the score of that name: of alive latents where the report has them, else of all."""
    found = [score for score in scores if score["name"] == name and score["threshold"] == threshold]
    return min(found, key=lambda score: (missing(score["estimate"]), score["latents"] != "alive"))


def beyond(score: Mapping[str, Any], null: str) -> str:
    """Return in words whether a score lies above a null: the interval of the difference decides."""
    against = score[null]
    if missing(against):
        return f"Not available: {against['reason']}."
    gap, name = against["gap"], label(score["name"], score["latents"], score["threshold"])
    numbers = f"{name}: {say(score['estimate'])}; {NULLS[null]}: {say(against['value'])}; difference: {say(gap)}."
    if not bounded(gap):
        return f"Not settled, as there is no interval ({gap['method']}). {capital(numbers)}"
    settled = "Yes" if gap["low"] > 0 else "No, less than that" if gap["high"] < 0 else "It cannot be told"
    return f"{settled}. {capital(numbers)}"


def capital(text: str) -> str:
    """Return a text with a capital first letter and the others as they are."""
    return text[:1].upper() + text[1:]


def returning(report: Mapping[str, Any]) -> str:
    """Return in words how many features come back in the other SAEs."""
    counts, tau = report["matched"], report["settings"]["match_threshold"]
    total = sum(row["latents"] for row in counts)
    if not total:
        return "None: no latent is counted."
    score = pick(report["scores"], "mutual", tau)
    share = {key: format_value(sum(row[key] for row in counts) / total) for key in ("in_all", "in_some", "in_none")}
    parts = [f"Between two SAEs a share of {say(score['estimate'])} of the latents is found again"]
    if not missing(score["N2"]):
        parts[0] += f"; of {NULLS['N2']} it would be {say(score['N2']['value'])}"
    if len(counts) > 2:
        parts.append(
            f"In all other SAEs are {share['in_all']} of the latents, in some but not all {share['in_some']}, in "
            f"none {share['in_none']}"
        )
    parts.append(f"Found again: each the other's nearest, with a cosine above {format_value(float(tau))}")
    return ". ".join(parts) + "."


def more_seeds(report: Mapping[str, Any]) -> str:
    """Return in words how many SAEs would settle the score that the report opens with."""
    score, have = pick(report["scores"]), len(report["inputs"])
    keys = {"score": "name", "latents": "latents", "threshold": "threshold"}
    rows = [row for row in report["seeds_needed"] if all(row[a] == score[b] for a, b in keys.items())]
    return " ".join(f"{purpose(row)}: {needed(row, have)}." for row in rows) or "Not available: it was not computed."


def purpose(row: Mapping[str, Any]) -> str:
    """Return what so many SAEs would be needed for."""
    if row["purpose"] == "half width":
        return f"For an interval of ± {say(row['target'])}"
    return f"To tell the score from {NULLS[row['purpose'].removeprefix('score over ')]}"


def needed(row: Mapping[str, Any], have: int) -> str:
    """Return how many SAEs are needed, and how many more than there are."""
    if missing(row["seeds"]):
        return say(row["seeds"])
    more = row["seeds"] - have
    return f"{say(row['seeds'])} SAEs, {f'{say(more)} more than you have' if more > 0 else 'and you have ' + say(have)}"


def answers(report: Mapping[str, Any]) -> list[Answer]:
    """Return what a practitioner asks first, answered."""
    score = pick(report["scores"])
    return [
        Answer("Do these SAEs agree more than chance?", beyond(score, "N0")),
        Answer("More than the covariance of the activations alone would make them?", beyond(score, "N2")),
        Answer("How many features come back?", returning(report)),
        Answer("How many SAEs would be needed to be sure?", more_seeds(report)),
    ]


def summary(report: Mapping[str, Any]) -> str:
    """Return the report in one line."""
    score = pick(report["scores"])
    gaps = {null: score[null] if missing(score[null]) else score[null]["gap"] for null in NULLS}
    name = label(score["name"], score["latents"], score["threshold"])
    parts = [f"{len(report['inputs'])} SAEs: {name} {say(score['estimate'])}"]
    return "; ".join([*parts, *(f"beyond {NULLS[null]} {say(gap)}" for null, gap in gaps.items())])


def headline(report: Mapping[str, Any]) -> dict[str, Estimate]:
    """Return the estimates that the report opens with, by short names; those that it does not have are left out."""
    score, mutual = pick(report["scores"]), pick(report["scores"], "mutual", report["settings"]["match_threshold"])
    found = {"score": score["estimate"], "mutual": mutual["estimate"]}
    for null in NULLS:
        for name, row in (("gap", score), ("mutual_gap", mutual)):
            found[f"{name}_{null}"] = row[null] if missing(row[null]) else row[null]["gap"]
    return {name: estimate(entry) for name, entry in found.items() if not missing(entry)}
