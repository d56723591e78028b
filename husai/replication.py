"""Whether a feature will come back in other seeds, told from the one SAE that has it.

A feature *replicates* when it has a match (mutual nearest decoder rows, cosine above tau) in more than half of the
other seeds. `table` says which do; `Predictor` learns to tell it from what one SAE and its own activations show;
`judge` says how well it does on an SAE, a model or a data set that it was not fitted on.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from husai.config import require
from husai.consensus import matches
from husai.evidence import Estimate
from husai.saes import ROWS, SAEBatch
from husai.similarity import cosine_matrix, unit_rows
from husai.stats import jackknife, t_interval
from husai.study import Study

COVARIATES = ("firing_rate", "strength", "alignment", "projection_rank", "neighbour")
"""What `covariates` measures, in its order."""


def covariates(
    sae: SAEBatch, x: Float[Tensor, "inputs d_model"], keep: Bool[Tensor, " d_sae"]
) -> Float[np.ndarray, "n covariates"]:
    """Return what one SAE and its activations show of each kept latent; nothing of another SAE enters.

    `firing_rate` log of the share of inputs on which it fires, less that of the mean kept latent; `strength` the
    same of its mean |z| where it fires; `alignment` <e, d> / |e| of encoder and unit decoder row; `projection_rank`
    mean rank of <x - b_dec, d> among the kept latents where it fires, 0 the largest and 1 the smallest; `neighbour`
    largest |cos| of d with another kept decoder row. ValueError: not one SAE, fewer than two kept latents, one that
    never fires on x.
    """
    require(len(sae) == 1, "sae", f"{len(sae)} seeds", "one: `saes[index]`")
    require(int(keep.sum()) >= 2, "keep", f"{int(keep.sum())} latents", "at least two")
    rows, encoder = unit_rows(sae.W_dec[0][keep]), unit_rows(sae.W_enc[0].T[keep])
    fires, total, rank = (torch.zeros(len(rows), dtype=torch.float64) for _ in range(3))
    for part in x.split(ROWS):
        z = sae.encode(part)[0][:, keep]
        place = ((part - sae.b_dec[0]) @ rows.T).argsort(1, descending=True).argsort(1)
        fires += (z != 0).sum(0)
        total += z.abs().sum(0)
        rank += (place * (z != 0)).sum(0)
    require(bool((fires > 0).all()), "keep", "a latent that never fires on x", "latents that are alive on x")
    strength = total / fires
    own = cosine_matrix(rows, rows, signed=False).fill_diagonal_(0)
    columns = [
        (fires / fires.mean()).log(),
        (strength / strength.mean()).log(),
        (encoder * rows).sum(1).double(),
        rank / fires / (len(rows) - 1),
        own.amax(1).double(),
    ]
    return torch.stack(columns, 1).numpy()


class Table(NamedTuple):
    """The alive latents of one condition: what each SAE shows of them, and in which other seeds they have a match."""

    covariates: tuple[Float[np.ndarray, "n covariates"], ...]
    """One a seed, the columns of COVARIATES."""
    matches: tuple[Bool[np.ndarray, "seeds n"], ...]
    """One a seed: which of its latents have a match in which other seed."""

    def replicates(self, seeds: Sequence[int] | None = None) -> list[Bool[np.ndarray, " n"]]:
        """Return, per seed, which latents have a match in more than half of the others among `seeds` (default: all)."""
        among = list(range(len(self.matches))) if seeds is None else list(seeds)
        return [2 * self.matches[i][among].sum(0) > len(among) - 1 for i in among]


def table(study: Study, tau: float = 0.7) -> Table:
    """Return what `Predictor` is fitted on and judged by: alive latents, on held-out activations.

    A match takes cos > tau, of signed TopK |cos| > tau. ValueError: as `covariates`.
    """
    x = study.activations.held_out
    rows = [covariates(study.saes[i], x, kept) for i, kept in enumerate(study.alive)]
    found = matches(study.decoders, tau, signed=not study.config.sae.signed)
    return Table(tuple(rows), tuple(match.numpy() for match in found))


@dataclass(frozen=True)
class Predictor:
    """The probability that a feature replicates, 1 / (1 + exp(-bias - sum_c w_c (covariate_c - mean_c) / scale_c)).

    >>> predictor = Predictor.fit([table(study) for study in studies])
    >>> predictor.probability(covariates(sae, x, alive))
    >>> evidence.write_json(path, predictor.as_dict()); Predictor.from_dict(json.loads(path.read_text()))
    """

    names: tuple[str, ...]
    """The covariates that it uses, of COVARIATES."""
    mean: tuple[float, ...]
    """Their means over the latents that it was fitted on."""
    scale: tuple[float, ...]
    """Their standard deviations there."""
    weights: tuple[float, ...]
    """Change of the log odds with one standard deviation."""
    bias: float
    """Log odds where all covariates are at their means."""

    @classmethod
    def fit(cls, tables: Sequence[Table], names: Sequence[str] = COVARIATES) -> "Predictor":
        """Return the logistic regression on all latents of all seeds of these tables (L2 penalty, C = 1).

        Where all or none replicate there is nothing to tell apart: the weights are 0, and the bias is the log odds of
        (replicating + 1/2) / (latents + 1). ValueError: no table, a name that is not of COVARIATES.
        """
        require(len(tables) >= 1, "tables", "none", "at least one table")
        unknown = [name for name in names if name not in COVARIATES]
        require(not unknown and len(names) > 0, "names", list(names), f"some of {COVARIATES}")
        rows = np.concatenate([_columns(part, names) for found in tables for part in found.covariates])
        labels = np.concatenate([part for found in tables for part in found.replicates()])
        scaler = StandardScaler().fit(rows)
        if labels.all() or not labels.any():
            weights, bias = [0.0] * len(names), float(logit((labels.sum() + 0.5) / (len(labels) + 1)))
        else:
            model = LogisticRegression(max_iter=1000).fit(scaler.transform(rows), labels)
            weights, bias = model.coef_[0].tolist(), float(model.intercept_[0])
        return cls(tuple(names), tuple(scaler.mean_.tolist()), tuple(scaler.scale_.tolist()), tuple(weights), bias)

    def probability(self, rows: Float[np.ndarray, "n covariates"]) -> Float[np.ndarray, " n"]:
        """Return the probability of each latent that it replicates, from its `covariates`."""
        require(rows.shape[1] == len(COVARIATES), "rows.shape", rows.shape, f"[n, {len(COVARIATES)}]")
        standard = (_columns(rows, self.names) - np.array(self.mean)) / np.array(self.scale)
        return expit(standard @ np.array(self.weights) + self.bias)

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> "Predictor":
        """Return the predictor that `as_dict` wrote, also after JSON has turned its tuples into lists.

        ValueError: missing or unknown entries, lists of unequal length, an unknown covariate.
        """
        known = set(cls.__dataclass_fields__)
        require(set(entries) == known, "entries", sorted(entries), f"{sorted(known)}")
        values: dict[str, Any] = {key: value if key == "bias" else tuple(value) for key, value in entries.items()}
        lengths = {key: len(value) for key, value in values.items() if key != "bias"}
        require(len(set(lengths.values())) == 1, "entries", lengths, "as many of each as there are names")
        require(set(values["names"]) <= set(COVARIATES), "names", values["names"], f"some of {COVARIATES}")
        return cls(**values)


def _columns(rows: np.ndarray, names: Sequence[str]) -> np.ndarray:
    return rows[:, [COVARIATES.index(name) for name in names]]


class Judged(NamedTuple):
    """How well a predictor does on one table; intervals over its SAE seeds, never over latents."""

    auroc: Estimate
    """Probability that a feature that replicates ranks above one that does not; 1/2 where all or none do."""
    calibration_error: Estimate
    """Mean |predicted - observed| over bins of equally many features."""
    bias: Estimate
    """Mean predicted probability less the share that replicates."""
    share: Estimate
    """Share of features that replicate."""
    reliability: list[tuple[Estimate, Estimate]]
    """Predicted probability and share that replicates, one bin after another."""


def judge(predictor: Predictor, found: Table, bins: int = 5) -> Judged:
    """Return how well a predictor does on a table: delete-one-seed jackknife, labels made anew without the seed.

    ValueError: fewer than 3 seeds, fewer than one bin.
    """
    require(bins >= 1, "bins", bins, "at least one bin")
    predicted = [predictor.probability(rows) for rows in found.covariates]

    def over_seeds(statistic: Callable[[np.ndarray, np.ndarray], float]) -> Estimate:
        def of(seeds: Sequence[int]) -> float:
            labels = np.concatenate(found.replicates(seeds))
            return float(statistic(np.concatenate([predicted[i] for i in seeds]), labels))

        return jackknife(of, len(predicted))

    return Judged(
        over_seeds(auroc),
        over_seeds(lambda p, labels: float(np.mean([abs(a - b) for a, b in _binned(p, labels, bins)]))),
        over_seeds(lambda p, labels: float(p.mean() - labels.mean())),
        over_seeds(lambda _, labels: float(labels.mean())),
        [
            (over_seeds(partial(_bin, bins, b, 0)), over_seeds(partial(_bin, bins, b, 1)))
            for b in range(min(bins, *(len(rows) for rows in predicted)))
        ],
    )


def auroc(predicted: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"]) -> float:
    """Return the area under the ROC curve, ties counting half; 1/2 where all or none replicate: nothing to rank."""
    return 0.5 if labels.all() or not labels.any() else float(roc_auc_score(labels, predicted))


def _binned(predicted: np.ndarray, labels: np.ndarray, bins: int) -> list[tuple[float, float]]:
    """Return mean prediction and share that replicates in bins of equally many features, by rising prediction."""
    order = np.argsort(predicted, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    return [(float(predicted[part].mean()), float(labels[part].mean())) for part in parts]


def _bin(bins: int, index: int, side: int, predicted: np.ndarray, labels: np.ndarray) -> float:
    return _binned(predicted, labels, bins)[index][side]


def kind(name: tuple[Hashable, ...]) -> Hashable:
    """Return the first part of a table's name, as in ("clean", 0): a family of `leave_out`."""
    return name[0]


def leave_out(
    tables: Mapping[Hashable, Table],
    family: Callable[[Any], Hashable] = lambda name: name,
    names: Sequence[str] = COVARIATES,
) -> dict[Hashable, Judged]:
    """Return, per table, how well a predictor does that was fitted on all tables of other families.

    By default every table is a family of its own: leave one out. Raises ValueError when one family has all the
    tables.
    """
    families = {family(name) for name in tables}
    require(len(families) >= 2, "family", list(families), "two families or more, to leave one out")
    return {
        name: judge(
            Predictor.fit([part for other, part in tables.items() if family(other) != family(name)], names),
            found,
        )
        for name, found in tables.items()
    }


def over_families(judged: Mapping[Any, Judged], family: Callable[[Any], Hashable] = kind) -> dict[str, Estimate]:
    """Return `auroc` and `calibration_error` averaged within each family, then over families: n counts these.

    ValueError: fewer than 3 families.
    """
    families = list(dict.fromkeys(map(family, judged)))
    require(len(families) >= 3, "judged", f"{len(families)} families", "3 or more for an interval")
    found = {}
    for field in ("auroc", "calibration_error"):
        groups = [[getattr(j, field).value for name, j in judged.items() if family(name) == one] for one in families]
        found[field] = t_interval(np.array([np.mean(group) for group in groups]), "mean over kinds of data", "")
    return found
