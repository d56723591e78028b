"""What SAEs are trained on: a model's activations at one hook, with their own train / held-out split."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from husai import nulls, shards
from husai.config import TaskConfig, require
from husai.models import Models, initialise, predict
from husai.shards import Shards
from husai.tasks import generator, sequences

FACTORS = ("a", "b", "c")
HELD_OUT = 2**15
"""Most rows that are held out: SAEs are judged in memory, however many rows they are trained on."""


class Activations(NamedTuple):
    """Activations of every input, in memory or in shards, with a part that SAEs see and a held-out part."""

    values: Float[Tensor, "n d_model"] | Shards
    """One row an input."""
    training: Bool[Tensor, " n"]
    """Which rows SAEs are trained on."""
    name: str = ""
    """Where they come from."""

    @property
    def fit(self) -> Float[Tensor, "rows d_model"] | Shards:
        """Rows that SAEs are trained on; of shards a view, which reads nothing yet."""
        return self.values[self.training]

    @property
    def held_out(self) -> Float[Tensor, "rows d_model"]:
        """Rows on which SAEs are judged, in memory; all rows when none is held out (ValueError for shards)."""
        if bool(self.training.all()):
            return shards.in_memory(self.values)
        rows = self.values[~self.training]
        return rows.load() if isinstance(rows, Shards) else rows

    @property
    def mean(self) -> Float[Tensor, " d_model"]:
        """Mean of the training rows, computed once: what FVU is centred by."""
        return _mean(self)

    @property
    def root(self) -> Float[Tensor, "d_model d_model"]:
        """Sigma^(1/2) of the training rows (`nulls.covariance_root`), computed once; ValueError for shards."""
        return _root(self)

    @property
    def axes(self) -> Float[Tensor, "d_model d_model"]:
        """Principal axes of the training rows, the largest last (`nulls.principal_axes`), computed once; as `root`."""
        return _axes(self)

    def whole(self) -> "Activations":
        """Return the same activations with nothing held out, as the sources trained."""
        return self._replace(training=torch.ones_like(self.training))

    def subsample(self, share: float, seed: int) -> "Activations":
        """Return the same held-out rows with a random share of the training rows.

        ValueError: a share outside (0, 1].
        """
        require(0 < share <= 1, "share", share, "a share above 0, at most 1")
        rows = self.training.nonzero()[:, 0]
        order = torch.randperm(len(rows), generator=generator(seed, "activations/subsample"))
        kept = ~self.training
        kept[rows[order[: round(share * len(rows))]]] = True
        return self._replace(values=self.values[kept], training=self.training[kept])

    def gaussian(self, seed: int) -> "Activations":
        """Return normal noise with the mean and covariance of these activations: no structure beyond them."""
        noise = nulls.gaussian(shards.in_memory(self.values), seed)
        return self._replace(values=noise, name=f"{self.name}, Gaussian")

    def shuffled(self, seed: int) -> "Activations":
        """Return the input of null N4: principal coordinates permuted across inputs, covariance kept."""
        values = nulls.shuffle_coordinates(shards.in_memory(self.values), seed)
        return self._replace(values=values, name=f"{self.name}, shuffled")


@lru_cache(maxsize=4)
def _mean(acts: Activations) -> Tensor:
    mean = shards.moments(acts.fit).mean
    return mean.to(acts.values) if isinstance(acts.values, Tensor) else mean.to(acts.values.dtype)


@lru_cache(maxsize=4)
def _root(acts: Activations) -> Tensor:
    return nulls.covariance_root(shards.in_memory(acts.fit))


@lru_cache(maxsize=4)
def _axes(acts: Activations) -> Tensor:
    rows = shards.in_memory(acts.fit)
    return nulls.principal_axes(rows, rows.shape[1])


def split(values: Float[Tensor, "n d_model"] | Shards, seed: int, name: str = "", held_out: float = 0.2) -> Activations:
    """Return activations with a random share of the inputs held out, at most `HELD_OUT` of them.

    ValueError: NaN or infinity (shards were checked when they were written).
    """
    finite = isinstance(values, Shards) or bool(values.isfinite().all())
    require(finite, "values", "NaN or infinity among them", "finite activations")
    order = torch.randperm(len(values), generator=generator(seed, "activations/split"))
    training = torch.ones(len(values), dtype=torch.bool)
    training[order[: min(round(held_out * len(values)), HELD_OUT)]] = False
    return Activations(values, training, name)


def collect(models: Models, hook: str, position: int | None = None) -> list[Activations]:
    """Return the activations of all sequences at one hook and position (default: the read-out), one entry a model seed.

    A model's are the same bytes, whichever others stand beside it. Raises ValueError when the model has no such hook.
    """
    found = []
    for i, seed in enumerate(models.seeds):
        values = torch.cat([batch[0] for batch in _batches(models.select(i), hook, position)])
        found.append(split(values, seed, _name(models.task, seed, hook, position)))
    return found


def extract(
    models: Models, hook: str, folder: Path, position: int | None = None, rows_per_shard: int = 2**14
) -> list[Activations]:
    """Return the rows of `collect` in shards, one folder a model seed; memory holds one shard and one batch at a time.

    They lie in `folder/seed_<seed>`. Raises ValueError when the model has no such hook, or finished shards lie there.
    """
    found = []
    for i, seed in enumerate(models.seeds):
        blocks = (batch[0] for batch in _batches(models.select(i), hook, position))
        name = _name(models.task, seed, hook, position)
        rows = shards.write(folder / f"seed_{seed}", blocks, rows_per_shard, name)
        found.append(split(rows, seed, name))
    return found


def _name(task: TaskConfig, seed: int, hook: str, position: int | None) -> str:
    data = sequences(task)
    place = data.names[data.position if position is None else position]
    name = task.format if task.operation == "addition" else task.operation
    return f"{name} task, model seed {seed}, {hook} at {place}"


def _batches(models: Models, hook: str, position: int | None) -> Iterator[Float[Tensor, "seeds batch d_model"]]:
    """Yield the activations of all sequences at one hook and position, 2048 at a time."""
    data = sequences(models.task)
    position = data.position if position is None else position
    blocks = [f"blocks.{layer}.hook_resid_post" for layer in range(models.config.n_layers)]
    if hook in blocks:
        ended = _until(models, blocks.index(hook))
        for tokens in data.tokens.split(2048):
            yield predict(ended.parameters, tokens, ended.config, position)
        return
    seen: list[str] = []
    kept: list[Tensor] = []

    def keep(name: str, value: Tensor) -> None:
        seen.append(name)
        if name == hook:
            kept.append(value[:, :, position].clone())

    for tokens in data.tokens.split(2048):
        models.logits(tokens, hooks=keep)
        require(bool(kept), "hook", hook, f"one of {sorted(set(seen))}")
        yield kept.pop()


def _until(models: Models, layer: int) -> Models:
    """Return models that end with a block: their logits are the residual stream after it, and no more is computed."""
    unembedding = torch.eye(models.config.d_model).repeat(len(models.seeds), 1, 1)
    parameters = {**models.parameters, "unembed.W_U": unembedding}
    return models._replace(config=replace(models.config, n_layers=layer + 1), parameters=parameters)


def arms(models: Models, hook: str) -> dict[str, list[Activations]]:
    """Return what a stability score is compared on: the model's activations, and what the nulls N4 and N5 train on.

    N4 shuffles the activations; N5 collects them from a transformer of the same shape with random weights.
    """
    real = collect(models, hook)
    return {
        "real": real,
        "N4": [acts.shuffled(seed) for acts, seed in zip(real, models.seeds, strict=True)],
        "N5": collect(untrained(models), hook),
    }


def untrained(models: Models) -> Models:
    """Return models of the same shape with fresh random weights, other draws than the trained ones started from."""
    vocabulary, positions = (
        models.parameters["embed.W_E"].shape[1],
        models.parameters["pos_embed.W_pos"].shape[1],
    )
    seeds: Sequence[int] = [seed + 10_000 for seed in models.seeds]
    parameters = initialise(models.config, vocabulary, positions, seeds)
    return models._replace(parameters=parameters, steps=(0,) * len(seeds))


class Explained(NamedTuple):
    """Shares of the activations' variance that a, b and their sum c explain, at every hook and position."""

    hooks: tuple[str, ...]
    """Hook names in the order of computation."""
    positions: tuple[str, ...]
    """What stands at each token position."""
    shares: Float[Tensor, "factors hooks positions seeds"]
    """eta^2, factors in the order a, b, c; NaN where the activations are the same for all inputs."""

    def table(self, factor: str) -> Float[Tensor, "hooks positions"]:
        """Return the shares of one factor, averaged over model seeds."""
        return self.shares[FACTORS.index(factor)].mean(-1)

    def at(self, factor: str, hook: str, position: str) -> list[float]:
        """Return the share of one factor at one place, one value a model seed."""
        place = self.hooks.index(hook), self.positions.index(position)
        return self.shares[FACTORS.index(factor)][place].tolist()


@torch.no_grad()
def explained(models: Models) -> Explained:
    """Return the share of variance between groups of equal a, equal b and equal c, at every hook and position.

    eta^2 = sum_g n_g |mean_g - mean|^2 / sum_i |x_i - mean|^2 over all p*p pairs. There a, b and c are balanced and
    pairwise independent, so the three shares are parts of one whole. Source: the correlation ratio, Fisher (1925).
    """
    data, p, operation = sequences(models.task), models.task.p, models.task.operation
    require(operation == "addition", "models", operation, "models of addition, where a, b and c are independent")
    labels = torch.stack([data.tokens[:, 1], data.tokens[:, 3], data.answers])
    sums: dict[str, Tensor] = {}  # of the activations in every group: [factors, seeds, p, positions, d]
    squares: dict[str, Tensor] = {}  # of all activations: [seeds, positions]
    for tokens, groups in zip(data.tokens.split(2048), labels.split(2048, 1), strict=True):
        models.logits(tokens, hooks=partial(_tally, sums, squares, groups, p))
    shares = [_eta_squared(sums[name], squares[name], p) for name in sums]
    return Explained(tuple(sums), data.names, torch.stack(shares, 1))


def _tally(
    sums: dict[str, Tensor], squares: dict[str, Tensor], groups: Tensor, p: int, name: str, value: Tensor
) -> None:
    """Add one batch [seeds, batch, positions, d] to the sums of its hook."""
    seeds, _, positions, d = value.shape
    if name not in sums:
        sums[name] = value.new_zeros((len(FACTORS), seeds, p, positions, d), dtype=torch.float64)
        squares[name] = value.new_zeros((seeds, positions), dtype=torch.float64)
    for total, group in zip(sums[name], groups, strict=True):
        total += value.new_zeros(total.shape).index_add_(1, group, value)
    squares[name] += value.square().sum((1, 3), dtype=torch.float64)


def _eta_squared(sums: Tensor, squares: Tensor, p: int) -> Tensor:
    """Return eta^2 [factors, positions, seeds] of p groups of p inputs each."""
    of_mean = sums[0].sum(1).square().sum(-1) / p**2
    variance = squares - of_mean
    variance[variance <= 1e-6 * squares] = torch.nan  # float32 rounding: the activations do not vary
    between = (sums.square().sum((2, 4)) / p - of_mean).clamp(min=0)
    return (between / variance).transpose(1, 2)
