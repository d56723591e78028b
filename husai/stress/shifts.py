"""A change of the data: SAEs are trained on one part of the inputs and judged on another that they never saw."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from husai import comparison, stats
from husai.activations import Activations
from husai.benches.contrastive import read
from husai.benches.probing import encoder, sparse_probe
from husai.config import TaskConfig, require
from husai.evidence import Estimate
from husai.language.pretrained import LanguageModel
from husai.language.site import Site
from husai.models import Models
from husai.saes import SAEBatch
from husai.study import Study, score_matrix
from husai.tasks import frequency_power, generator, sequences
from husai.text.corpus import TOPICS

PROBED = 2048
"""Most rows that a probe is fitted on, and most that it is judged on."""
JUDGED = 4096
"""Most rows of a part on which SAEs are judged, from its first on: documents come in random order."""
READ = 5
"""Latents that a probe reads: the most of the sources'."""


class Part(NamedTuple):
    """Inputs on which SAEs are judged."""

    values: Float[Tensor, "n d_model"]
    labels: Bool[Tensor, " n"]
    """What a probe is asked for."""

    def first(self, rows: int) -> "Part":
        """Return at most so many of its rows."""
        return Part(self.values[:rows], self.labels[:rows])


class Shift(NamedTuple):
    """Activations that SAEs are trained on, with their own held-out rows, and parts that they are not."""

    inside: Activations
    labels: Bool[Tensor, " n"]
    """What a probe is asked for, of every row of `inside`."""
    outside: dict[str, Part]


def apart(
    acts: Activations,
    labels: Bool[Tensor, " n"],
    outside: Mapping[str, Bool[Tensor, " n"]],
    dropped: Bool[Tensor, " n"] | None = None,
) -> Shift:
    """Return activations without the rows of any part outside, and these parts; the split of the rest is kept.

    Rows that are `dropped` are not inside either. ValueError: activations in shards, labels or a part that are not one
    entry a row, an empty part.
    """
    require(isinstance(acts.values, Tensor), "acts", "shards", "activations in memory")
    for name, rows in {"labels": labels, **outside}.items():
        require(rows.shape == acts.training.shape, name, tuple(rows.shape), f"one entry for each of {len(acts.values)}")
        require(rows is labels or bool(rows.any()), name, "none", "at least one row")
    others = [] if dropped is None else [dropped]
    inside = ~torch.stack([*outside.values(), *others]).any(0)
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


def corpora(site: Site, last: int = 1, context: int = 64) -> Shift:
    """Return the text of a site without Python's language reference and without some packages, held out from the rest.

    "topics": the language reference, all of its documents, a real change of text; "alphabet": the rows of the last
    packages by the alphabet, the sources' way of splitting. A probe is asked whether a token goes on with a word that
    another began. ValueError: a corpus without topics, or with no more packages than are held out.
    """
    labels = [site.corpus.labels[i] for i in site.text.document.tolist()]
    packages = sorted({*site.corpus.labels} - {TOPICS})
    require(len(packages) > last, "last", last, f"fewer than the {len(packages)} packages")
    last_rows = torch.tensor([label in packages[-last:] for label in labels])
    named = torch.tensor([label == TOPICS for label in labels])
    found = apart(site.text.acts, _goes_on(site.model, site.text.ids), {"alphabet": last_rows}, named)
    pairs = zip(site.corpus.documents, site.corpus.labels, strict=True)
    topics = _read(site, [text for text, label in pairs if label == TOPICS], context)
    return found._replace(outside={"topics": topics, **found.outside})


def texts(site: Site, documents: Sequence[str], context: int = 64) -> Shift:
    """Return all of a site's activations, and other texts that its SAEs never saw as the part "texts"."""
    labels = _goes_on(site.model, site.text.ids)
    return Shift(site.text.acts, labels, {"texts": _read(site, documents, context)})


def _read(site: Site, documents: Sequence[str], context: int) -> Part:
    """Return the activations of all text tokens of some documents, equal rows once, as the site's own are collected."""
    values, _, ids = read(site.model, site.hook, documents, context)
    distinct, which = values.unique(dim=0, return_inverse=True)
    first = torch.full((len(distinct),), len(values)).scatter_reduce(0, which, torch.arange(len(values)), "amin")
    kept = first.sort().values
    return Part(values[kept], _goes_on(site.model, ids[kept]))


def _goes_on(model: LanguageModel, ids: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Return which tokens go on with a word, as WordPiece writes them."""
    pieces = model.tokenizer.convert_ids_to_tokens(ids.tolist())
    return torch.tensor([str(piece).startswith("##") for piece in pieces])


def judge(studies: Sequence[Study], shifts: Sequence[Shift]) -> dict[str, dict[str, Estimate]]:
    """Return what SAEs lose on every part outside, beside their held-out rows; one entry of both lists a model.

    `fvu`: unexplained squares a row, in units of the variance of the held-out rows on either side; `excess`: that less
    what as many principal axes of the training rows leave on the same rows; `agreement`: mean max cosine between seeds,
    each latent weighted by how often it fires on those rows; `auc`: of a probe on `READ` latents, chosen and fitted on
    training rows. Each is `_inside`, `_outside`, and their difference `_drop`, above 0 where the part outside
    is worse. Intervals over models and seeds, or in this model.
    """
    found = [_one(study, shift) for study, shift in zip(studies, shifts, strict=True)]
    estimates: dict[str, dict[str, Estimate]] = {}
    for name in shifts[0].outside:
        estimates[name] = {}
        for key, sign in (("fvu", -1), ("excess", -1), ("agreement", 1), ("auc", 1)):
            inside, outside = (np.stack([one[key, side] for one in found]) for side in ("", name))
            for end, values in (("inside", inside), ("outside", outside), ("drop", sign * (inside - outside))):
                estimates[name][f"{key}_{end}"] = over(values)
    return estimates


def over(values: np.ndarray) -> Estimate:
    """Return the mean of [models, seeds] or [models, seeds, seeds]: crossed from three models on, else in the first."""
    if values.ndim == 3:
        return comparison.summarise(values)
    return stats.crossed(values).estimate if len(values) >= 3 else stats.mean(values[0])


def less(study: Study, shift: Shift, name: str, than: str) -> Estimate:
    """Return how much less FVU one part outside costs than another, paired over the seeds of one study."""
    first, second = (fvu(study, shift.outside[part].first(JUDGED).values) for part in (than, name))
    return stats.difference(first, second)


def fvu(study: Study, x: Float[Tensor, "n d_model"]) -> list[float]:
    """Return, per seed, mean |x - x_hat|^2 over rows in units of the held-out rows' mean |x - mean|^2.

    The denominator is the same whatever the rows, so that rows which vary little among themselves cost no more; on the
    held-out rows it is the study's own FVU. ValueError: held-out rows that do not vary.
    """
    return [_unexplained(study, x, x_hat) for x_hat in study.saes.reconstruct(x)]


def pca_fvu(study: Study, x: Float[Tensor, "n d_model"]) -> float:
    """Return the same for as many principal axes of the training rows as the SAEs have active latents."""
    acts = study.activations
    k = min(x.shape[1], max(1, round(study.quality["l0"].value)))
    axes = acts.axes[-k:].to(x)
    return _unexplained(study, x, acts.mean + (x - acts.mean) @ axes.T @ axes)


def _unexplained(study: Study, x: Tensor, x_hat: Tensor) -> float:
    acts = study.activations
    total = (acts.held_out.double() - acts.mean).square().sum(1).mean()
    require(bool(total > 0), "held_out", "equal to the mean everywhere", "activations that vary")
    return float((x.double() - x_hat).square().sum(1).mean() / total)


def _one(study: Study, shift: Shift) -> dict[tuple[str, str], np.ndarray]:
    """Return {(quantity, part): one value a seed, or a matrix of seeds}; the held-out rows are part ""."""
    acts = shift.inside
    held = acts.training if bool(acts.training.all()) else ~acts.training
    found = {}
    for side, whole in {"": Part(acts.held_out, shift.labels[held]), **shift.outside}.items():
        part = whole.first(JUDGED)
        rates = list(study.saes.firing(part.values))
        found["fvu", side] = np.array(fvu(study, part.values))
        found["excess", side] = found["fvu", side] - pca_fvu(study, part.values)
        found["agreement", side] = score_matrix("frequency_weighted_max_cosine", [*study.saes.W_dec], rates)
        found["auc", side] = np.array([_auc(study.saes[i], shift, part) for i in range(len(study.seeds))])
    return found


def _auc(sae: SAEBatch, shift: Shift, part: Part) -> float:
    """Return the AUC on random rows of a part of a probe that is made on random training rows."""
    rows = _some(shift.inside.training.nonzero()[:, 0])
    code, asked = encoder(sae), _some(torch.arange(len(part.values)))
    judged = code(part.values[asked]), part.labels[asked]
    return sparse_probe(code(shift.inside.values[rows]), shift.labels[rows], *judged, READ).auc  # type: ignore[index,arg-type]


def _some(rows: Int[Tensor, " n"]) -> Int[Tensor, " m"]:
    return rows[torch.randperm(len(rows), generator=generator(0, "stress/probe"))[:PROBED]]
