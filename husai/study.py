"""Multi-seed studies: train or load the SAEs of a condition, and say how good they are."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from husai import artifacts, metrics, saes, stats, training
from husai.activations import Activations
from husai.calibration import Calibration
from husai.config import NAMES, TrainConfig, log_grid, require
from husai.evidence import ROOT, Estimate, write_json

MODULES = (
    "config",
    "tasks",
    "objectives",
    "shards",
    "kernels",
    "kernels.rows",
    "kernels.selection",
    "kernels.step",
    "engines",
    "feed",
    "similarity",
    "metrics",
    "calibration",
    "training",
    "saes",
    "architectures",
    *(f"architectures.{name}" for name in ("base", *NAMES)),
)
GATES = tomllib.loads((ROOT / "book" / "quality.toml").read_text())


@dataclass(frozen=True)
class Study:
    """The SAEs of one condition on one model: S seeds, their checkpoints and their quality on held-out activations."""

    activations: Activations
    config: TrainConfig
    seeds: tuple[int, ...]
    folder: Path

    def at(self, step: int) -> saes.SAEBatch:
        """Return the SAEs of a checkpoint."""
        return saes.load(self.folder / f"step_{step}")

    @property
    def steps(self) -> list[int]:
        """Steps of the stored checkpoints."""
        return sorted(int(path.name.removeprefix("step_")) for path in self.folder.glob("step_*"))

    @cached_property
    def saes(self) -> saes.SAEBatch:
        """The SAEs after the last step."""
        return self.at(self.config.steps)

    @cached_property
    def firing(self) -> Tensor:
        """Firing rate of every latent on held-out activations [seeds, d_sae]."""
        return self.saes.firing(self.activations.held_out)

    @property
    def alive(self) -> Bool[Tensor, "seeds d_sae"]:
        """Latents that fire on more than 0.1 % of the held-out activations."""
        return self.firing > 1e-3

    @cached_property
    def by_seed(self) -> dict[str, list[float]]:
        """FVU, L0 and alive share of every seed, on held-out activations."""
        rows = self.saes.quality(self.activations.held_out, self.activations.mean)
        return {key: [row[key] for row in rows] for key in rows[0]}

    @cached_property
    def quality(self) -> dict[str, Estimate]:
        """FVU, L0 and alive share over seeds, on held-out activations."""
        return {key: stats.mean(values) for key, values in self.by_seed.items()}

    @cached_property
    def convergence(self) -> "Convergence":
        """Whether the score of alive latents has stopped rising and the decoders have left their initialisation."""
        last, half = self.config.steps, self.config.steps // 2
        require(
            half in self.steps,
            "steps",
            self.config.steps,
            "a number of steps whose half was kept as a checkpoint",
        )
        now, then = (
            score_matrix("mean_max_cosine", self.at(step).decoders(self.alive)) for step in (last, half)
        )
        start = self.at(0)
        pairs = zip(self.decoders, start.decoders(self.alive), strict=True)
        init = float(np.mean([metrics.init_cosine(now_rows, first_rows) for now_rows, first_rows in pairs]))
        slope = stats.pairwise(now).value - stats.pairwise(then).value
        c, gate = self.config, GATES["plateau"]
        updates = c.steps * c.batch_size * self.saes.config.active / c.sae.d_sae
        reached = abs(slope) < gate["slope"] and init < gate["init_cosine"] and updates >= gate["updates"]
        return Convergence(slope, init, updates, reached)

    @property
    def passes(self) -> dict[str, bool]:
        """Quality gates of `book/quality.toml` on seed means: a stability claim about SAEs that fail one is void."""
        q, gate = self.quality, GATES["stability"]
        return {
            "explained variance": 1 - q["fvu"].value > gate["explained_variance"],
            "dead share": 1 - q["alive"].value < gate["dead_share"],
            "L0 on target": abs(q["l0"].value - self.saes.config.active)
            <= gate["l0_tolerance"] * self.saes.config.active,
            "converged": self.convergence.converged,
        }

    @property
    def decoders(self) -> list[Tensor]:
        """Alive decoder rows of every seed."""
        return self.saes.decoders(self.alive)

    @property
    def failures(self) -> str:
        """The gates that this study fails, in words; empty when it passes them all."""
        words = {"converged": "not converged"}
        return ", ".join(words.get(gate, gate) for gate, passed in self.passes.items() if not passed)

    def mask(self, latents: str = "alive") -> Bool[Tensor, "seeds d_sae"]:
        """Return which latents count: the alive ones, or all."""
        return self.alive if latents == "alive" else torch.ones_like(self.alive)

    def commonest(self, counts: Sequence[int]) -> Bool[Tensor, "seeds d_sae"]:
        """Return each seed's alive latents, the rarest dropped where there are more than that seed's count."""
        keep = torch.zeros_like(self.alive)
        for row, rate, count in zip(keep, self.firing, counts, strict=True):
            row[rate.argsort(descending=True, stable=True)[:count]] = True
        return keep & self.alive

    def matrix(self, metric: str, keep: Bool[Tensor, "seeds d_sae"]) -> np.ndarray:
        """Return the seed-by-seed scores of the kept latents: of their decoder rows, or of their codes."""
        return score_matrix(
            metric, self.codes(keep) if metric == "activation_matching" else self.saes.decoders(keep)
        )

    def scores(self, metric: str, latents: str = "alive") -> np.ndarray:
        """Return `matrix` of the alive latents, or of all; computed once, as every null is compared with it."""
        if (metric, latents) not in self._scores:
            self._scores[metric, latents] = self.matrix(metric, self.mask(latents))
        return self._scores[metric, latents]

    @cached_property
    def _scores(self) -> dict[tuple[str, str], np.ndarray]:
        return {}

    def codes(self, keep: Bool[Tensor, "seeds d_sae"]) -> list[Tensor]:
        """Return every seed's kept latents on held-out activations."""
        x = self.activations.held_out
        return [self.saes[i].encode(x)[0][:, kept] for i, kept in enumerate(keep)]


class Convergence(NamedTuple):
    """The plateau criterion of recipe G."""

    slope: float
    """Change of the alive latents' mean max cosine over the last doubling of steps; within +-.01 is wanted."""
    init_cosine: float
    """Mean |cos| of the alive decoder rows with their own initialisation; below .5 is wanted."""
    updates: float
    """steps * batch * k / d_sae, the mean number of updates a latent; at least 2e4 is wanted."""
    converged: bool
    """All three hold."""


def run(
    conditions: Mapping[Any, tuple[Activations | Sequence[Activations], TrainConfig]],
    seeds: Sequence[int],
    *,
    executor: Executor | None = None,
    trajectory: bool = False,
) -> dict[Any, Study]:
    """Return a `Study` a condition, training those that the store does not have.

    A condition may give one `Activations` a seed: those SAEs share nothing but the distribution of their data, and are
    judged on the held-out part of the first. `executor` (any `concurrent.futures.Executor`) spreads the conditions;
    `trajectory` keeps checkpoints on the whole logarithmic grid, else only those at the start, half-way and at the end.
    Fewer than 3 seeds allow no interval: ValueError.
    """
    require(
        len(seeds) >= 3, "seeds", list(seeds), "at least 3 seeds, because every score carries an interval"
    )
    apply = executor.map if executor else map
    data = [[acts] if isinstance(acts, Activations) else list(acts) for acts, _ in conditions.values()]
    configs = [resolved(acts[0], config, seeds) for acts, (_, config) in zip(data, conditions.values(), strict=True)]
    folders = list(apply(_folder, data, configs, repeat(tuple(seeds)), repeat(trajectory)))
    studies = zip(conditions, data, configs, folders, strict=True)
    return {name: Study(acts[0], config, tuple(seeds), folder) for name, acts, config, folder in studies}


def resolved(acts: Activations, config: TrainConfig, seeds: Sequence[int]) -> TrainConfig:
    """Return the configuration with the k that was chosen on these activations, where it is "auto".

    The choice is kept as an artifact; `calibration` reads how it was made.
    """
    if config.sae.k != "auto":
        return config
    return replace(config, sae=replace(config.sae, k=calibration(acts, config, seeds).k))


def calibration(acts: Activations, config: TrainConfig, seeds: Sequence[int]) -> Calibration:
    """Return how k is chosen on these activations, for seeds that have no part in it."""

    def build(folder: Path) -> None:
        _, chosen = training.resolve(acts.fit, config, seeds)
        write_json(folder / "calibration.json", chosen._asdict())  # type: ignore[union-attr]

    inputs = [artifacts.content_hash(acts.fit)]
    folder = artifacts.stored("calibrations", replace(config, shared=""), build, modules=MODULES, inputs=inputs)
    return Calibration(**json.loads((folder / "calibration.json").read_text()))


def _folder(data: list[Activations], config: TrainConfig, seeds: tuple[int, ...], trajectory: bool) -> Path:
    require(
        len(data) in (1, len(seeds)),
        "activations",
        f"{len(data)} of them",
        f"one, or one for each of {len(seeds)} seeds",
    )
    keep = log_grid(config.steps) if trajectory else sorted({0, config.steps // 2, config.steps})
    shares = [seeds] if len(data) == 1 else [(seed,) for seed in seeds]

    def build(folder: Path) -> None:
        artifacts.clear(folder)
        log = folder / "log.jsonl"
        parts = [
            training.train(acts.fit, config, s, keep=keep, log_path=log)
            for acts, s in zip(data, shares, strict=True)
        ]
        for step in parts[0].checkpoints:
            saes.save(saes.stack([part.checkpoints[step] for part in parts]), folder / f"step_{step}")

    inputs = [artifacts.content_hash(acts.fit) for acts in data]
    return artifacts.stored("saes", [config, list(seeds), keep], build, modules=MODULES, inputs=inputs)


def score_matrix(metric: str, dictionaries: Sequence[Tensor], **options: Any) -> np.ndarray:
    """Return the seed-by-seed matrix of a metric of `husai.metrics`, by its name."""
    return metrics.pairwise_matrix(getattr(metrics, metric), dictionaries, **options)


def sweep(
    arms: Mapping[Any, Sequence[Activations]],
    configs: Mapping[Any, TrainConfig],
    seeds: Sequence[int],
    **options: Any,
) -> dict[tuple[Any, Any], list[Study]]:
    """Return every arm under every configuration, `{(arm, configuration): one study a model}`; options go to `run`.

    Where k is "auto" it is chosen once, on the first model of the first arm, so that the arms can be compared.
    """
    first = next(iter(arms.values()))[0]
    configs = {name: resolved(first, config, seeds) for name, config in configs.items()}
    grid = {
        (arm, name, i): (acts, config)
        for arm, models in arms.items()
        for i, acts in enumerate(models)
        for name, config in configs.items()
    }
    studies = run(grid, seeds, **options)
    return {
        (arm, name): [studies[arm, name, i] for i in range(len(arms[arm]))]
        for arm in arms
        for name in configs
    }


def trajectory(study: Study) -> list[dict[str, Any]]:
    """Return, per stored checkpoint, scores over all latents, FVU, alive share and |cos| to the own initialisation."""
    start, rows = study.at(0), []
    held_out, mean = study.activations.held_out, study.activations.mean
    for step in study.steps:
        batch = study.at(step)
        quality = batch.quality(held_out, mean)
        init = [metrics.init_cosine(a, b) for a, b in zip(batch.W_dec, start.W_dec, strict=True)]
        rows.append({
            "step": step,
            "mean_max_cosine": stats.pairwise(score_matrix("mean_max_cosine", batch.decoders())),
            "hungarian_mcc": stats.pairwise(score_matrix("hungarian_mcc", batch.decoders())),
            "fvu": stats.mean([row["fvu"] for row in quality]),
            "alive": stats.mean([row["alive"] for row in quality]),
            "init_cosine": stats.mean(init),
        })  # fmt: skip
    return rows
