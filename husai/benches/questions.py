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
    """Activations, shared by tasks about the same items."""
    owner: Int[Tensor, " rows"]
    """Which item each row belongs to, 0, 1, ..."""
    labels: Bool[Tensor, " items"]
    """The answers."""
    training: Bool[Tensor, " items"]
    """Items that probes are made on; the others test them."""
    chosen: Int[Tensor, " items"] | None = None
    """The items that are asked about, by default all."""

    @property
    def digest(self) -> str:
        """Hash of the rows, the items, the answers and the split: equal for two codes that are compared."""
        return _hash([self.rows, self.owner, self.labels, self.training, self.asked])

    @property
    def slice(self) -> str:
        """Hash of rows and answers, training items first: what sae-probes says that it read, of one row an item."""
        x, y = self.rows.float(), self.labels.long()
        return _hash([part[here] for here in (self.training, ~self.training) for part in (x, y)])

    @property
    def asked(self) -> Int[Tensor, " items"]:
        """The items that are asked about."""
        return torch.arange(len(self.labels)) if self.chosen is None else self.chosen

    def pooled(self, encode: Encode) -> Float[Tensor, "all width"]:
        """Return the mean over the rows of every item, asked about or not, of a code, some rows at a time."""
        items, total = int(self.owner.max()) + 1, None
        for rows, owner in zip(self.rows.split(ROWS), self.owner.split(ROWS), strict=True):
            code = encode(rows)
            total = torch.zeros(items, code.shape[1]) if total is None else total
            total.index_add_(0, owner, code)
        assert total is not None  # `checked` refuses a task without rows
        return total / torch.bincount(self.owner, minlength=items)[:, None]

    def parts(self, pooled: Float[Tensor, "all width"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return a pooled code and the answers of the training items, then of the test items, for `sparse_probe`."""
        x, here = pooled[self.asked], self.training
        return x[here], self.labels[here], x[~here], self.labels[~here]


def _hash(parts: Sequence[Tensor]) -> str:
    return hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in parts)).hexdigest()[:12]


def checked(task: Task) -> Task:
    """Return the task; ValueError: an item without rows, a class without training or test items, NaN or infinity."""
    filled = torch.bincount(task.owner) > 0
    every = len(task.rows) > 0 and bool(filled.all()) and int(task.asked.max()) < len(filled)
    require(every, f"task {task.name}: owner", "an item without rows", "rows of every item")
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
    drawn, start = {}, 0
    item = torch.full((int(document.max()) + 1,), -1)
    for name in names:
        mine = torch.tensor([i for i in present if labels[i] == name])
        mine = mine[torch.randperm(len(mine), generator=generator(seed, f"probing/{name}"))][:most]
        drawn[name] = torch.arange(start, start + len(mine))
        item[mine] = drawn[name]
        start += len(mine)
    owner = item[document.long()]
    rows, owner = in_memory(acts.values)[owner >= 0], owner[owner >= 0]
    return [_pair(rows, owner, drawn[a], drawn[b], f"{a} | {b}", share) for a, b in combinations(names, 2)]


def _pair(rows: Tensor, owner: Tensor, first: Tensor, second: Tensor, name: str, share: float) -> Task:
    n = min(len(first), len(second))
    fits = torch.arange(n) >= math.ceil(share * n)
    chosen = torch.cat([first[:n], second[:n]])
    return checked(Task(name, rows, owner, torch.arange(2 * n) < n, torch.cat([fits, fits]), chosen))


def residue_tasks(acts: Activations, answers: Int[Tensor, " n"], classes: Sequence[int], seed: int = 0) -> list[Task]:
    """Return one task for each of some residues: is this the answer, or any other?

    `acts` are of all inputs, one row each; training and test items are those of `residues`. Negatives are as many as
    positives, drawn from all other answers; named classes alone would be told apart by one coordinate. ValueError: as
    `residues`.
    """
    values, tasks, parts = in_memory(acts.values), [], residues(answers, sorted(set(answers.tolist())), seed)
    for residue in classes:
        require(residue in parts["train"], "classes", residue, "residues that are an answer")
        chosen = []
        for part in parts.values():
            others = torch.cat([rows for other, rows in part.items() if other != residue])
            order = torch.randperm(len(others), generator=generator(seed, f"probing/others {residue}"))
            chosen.append(torch.cat([part[residue], others[order[: len(part[residue])]]]))
        rows, fits = torch.cat(chosen), torch.arange(sum(map(len, chosen))) < len(chosen[0])
        labels = answers[rows] == residue
        tasks.append(checked(Task(f"{residue}", values[rows], torch.arange(len(rows)), labels, fits)))
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
