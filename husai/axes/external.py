"""External axes: what benchmarks say of every seed of an SAE, beside as few numbers of codes that nobody trained."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from husai import study
from husai.activations import Activations
from husai.axes.candidates import Candidate, beyond, of
from husai.axes.designs import Cell, grid
from husai.benches import contrastive, probing
from husai.benches.contrastive import Bags
from husai.benches.questions import ROWS, Encode, Task, text_tasks
from husai.config import require
from husai.language.collect import TextActivations, collect
from husai.language.pretrained import LanguageModel
from husai.language.site import Site
from husai.saes import SAEBatch
from husai.shards import in_memory
from husai.study import Study
from husai.text.corpus import Corpus
from husai.text.stories import templates

CE = "interpretability_coded_score"
"""The CE-style score that the sources report, as its code computes it: a z-score, bounded by the width."""
RANK = "contrastive_rank"
"""A CE-style score that does not depend on the width: its rank among permutations, 1/2 by chance."""


class Questions(NamedTuple):
    """Documents as their mean over tokens of any code, and pairs of classes to tell apart by them."""

    rows: Float[Tensor, "rows d_model"]
    """Activations of the documents' tokens."""
    owner: Int[Tensor, " rows"]
    """Which document each row is of."""
    tasks: tuple[Task, ...]
    """One a pair of classes; the rows of a task are the numbers of its documents."""

    def pooled(self, encode: Encode) -> Float[Tensor, "documents width"]:
        """Return every document's mean code: computed once for all tasks."""
        sums: Tensor | None = None
        counts = torch.bincount(self.owner)
        for rows, owner in zip(self.rows.split(ROWS), self.owner.split(ROWS), strict=True):
            code = encode(rows)
            sums = torch.zeros(len(counts), code.shape[1]) if sums is None else sums
            sums.index_add_(0, owner, code)
        assert sums is not None  # there are documents, or `text_tasks` had refused
        return sums / counts[:, None]

    def auc(self, encode: Encode, sizes: Sequence[int] | None) -> Float64[np.ndarray, " tasks"]:
        """Return the AUC on every task of probes on so many columns of a code, on all columns for None."""
        code = self.pooled(encode)
        found = [probing.sparse_probe(*task.parts(lambda rows: code[rows[:, 0].long()]), sizes) for task in self.tasks]
        return np.array([probe.auc for probe in found])


def questions(
    acts: Activations, document: Int[Tensor, " n"], labels: Sequence[str], classes: Sequence[str], most: int, least: int
) -> Questions:
    """Return `benches.questions.text_tasks` of these classes on pooled documents; its arguments and its errors.

    ValueError: a document with rows for training and held-out ones.
    """
    present, owner = document.unique(return_inverse=True)
    training = torch.zeros(len(present), dtype=torch.bool)
    training[owner[acts.training]] = True
    require(torch.equal(training[owner], acts.training), "acts.training", "a document in both parts", "whole documents")
    numbers = Activations(torch.arange(len(present), dtype=torch.float32)[:, None], training)
    tasks = text_tasks(numbers, present, labels, list(classes), most, least)
    used = torch.cat([task.rows[:, 0] for task in tasks]).unique().long()
    asked = torch.isin(owner, used)
    renumbered = torch.zeros(len(present), dtype=torch.long)
    renumbered[used] = torch.arange(len(used))
    own = [task._replace(rows=renumbered[task.rows.long()].to(task.rows)) for task in tasks]
    return Questions(in_memory(acts.values[asked]), renumbered[owner[asked]], tuple(own))


class Bench(NamedTuple):
    """Questions and contrastive pairs on the activations of one hook, and what codes that are no SAE score there."""

    acts: Activations
    """What SAEs of this hook are trained on."""
    questions: Questions
    """Which of two classes is a document from?"""
    bags: Bags
    """Pairs of stories that differ in the words of one subject."""
    sizes: tuple[int, ...]
    """How many columns of a code a probe may read; of these the training documents choose."""
    draws: int
    """Permutations of the contrastive pairs."""
    floors: Mapping[str, Float64[np.ndarray, " tasks"]]
    """AUC on every task of "pca", as few principal components, and of "dense", all coordinates."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the questions, "one class | other"."""
        return tuple(task.name for task in self.questions.tasks)

    def measure(self, saes: SAEBatch) -> dict[str, Sequence[float] | np.ndarray]:
        """Return every external axis, one value a seed, or one a task and seed.

        "probing": AUC of k-sparse probes [tasks, seeds]; "over_pca" and "over_dense": the same less the AUC of as few
        principal components, and of all coordinates; "ce": the sources' CE-style score; "contrast": the rank of the
        contrastive score among permutations, both means over pairs [seeds].
        """
        auc = self.auc(saes)
        over = {f"over_{name}": auc - floor[:, None] for name, floor in self.floors.items()}
        judged = contrastive.over_seeds(saes, self.bags, self.draws)
        return {"probing": auc, **over, "ce": judged[CE], "contrast": judged[RANK]}

    def auc(self, saes: SAEBatch) -> Float64[np.ndarray, "tasks seeds"]:
        """Return the AUC of k-sparse probes on every question, of every seed."""
        codes = [probing.encoder(saes[index]) for index in range(len(saes))]
        return np.stack([self.questions.auc(code, self.sizes) for code in codes], 1)

    def random(self, saes: SAEBatch, kind: str = "N2") -> Float64[np.ndarray, "tasks seeds"]:
        """Return the same of untrained dictionaries of the SAEs' width and k (`probing.random_dictionary`)."""
        fit = in_memory(self.acts.fit)
        drawn = [probing.random_dictionary(saes[at], fit, kind, seed) for at, seed in enumerate(saes.seeds)]
        return np.concatenate([self.auc(one) for one in drawn], 1)

    def judge(self, studies: Mapping[Any, Study]) -> dict[Any, Candidate]:
        """Return every study as a candidate on its own axes and on these; "gap_N2" is `beyond` of all of them."""
        gaps = beyond(studies)
        return {
            name: of(str(name), one, {"gap_N2": gaps[name], **self.measure(one.saes)}, self.tasks)
            for name, one in studies.items()
        }


def bench(
    model: LanguageModel, corpus: Corpus, hook: str, text: TextActivations, classes: Sequence[str], pairs: int,
    sizes: Sequence[int], draws: int, most: int, least: int,
) -> Bench:  # fmt: skip
    """Return the bench of one hook; `most` and `least` documents of a class, `pairs` of stories, `draws` permutations.

    Probes are made on documents that the SAEs were trained on and tested on held-out ones; the principal axes are those
    of the training rows. ValueError: as `questions`, as `contrastive.sentences`.
    """
    asked = questions(text.acts, text.document, corpus.labels, classes, most, least)
    bags = contrastive.sentences(model, hook, templates(pairs, 0))
    few = asked.auc(probing.components(in_memory(text.acts.fit)), sizes)
    floors = {"pca": few, "dense": asked.auc(lambda rows: rows, None)}
    return Bench(text.acts, asked, bags, tuple(sizes), draws, floors)


def by_depth(site: Site, depths: Sequence[int], tokens: int, context: int, **options: Any) -> dict[int, Bench]:
    """Return the same rows of text after so many blocks, 0 being the embedding, each with its `bench`.

    Repeated rows are kept: else documents would lose other rows at other depths. ValueError: a depth that the model
    does not have, and as `bench`.
    """
    found = {}
    for depth in depths:
        hook = f"blocks.{depth - 1}.hook_resid_post" if depth else "hook_embed"
        text = collect(site.model, site.corpus, hook, tokens, context, repeats=True)
        found[depth] = bench(site.model, site.corpus, hook, text, **options)
    return found


def scaling(
    benches: Mapping[int, Bench], tokens: Sequence[int], widths: Sequence[int], k: int, steps: int, seeds: Sequence[int]
) -> dict[Cell, Candidate]:
    """Return TopK at every number of tokens, depth and width, trained or loaded, and judged by the bench of its depth.

    ValueError: as `designs.grid` and `study.run`.
    """
    cells = grid({depth: bench.acts for depth, bench in benches.items()}, tokens, widths, k, steps)
    studies = study.run(cells, seeds)
    judged = {}
    for cell, one in studies.items():
        at = benches[cell[1]]
        judged[cell] = of(str(cell), one, at.measure(one.saes), at.tasks)
    return judged
