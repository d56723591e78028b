"""Binary questions about activations, with their answers and their split: what probes are judged on."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from husai.activations import Activations
from husai.config import require
from husai.shards import in_memory
from husai.tasks import generator

ROWS = 2**13
"""Rows that are encoded at a time."""

Encode = Callable[[Tensor], Tensor]


class Task(NamedTuple):
    """One binary question about activations; an item is one row or the mean over several rows of a code."""

    name: str
    """What is asked."""
    rows: Float[Tensor, "rows d_model"]
    """Activations."""
    owner: Int[Tensor, " rows"]
    """Which item each row belongs to, 0..items-1."""
    labels: Bool[Tensor, " items"]
    """The answers."""
    training: Bool[Tensor, " items"]
    """Items that probes are made on; the others test them."""

    @property
    def digest(self) -> str:
        """Hash of the rows, the items, the answers and the split: equal for two codes that are compared."""
        parts = [self.rows, self.owner, self.labels, self.training]
        return hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in parts)).hexdigest()[:12]

    @property
    def slice(self) -> str:
        """Hash of rows and answers, training items first: what sae-probes says that it read, of one row an item."""
        x, y = self.rows.float(), self.labels.long()
        parts = [part[here] for here in (self.training, ~self.training) for part in (x, y)]
        return hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in parts)).hexdigest()[:12]

    def items(self, encode: Encode) -> Float[Tensor, "items width"]:
        """Return the mean over an item's rows of a code of them, some rows at a time."""
        total = None
        for rows, owner in zip(self.rows.split(ROWS), self.owner.split(ROWS), strict=True):
            code = encode(rows)
            total = torch.zeros(len(self.labels), code.shape[1]) if total is None else total
            total.index_add_(0, owner, code)
        assert total is not None  # `checked` refuses a task without rows
        return total / torch.bincount(self.owner, minlength=len(self.labels))[:, None]

    def parts(self, encode: Encode) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return code and answers of the training items, then of the test items, as `sparse_probe` takes them."""
        x, here = self.items(encode), self.training
        return x[here], self.labels[here], x[~here], self.labels[~here]


def checked(task: Task) -> Task:
    """Return the task; ValueError: an item without rows, a class without training or test items, NaN or infinity."""
    counts = torch.bincount(task.owner, minlength=len(task.labels))
    every = len(task.rows) > 0 and bool((counts > 0).all()) and len(counts) == len(task.labels)
    require(every, f"task {task.name}: owner", "an item without rows, or rows without an item", "rows of every item")
    for part, name in ((task.training, "training"), (~task.training, "test")):
        few = [int((part & side).sum()) for side in (task.labels, ~task.labels)]
        wanted = 4 if name == "training" else 1
        require(min(few) >= wanted, f"task {task.name}: {name} items", few, f"{wanted} or more of either class")
    require(bool(task.rows.isfinite().all()), f"task {task.name}: rows", "NaN or infinity", "finite activations")
    return task


def text_tasks(
    acts: Activations,
    document: Int[Tensor, " rows"],
    labels: Sequence[str],
    classes: Sequence[str] | None = None,
    most: int = 200,
    least: int = 40,
    seed: int = 0,
    share: float = 0.25,
) -> list[Task]:
    """Return one task for every pair of classes of documents: is this document from the first or from the second?

    `acts`, `document` are `TextActivations.acts` and `.document` (rows are tokens), `labels` is `Corpus.labels`. An
    item is a document, its code the mean over its tokens. Of a class at most `most` documents are drawn, a pair takes
    as many of either class, and a share of these, the first ones drawn, tests. What SAEs were trained on plays no role:
    they see no labels. `classes`: by default all with at least `least` documents, commonest first. ValueError: a class
    with fewer, fewer than 2 classes.
    """
    present = document.unique().tolist()
    counts = Counter(labels[i] for i in present)
    usual = [name for name, number in counts.most_common() if number >= least]
    names = usual if classes is None else list(classes)
    require(len(names) >= 2, "classes", dict(counts), f"2 or more with {least} documents")
    for name in names:
        require(counts[name] >= least, f"documents of {name!r}", counts[name], f"{least} or more")
    drawn = {}
    for name in names:
        mine = torch.tensor([i for i in present if labels[i] == name])
        drawn[name] = mine[torch.randperm(len(mine), generator=generator(seed, f"probing/{name}"))][:most]
    return [_pair(acts, document, drawn[a], drawn[b], f"{a} | {b}", share) for a, b in combinations(names, 2)]


def _pair(acts: Activations, document: Tensor, first: Tensor, second: Tensor, name: str, share: float) -> Task:
    n = min(len(first), len(second))
    chosen = torch.cat([first[:n], second[:n]])
    item = torch.full((int(max(chosen.max(), document.max())) + 1,), -1)
    item[chosen] = torch.arange(2 * n)
    owner = item[document.long()]
    test = torch.arange(n) < math.ceil(share * n)
    rows = in_memory(acts.values)[owner >= 0]
    return checked(Task(name, rows, owner[owner >= 0], torch.arange(2 * n) < n, ~torch.cat([test, test])))


def residue_tasks(acts: Activations, answers: Int[Tensor, " n"], classes: Sequence[int], seed: int = 0) -> list[Task]:
    """Return one task for each residue: is this the answer, or is one of the other residues named?

    `acts` are of all inputs, one row each; training and test items are those of `residues`. Negatives are as many as
    positives, drawn from the other classes. ValueError: as `residues`.
    """
    values, tasks, parts = in_memory(acts.values), [], residues(answers, classes, seed)
    for residue in classes:
        chosen = []
        for part in parts.values():
            others = torch.cat([part[other] for other in classes if other != residue])
            order = torch.randperm(len(others), generator=generator(seed, f"probing/others {residue}"))
            chosen.append(torch.cat([part[residue], others[order[: len(part[residue])]]]))
        rows, fits = torch.cat(chosen), torch.arange(sum(map(len, chosen))) < len(chosen[0])
        tasks.append(checked(Task(f"{residue}", values[rows], torch.arange(len(rows)), answers[rows] == residue, fits)))
    return tasks


def residues(
    answers: Int[Tensor, " n"], classes: Sequence[int], seed: int = 0, share: float = 0.25
) -> dict[str, dict[int, Tensor]]:
    """Return the inputs of each class that train and that test, `{"train" | "test": {residue: rows}}`.

    ValueError: fewer than 2 classes, or one with fewer than 6 inputs.
    """
    require(len(set(classes)) == len(classes) >= 2, "classes", list(classes), "2 or more different residues")
    parts: dict[str, dict[int, Tensor]] = {"train": {}, "test": {}}
    for residue in classes:
        here = (answers == residue).nonzero()[:, 0]
        require(len(here) >= 6, f"inputs whose answer is {residue}", len(here), "6 or more")
        here = here[torch.randperm(len(here), generator=generator(seed, f"probing/residue {residue}"))]
        cut = math.ceil(share * len(here))
        parts["test"][residue], parts["train"][residue] = here[:cut], here[cut:]
    return parts
