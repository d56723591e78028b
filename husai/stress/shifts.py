"""A change of the data: SAEs are trained on one part of the inputs and judged on another that they never saw."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.metrics import roc_auc_score
from torch import Tensor

from husai import comparison, metrics, stats
from husai.activations import Activations
from husai.config import TaskConfig, require
from husai.evidence import Estimate
from husai.language.site import Site
from husai.models import Models
from husai.saes import ROWS
from husai.study import Study, score_matrix
from husai.tasks import frequency_power, generator, sequences

PROBED = 4096
"""Training rows that a probe is fitted on."""


class Part(NamedTuple):
    """Inputs on which SAEs are judged."""

    values: Float[Tensor, "n d_model"]
    labels: Bool[Tensor, " n"]
    """What a probe is asked for."""


class Shift(NamedTuple):
    """Activations that SAEs are trained on, with their own held-out rows, and parts that they are not."""

    inside: Activations
    labels: Bool[Tensor, " n"]
    """What a probe is asked for, of every row of `inside`."""
    outside: dict[str, Part]


def apart(acts: Activations, labels: Bool[Tensor, " n"], outside: Mapping[str, Bool[Tensor, " n"]]) -> Shift:
    """Return activations without the rows of any part outside, and these parts; the split of the rest is kept.

    ValueError: activations in shards, labels or a part that are not one entry a row, an empty part.
    """
    require(isinstance(acts.values, Tensor), "acts", "shards", "activations in memory")
    for name, rows in {"labels": labels, **outside}.items():
        require(rows.shape == acts.training.shape, name, tuple(rows.shape), f"one entry for each of {len(acts.values)}")
        require(bool(rows.any()), name, "none", "at least one row")
    inside = ~torch.stack([*outside.values()]).any(0)
    kept = Activations(acts.values[inside], acts.training[inside], f"{acts.name}, without {', '.join(outside)}")
    parts = {name: Part(acts.values[rows], labels[rows]) for name, rows in outside.items()}  # type: ignore[arg-type]
    return Shift(kept, labels[inside], parts)


def residues(acts: Activations, models: Models, share: float = 0.25, seed: int = 0) -> Shift:
    """Return the inputs of one model whose answer lies in some residues, held out from all others.

    "residues": a random share of them; "inputs", the contrast: as many inputs, whatever their answer. A probe is asked
    for the sign of the wave cos(2 pi f c / p) of the answer c at the embedding's strongest frequency f. ValueError: a
    share outside (0, 1), several models.
    """
    require(0 < share < 1, "share", share, "a share above 0 and below 1")
    require(len(models.seeds) == 1, "models", f"{len(models.seeds)} of them", "one: `models.select(i)`")
    task: TaskConfig = models.task
    answers, draw = sequences(task).answers, generator(seed, "stress/residues")
    chosen = torch.randperm(task.p, generator=draw)[: round(share * task.p)]
    residue = torch.isin(answers, chosen)
    free = (~residue).nonzero()[:, 0]
    other = torch.zeros_like(residue)
    other[free[torch.randperm(len(free), generator=draw)[: round(share / 2 * len(free))]]] = True
    frequency = int(frequency_power(models.parameters["embed.W_E"][0, : task.p]).argmax()) + 1
    wave = torch.cos(2 * torch.pi * frequency * answers / task.p) > 0
    return apart(acts, wave, {"residues": residue, "inputs": other})


def corpora(site: Site, last: int = 1) -> Shift:
    """Return the text of a site without Python's language reference and without some packages, held out from the rest.

    "topics": the language reference, a real change of text; "alphabet": the last packages by the alphabet, the
    sources' way of splitting. A probe is asked whether a token goes on with a word that another began.
    """
    labels = [site.corpus.labels[i] for i in site.text.document.tolist()]
    packages = sorted({*labels} - {"topics"})
    require(len(packages) > last, "last", last, f"fewer than the {len(packages)} packages")
    outside = {"topics": ["topics"], "alphabet": packages[-last:]}
    masks = {name: torch.tensor([label in among for label in labels]) for name, among in outside.items()}
    pieces = site.model.tokenizer.convert_ids_to_tokens(site.text.ids.tolist())
    goes_on = torch.tensor([str(piece).startswith("##") for piece in pieces])
    return apart(site.text.acts, goes_on, masks)


def judge(studies: Sequence[Study], shifts: Sequence[Shift], name: str) -> dict[str, Estimate]:
    """Return what SAEs lose on a part outside, beside their held-out rows; one entry of both lists a model.

    `fvu`: variance that is not explained, about the mean of the rows in question; `agreement`: mean max cosine between
    seeds, each latent weighted by how often it fires on those rows; `auc`: of a linear discriminant on latents, fitted
    on training rows. Of each `_inside`, `_outside` and the loss: `fvu_drop` and `auc_drop` and `agreement_drop` are
    above 0 where the part outside is worse. Intervals over models and seeds, or in this model.
    """
    found = [_one(study, shift, shift.outside[name]) for study, shift in zip(studies, shifts, strict=True)]
    estimates: dict[str, Estimate] = {}
    for key, sign in (("fvu", -1), ("agreement", 1), ("auc", 1)):
        inside, outside = (np.stack([one[f"{key}_{side}"] for one in found]) for side in ("inside", "outside"))
        for end, values in (("inside", inside), ("outside", outside), ("drop", sign * (inside - outside))):
            estimates[f"{key}_{end}"] = over(values)
    return estimates


def over(values: np.ndarray) -> Estimate:
    """Return the mean of [models, seeds] or [models, seeds, seeds]: crossed from three models on, else in the first."""
    if values.ndim == 3:
        return comparison.summarise(values)
    return stats.crossed(values).estimate if len(values) >= 3 else stats.mean(values[0])


def fvu_drops(study: Study, shift: Shift, name: str) -> list[float]:
    """Return, per seed, FVU on a part outside less that on held-out rows."""
    found = _fvu(study, shift.outside[name].values), _fvu(study, shift.inside.held_out)
    return [outside - inside for outside, inside in zip(*found, strict=True)]


def _fvu(study: Study, x: Tensor) -> list[float]:
    return [metrics.fvu(x, x_hat, x.mean(0)) for x_hat in study.saes.reconstruct(x)]


def _one(study: Study, shift: Shift, outside: Part) -> dict[str, np.ndarray]:
    acts, found = shift.inside, {}
    held = acts.training if bool(acts.training.all()) else ~acts.training
    sides = {"inside": Part(acts.held_out, shift.labels[held]), "outside": outside}
    probes = [_probe(study, i, shift) for i in range(len(study.seeds))]
    for side, part in sides.items():
        found[f"fvu_{side}"] = np.array(_fvu(study, part.values))
        rates = list(study.saes.firing(part.values))
        rows = [*study.saes.W_dec]
        found[f"agreement_{side}"] = score_matrix("frequency_weighted_max_cosine", rows, rates)
        found[f"auc_{side}"] = np.array([_auc(study, i, probe, part) for i, probe in enumerate(probes)])
    return found


def _probe(study: Study, index: int, shift: Shift) -> Float[Tensor, " d_sae"]:
    """Return the direction of a linear discriminant on one SAE's latents, (S + r I)^-1 (mean of true - of false)."""
    acts = shift.inside
    rows = acts.training.nonzero()[:, 0]
    rows = rows[torch.randperm(len(rows), generator=generator(0, "stress/probe"))[:PROBED]]
    z, labels = study.saes[index].encode(acts.values[rows])[0].double(), shift.labels[rows]  # type: ignore[index]
    require(bool(labels.any()) and not bool(labels.all()), "labels", "one value", "rows that have it and rows without")
    gap = z[labels].mean(0) - z[~labels].mean(0)
    centred = torch.cat([z[labels] - z[labels].mean(0), z[~labels] - z[~labels].mean(0)])
    within = centred.T @ centred / len(z)
    ridge = 1e-2 * within.diagonal().mean().clamp(min=1e-12)
    return torch.linalg.solve(within + ridge * torch.eye(len(within), dtype=z.dtype), gap)


def _auc(study: Study, index: int, probe: Tensor, part: Part) -> float:
    """Return the area under the ROC curve of a probe; 1/2 where all rows of a part have one label."""
    scores = torch.cat([study.saes[index].encode(x)[0].double() @ probe for x in part.values.split(ROWS)])
    varies = bool(part.labels.any()) and not bool(part.labels.all())
    return float(roc_auc_score(part.labels.numpy(), scores.numpy())) if varies else 0.5
