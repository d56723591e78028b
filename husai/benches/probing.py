"""k-sparse probes: how well a few latents tell two classes apart, beside as few numbers of any other code.

Latents, their number k and the penalty are chosen on training items alone (an inner split), the test items give the AUC
once. The same rows and the same split go to every code; `Task.digest` says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

from husai import nulls, stats
from husai.benches.questions import Encode, Task, checked, residue_tasks, text_tasks
from husai.config import SAEConfig, require
from husai.evidence import Estimate
from husai.saes import SAEBatch
from husai.tasks import generator

__all__ = ["Probe", "Scores", "Task", "best", "encoder", "over_classes", "over_tasks", "probes", "random_dictionary"]
__all__ += ["components", "residue_tasks", "scores", "sparse_probe", "text_tasks"]

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
    x, y = train_x.double().numpy(), train_y.numpy()
    inner = _inner(y, seed)
    order, within = _ranked(x, y), _ranked(x[~inner], y[~inner])
    found = []
    for k in sizes:
        trials = [_auc(x[~inner], y[~inner], x[inner], y[inner], within[:k], c) for c in PENALTIES]
        chosen = int(np.argmax(trials))
        auc = _auc(x, y, test_x.double().numpy(), test_y.numpy(), order[:k], PENALTIES[chosen])
        found.append(Probe(auc, k, trials[chosen], tuple(order[:k].tolist())))
    return found


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
    spread = x.std(0)
    scale = np.where(spread > 0, spread, 1.0)
    model = LogisticRegression(C=c, max_iter=1000).fit((x - x.mean(0)) / scale, y)
    return float(roc_auc_score(other_y, model.decision_function((other_x - x.mean(0)) / scale)))


def random_dictionary(sae: SAEBatch, rows: Float[Tensor, "n d_model"], kind: str, seed: int) -> SAEBatch:
    """Return an untrained TopK of an SAE's width, k and decoder bias: tied weights, decoder rows drawn at random.

    `kind` "N0" draws isotropic unit rows, "N2" rows with the covariance of `rows`. ValueError: another kind, an SAE
    without a number k, several seeds.
    """
    require(len(sae) == 1, "sae", f"a batch of {len(sae)} seeds", "one seed: sae[0], sae[1], ...")
    require(kind in ("N0", "N2"), "kind", kind, "'N0' or 'N2'")
    d_sae, d_model = sae.W_dec.shape[1:]
    drawn = nulls.isotropic(d_sae, d_model, seed) if kind == "N0" else nulls.covariance_matched(rows, d_sae, seed)
    directions = drawn.to(sae.W_dec)[None]
    config, zeros = SAEConfig("topk", d_sae, sae.config.active), torch.zeros_like(sae.b_enc)
    return SAEBatch(config, sae.seeds, directions.transpose(1, 2).contiguous(), zeros, directions, sae.b_dec)


def encoder(sae: SAEBatch) -> Encode:
    """Return the code of one SAE: its latents [n, d_sae]."""
    require(len(sae) == 1, "sae", f"a batch of {len(sae)} seeds", "one seed: sae[0], sae[1], ...")
    return lambda rows: sae.encode(rows)[0]


def components(rows: Float[Tensor, "n d_model"]) -> Encode:
    """Return the code of principal components: coordinates along all axes of the centred rows, largest first."""
    axes, mean = nulls.principal_axes(rows, rows.shape[1]).flip(0).to(rows), rows.mean(0)
    return lambda x: (x - mean) @ axes.T


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
    default of a task's training rows.
    """
    seeds, codes = len(sae), ("sae", "pca", "neurons", "random", "matched")
    by_k = {code: np.zeros((len(sizes), len(tasks), seeds)) for code in codes}
    chosen = {code: np.zeros((len(tasks), seeds)) for code in (*codes, "dense")}
    for t, task in enumerate(map(checked, tasks)):
        rows = task.rows[task.training[task.owner]] if fit is None else fit
        chosen["dense"][t] = sparse_probe(*task.parts(lambda x: x), None).auc
        for code, made in {"pca": components(rows), "neurons": lambda x: x}.items():
            _fill(by_k[code][:, t], chosen[code][t], slice(None), probes(*task.parts(made), sizes))
        for i, seed in enumerate(sae.seeds):
            one = {"sae": sae[i]}
            one |= {n: random_dictionary(sae[i], rows, k, seed) for n, k in (("random", "N0"), ("matched", "N2"))}
            for code, weights in one.items():
                _fill(by_k[code][:, t], chosen[code][t], i, probes(*task.parts(encoder(weights)), sizes))
    return Scores(tuple(task.name for task in tasks), tuple(task.digest for task in tasks), chosen, by_k, tuple(sizes))


def _fill(by_k: np.ndarray, chosen: np.ndarray, seed: int | slice, found: Sequence[Probe]) -> None:
    by_k[:, seed] = np.array([probe.auc for probe in found]).reshape(-1, *[1] * isinstance(seed, slice))
    chosen[seed] = best(found).auc


def over_tasks(values: Float[np.ndarray, "tasks seeds"]) -> Estimate:
    """Return the mean over tasks and SAE seeds, both random, with its interval; n counts tasks.

    ValueError: fewer than 3 of either.
    """
    return replace(stats.crossed(values).estimate, method="jackknife over tasks and SAE seeds")


def over_classes(values: Float[np.ndarray, "tasks seeds"], names: Sequence[str]) -> Estimate:
    """Return the mean over tasks of all pairs of classes, named "one | other", for new classes and seeds.

    Tasks that share a class are not independent: the jackknife leaves out one class with all of its tasks. n counts
    classes. ValueError: not all pairs, fewer than 3 classes or seeds.
    """
    pairs = [tuple(name.split(" | ")) for name in names]
    classes = list(dict.fromkeys(one for pair in pairs for one in pair))
    whole = sorted(map(sorted, pairs)) == sorted(map(sorted, combinations(classes, 2)))
    require(whole, "names", list(names), "one task for every pair of classes")
    square = np.zeros((values.shape[1], len(classes), len(classes)))
    for row, (a, b) in zip(values, pairs, strict=True):
        i, j = classes.index(a), classes.index(b)
        square[:, i, j] = square[:, j, i] = row
    crossed = stats.crossed(square).estimate
    return replace(crossed, n=len(classes), method="jackknife over classes and SAE seeds")
