"""Multi-seed studies: train or load the SAEs of a condition, and say how good they are."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from husai import artifacts, calibration, health, metrics, progress, saes, stats, training
from husai.activations import Activations, split
from husai.calibration import Calibration
from husai.config import NAMES, Objective, TrainConfig, log_grid, require
from husai.evidence import Estimate, write_json
from husai.saes import SAEBatch
from husai.shards import in_memory

MODULES = (
    *(f"config.{name}" for name in ("base", "objective", "autoencoders", "substrates")),
    *"tasks objectives shards kernels kernels.rows kernels.selection kernels.step engines feed coupling".split(),
    *"similarity metrics calibration training saes architectures".split(),
    *(f"architectures.{name}" for name in ("base", *NAMES)),
)
"""What trained SAEs depend on: a change of one of these trains them anew."""

Data = Activations | Sequence[Activations]
Condition = tuple[Data, TrainConfig] | tuple[Data, TrainConfig, SAEBatch]
"""Activations (of all seeds, or one a seed), a configuration and, if its objective refers to one, a reference."""


@dataclass(frozen=True)
class Study:
    """The SAEs of one condition on one model: S seeds, their checkpoints and their quality on held-out activations."""

    activations: Activations
    config: TrainConfig
    seeds: tuple[int, ...]
    folder: Path
    step: int | None = None
    """Where `stopped` made the study end; None for the last step."""

    def stopped(self, step: int) -> "Study":
        """Return the same SAEs, judged by the checkpoint of an earlier step."""
        require(step in self.steps, "step", step, f"a stored checkpoint, one of {self.steps}")
        return replace(self, step=step)

    def at(self, step: int) -> saes.SAEBatch:
        """Return the SAEs of a checkpoint."""
        return saes.load(self.folder / f"step_{step}")

    @property
    def steps(self) -> list[int]:
        """Steps of the stored checkpoints."""
        return sorted(int(path.name.removeprefix("step_")) for path in self.folder.glob("step_*"))

    @property
    def last(self) -> int:
        """Step of the checkpoint that is judged."""
        return self.config.steps if self.step is None else self.step

    @cached_property
    def saes(self) -> saes.SAEBatch:
        """The SAEs after the last step, or of the checkpoint that is judged."""
        return self.at(self.last)

    @cached_property
    def _held_out(self) -> tuple[list[dict[str, float]], Tensor]:
        """Quality and firing rates on held-out activations, which are encoded once."""
        return self.saes.measured(self.activations.held_out, self.activations.mean)

    @cached_property
    def fitted(self) -> tuple[list[dict[str, float]], Tensor]:
        """Quality and firing rates on the training activations, which are encoded once and must fit in memory."""
        return self.saes.measured(in_memory(self.activations.fit), self.activations.mean)

    @cached_property
    def firing(self) -> Tensor:
        """Firing rate of every latent on held-out activations [seeds, d_sae]."""
        return self._held_out[1]

    @property
    def alive(self) -> Bool[Tensor, "seeds d_sae"]:
        """Latents that fire on more than 0.1 % of the held-out activations."""
        return self.firing > 1e-3

    @cached_property
    def by_seed(self) -> dict[str, list[float]]:
        """FVU, L0 and alive share of every seed, on held-out activations."""
        rows = self._held_out[0]
        return {key: [row[key] for row in rows] for key in rows[0]}

    @cached_property
    def quality(self) -> dict[str, Estimate]:
        """FVU, L0 and alive share over seeds, on held-out activations."""
        return {key: stats.mean(values) for key, values in self.by_seed.items()}

    @cached_property
    def convergence(self) -> health.Convergence:
        """Whether the score of alive latents has stopped rising and the decoders have left their initialisation.

        Of latents whose decoder rows are pinned neither can be asked: the others are, of a seed that has others alive.
        """
        last, half = self.last, self.last // 2
        require(half in self.steps, "steps", last, "a number of steps whose half was kept as a checkpoint")
        learns = self.alive & (torch.arange(self.alive.shape[1]) >= self.config.objective.fixed[1])
        looked_at = torch.where(learns.any(1, keepdim=True), learns, self.alive)
        start, then, now = (self.at(step).decoders(looked_at) for step in (0, half, last))
        updates = last * self.config.batch_size * self.quality["l0"].value / self.config.sae.d_sae
        return health.convergence(updates, start, then, now)

    @property
    def passes(self) -> dict[str, bool]:
        """Quality gates of `book/quality.toml` on seed means: a stability claim about SAEs that fail one is void."""
        return health.passes(self.quality, self.saes.config.active, self.convergence.converged)

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
        return self.alive if latents == "alive" else torch.ones(self.saes.b_enc.shape, dtype=torch.bool)

    def commonest(
        self, counts: Sequence[int], mask: Bool[Tensor, "seeds d_sae"] | None = None
    ) -> Bool[Tensor, "seeds d_sae"]:
        """Return each seed's latents of a mask (or alive), the rarest dropped where there are more than its count."""
        mask = self.alive if mask is None else mask
        keep = torch.zeros_like(mask)
        for row, rate, count in zip(keep, self.firing.masked_fill(~mask, -1), counts, strict=True):
            row[rate.argsort(descending=True, stable=True)[:count]] = True
        return keep & mask

    def matrix(self, metric: str, keep: Bool[Tensor, "seeds d_sae"], **options: Any) -> np.ndarray:
        """Return the seed-by-seed scores of the kept latents by a metric of `husai.metrics`."""
        return score_matrix(metric, *self.stacks(metric, keep), **options)

    def stacks(
        self, metric: str, keep: Bool[Tensor, "seeds d_sae"], drawn: Sequence[Tensor] | None = None
    ) -> list[Sequence[Tensor]]:
        """Return what a metric takes of every seed's kept latents; `drawn` rows stand in for theirs."""
        if metric == "activation_matching":
            return [self.codes(keep)]
        rows = self.saes.decoders(keep) if drawn is None else drawn
        if metric.startswith("frequency_weighted"):
            return [rows, [rates[kept] for rates, kept in zip(self.firing, keep, strict=True)]]
        if metric == "shared_fraction":
            encoders = [one.T[kept] for one, kept in zip(self.saes.W_enc, keep, strict=True)]
            return [encoders if drawn is None else drawn, rows]
        return [rows]

    def scores(self, metric: str, latents: str = "alive", **options: Any) -> np.ndarray:
        """Return `matrix` of the alive latents, or of all; computed once, as every null is compared with it."""
        key = (metric, latents, *sorted(options.items()))
        if key not in self._scores:
            self._scores[key] = self.matrix(metric, self.mask(latents), **options)
        return self._scores[key]

    @cached_property
    def _scores(self) -> dict[tuple[Any, ...], np.ndarray]:
        return {}

    def codes(self, keep: Bool[Tensor, "seeds d_sae"]) -> list[Tensor]:
        """Return every seed's kept latents on held-out activations."""
        x = self.activations.held_out
        return [self.saes[i].encode(x)[0][:, kept] for i, kept in enumerate(keep)]


def run(
    conditions: Mapping[Any, Condition],
    seeds: Sequence[int],
    *,
    executor: Executor | None = None,
    trajectory: bool = False,
    at: Sequence[int] = (),
) -> dict[Any, Study]:
    """Return a `Study` a condition, training those that the store does not have.

    A condition may give one `Activations` a seed: those SAEs share nothing but the distribution of their data, and are
    judged on the held-out part of the first. An objective that refers to other SAEs is given them as a third item, one
    for all seeds or one a seed. `executor` (any `concurrent.futures.Executor`) spreads the conditions.
    Checkpoints are kept at the start, half-way, at the end and at the steps `at`; with `trajectory` on the whole
    logarithmic grid too. Fewer than 3 seeds allow no interval: ValueError.
    """
    require(len(seeds) >= 3, "seeds", list(seeds), "at least 3 seeds, because every score carries an interval")
    apply = executor.map if executor else map
    data = [[item[0]] if isinstance(item[0], Activations) else list(item[0]) for item in conditions.values()]
    configs = [resolved(acts[0], item[1], seeds) for acts, item in zip(data, conditions.values(), strict=True)]
    references = [item[2] if len(item) == 3 else None for item in conditions.values()]
    keeps = [sorted({0, c.steps // 2, c.steps, *at, *(log_grid(c.steps) if trajectory else ())}) for c in configs]
    trained = apply(_folder, data, configs, references, [tuple(seeds)] * len(data), keeps)
    folders = list(progress.watched(trained, [c.steps * len(seeds) for c in configs], "SAE-step"))
    studies = zip(conditions, data, configs, folders, strict=True)
    return {name: Study(acts[0], config, tuple(seeds), folder) for name, acts, config, folder in studies}


def resolved(acts: Activations, config: TrainConfig, seeds: Sequence[int]) -> TrainConfig:
    """Return the configuration with the k that was chosen on these activations, where it is "auto".

    The choice is kept as an artifact; `calibrate_l0` reads how it was made.
    """
    if config.sae.k != "auto":
        return config
    return replace(config, sae=replace(config.sae, k=calibrate_l0(acts, config, seeds).k))


def calibrate_l0(
    acts: Activations | Float[Tensor, "n d_model"],
    config: TrainConfig,
    seeds: Sequence[int],
    criterion: str = "description_length",
) -> Calibration:
    """Return how many latents an input should use, by a criterion that never looks at agreement between seeds.

    Whatever `config.sae.k` is, it is not used; the SAEs that choose have seeds of their own (`calibration.SEEDS`) and
    see training rows only. The result holds the curve of all three of `calibration.CRITERIA`, and the k that each
    would choose. A plain tensor is `split` first. ValueError: `seeds`, those to be evaluated, take part in the choice;
    an unknown criterion.
    """
    calibration.require_disjoint(seeds)
    calibration.require_criterion(criterion)
    data = split(acts, 0) if isinstance(acts, Tensor) else acts
    trials = replace(config, sae=replace(config.sae, k="auto"), shared="", objective=Objective())

    def build(folder: Path) -> None:
        _, chosen = training.resolve(data.fit, trials, seeds)
        write_json(folder / "calibration.json", chosen._asdict())  # type: ignore[union-attr]

    inputs = [artifacts.content_hash(data.fit)]
    folder = artifacts.stored("calibrations", trials, build, modules=MODULES, inputs=inputs)
    return Calibration(**json.loads((folder / "calibration.json").read_text())).by(criterion)


def _folder(
    data: list[Activations], config: TrainConfig, reference: SAEBatch | None, seeds: tuple[int, ...], keep: list[int]
) -> Path:
    apart = len(data) == 1 or config.objective.name in ("", "l2")
    require(apart, "activations", f"{len(data)} of them", "one for all seeds, where an objective couples these")
    wanted = f"one, or one for each of {len(seeds)} seeds"
    require(len(data) in (1, len(seeds)), "activations", f"{len(data)} of them", wanted)
    shares = [seeds] if len(data) == 1 else [(seed,) for seed in seeds]

    def build(folder: Path) -> None:
        artifacts.clear(folder)
        log = folder / "log.jsonl"
        train = partial(training.train, reference=reference, keep=keep, log_path=log)
        parts = [train(acts.fit, config, share) for acts, share in zip(data, shares, strict=True)]
        for step in parts[0].checkpoints:
            saes.save(saes.stack([part.checkpoints[step] for part in parts]), folder / f"step_{step}")

    inputs = [artifacts.content_hash(acts.fit) for acts in data]
    if reference is not None:
        inputs += [artifacts.content_hash(getattr(reference, name)) for name in saes.WEIGHTS]
    return artifacts.stored("saes", [config, list(seeds), keep], build, modules=MODULES, inputs=inputs)


def score_matrix(metric: str, *stacks: Sequence[Tensor], **options: Any) -> np.ndarray:
    """Return the seed-by-seed matrix of a metric of `husai.metrics`, by its name; one stack of tensors an argument."""
    return metrics.pairwise_matrix(getattr(metrics, metric), *stacks, **options)


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
    return {(arm, name): [studies[arm, name, i] for i in range(len(arms[arm]))] for arm in arms for name in configs}
