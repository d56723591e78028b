"""SAEs that were pulled to a reference: scored as the sources scored them, and as a new reference would have it."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from husai import contrasts, groups, metrics, nulls, objectives, resampling, saes, stats
from husai.comparison import compare, summarise
from husai.config import require
from husai.evidence import Estimate
from husai.rules import Candidate
from husai.saes import SAEBatch
from husai.study import Study, score_matrix

COST = 0.01
"""Rise of the FVU up to which a weight counts as affordable."""


def swept(studies: Mapping[float, Study], reference: SAEBatch) -> dict[float, dict[str, Estimate | float]]:
    """Return the sources' table of a sweep over weights, 0 among them; `reference` is one SAE, scored among the seeds.

    All latents. Of the seeds and the reference: `trained`, their agreement; `gap`, beyond random matrices; `bound`,
    the gap's conservative lower bound; `explained`, the variance as the sources define it; `gain_pairs`, agreement
    less that without the pull, pairs resampled as if independent. Of the seeds alone: `alignment`, 1 - the term
    that pulls: the mean |cos| of a latent with its nearest row of the reference, or with its row one to one; `gain`,
    agreement less that without the pull, paired by seed; `gain_alive`, that of latents that fire; `drop`, explained
    variance without the pull less that with it.
    ValueError: no weight of 0, other objectives or two of them, not one reference, other seeds.
    """
    require(0 in studies, "studies", list(studies), "a weight of 0 among them")
    names = sorted({study.config.objective.name for study in studies.values()})
    require(names in (["alignment"], ["assignment"]), "studies: objectives", names, "alignment or assignment in all")
    require(len(reference) == 1, "reference", f"{len(reference)} SAEs", "one")
    plain = studies[0]
    without, before = _among(plain, reference), _explained(plain)
    x = plain.activations.held_out
    own = metrics.other_explained_variance(x, reference.reconstruct(x)[0], "all_values")
    term = getattr(objectives, plain.config.objective.name)
    table: dict[float, dict[str, Estimate | float]] = {}
    for weight, study in studies.items():
        matrix, explained = _among(study, reference), _explained(study)
        d_sae, d_model = study.saes.W_dec.shape[1:]
        random = [nulls.isotropic(d_sae, d_model, seed) for seed in (*reference.seeds, *study.seeds)]
        chance = score_matrix("mean_max_cosine", random)
        away = term(study.saes.W_dec, reference.W_dec)
        table[weight] = {
            "trained": summarise(matrix[None]),
            "gap": summarise((matrix - chance)[None]),
            "bound": resampling.conservative_bound(matrix, chance),
            "explained": float(np.mean([own, *explained])),
            "alignment": stats.mean((1 - away).tolist()),
            "gain_pairs": resampling.pair_bootstrap(matrix, without),
            "gain": contrasts.contrast([study], [plain], latents="all"),
            "gain_alive": contrasts.contrast([study], [plain]),
            "drop": stats.difference(before, explained),
        }
    return table


def candidates(table: Mapping[float, Mapping[str, Estimate | float]]) -> list[Candidate]:
    """Return what the sources' rules (`husai.rules`) look at, of a table of `swept`; nothing external was run."""
    base, names = _value(table[0]["explained"]), ("gap", "bound", "explained", "alignment")
    rows = {weight: [_value(row[name]) for name in names] for weight, row in table.items()}
    return [Candidate(w, gap, bound, base - kept, near) for w, (gap, bound, kept, near) in rows.items()]


def affordable(studies: Mapping[float, Study], most: float = COST) -> tuple[float, bool]:
    """Return the largest weight whose mean held-out FVU is at most `most` above that of weight 0, and True.

    Agreement does not enter the choice. Where no weight above 0 is as cheap: the smallest one, and False. ValueError:
    no weight of 0, or none above it.
    """
    require(0 in studies and len(studies) > 1, "studies", list(studies), "a weight of 0 and others")
    fvu = {weight: study.quality["fvu"].value for weight, study in studies.items()}
    cheap = [weight for weight, value in fvu.items() if weight and value <= fvu[0] + most]
    return (max(cheap), True) if cheap else (min(weight for weight in fvu if weight), False)


def unmoved(study: Study) -> Estimate:
    """Return the share of latents whose decoder row is at the last step where it was at step 0, within 1e-5.

    Where nothing pulls and no auxiliary loss is on, these never fired in the training: nothing else moves their rows.
    """
    moved = (study.saes.W_dec - study.at(0).W_dec).abs().amax(-1)
    return stats.mean((moved < 1e-5).double().mean(1).tolist())


def grouped(
    study: Study, plain: Study, names: Sequence[Hashable], *, latents: str = "alive"
) -> dict[str, Estimate | float | bool]:
    """Return the agreement within and between groups of seeds that were pulled to a reference a group.

    `names` says each seed's group; `plain` holds the same seeds without the pull. `within`, `between` and
    `registration` (their difference) as `groups.agreement`; `within_gain` and `between_gain` are the changes that the
    pull made, paired by seed, at equal alive counts unless `latents="all"`; `drift` is how much of the between-group
    change came with the last doubling of the steps, `steady` whether that is within `contrasts.STEADY`; `null` is what
    directions with the covariance of the activations score (N2). In one model. ValueError: other seeds, no checkpoint
    half-way, and as `groups.agreement`.
    """
    found = groups.agreement(study.scores("mean_max_cosine", latents), names)._asdict()
    change = contrasts.over_groups(study, plain, names, latents=latents)
    found |= {"within_gain": change["within"], "between_gain": change["between"]}
    null = compare([study], "N2", latents=latents).null_score
    return found | {"drift": change["drift"], "steady": change["steady"], "null": null}


def regrouped(
    studies: Mapping[float, Study], names: Sequence[Hashable], *, latents: str = "alive"
) -> dict[float, dict[str, Estimate | float | bool]]:
    """Return `grouped` of every weight against that of 0. ValueError: no weight of 0, and as `grouped`."""
    require(0 in studies, "studies", list(studies), "a weight of 0 among them")
    return {weight: grouped(study, studies[0], names, latents=latents) for weight, study in studies.items()}


def _among(study: Study, reference: SAEBatch) -> np.ndarray:
    """Return the scores of the reference and all seeds, the reference first."""
    return score_matrix("mean_max_cosine", list(saes.stack([reference, study.saes]).W_dec))


def _explained(study: Study) -> list[float]:
    x = study.activations.held_out
    return [metrics.other_explained_variance(x, x_hat, "all_values") for x_hat in study.saes.reconstruct(x)]


def _value(found: Estimate | float) -> float:
    return found.value if isinstance(found, Estimate) else found
