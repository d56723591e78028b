"""Binary questions about activations, with their answers and their split: what probes are judged on."""

import hashlib
import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
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
    least: int = 20,
    seed: int = 0,
) -> list[Task]:
    """Return one task for every pair of classes of documents: is this document from the first or from the second?

    `acts`, `document` are `TextActivations.acts` and `.document` (rows are tokens), `labels` is `Corpus.labels`. An
    item is a document, its code the mean over its tokens. Documents that SAEs were trained on train the probes, others
    test them; at most `most` of a class and part, drawn at random, as many of either class. `classes`: by
    default all with at least `least` test documents, commonest first. ValueError: a class without enough documents,
    fewer than 2 classes, a document in both parts.
    """
    present, first = np.unique(document.numpy(), return_index=True)
    training = acts.training.numpy()[first]
    mixed = not np.array_equal(training[np.searchsorted(present, document.numpy())], acts.training.numpy())
    require(not mixed, "acts.training", "a document in both parts", "rows split by document")
    found = np.array([labels[i] for i in present])
    tested = {name: int(((found == name) & ~training).sum()) for name in sorted(set(found.tolist()))}
    fit = {name: int(((found == name) & training).sum()) for name in tested}
    usual = [name for name in sorted(tested, key=lambda n: -tested[n]) if min(tested[name], fit[name]) >= least]
    names = usual if classes is None else list(classes)
    require(len(names) >= 2, "classes", {n: (fit[n], tested[n]) for n in tested}, f"2 or more with {least} documents")
    for name in names:
        came = (fit.get(name, 0), tested.get(name, 0))
        require(min(came) >= least, f"documents of {name!r} to train and test on", came, f"{least} or more each")
    return [_pair(acts, document, present, found, training, pair, most, seed) for pair in combinations(names, 2)]


def _pair(
    acts: Activations,
    document: Tensor,
    present: np.ndarray,
    found: np.ndarray,
    training: np.ndarray,
    pair: tuple[str, str],
    most: int,
    seed: int,
) -> Task:
    chosen = []
    for part in (training, ~training):
        sides = [np.flatnonzero((found == name) & part) for name in pair]
        number = min(most, *map(len, sides))
        for side, name in zip(sides, pair, strict=True):
            order = torch.randperm(len(side), generator=generator(seed, f"probing/{name}")).numpy()
            chosen.append(side[np.sort(order[:number])])
    places = np.concatenate(chosen)
    item = torch.full((int(present.max()) + 1,), -1)
    item[torch.from_numpy(present[places])] = torch.arange(len(places))
    owner = item[document.long()]
    rows = in_memory(acts.values[owner >= 0])
    answers, fits = torch.from_numpy(found[places] == pair[0]), torch.from_numpy(training[places])
    return checked(Task(" | ".join(pair), rows, owner[owner >= 0], answers, fits))


def residue_tasks(
    acts: Activations, answers: Int[Tensor, " n"], classes: Sequence[int], seed: int = 0, share: float = 0.25
) -> list[Task]:
    """Return one task for each residue: is this the answer, or is one of the other residues named?

    `acts` are of all inputs, one row each; a share of the items of every class is kept for testing. Negatives are as
    many as positives, drawn from the other classes. ValueError: fewer than 2 classes, one without enough inputs.
    """
    require(len(set(classes)) == len(classes) >= 2, "classes", list(classes), "2 or more different residues")
    values, tasks = in_memory(acts.values), []
    test = torch.zeros(len(answers), dtype=torch.bool)
    for residue in classes:
        here = (answers == residue).nonzero()[:, 0]
        order = torch.randperm(len(here), generator=generator(seed, f"probing/residue {residue}"))
        test[here[order[: math.ceil(share * len(here))]]] = True
    for residue in classes:
        chosen = []
        for part in (~test, test):
            mine = ((answers == residue) & part).nonzero()[:, 0]
            others = (torch.isin(answers, torch.tensor(list(classes))) & (answers != residue) & part).nonzero()[:, 0]
            order = torch.randperm(len(others), generator=generator(seed, f"probing/others {residue}"))
            chosen += [mine, others[order[: len(mine)]]]
        rows = torch.cat(chosen)
        task = Task(f"{residue}", values[rows], torch.arange(len(rows)), answers[rows] == residue, ~test[rows])
        tasks.append(checked(task))
    return tasks
