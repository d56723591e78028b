"""The report itself: which scores, beside which nulls, on which latents."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from husai import __version__
from husai.matching import CANDIDATES, EXACT
from husai.replication import Predictor
from husai.report import advice, features, inputs, pairs, scores
from husai.report.activity import Activity, Sample, measure, read_activations
from husai.report.blocks import TILE, Tiles
from husai.report.inputs import Input
from husai.report.scores import DEAD, MATCH, NEEDS_ACTIVATIONS, NULL_SEED, PLAIN, THRESHOLDS, WEIGHTED, Chance, Entry

RHO = 0.25
"""Correlation taken between pairs that share an SAE, where SAEs needed are counted (notebook 25)."""


def evaluate(
    folders: Sequence[Path | str],
    activations: Path | str | None = None,
    *,
    rows: int = 8192,
    recommend: bool = False,
    width: int = 256,
    steps: int = 1024,
    predictor: Predictor | None = None,
) -> dict[str, Any]:
    """Return the stability report of two or more SAEs, the JSON that `stability-v1.schema.json` describes.

    `folders` are sae_lens, sparsify, dictionary_learning or husai folders (one of ours counts as one SAE a seed), local
    or hf://; any d_sae, one d_model. `activations` is a safetensors file that holds one matrix [inputs, d_model]; of
    more than `rows` of them a fixed random share is used. Without it only decoders are read, and what needs activations
    is `{"value": None, "reason": "needs activations"}`. `recommend` trains small SAEs of `width` latents for up to
    `steps` steps to choose a k (`study.calibrate_l0`). `predictor` is used for the replication probability instead of
    one that is fitted to these SAEs, leaving one out. Write it with `evidence.write_json`. ValueError: fewer than two
    SAEs, another d_model, no decoder, a transcoder, activations that do not fit; it names the folder.
    """
    saes = inputs.open_inputs(folders)
    d_model = saes[0].declared.d_model
    sample = None if activations is None else read_activations(activations, d_model, rows)
    active = None if sample is None else [measure(one, sample.x, DEAD) for one in saes]
    keeps = [None if active is None else active[i].firing > DEAD for i in range(len(saes))]
    sides = [Tiles(one, keep) for one, keep in zip(saes, keeps, strict=True)]
    report = _measured(saes, sample, active, sides, predictor)
    if recommend and sample is not None:
        report["recommendation"] = recommended(sample, report, width, steps)
    return _rounded(report)


def recommended(sample: Sample, report: Entry, width: int, steps: int) -> Entry:
    """Return the width and k to try, from the activations of a report."""
    return advice.recommendation(sample.x, report["effective_rank"]["activations"], width, steps)


def _measured(
    saes: Sequence[Input], sample: Sample | None, active: Sequence[Activity] | None, sides: Sequence[Tiles],
    predictor: Predictor | None,
) -> Entry:  # fmt: skip
    """Return the report, all but the recommendation."""
    count, d_model = len(saes), saes[0].declared.d_model
    root, rank = (None, NEEDS_ACTIVATIONS) if sample is None else advice.of_activations(sample.x)
    found = {(i, j): pairs.compare(sides[i], sides[j]) for j in range(count) for i in range(j)}
    everything = {key: views["all"] for key, views in found.items()}
    living = all("kept" in views for views in found.values())
    counted = {key: views["kept"] for key, views in found.items()} if living else everything
    chance = {"N0": Chance(d_model)} | ({} if root is None else {"N2": Chance(d_model, root)})
    for views, null in product(found.values() if living else (), chance.values()):
        null.draw(views["all"].sizes, views["kept"].sizes)
    entries = scores.entries(everything, count, "all", chance, None)
    if active is not None and living:
        entries += scores.entries(counted, count, "alive", chance, [one.firing for one in active])
    else:
        reason = "needs activations" if active is None else "an SAE has no latent alive"
        entries += scores.missing("alive", [*PLAIN, *WEIGHTED], reason)
    matches = features.matched_in(counted, sides)
    near = [pairs.neighbours(side) for side in sides]
    norms = [torch.cat([one.rows(i, min(i + TILE, one.d_sae)).norm(dim=1) for i in range(0, one.d_sae, TILE)])
             for one in saes]  # fmt: skip
    table = features.table(sides, everything, matches, near, norms, active, DEAD)
    about: Entry = NEEDS_ACTIVATIONS
    if active is not None:
        about, table["replication_probability"] = features.replication(active, near, matches, sides, predictor)
    usable = all(side.sizes["kept"] for side in sides)
    spanned = sides if usable else [Tiles(one) for one in saes]
    spans = [advice.Spans(side) for side in spanned]
    latents = "alive" if active is not None and usable else "all"
    return {
        "protocol": "stability-v1", "version": "1.0.0",
        "generator": {"name": "husai", "version": __version__},
        "settings": {
            "thresholds": list(THRESHOLDS), "match_threshold": MATCH, "dead_threshold": DEAD, "candidates": CANDIDATES,
            "exact_below": EXACT, "null_seed": NULL_SEED, "rho": RHO,
        },
        "inputs": [one.entry(i) for i, one in enumerate(saes)],
        "duplicates": inputs.duplicates(saes),
        "warnings": warnings(saes, sample, active),
        "activations": NEEDS_ACTIVATIONS if sample is None else sample.entry(),
        "scores": entries,
        "subspaces": advice.subspaces(spans, spanned, latents, root, _own_seeds(saes)),
        "matched": features.summary(matches, sides),
        "features": table,
        "replication": about,
        "seeds_needed": scores.seeds_needed([row for row in entries if "reason" not in row["estimate"]], RHO),
        "effective_rank": {"activations": rank, "decoders": [span.ranks for span in spans]},
        "recommendation": NEEDS_ACTIVATIONS if sample is None else {"value": None, "reason": "was not asked for"},
        "quality": NEEDS_ACTIVATIONS if active is None else [{"sae": i, **one.quality} for i, one in enumerate(active)],
    }  # fmt: skip


def warnings(saes: Sequence[Input], sample: Sample | None, active: Sequence[Activity] | None) -> list[str]:
    """Return, in words, what a reader should know before the scores."""
    found = [f"{saes[i].name} and {saes[j].name} have the same weights" for i, j in inputs.duplicates(saes)]
    shapes = {(one.declared.architecture, one.declared.k) for one in saes}
    if len(shapes) > 1:
        found.append("the SAEs differ in architecture or k, on which every score depends")
    if len({one.d_sae for one in saes}) > 1:
        found.append("the SAEs differ in d_sae: latents left over by a one-to-one matching count as 0")
    if len(saes) < 3:
        found.append("fewer than 3 SAEs: no score has an interval")
    if sample is not None and len(sample.x) < 1 / DEAD:
        found.append(f"{len(sample.x)} activations: a latent that fires once counts as alive")
    for one, what in zip(saes, active or (), strict=False):
        if what.quality["fvu"] > 0.5 or what.quality["alive"] < 0.5:
            found.append(f"{one.name} explains less than half of the variance, or fewer than half of its latents live")
    return found


def _own_seeds(saes: Sequence[Input]) -> list[int]:
    """Return one seed an SAE for its drawn double, which goes with its weights and not with its place in the list."""
    order = sorted(range(len(saes)), key=lambda i: (saes[i].sha256, saes[i].position))
    return [NULL_SEED + order.index(i) for i in range(len(saes))]


def _rounded(value: Any) -> Any:
    """Return a report with seven significant digits, more than float32 sums hold."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, Tensor):
        return _rounded(value.tolist())
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
