"""k-sparse probes: how well a few latents tell two classes apart, beside as few numbers of any other code.

Latents, their number k and the penalty are chosen on training items alone (an inner split), the test items give the AUC
once. The same rows and the same split go to every code; `Task.digest` says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from sklearn import config_context
from sklearn.linear_model import LogisticRegression
from threadpoolctl import ThreadpoolController
from torch import Tensor

from husai import nulls, stats
from husai.benches.questions import Encode, Task, checked, residue_tasks, text_tasks
from husai.config import SAEConfig, require
from husai.evidence import Estimate
from husai.saes import SAEBatch, stack
from husai.tasks import generator

__all__ = [
    "Probe",
    "auc",
    "Scores",
    "Task",
    "best",
    "encoder",
    "over_classes",
    "over_tasks",
    "probes",
    "random_dictionary",
]
__all__ += ["codes", "components", "untrained", "residue_tasks", "scores", "sparse_probe", "text_tasks"]

CODES = ("sae", "pca", "neurons", "random", "matched", "dense")
"""What is compared; the last reads everything."""
KS = (1, 2, 5)
"""How many latents a probe may read, as in the sources."""
PENALTIES = (0.01, 0.1, 1.0, 10.0)
"""Inverse strengths of the L2 penalty that the inner split chooses from."""
INNER = 0.25
"""Share of the training items of either class on which the choices are judged."""


class Probe(NamedTuple):
    """A logistic regression on k columns of a code, judged on items that no choice saw."""

    auc: float
    """Area under the ROC curve on the test items."""
    k: int
    """Columns read."""
    inner: float
    """AUC on the inner part of the training items, by which k and the penalty were chosen."""
    columns: tuple[int, ...]
    """Which columns, by how far apart the classes' means are on all training items."""


def sparse_probe(
    train_x: Float[Tensor, "train width"],
    train_y: Bool[Tensor, " train"],
    test_x: Float[Tensor, "test width"],
    test_y: Bool[Tensor, " test"],
    k: int | Sequence[int] | None,
    seed: int = 0,
) -> Probe:
    """Return the probe on k columns; on the k of several that the inner split prefers; on all columns for None.

    Columns are ranked by |difference of class means| / standard deviation. In the inner split, ranking, scaling and
    regression see the inner training items only; with k and penalty chosen, all three are done again on all training
    items. ValueError: k below 1 or above the width, fewer than 4 training items or no test item of a class.
    """
    sizes = [train_x.shape[1]] if k is None else [k] if isinstance(k, int) else list(k)
    return best(probes(train_x, train_y, test_x, test_y, sizes, seed))


def best(found: Sequence[Probe]) -> Probe:
    """Return the probe that the inner split prefers; of equal ones the first."""
    return max(found, key=lambda probe: probe.inner)


def probes(
    train_x: Float[Tensor, "train width"],
    train_y: Bool[Tensor, " train"],
    test_x: Float[Tensor, "test width"],
    test_y: Bool[Tensor, " test"],
    sizes: Sequence[int],
    seed: int = 0,
) -> list[Probe]:
    """Return the probe of every size, each with the penalty that the inner split prefers; as `sparse_probe`."""
    width = train_x.shape[1]
    require(len(sizes) > 0 and all(1 <= k <= width for k in sizes), "k", list(sizes), f"1 to {width}, the columns")
    few = [min(int(y.sum()), int((~y).sum())) for y in (train_y, test_y)]
    require(few[0] >= 4 and few[1] >= 1, "items of the smaller class", few, "4 or more to train on, 1 or more to test")
    x, y, other_x, other_y = (part.numpy() for part in (train_x.double(), train_y, test_x.double(), test_y))
    inner = _inner(y, seed)
    order, within = _ranked(x, y), _ranked(x[~inner], y[~inner])
    found = []
    with _threads().limit(limits=1), config_context(assume_finite=True, skip_parameter_validation=True):
        for k in sizes:
            trials = [_auc(x[~inner], y[~inner], x[inner], y[inner], within[:k], c) for c in PENALTIES]
            chosen = int(np.argmax(trials))
            tested = _auc(x, y, other_x, other_y, order[:k], PENALTIES[chosen])
            found.append(Probe(tested, k, trials[chosen], tuple(order[:k].tolist())))
    return found


@cache
def _threads() -> ThreadpoolController:
    """Return what limits a fit to one thread: for so few columns a second one only has to be waited for."""
    return ThreadpoolController()


def _inner(y: np.ndarray, seed: int) -> np.ndarray:
    """Return which training items judge the choices: a share of either class."""
    judge = np.zeros(len(y), dtype=bool)
    for side in (y, ~y):
        here = np.flatnonzero(side)
        order = torch.randperm(len(here), generator=generator(seed, "probing/inner")).numpy()
        judge[here[order[: max(1, round(INNER * len(here)))]]] = True
    return judge


def _ranked(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    spread = x.std(0)
    apart = np.abs(x[y].mean(0) - x[~y].mean(0)) / np.where(spread > 0, spread, np.inf)
    return np.argsort(-apart, kind="stable")


def _auc(
    x: np.ndarray, y: np.ndarray, other_x: np.ndarray, other_y: np.ndarray, columns: np.ndarray, c: float
) -> float:
    x, other_x = x[:, columns], other_x[:, columns]
    if len(columns) == 1:  # ranks on one column depend on the sign of its weight alone: that of the means' difference
        return auc(np.sign(x[y].mean() - x[~y].mean()) * other_x[:, 0], other_y)
    spread = x.std(0)
    scale = np.where(spread > 0, spread, 1.0)
    model = LogisticRegression(C=c, max_iter=1000).fit((x - x.mean(0)) / scale, y)
    return auc(model.decision_function((other_x - x.mean(0)) / scale), other_y)


def auc(score: Float[np.ndarray, " n"], y: Bool[np.ndarray, " n"]) -> float:
    """Return the area under the ROC curve: how often a positive item scores above a negative one, ties one half.

    U / (n_1 n_0), U = sum of the positives' ranks - n_1 (n_1 + 1) / 2. Source: Mann and Whitney (1947).
    """
    positive, negative = int(y.sum()), int((~y).sum())
    return float((rankdata(score)[y].sum() - positive * (positive + 1) / 2) / (positive * negative))


def random_dictionary(sae: SAEBatch, directions: Float[Tensor, "d_sae d_model"]) -> SAEBatch:
    """Return an untrained TopK of an SAE's width, k and decoder bias: its tied weights are these directions.

    ValueError: several seeds, other directions than the SAE has.
    """
    require(len(sae) == 1, "sae", f"a batch of {len(sae)} seeds", "one seed: sae[0], sae[1], ...")
    shape = tuple(sae.W_dec.shape[1:])
    require(tuple(directions.shape) == shape, "directions", tuple(directions.shape), f"{shape}, as the SAE")
    rows, zeros = directions.to(sae.W_dec)[None], torch.zeros_like(sae.b_enc)
    config = SAEConfig("topk", shape[0], sae.config.active)
    return SAEBatch(config, sae.seeds, rows.transpose(1, 2).contiguous(), zeros, rows, sae.b_dec)


def untrained(sae: SAEBatch, rows: Float[Tensor, "n d_model"]) -> dict[str, SAEBatch]:
    """Return a random dictionary for every SAE, by kind: "random", isotropic, and "matched", with the rows' covariance.

    The draws of an SAE are those of its seed: null N0 and null N2.
    """
    root, (d_sae, d_model) = nulls.covariance_root(rows), sae.W_dec.shape[1:]
    drawn = {"random": [nulls.isotropic(d_sae, d_model, seed) for seed in sae.seeds]}
    drawn["matched"] = [nulls.coloured(root, d_sae, seed) for seed in sae.seeds]
    return {kind: stack([random_dictionary(sae[i], d) for i, d in enumerate(all_)]) for kind, all_ in drawn.items()}


def encoder(sae: SAEBatch) -> Encode:
    """Return the code of one SAE: its latents [n, d_sae]."""
    require(len(sae) == 1, "sae", f"a batch of {len(sae)} seeds", "one seed: sae[0], sae[1], ...")
    return lambda rows: sae.encode(rows)[0]


def components(rows: Float[Tensor, "n d_model"]) -> Encode:
    """Return the code of principal components: coordinates along all axes of the centred rows, largest first."""
    axes, mean = nulls.principal_axes(rows, rows.shape[1]).flip(0).to(rows), rows.mean(0)
    return lambda x: (x - mean) @ axes.T


def codes(sae: SAEBatch, rows: Float[Tensor, "n d_model"]) -> dict[str, list[Encode]]:
    """Return every code that is compared, one a seed where it has one; axes and covariance are those of the rows."""
    batches = {"sae": sae, **untrained(sae, rows)}
    made = {name: [encoder(batch[i]) for i in range(len(batch))] for name, batch in batches.items()}
    return made | {"pca": [components(rows)], "neurons": [lambda x: x]}


class Scores(NamedTuple):
    """AUC of every code on the same tasks; codes without a seed repeat theirs."""

    tasks: tuple[str, ...]
    """Names, in the order of the first axis."""
    digests: tuple[str, ...]
    """What each task was: the same for every code."""
    chosen: Mapping[str, Float[np.ndarray, "tasks seeds"]]
    """By code, with k chosen on training items; "dense" reads all of d_model."""
    by_k: Mapping[str, Float[np.ndarray, "sizes tasks seeds"]]
    """By sparse code, at every size."""
    sizes: tuple[int, ...]
    """The sizes."""
    inner: Mapping[str, Float[np.ndarray, "tasks seeds"]]
    """By sparse code, AUC of the chosen probe on the inner part of the training items: what else may be chosen by."""

    def delta(
        self, code: str = "sae", baseline: str = "dense", other: "Scores | None" = None
    ) -> Float[np.ndarray, "tasks seeds"]:
        """Return AUC of a code less that of a baseline, of the same scores or of others.

        ValueError: the others are of other rows, items, answers or splits.
        """
        of = self if other is None else other
        require(of.digests == self.digests, "other", of.digests, f"the same tasks: {self.digests}")
        return self.chosen[code] - of.chosen[baseline]


def scores(
    tasks: Sequence[Task],
    sae: SAEBatch,
    sizes: Sequence[int] = KS,
    fit: Float[Tensor, "n d_model"] | None = None,
) -> Scores:
    """Return how well SAEs (all seeds), and as few numbers of any other code, answer the same tasks.

    "sae"; "pca" and "neurons", the principal components and the coordinates of the activations; "random" and "matched",
    untrained dictionaries of the SAE's width and k, isotropic and covariance-matched, one draw a seed; "dense", a
    logistic regression on all coordinates. Axes and covariance are those of `fit`, what the SAEs were trained on, or by
    default of the tasks' own rows. No code sees an answer.
    """
    seeds = len(sae)
    by_k = {code: np.zeros((len(sizes), len(tasks), seeds)) for code in CODES[:-1]}
    chosen = {code: np.zeros((len(tasks), seeds)) for code in CODES}
    inner = {code: np.zeros((len(tasks), seeds)) for code in CODES[:-1]}
    for at in {id(task.rows): task for task in map(checked, tasks)}.values():  # each set of rows is encoded once
        mine = [(t, task) for t, task in enumerate(tasks) if task.rows is at.rows]
        made = codes(sae, at.rows if fit is None else fit)
        for code, several in made.items():
            for i, encode in enumerate(several):
                pooled, place = at.pooled(encode), slice(None) if len(several) == 1 else slice(i, i + 1)
                for t, task in mine:
                    found = probes(*task.parts(pooled), sizes)
                    by_k[code][:, t, place] = np.array([[probe.auc] for probe in found])
                    chosen[code][t, place], inner[code][t, place] = best(found).auc, best(found).inner
                    if code == "neurons":
                        chosen["dense"][t] = sparse_probe(*task.parts(pooled), None).auc
    digests = tuple(task.digest for task in tasks)
    return Scores(tuple(task.name for task in tasks), digests, chosen, by_k, tuple(sizes), inner)


def over_tasks(values: Float[np.ndarray, "tasks seeds"]) -> Estimate:
    """Return the mean over tasks and SAE seeds, both random, with its interval; n counts tasks.

    ValueError: fewer than 3 of either.
    """
    return _named(stats.crossed(values).estimate, "jackknife over tasks and SAE seeds")


def over_classes(
    values: Float[np.ndarray, "tasks seeds"] | Float[np.ndarray, " tasks"], names: Sequence[str]
) -> Estimate:
    """Return the mean over tasks of all pairs of classes, named "one | other", for new classes and new seeds.

    Tasks that share a class are not independent: the jackknife leaves out one class with all of its tasks, and one seed
    (of one value a task, a class only). n counts classes. ValueError: not all pairs, fewer than 3 classes or seeds.
    """
    pairs = [tuple(name.split(" | ")) for name in names]
    classes = list(dict.fromkeys(one for pair in pairs for one in pair))
    whole = sorted(map(sorted, pairs)) == sorted(map(sorted, combinations(classes, 2)))
    require(whole, "names", list(names), "one task for every pair of classes")
    square = np.zeros((*values.shape[1:], len(classes), len(classes)))
    for row, (a, b) in zip(values, pairs, strict=True):
        i, j = classes.index(a), classes.index(b)
        square[..., i, j] = square[..., j, i] = row
    if values.ndim == 1:
        return _named(stats.pairwise(square), "jackknife over classes")
    return replace(_named(stats.crossed(square).estimate, "jackknife over classes and SAE seeds"), n=len(classes))


def _named(estimate: Estimate, method: str) -> Estimate:
    """Return an estimate with a method in other words that keeps its degrees of freedom, t(df)."""
    return replace(estimate, method=f"{method}, {estimate.method[estimate.method.rindex('t(') :]}")
