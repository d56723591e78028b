"""External axes: what benchmarks say of every seed of an SAE, beside as few numbers of codes that nobody trained."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from husai import study
from husai.activations import Activations
from husai.axes.candidates import Candidate, beyond, of
from husai.axes.designs import Cell, grid
from husai.benches import contrastive, probing
from husai.benches.contrastive import Bags
from husai.benches.questions import Encode, Task, text_tasks
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


class Bench(NamedTuple):
    """Questions and contrastive pairs on the activations of one hook, and what codes that are no SAE score there."""

    acts: Activations
    """What SAEs of this hook are trained on."""
    questions: tuple[Task, ...]
    """Which of two classes is a document from? Tasks that share their rows."""
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
        return tuple(task.name for task in self.questions)

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
        return np.stack([answered(self.questions, code, self.sizes) for code in codes], 1)

    def random(self, saes: SAEBatch, kind: str = "matched") -> Float64[np.ndarray, "tasks seeds"]:
        """Return the same of untrained dictionaries of the SAEs' width and k (`probing.untrained`)."""
        return self.auc(probing.untrained(saes, in_memory(self.acts.fit))[kind])

    def judge(self, studies: Mapping[Any, Study]) -> dict[Any, Candidate]:
        """Return every study as a candidate on its own axes and on these; "gap_N2" is `beyond` of all of them."""
        gaps = beyond(studies)
        return {
            name: of(str(name), one, {"gap_N2": gaps[name], **self.measure(one.saes)}, self.tasks)
            for name, one in studies.items()
        }


def answered(tasks: Sequence[Task], encode: Encode, sizes: Sequence[int] | None) -> Float64[np.ndarray, " tasks"]:
    """Return the AUC on tasks that share their rows of probes on so many columns of a code, on all columns for None.

    Every document's code is computed once for all tasks.
    """
    pooled = tasks[0].pooled(encode)
    return np.array([probing.sparse_probe(*task.parts(pooled), sizes).auc for task in tasks])


def bench(
    model: LanguageModel, corpus: Corpus, hook: str, text: TextActivations, classes: Sequence[str], pairs: int,
    sizes: Sequence[int], draws: int, most: int, least: int,
) -> Bench:  # fmt: skip
    """Return the bench of one hook; `most` and `least` documents of a class, `pairs` of stories, `draws` permutations.

    A share of the documents of every class tests the probes; SAEs see no labels. The principal axes are those of the
    training rows. ValueError: as `text_tasks`, as `contrastive.sentences`.
    """
    asked = tuple(text_tasks(text.acts, text.document, corpus.labels, list(classes), most, least))
    bags = contrastive.sentences(model, hook, templates(pairs, 0))
    few = answered(asked, probing.components(in_memory(text.acts.fit)), sizes)
    floors = {"pca": few, "dense": answered(asked, lambda rows: rows, None)}
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
