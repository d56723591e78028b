"""Evidence about a study: each function computes its values from the study whose hash the evidence carries."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from husai import artifacts, comparison, gate, health, metrics, stats
from husai.benches import probing
from husai.evidence import Estimate
from husai.language.pretrained import Tokens
from husai.language.site import Site
from husai.release.candidates import data
from husai.release.faithfulness import embedding_recovered
from husai.stress import shifts
from husai.study import Study

BASELINES = ("pca", "neurons", "random", "matched")
"""What k latents must beat: k principal axes, coordinates, isotropic and covariance-matched directions."""
WHERE = "75:{name}_{gate}"
"""Where a reader finds a value."""


class Bench(NamedTuple):
    """What all candidates are measured on."""

    site: Site
    tasks: Sequence[probing.Task]
    """Of the probes."""
    sizes: Sequence[int]
    """Numbers of latents that a probe may read."""
    other: shifts.Shift
    """Texts of another kind, its part "texts"."""
    documents: Tokens
    """On which the model's output is compared."""
    profile: str


class Measured(NamedTuple):
    """A value, the inputs that it was measured on, and the least and most that it can be."""

    value: Estimate
    data: str
    against: str = ""
    attainable: tuple[float, float] = (-math.inf, math.inf)


def proofs(name: str, study: Study, trained: Mapping[str, Study], bench: Bench) -> tuple[list[gate.Evidence], str]:
    """Return all evidence about a study, and the baseline that its probes are compared with.

    `trained` holds the trained nulls of the same recipe by name.
    """
    probed, best = probe(study, bench)
    found = internal(study, trained) | outside(study, bench) | {"probe": probed}
    found["faithfulness"] = faithfulness(study, bench)
    digest, fit = artifacts.verify(study.folder), sound(study)
    where = {key: WHERE.format(name=name, gate=key) for key in found}
    proofs = [
        gate.Evidence(
            key, one.value, digest, study.seeds, one.data, bench.profile, fit, where[key], one.against, one.attainable
        )
        for key, one in found.items()
    ]  # fmt: skip
    return proofs, best


def sound(study: Study) -> bool:
    """Return whether SAEs have the L0 that they should and living latents, by `book/quality.toml`.

    How much they explain, and whether they have stopped moving, are gates of their own.
    """
    apart = ("explained variance", "converged")
    passed = health.passes(study.quality, study.saes.config.active, True)
    return all(passed[key] for key in passed if key not in apart)


def internal(study: Study, trained: Mapping[str, Study]) -> dict[str, Measured]:
    """Return what a study says about itself: the gaps to N2 and to trained nulls, FVU, and whether it still moves."""
    on = data(study)
    found = {"N2": comparison.compare([study], "N2")}
    found |= {name: comparison.compare([study], [null], name=name) for name, null in trained.items()}
    most = {name: 1 - one.null_score.value for name, one in found.items()}
    gaps = {f"stability_{name}": Measured(one.gap, on, "", (-1.0, most[name])) for name, one in found.items()}
    still = Measured(plateau(study), on, "", (-1.0, 1.0))
    return gaps | {"fvu": Measured(study.quality["fvu"], on, "", (0.0, math.inf)), "plateau": still}


def plateau(study: Study) -> Estimate:
    """Return how much the agreement of alive latents changed over the last doubling, in the direction of its mean."""
    then, now = (
        metrics.pairwise_matrix(metrics.mean_max_cosine, study.at(step).decoders(study.alive))
        for step in (study.last // 2, study.last)
    )
    moved = now - then
    return stats.pairwise(moved if stats.pairwise(moved).value >= 0 else -moved)


def outside(study: Study, bench: Bench) -> dict[str, Measured]:
    """Return what these SAEs lose on texts of another kind: variance beyond principal axes, agreement, probes."""
    (lost,) = shifts.judge([study], [bench.other]).values()
    on = artifacts.content_hash(*[part.values for part in bench.other.outside.values()])
    values = {"ood_fvu": lost["excess_drop"], "ood_agreement": lost["agreement_drop"], "ood_auc": lost["auc_drop"]}
    ends = {"ood_fvu": (-math.inf, math.inf), "ood_agreement": (-1.0, 1.0), "ood_auc": (-1.0, 1.0)}
    return {key: Measured(value, on, "", ends[key]) for key, value in values.items()}


def faithfulness(study: Study, bench: Bench) -> Measured:
    """Return how much of the model's output these SAEs give back, over seeds."""
    place = bench.site
    kept = embedding_recovered(place.model, place.hook, study.saes, bench.documents, study.activations.mean)
    return Measured(stats.mean(kept), artifacts.content_hash(bench.documents.ids), "", (-math.inf, 1.0))


def probe(study: Study, bench: Bench) -> tuple[Measured, str]:
    """Return the AUC of probes on latents less that of the best baseline with as few numbers, and which that is."""
    scores = probing.scores(bench.tasks, study.saes, bench.sizes)
    best, gap = against_baselines(scores)
    rows = artifacts.content_hash(*[task.rows for task in bench.tasks])
    base = float(scores.chosen[best].mean())
    return Measured(gap, rows, rows, (-base, 1 - base)), best


def against_baselines(scores: probing.Scores) -> tuple[str, Estimate]:
    """Return the best of the baselines with as few numbers, and the AUC of latents less its, over classes and seeds.

    The best is the one with the highest mean AUC on the inner part of the training items, the same for all tasks: no
    test item chooses what latents are compared with.
    """
    best = max(BASELINES, key=lambda code: float(np.mean(scores.inner[code])))
    return best, replace(probing.over_classes(scores.delta("sae", best), scores.tasks), unit="AUC")
