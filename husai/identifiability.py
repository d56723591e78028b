"""Whether seeds that agree have found the truth: recovery and agreement on data whose features are known."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from husai import activations, comparison, metrics, stats, study
from husai.activations import Activations
from husai.config import TrainConfig, require
from husai.evidence import Estimate
from husai.matching import matching
from husai.recipes import converged
from husai.similarity import best_cosines, unit_rows
from husai.study import Study
from husai.synthetic import Synthetic, SyntheticConfig, sample

PUBLISHED = {"agreement": 0.80, "shared": 0.30}
"""Language models: Song et al. (2025), TopK, by `hungarian_mcc`; Paulo & Belrose (2025), Llama 3 8B, 131 thousand
latents, by `shared_fraction`."""


class Known(NamedTuple):
    """Activations to train on, and the truth behind them."""

    activations: Activations
    """The data with a held-out part."""
    truth: Synthetic
    """Atoms, codes and firing rates."""


def known(config: SyntheticConfig, n: int, seeds: Sequence[int]) -> list[Known]:
    """Return n synthetic activations a seed, with their split; a seed draws the atoms, the codes and the split."""
    truths = [sample(config, n, seed) for seed in seeds]
    splits = [
        activations.split(truth.activations, seed, "synthetic") for truth, seed in zip(truths, seeds, strict=True)
    ]
    return [Known(*both) for both in zip(splits, truths, strict=True)]


def shuffled(data: Sequence[Known]) -> list[Known]:
    """Return the same data with shuffled activations: what the null N4 is trained on."""
    return [one._replace(activations=one.activations.shuffled(seed)) for seed, one in enumerate(data)]


def recipe(d_sae: int, k: int, steps: int) -> TrainConfig:
    """Return the converged TopK recipe at three times its rate, which falls over the last four fifths of the steps."""
    return replace(converged(d_sae, k, steps), lr=3e-3, decay_share=0.8)


class Cell(NamedTuple):
    """One condition: the same SAEs on one or more sets of known data."""

    studies: list[Study]
    """One study a set."""
    data: list[Known]
    """The sets."""

    def at(self, step: int) -> "Cell":
        """Return the cell as it stood at a checkpoint, to be judged like any other; ValueError: none was kept."""
        return self._replace(studies=[one.stopped(step) for one in self.studies])

    @property
    def measured(self) -> dict[str, Any]:
        """`agreement` and `against_truth`."""
        return agreement(self.studies) | against_truth(self.studies, [one.truth.atoms for one in self.data])


def train(
    conditions: Mapping[Any, tuple[Sequence[Known], TrainConfig]], seeds: Sequence[int], **options: Any
) -> dict[Any, Cell]:
    """Return every condition (known data, configuration) trained for all seeds; options go to `study.run`."""
    flat = {
        (name, i): (one.activations, config)
        for name, (data, config) in conditions.items()
        for i, one in enumerate(data)
    }
    studies = study.run(flat, seeds, **options)
    return {
        name: Cell([studies[name, i] for i in range(len(data))], list(data)) for name, (data, _) in conditions.items()
    }


def agreement(studies: Sequence[Study]) -> dict[str, Any]:
    """Return how far seeds agree (alive latents): what can be measured whether or not the truth is known.

    `agreement` is `hungarian_mcc`, beside its null N2 and kappa_N2; `agreement_all` counts dead latents too; `shared`
    is `metrics.shared_fraction`; `fvu`, `l0`, `alive` and the mean number of updates a latent are the quality. One
    study a model, or a set of known data.
    """
    against = comparison.compare(studies, "N2", "hungarian_mcc")
    c = studies[0].config
    every = np.stack([one.scores("hungarian_mcc", "all") for one in studies])
    return {
        **comparison.quality(studies),
        "updates": studies[0].last * c.batch_size * c.sae.active / c.sae.d_sae,
        "agreement": against.score,
        "agreement_N2": against.null_score,
        "gap_N2": against.gap,
        "kappa_N2": against.kappa.value,
        "agreement_all": comparison.summarise(every),
        "shared": comparison.summarise(np.stack([one.scores("shared_fraction") for one in studies])),
    }


def against_truth(studies: Sequence[Study], truths: Sequence[Float[Tensor, "atoms d_model"]]) -> dict[str, Estimate]:
    """Return how near alive latents are to the true features, and how much nearer they are to one another.

    `recovery` is `metrics.recovery`: the mean cosine of the true atoms with their one-to-one partners. `fidelity` is
    the mean over latents of the largest cosine with any atom, so that a latent that splits an atom, or a dictionary
    too small for all of them, can still be faithful. `beyond_recovery` and `beyond_fidelity` are the agreement
    (`hungarian_mcc`) less each of them, seed by seed; the latter is positive where seeds agree on what is not true.
    `recovery_N2` and `fidelity_N2` are those of covariance-matched draws. One study and one truth a set of data.
    ValueError: unequal numbers of them.
    """
    require(len(studies) == len(truths), "truths", f"{len(truths)} of them", f"{len(studies)}, one a study")
    agreed = np.stack([one.scores("hungarian_mcc") for one in studies])
    sides = [one.decoders for one in studies], [comparison.drawn(one, "N2") for one in studies]
    found: dict[str, Estimate] = {}
    for name, score in (("recovery", metrics.recovery), ("fidelity", fidelity)):
        learnt, chance = (
            np.stack([_pairs([score(rows, t) for rows in seeds]) for seeds, t in zip(side, truths, strict=True)])
            for side in sides
        )
        found[name] = comparison.summarise(learnt)
        found[f"{name}_N2"] = comparison.summarise(chance)
        found[f"beyond_{name}"] = comparison.summarise(agreed - learnt)
    return found


def fidelity(dictionary: Float[Tensor, "d_sae d_model"], truth: Float[Tensor, "atoms d_model"]) -> float:
    """Return the mean over latents of the largest signed cosine with a true atom, which several may share.

    ValueError: empty, NaN or Inf, unequal d_model.
    """
    return float(best_cosines(dictionary, truth, signed=True)[0].mean())


def by_rate(cell: Cell, bins: int) -> tuple[list[float], dict[str, list[Estimate]]]:
    """Return recovery and agreement of a first set's true features in equal groups, from the rarest to the commonest.

    The list is the mean firing rate of each group. A feature's recovery is the cosine with its partner in one seed,
    its agreement the cosine between its partners in two seeds; a feature without a partner has 0 for both.
    ValueError: bins outside 1 to the number of features.
    """
    truth = cell.data[0].truth
    require(1 <= bins <= len(truth.atoms), "bins", bins, f"1 to {len(truth.atoms)}, the number of features")
    partners = []
    for rows in cell.studies[0].decoders:
        found = matching(truth.atoms, rows)
        partners.append(torch.zeros_like(truth.atoms))
        partners[-1][found.rows] = unit_rows(rows)[found.columns]
    groups = truth.rates.argsort().tensor_split(bins)
    each = {
        "recovery": [stats.mean([_mean_cosine(rows[g], truth.atoms[g]) for rows in partners]) for g in groups],
        "agreement": [
            stats.pairwise(metrics.pairwise_matrix(_mean_cosine, [rows[g] for rows in partners])) for g in groups
        ],
    }
    return [float(truth.rates[g].mean()) for g in groups], each


def tables(
    found: Mapping[tuple[Any, Any, str], Mapping[str, Any]], measures: Mapping[str, str]
) -> dict[str, tuple[list[str], list[str], dict[str, np.ndarray]]]:
    """Return measurements by (row, column, panel) as `plots.heatmaps` takes them, {key of a measure: its title}."""
    rows, columns, panels = ([*dict.fromkeys(names)] for names in zip(*found, strict=True))

    def table(key: str, panel: str) -> np.ndarray:
        values = [[found[row, column, panel][key] for column in columns] for row in rows]
        return np.array([[getattr(value, "value", value) for value in line] for line in values], dtype=float)

    names = [*map(str, rows)], [*map(str, columns)]
    return {title: (*names, {panel: table(key, panel) for panel in panels}) for key, title in measures.items()}


def _mean_cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum(1).mean())


def _pairs(values: Sequence[float]) -> np.ndarray:
    """Return the mean of each two seeds' values [seeds, seeds], to be set against a score of pairs."""
    one = np.asarray(values)
    return (one[:, None] + one) / 2
