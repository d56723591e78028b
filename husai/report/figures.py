"""The figures of a report: kinds of `husai.plots`, drawn from its JSON, as SVG that stands inside a page."""

import io
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from husai import plots
from husai.evidence import Estimate
from husai.report.tables import missing
from husai.report.words import SCORES, estimate, pick

SHORT = {
    "mean_max_cosine": "max cosine", "hungarian_mcc": "Hungarian",
    "frequency_weighted_max_cosine": "max cosine,\nweighted", "frequency_weighted_hungarian": "Hungarian,\nweighted",
}  # fmt: skip
NULLS = {"N0": "less N0, chance", "N2": "less N2, covariance-matched"}
UNREADABLE = (r"<metadata>.*?</metadata>", r"<!--.*?-->", r"<style.*?</style>", r'\sxmlns(:\w+)?="[^"]*"')
"""What SVG files hold and a page must not: a style of a figure, for one, would be one of the whole page."""
WORDS = {
    "scores": (
        "One column a score: a dot a pair of SAEs, an estimate with its interval, and grey bars for the nulls.",
        "Each dot is a pair of SAEs, the larger dot the estimate with its 95 % interval over SAEs. Grey: the "
        "same score by chance (N0) and of directions with the covariance of the activations (N2).",
    ),
    "gaps": (
        "One row a score: its difference from each null with an interval, beside a line at zero.",
        "To the right of the line the SAEs agree more than the null does. Bars are 95 % intervals over SAEs.",
    ),
    "pairs": (
        "Table of all pairs of SAEs, their agreement written in each cell and shaded from light, 0, to dark, 1.",
        "Agreement of every pair: an SAE that stands apart from all others shows as a light row.",
    ),
    "thresholds": (
        "Falling curves: share of latents with a match against the cosine asked for, of the SAEs and of the nulls.",
        "How many latents come back, against the cosine that counts as the same. Shared: one-to-one partners. Mutual "
        "nearest: each is the other's nearest. Bands are 95 % intervals over SAEs.",
    ),
    "matched": (
        "One bar an SAE, divided into latents that are found in all other SAEs, in some and in none.",
        "Counted latents of each SAE by how many of the other SAEs have them: counts, and so without intervals.",
    ),
    "subspaces": (
        "Overlap of the leading decoder subspaces of two SAEs against their rank, beside the nulls.",
        "Overlap of the leading directions of two decoders: 1 is the same subspace. Bands: 95 % intervals over SAEs.",
    ),
    "calibration": (
        "Curve of the bits that an input takes against the number of active latents; the chosen k is its lowest point.",
        "Bits that an input takes through small SAEs, less those without one, by the number of active latents.",
    ),
}
"""What each figure shows for those who cannot see it, and its caption."""


class Drawn(NamedTuple):
    """A figure of the page."""

    svg: str
    caption: str


def figures(report: Mapping[str, Any]) -> dict[str, Drawn]:
    """Return the figures that this report has values for, by name."""
    kinds = {"scores": scores, "gaps": gaps, "pairs": between, "thresholds": thresholds, "matched": matched,
             "subspaces": subspaces, "calibration": calibration}  # fmt: skip
    drawn = {name: draw(report) for name, draw in kinds.items()}
    return {
        name: Drawn(inline(figure, name, WORDS[name][0]), WORDS[name][1])
        for name, figure in drawn.items()
        if figure is not None
    }


def inline(figure: Figure, name: str, alt: str) -> str:
    """Return a figure as an SVG element with ids of its own and a text for those who cannot see it; closes it."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    plt.close(figure)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    for pattern in UNREADABLE:
        text = re.sub(pattern, "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text).replace("xlink:href", "href")
    return text.replace("<svg", f'<svg role="img" aria-label="{alt}"', 1).strip()


def scores(report: Mapping[str, Any]) -> Figure | None:
    """Draw every pair of SAEs, the estimate and the nulls, one column a score."""
    columns: dict[str, Any] = {}
    nulls: dict[str, dict[str, Estimate]] = {null: {} for null in NULLS}
    for score in report["scores"]:
        if score["name"] in SHORT and not missing(score["estimate"]):
            name = f"{SHORT[score['name']]}\n({score['latents']})"
            columns[name] = (np.array(score["matrix"], dtype=float), estimate(score["estimate"]))
            for null in NULLS:
                if not missing(score[null]):
                    nulls[null][name] = estimate(score[null]["value"])
    if not columns:
        return None
    return plots.pairs({"": columns}, "cosine between SAEs", {null: row for null, row in nulls.items() if row})


def gaps(report: Mapping[str, Any]) -> Figure | None:
    """Draw what is left of every score after each null."""
    shown = (None, report["settings"]["match_threshold"])
    groups: dict[str, dict[str, Estimate]] = {}
    for null, title in NULLS.items():
        rows = [row for row in report["scores"] if not missing(row[null]) and row["threshold"] in shown]
        if rows:
            groups[title] = {f"{SCORES[row['name']]}, {row['latents']}": estimate(row[null]["gap"]) for row in rows}
    return plots.forest(groups, "score less that of the null", zero=0.0) if groups else None


def between(report: Mapping[str, Any]) -> Figure | None:
    """Draw the table of pairs, where there are more than two SAEs and few enough to read."""
    score, names = pick(report["scores"]), [str(entry["index"]) for entry in report["inputs"]]
    if missing(score["matrix"]) or not 3 <= len(names) <= 12:
        return None
    table = {score["latents"]: np.array(score["matrix"], dtype=float)}
    return plots.heatmaps({"SAEs": (names, names, table)}, "mean max cosine", width=0.45 * len(names) + 2.6)


def thresholds(report: Mapping[str, Any]) -> Figure | None:
    """Draw the share of latents that come back against the cosine that counts as the same."""
    panels = {}
    for name in ("shared", "mutual"):
        rows = [row for row in report["scores"] if row["name"] == name and not missing(row["estimate"])]
        rows = [row for row in rows if row["latents"] == "alive"] or rows
        if len(rows) > 1:
            panels[SCORES[name]] = ("cosine above", lines(rows, "threshold"))
    return plots.interval_panels(panels, "share of latents", ylim=(-0.03, 1.03)) if panels else None


def lines(rows: list[Mapping[str, Any]], key: str) -> dict[str, tuple[list[Any], list[Estimate]]]:
    """Return {line: (x, estimates)} of the SAEs and of each null that all rows have."""
    x = [row[key] for row in rows]
    found = {"SAEs": (x, [estimate(row["estimate"]) for row in rows])}
    for null in NULLS:
        if not any(missing(row[null]) for row in rows):
            found[null] = (x, [estimate(row[null]["value"]) for row in rows])
    return found


def matched(report: Mapping[str, Any]) -> Figure | None:
    """Draw, a bar an SAE, which shares of its latents are found in all others, in some and in none."""
    kinds = {"in all others": "in_all", "in some": "in_some", "in none": "in_none"}
    rows = {}
    for entry in report["matched"]:
        if entry["latents"]:
            shares = {kind: entry[key] / entry["latents"] for kind, key in kinds.items()}
            rows[f"SAE {entry['sae']}"] = {kind: Estimate(x, x, x, 1) for kind, x in shares.items()}
    return plots.stacked({"": rows}, list(kinds), "share of counted latents") if 0 < len(rows) <= 20 else None


def subspaces(report: Mapping[str, Any]) -> Figure | None:
    """Draw the overlap of leading subspaces against their rank."""
    groups = {
        latents: [row for row in report["subspaces"] if row["latents"] == latents] for latents in ("alive", "all")
    }
    panels = {f"{latents} latents": ("rank", lines(rows, "rank")) for latents, rows in groups.items() if len(rows) > 1}
    return plots.interval_panels(panels, "overlap", ylim=(-0.03, 1.03), xscale="log") if panels else None


def calibration(report: Mapping[str, Any]) -> Figure | None:
    """Draw the criterion that chose k over its candidates."""
    found = report["recommendation"]
    if missing(found) or len(found["curve"]) < 2 or "description_length" not in found["curve"][0]:
        return None
    bits = [row["k"] for row in found["curve"]], [row["description_length"] for row in found["curve"]]
    panels = {"": ("active latents k", "bits an input", {"description length": bits})}
    return plots.curve_panels(panels, columns=1, marks={"": float(found["k"])}, xscale="log")
