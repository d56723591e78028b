"""CE-style scores against width: SAEs beside as many latents of random dictionaries."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from husai import stats, study
from husai.activations import Activations
from husai.benches.contrastive import Bags, over_seeds, sentences
from husai.benches.probing import untrained
from husai.config import TrainConfig
from husai.evidence import Estimate
from husai.language.pretrained import LanguageModel
from husai.saes import SAEBatch
from husai.study import Study
from husai.text.stories import published

KINDS = ("SAE", "N0", "N2")
"""SAEs, and untrained dictionaries of their width and k: isotropic, and with the covariance of the data."""
CEILING = 0.95
"""A mean rank from which on ranks are too near 1 to compare widths."""


def controls(one: Study) -> dict[str, SAEBatch]:
    """Return a study's SAEs beside untrained dictionaries of their width and k, one a seed, by `probing.untrained`.

    "N0": isotropic rows; "N2": rows with the covariance of the data. ValueError: activations in shards.
    """
    made, rows = one.saes, one.activations.fit
    if not isinstance(rows, Tensor):
        raise ValueError("one has activations in shards; wanted activations in memory")
    drawn = untrained(made, rows)
    return {"SAE": made, "N0": drawn["random"], "N2": drawn["matched"]}


def trained(acts: Activations, config: TrainConfig, widths: Sequence[int], seeds: Sequence[int]) -> dict[int, Study]:
    """Return one study a width, all with the k that is chosen at the configuration's own width."""
    config = study.resolved(acts, config, seeds)
    configs = {width: replace(config, sae=replace(config.sae, d_sae=width)) for width in widths}
    return study.run({width: (acts, one) for width, one in configs.items()}, seeds)


Scored = dict[tuple[int, str], dict[str, list[float]]]
"""By width and kind ("SAE" and its `controls`), what `over_seeds` returns."""


def living(one: Study, kinds: Mapping[str, SAEBatch]) -> dict[str, list[Tensor]]:
    """Return the latents that score, one entry a seed: of all kinds as many, the first that fire on held-out rows.

    A dead latent is 0 in every pair and would add to the spread of an SAE's latents, not to a random dictionary's.
    """
    alive = {kind: saes.firing(one.activations.held_out) > 1e-3 for kind, saes in kinds.items()}
    fewest = torch.stack([kept.sum(1) for kept in alive.values()]).amin(0).tolist()
    return {kind: [row.nonzero()[:n, 0] for row, n in zip(kept, fewest, strict=True)] for kind, kept in alive.items()}


def score_all(studies: Mapping[int, Study], bags: Bags, draws: int, seed: int = 0) -> Scored:
    """Return the scores of every width, of its SAEs and of their controls, by as many living latents."""
    found: Scored = {}
    for width, one in studies.items():
        kinds = controls(one)
        columns = living(one, kinds)
        found |= {(width, kind): over_seeds(saes, bags, draws, seed, columns[kind]) for kind, saes in kinds.items()}
    return found


def below_ceiling(found: Scored) -> bool:
    """Return whether the SAEs' mean rank of the score as coded is below `CEILING` at every width."""
    ranks = [torch.tensor(row["interpretability_coded_rank"]) for (_, kind), row in found.items() if kind == "SAE"]
    return all(float(rank.mean()) < CEILING for rank in ranks)


def summary(found: Scored, width: int) -> dict[str, Estimate]:
    """Return what width does to a score, and what an SAE has beyond a random dictionary at one width.

    `rise_SAE`, `rise_N0`, `rise_N2`: interpretability as coded, widest less narrowest; `rise_rank` the same of the
    SAEs' mean rank; `excess_N0`, `excess_N2`: interpretability as the paper has it, SAE less control; `rank_N0` and
    `rank_N2` the same of the rank. Paired over SAE seeds. `score`, `coded`, `null` and `rank` are the SAEs' own there.
    """
    name, coded = "interpretability", "interpretability_coded"
    ends = min(w for w, _ in found), max(w for w, _ in found)
    narrow, wide = ({kind: found[end, kind] for kind in KINDS} for end in ends)
    here = {kind: found[width, kind] for kind in KINDS}
    rows = {
        f"rise_{kind}": stats.difference(wide[kind][f"{coded}_score"], narrow[kind][f"{coded}_score"]) for kind in KINDS
    }
    rows["rise_rank"] = stats.difference(wide["SAE"][f"{coded}_rank"], narrow["SAE"][f"{coded}_rank"])
    for kind in KINDS[1:]:
        rows[f"excess_{kind}"] = stats.difference(here["SAE"][f"{name}_score"], here[kind][f"{name}_score"])
        rows[f"rank_{kind}"] = stats.difference(here["SAE"][f"{name}_rank"], here[kind][f"{name}_rank"])
    own = {"score": f"{name}_score", "coded": f"{coded}_score", "null": f"{name}_null", "rank": f"{name}_rank"}
    return rows | {key: stats.mean(here["SAE"][field]) for key, field in own.items()}


def lines(found: Scored, field: str) -> dict[str, tuple[list[int], list[Estimate]]]:
    """Return one field against width, {kind: (widths, estimates over seeds)}, as `plots.interval_panels` draws it."""
    widths = sorted({width for width, _ in found})
    return {kind: (widths, [stats.mean(found[width, kind][field]) for width in widths]) for kind in KINDS}


def on_published(
    source: str, model: LanguageModel, hook: str, saes: SAEBatch, draws: int, rows: int = 200,
    columns: Sequence[Tensor] | None = None,
) -> dict[str, Estimate | str]:  # fmt: skip
    """Return the interpretability of SAEs on the published stories, or why these were not read.

    By all latents, or by some `columns` a seed. `source` is a folder or the dataset's name on the hub, "" for none.
    {"published": "run" or "not run: ..."} and, if it was run, `published_score`, `published_coded_score` and
    `published_rank`.
    """
    if not source:
        return {"published": "not run: no folder or dataset was named"}
    try:
        pairs = published(source, rows)
    except ValueError as error:
        return {"published": f"not run: {error}"}
    found = over_seeds(saes, sentences(model, hook, pairs), draws, columns=columns)
    ends = ("score", "coded_score", "rank")
    return {"published": "run"} | {f"published_{end}": stats.mean(found[f"interpretability_{end}"]) for end in ends}
