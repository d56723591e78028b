"""The figures of a report: kinds of `husai.plots`, drawn from its JSON, as SVG that stands inside a page."""

import io
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from husai import plots
from husai.calibration import CRITERIA
from husai.evidence import Estimate
from husai.report.tables import missing
from husai.report.words import SCORES, estimate

SHORT = {
    "mean_max_cosine": "max cosine", "hungarian_mcc": "Hungarian", "frequency_weighted_max_cosine": "max cosine,\nweighted",
    "frequency_weighted_hungarian": "Hungarian,\nweighted",
}  # fmt: skip
NULLS = ("N0", "N2")
UNREADABLE = {
    "metadata": r"<metadata>.*?</metadata>", "comment": r"<!--.*?-->", "style": r"<style.*?</style>",
    "namespace": r'\sxmlns(:\w+)?="[^"]*"',
}  # fmt: skip
"""What SVG files hold and a page must not: a style of a figure would be one of the whole page."""


class Drawn(NamedTuple):
    """A figure of the page."""

    svg: str
    """The SVG element, named for those who cannot see it."""
    caption: str


def figures(report: Mapping[str, Any]) -> dict[str, Drawn]:
    """Return the figures that this report has values for, by name."""
    made = {"scores": scores, "gaps": gaps, "pairs": between, "thresholds": thresholds, "matched": matched,
            "subspaces": subspaces, "calibration": calibration}  # fmt: skip
    found = {}
    for name, draw in made.items():
        drawn = draw(report)
        if drawn is not None:
            figure, alt, caption = drawn
            found[name] = Drawn(inline(figure, name, alt), caption)
    return found


Found = tuple[Figure, str, str] | None


def inline(figure: Figure, name: str, alt: str) -> str:
    """Return a figure as an SVG element whose ids are its own, with a text for those who cannot see it; closes it."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    plt.close(figure)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    for pattern in UNREADABLE.values():
        text = re.sub(pattern, "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text).replace("xlink:href", "href")
    return text.replace("<svg", f'<svg role="img" aria-label="{alt}"', 1).strip()


def scores(report: Mapping[str, Any]) -> Found:
    """Draw every pair of SAEs, the estimate and the nulls, one column a score."""
    columns: dict[str, Any] = {}
    nulls: dict[str, dict[str, Estimate]] = {null: {} for null in NULLS}
    for score in report["scores"]:
        if score["name"] in SHORT and not missing(score["estimate"]) and not missing(score["matrix"]):
            name = f"{SHORT[score['name']]}\n({score['latents']})"
            columns[name] = (np.array(score["matrix"], dtype=float), estimate(score["estimate"]))
            for null in NULLS:
                if not missing(score[null]):
                    nulls[null][name] = estimate(score[null]["value"])
    if not columns:
        return None
    figure = plots.pairs({"": columns}, "cosine between SAEs", {null: row for null, row in nulls.items() if row})
    alt = "One column a score: a dot a pair of SAEs, an estimate with its interval, and grey bars for the nulls."
    return figure, alt, (
        "Each dot is a pair of SAEs, the larger dot with the bar the estimate with its 95 % interval over SAEs. Grey: the "
        "same score by chance (N0) and of directions with the covariance of the activations (N2)."
    )  # fmt: skip


def gaps(report: Mapping[str, Any]) -> Found:
    """Draw what is left of every score after each null."""
    groups: dict[str, dict[str, Estimate]] = {}
    for null, title in zip(NULLS, ("less N0, chance", "less N2, covariance-matched"), strict=True):
        rows = [
            score for score in report["scores"]
            if not missing(score[null]) and score["threshold"] in (None, report["settings"]["match_threshold"])
        ]  # fmt: skip
        if rows:
            groups[title] = {f"{SCORES[row['name']]}, {row['latents']}": estimate(row[null]["gap"]) for row in rows}
    if not groups:
        return None
    figure = plots.forest(groups, "score less that of the null", zero=0.0)
    alt = "One row a score: its difference from each null with an interval, beside a line at zero."
    return figure, alt, "To the right of the line the SAEs agree more than the null does. Bars are 95 % intervals over SAEs."


def between(report: Mapping[str, Any]) -> Found:
    """Draw the table of pairs, where there are more than two SAEs and few enough to read."""
    found = [score for score in report["scores"] if score["name"] == "mean_max_cosine" and not missing(score["matrix"])]
    size = len(report["inputs"])
    if not found or not 3 <= size <= 12:
        return None
    score = min(found, key=lambda one: one["latents"] != "alive")
    names = [str(entry["index"]) for entry in report["inputs"]]
    table = np.array(score["matrix"], dtype=float)
    figure = plots.heatmaps({"SAEs": (names, names, {score["latents"]: table})}, "mean max cosine", width=0.45 * size + 2.6)
    alt = "Table of all pairs of SAEs, their agreement written in each cell and shaded from light, 0, to dark, 1."
    return figure, alt, "Agreement of every pair: an SAE that stands apart from all others shows as a light row."


def thresholds(report: Mapping[str, Any]) -> Found:
    """Draw the share of features that come back against the cosine that counts as the same."""
    panels = {}
    for name in ("shared", "mutual"):
        for latents in ("alive", "all"):
            rows = [s for s in report["scores"] if (s["name"], s["latents"]) == (name, latents) and not missing(s["estimate"])]
            if len(rows) > 1 and SCORES[name] not in panels:
                panels[SCORES[name]] = ("cosine above", lines(rows, "threshold"))
    if not panels:
        return None
    figure = plots.interval_panels(panels, "share of latents", ylim=(-0.03, 1.03))
    alt = "Falling curves: the share of latents with a match against the cosine asked for, of the SAEs and of the nulls."
    return figure, alt, (
        "How many features come back, against the cosine that counts as the same. Shared: encoder and decoder rows find "
        "the same partner, one to one. Mutual nearest: each is the other's nearest decoder row. Bands are 95 % intervals."
    )  # fmt: skip


def lines(rows: list[Mapping[str, Any]], key: str) -> dict[str, tuple[list[float], list[Estimate]]]:
    """Return {line: (x, estimates)} of the SAEs and of each null that all rows have."""
    found = {"SAEs": ([row[key] for row in rows], [estimate(row["estimate"]) for row in rows])}
    for null in NULLS:
        if not any(missing(row[null]) for row in rows):
            found[null] = (found["SAEs"][0], [estimate(row[null]["value"]) for row in rows])
    return found


def matched(report: Mapping[str, Any]) -> Found:
    """Draw, a bar an SAE, which shares of its latents are found in all others, in some and in none."""
    kinds = {"in all others": "in_all", "in some": "in_some", "in none": "in_none"}
    rows = {}
    for entry in report["matched"]:
        if entry["latents"]:
            shares = {kind: entry[key] / entry["latents"] for kind, key in kinds.items()}
            rows[f"SAE {entry['sae']}"] = {kind: Estimate(x, x, x, 1) for kind, x in shares.items()}
    if not rows or len(rows) > 20:
        return None
    figure = plots.stacked({"": rows}, list(kinds), "share of counted latents")
    alt = "One bar an SAE, divided into latents that are found in all other SAEs, in some and in none."
    return figure, alt, "Counted latents of each SAE by how many of the other SAEs have them. A count, so without an interval."


def subspaces(report: Mapping[str, Any]) -> Found:
    """Draw the overlap of leading subspaces against their rank."""
    panels = {}
    for latents in ("alive", "all"):
        rows = [row for row in report["subspaces"] if row["latents"] == latents]
        if len(rows) > 1:
            panels[f"{latents} latents"] = ("rank", lines(rows, "rank"))
    if not panels:
        return None
    figure = plots.interval_panels(panels, "overlap", ylim=(-0.03, 1.03), xscale="log")
    alt = "Overlap of the leading decoder subspaces of two SAEs against their rank, beside the nulls."
    return figure, alt, "Overlap of the leading directions of two decoders: 1 is the same subspace. Bands are 95 % intervals."


def calibration(report: Mapping[str, Any]) -> Found:
    """Draw the criterion that chose k over its candidates."""
    found = report["recommendation"]
    if missing(found) or len(found["curve"]) < 2 or CRITERIA[0] not in found["curve"][0]:
        return None
    k = [row["k"] for row in found["curve"]]
    series = {"description length": (k, [row[CRITERIA[0]] for row in found["curve"]])}
    figure = plots.curves(series, "active latents k", "bits an input", xscale="log")
    alt = "Curve of the bits that an input takes against the number of active latents, with its lowest point at the chosen k."
    return figure, alt, "Bits that an input takes through small SAEs, less those without one, by the number of active latents."
