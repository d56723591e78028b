"""The table of features: what each latent shows, where it is matched, and whether it would come back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from husai.replication import COVARIATES, Predictor, Table, auroc
from husai.report.activity import Activity
from husai.report.blocks import Tiles
from husai.report.pairs import Pair
from husai.report.scores import MATCH, NEEDS_ACTIVATIONS, Entry, Found
from husai.stats import jackknife

MEASURED = ("firing_rate", "dead", "alignment", "replication_probability")
"""Columns that need activations."""
CAVEAT = (
    "A latent replicates when it has a match in more than half of the other SAEs. Fitted to data of other kinds, this"
    " predictor ranked features well (AUROC about 0.8) but its probabilities were off by up to 0.4 (notebook 25): read"
    " those of other SAEs than it was fitted to as a ranking."
)


def matched_in(found: Found, sides: Sequence[Tiles]) -> list[Tensor]:
    """Return, per SAE i, which of its latents have a match in each SAE j [SAEs, d_sae]; none in itself."""
    matches = [torch.zeros(len(sides), side.source.d_sae, dtype=torch.bool) for side in sides]
    for (i, j), pair in found.items():
        above = pair.mutual[2] > MATCH
        matches[i][j, pair.mutual[0][above]] = True
        matches[j][i, pair.mutual[1][above]] = True
    return matches


def summary(matches: Sequence[Tensor], sides: Sequence[Tiles]) -> list[Entry]:
    """Return, per SAE, how many of its counted latents are matched in every other, in all, in some and in none."""
    rows = []
    for i, (found, side) in enumerate(zip(matches, sides, strict=True)):
        number = found.sum(0)[side.keep]
        everywhere, nowhere = int((number == len(sides) - 1).sum()), int((number == 0).sum())
        rest = {"in_all": everywhere, "in_some": len(number) - everywhere - nowhere, "in_none": nowhere}
        rows.append({"sae": i, "latents": len(number), "per_other": found.sum(1).tolist(), **rest})
    return rows


def table(
    sides: Sequence[Tiles], everything: dict[tuple[int, int], Pair], matches: Sequence[Tensor],
    near: Sequence[Tensor], norms: Sequence[Tensor], active: Sequence[Activity] | None, dead: float,
) -> Entry:  # fmt: skip
    """Return the columns of the table, SAE after SAE; `everything` are the pairs over all latents."""
    best = [torch.zeros(side.source.d_sae, dtype=torch.float64) for side in sides]
    for (i, j), pair in everything.items():
        best[i] += pair.signed[0].double() / (len(sides) - 1)
        best[j] += pair.signed[1].double() / (len(sides) - 1)
    columns: Entry = {
        "sae": [i for i, side in enumerate(sides) for _ in range(side.source.d_sae)],
        "latent": [j for side in sides for j in range(side.source.d_sae)],
        "counted": _joined([side.keep for side in sides]),
        "best_cosine": _joined(best),
        "matched": _joined([found.sum(0) for found in matches]),
        "neighbour_cosine": _joined(near),
        "norm": _joined(norms),
    }
    if active is None:
        return columns | dict.fromkeys(MEASURED, NEEDS_ACTIVATIONS)
    columns["firing_rate"] = _joined([one.firing for one in active])
    columns["dead"] = _joined([one.firing <= dead for one in active])
    columns["alignment"] = _joined([one.alignment for one in active])
    return columns


def replication(
    active: Sequence[Activity], near: Sequence[Tensor], matches: Sequence[Tensor], sides: Sequence[Tiles],
    given: Predictor | None,
) -> tuple[Entry, Entry | list[float | None]]:  # fmt: skip
    """Return what is said of the predictor, and the probability of every latent, None of a dead one.

    From three SAEs on, the predictor of an SAE is fitted to the others, which do not look at it either: their latents
    replicate in more than half of the rest. With `given` all get that one.
    """
    if given is None and len(active) < 3:
        none = {"value": None, "reason": "needs 3 SAEs: a predictor is fitted to the others, which must have matches"}
        return none, none
    if any(int(side.keep.sum()) < 2 for side in sides):
        none = {"value": None, "reason": "an SAE has fewer than two latents alive"}
        return none, none
    rows = []
    for one, neighbour, side in zip(active, near, sides, strict=True):
        rows.append(one.covariates.copy())
        rows[-1][:, COVARIATES.index("neighbour")] = neighbour[side.keep]
    marks = [found[:, side.keep].numpy() for found, side in zip(matches, sides, strict=True)]
    predictors = [given if given is not None else _others(rows, marks, i) for i in range(len(rows))]
    told = [one.probability(own) for one, own in zip(predictors, rows, strict=True)]
    column: list[float | None] = []
    for side, own in zip(sides, told, strict=True):
        values = iter(own.tolist())
        column += [next(values) if kept else None for kept in side.keep.tolist()]
    about = {
        "source": "leave one SAE out" if given is None else "given", "caveat": CAVEAT,
        "covariates": list(predictors[0].names), "weights": [list(one.weights) for one in predictors],
        **_judged(told, Table(tuple(rows), tuple(marks))),
    }  # fmt: skip
    return about, column


def _others(rows: list[np.ndarray], marks: list[np.ndarray], left_out: int) -> Predictor:
    others = [i for i in range(len(rows)) if i != left_out]
    return Predictor.fit([Table(tuple(rows[i] for i in others), tuple(marks[i][others] for i in others))])


def _judged(told: Sequence[np.ndarray], found: Table) -> Entry:
    """Return share, AUROC and calibration error (five bins) with their jackknife over SAEs; of two only a share."""

    def share(saes: Sequence[int]) -> float:
        return float(np.concatenate(found.replicates(saes)).mean())

    def ranked(saes: Sequence[int]) -> float:
        return auroc(np.concatenate([told[i] for i in saes]), np.concatenate(found.replicates(saes)))

    def error(saes: Sequence[int]) -> float:
        predicted, labels = np.concatenate([told[i] for i in saes]), np.concatenate(found.replicates(saes))
        parts = np.array_split(np.argsort(predicted, kind="stable"), min(5, len(predicted)))
        return float(np.mean([abs(predicted[part].mean() - labels[part].mean()) for part in parts]))

    everyone = list(range(len(told)))
    if len(told) < 3:
        why = "two SAEs; no interval"
        one = {"value": share(everyone), "low": None, "high": None, "n": len(told), "method": why}
        none = {"value": None, "reason": "needs 3 SAEs"}
        return {"share": one, "auroc": none, "calibration_error": none}
    measures = {"share": share, "auroc": ranked, "calibration_error": error}
    return {name: _plain(jackknife(measure, len(told))) for name, measure in measures.items()}


def _plain(found: Any) -> Entry:
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n, "method": found.method}


def _joined(parts: Sequence[Tensor]) -> list[Any]:
    return torch.cat(list(parts)).tolist()
