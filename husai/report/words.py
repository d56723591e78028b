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


def estimate(entry: Mapping[str, Any]) -> Estimate:
    """Return an estimate of the report; one without an interval has both ends at its value (`bounded` tells)."""
    ends = {"low": entry["low"], "high": entry["high"]} if bounded(entry) else dict.fromkeys(("low", "high"), entry["value"])
    return Estimate(entry["value"], **ends, n=entry["n"], method=entry["method"])


def bounded(entry: Mapping[str, Any]) -> bool:
    """Return whether an estimate of the report has an interval."""
    return entry["low"] is not None and entry["high"] is not None


def say(entry: Any) -> str:
    """Return the text of anything that a report holds; of what it does not have, why."""
    if missing(entry):
        return f"not available: {entry['reason']}"
    if isinstance(entry, Mapping) and {"value", "low", "high"} <= entry.keys():
        if not bounded(entry):
            return format_value(float(entry["value"]))
        return str(estimate(entry))
    return "none" if entry is None else format_value(entry)


def label(score: Mapping[str, Any]) -> str:
    """Return what a score is called, with its latents and its threshold."""
    above = "" if score["threshold"] is None else f" above {format_value(float(score['threshold']))}"
    return f"{SCORES[score['name']]}{above}, {score['latents']} latents"


def pick(scores: Sequence[Mapping[str, Any]], name: str, threshold: float | None = None) -> Mapping[str, Any]:
    """Return the score of that name: of alive latents where the report has them, else of all."""
    found = [score for score in scores if score["name"] == name and score["threshold"] == threshold]
    return min(found, key=lambda score: (missing(score["estimate"]), score["latents"] != "alive"))


def beyond(score: Mapping[str, Any], null: str) -> str:
    """Return in words whether a score lies above a null: the interval of the difference decides."""
    against = score[null]
    if missing(against):
        return f"Not known: {against['reason']}."
    gap = against["gap"]
    numbers = f"{say(score['estimate'])} ({label(score)}), {NULLS[null]}: {say(against['value'])}; the difference is {say(gap)}."
    if not bounded(gap):
        return f"No interval, so not settled: {gap['method']}. The SAEs score {numbers}"
    verdict = "Yes." if gap["low"] > 0 else "No, less than that." if gap["high"] < 0 else "It cannot be told: the interval holds zero."
    return f"{verdict} The SAEs score {numbers}"


def returning(report: Mapping[str, Any]) -> str:
    """Return in words how many features come back in the other SAEs."""
    counts, others = report["matched"], len(report["inputs"]) - 1
    total = sum(row["latents"] for row in counts)
    if not total:
        return "None: no latent is counted."
    share = {key: format_value(sum(row[key] for row in counts) / total) for key in ("in_all", "in_some", "in_none")}
    tau = report["settings"]["match_threshold"]
    score = pick(report["scores"], "mutual", tau)
    drawn = "" if missing(score["N2"]) else f" Of directions with the covariance of the activations it is {say(score['N2']['value'])}."
    apart = (
        f"Of all counted latents a share of {share['in_all']} is found in every other SAE, {share['in_some']} in some of the "
        f"{others} and {share['in_none']} in none. " if others > 1 else ""
    )  # fmt: skip
    return (
        f"{apart}Between two SAEs a share of {say(score['estimate'])} comes back: mutual nearest directions with a cosine above "
        f"{format_value(float(tau))}.{drawn}"
    )


def more_seeds(report: Mapping[str, Any]) -> str:
    """Return in words how many SAEs would settle the score that the report opens with."""
    score, have = pick(report["scores"], "mean_max_cosine"), len(report["inputs"])
    rows = [
        row for row in report["seeds_needed"]
        if (row["score"], row["latents"], row["threshold"]) == (score["name"], score["latents"], score["threshold"])
    ]  # fmt: skip
    return " ".join(f"{purpose(row)}: {needed(row, have)}." for row in rows) or "Not known: the report does not say."


def purpose(row: Mapping[str, Any]) -> str:
    """Return what so many SAEs would be needed for."""
    if row["purpose"] == "half width":
        return f"For an interval of ± {say(row['target'])}"
    null = row["purpose"].removeprefix("score over ")
    return f"To tell the score from {NULLS[null]}"


def needed(row: Mapping[str, Any], have: int) -> str:
    """Return how many SAEs are needed, and how many more than there are."""
    if missing(row["seeds"]):
        return say(row["seeds"])
    more = max(0, row["seeds"] - have)
    return f"{say(row['seeds'])} SAEs, {f'{say(more)} more' if more else 'which you have'}"


def answers(report: Mapping[str, Any]) -> list[Answer]:
    """Return what a practitioner asks first, answered."""
    score = pick(report["scores"], "mean_max_cosine")
    return [
        Answer("Do these SAEs agree more than chance?", beyond(score, "N0")),
        Answer("More than the shape of the activations alone would make them?", beyond(score, "N2")),
        Answer("How many features come back?", returning(report)),
        Answer("How many SAEs would be needed to be sure?", more_seeds(report)),
    ]


def summary(report: Mapping[str, Any]) -> str:
    """Return the report in one line."""
    score = pick(report["scores"], "mean_max_cosine")
    gaps = {
        "chance": score["N0"] if missing(score["N0"]) else score["N0"]["gap"],
        "covariance-matched directions": score["N2"] if missing(score["N2"]) else score["N2"]["gap"],
    }
    beyond = ", ".join(f"beyond {null} {say(gap)}" for null, gap in gaps.items())
    return f"{len(report['inputs'])} SAEs: {label(score)} {say(score['estimate'])}; {beyond}"


LIMITS = (
    "Agreement is not truth. SAEs can agree on directions that mean nothing, and a feature that one SAE alone has found may "
    "be real.",
    "Beating the two nulls here is not enough to claim that the model has these features: SAEs trained on data without any "
    "features can agree beyond both. That takes SAEs trained on shuffled activations and on a network with random weights, "
    "which a report on finished SAEs cannot train for you.",
    "Intervals are over these SAEs, that is over seeds of the autoencoder. If all were trained on one model, nothing is "
    "said about another training of that model.",
    "Features are matched by the direction that they write. Two latents can fire on the same inputs and write differently, "
    "and one latent of one SAE can be split into several of another.",
    "SAEs of unequal widths agree less than SAEs of one width can: a narrow one has no room for all that a wide one has.",
)
"""What no report of this kind can say."""
