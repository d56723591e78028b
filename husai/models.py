"""Small transformers: several training seeds as one stacked batch, with TransformerLens hook names."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from husai.config import ModelConfig, TaskConfig
from husai.tasks import fourier_basis, frequency_power, generator, sequences, train_mask

Parameters = dict[str, Tensor]
Hooks = Callable[[str, Tensor], Tensor | None]


def initialise(config: ModelConfig, vocabulary: int, positions: int, seeds: Sequence[int]) -> Parameters:
    """Return fresh parameters, one leading seed dimension; normal with standard deviation 1/sqrt(fan-in)."""
    d, m = config.d_model, config.d_mlp
    shapes: dict[str, tuple[int, ...]] = {
        "embed.W_E": (vocabulary, d),
        "pos_embed.W_pos": (positions, d),
        "unembed.W_U": (d, vocabulary),
    }
    for layer in range(config.n_layers):
        block = f"blocks.{layer}."
        shapes |= {block + f"attn.W_{name}": (d, d) for name in "QKVO"}
        shapes |= {
            block + "mlp.W_in": (d, m),
            block + "mlp.b_in": (m,),
            block + "mlp.W_out": (m, d),
            block + "mlp.b_out": (d,),
        }
    draws = [generator(seed, "model/init") for seed in seeds]

    def fresh(name: str, shape: tuple[int, ...]) -> Tensor:
        if len(shape) == 1:
            return torch.zeros(len(seeds), *shape)
        fan_in = d if "embed" in name else shape[0]
        return torch.stack([torch.randn(shape, generator=draw) / math.sqrt(fan_in) for draw in draws])

    return {name: fresh(name, shape) for name, shape in shapes.items()}


def forward(
    parameters: Parameters,
    tokens: Int[Tensor, "seeds batch positions"],
    config: ModelConfig,
    read: int | None = None,
    hooks: Hooks | None = None,
) -> Float[Tensor, "..."]:
    """Return logits [seeds, batch, positions, vocabulary], or [seeds, batch, vocabulary] at position `read` alone.

    With `read`, the last block computes that position only. `hooks(name, value)` sees every activation under its
    TransformerLens name and may return a replacement.
    """
    hook = hooks or (lambda name, value: None)

    def point(name: str, value: Tensor) -> Tensor:
        replaced = hook(name, value)
        return value if replaced is None else replaced

    seeds, batch, positions = tokens.shape
    table = parameters["embed.W_E"]
    rows = tokens + table.shape[1] * torch.arange(seeds)[:, None, None]
    embedded = point("hook_embed", torch.nn.functional.embedding(rows, table.flatten(0, 1)))
    residual = embedded + parameters["pos_embed.W_pos"][:, None]
    for layer in range(config.n_layers):
        last = read is not None and layer == config.n_layers - 1
        residual = _block(parameters, residual, config, f"blocks.{layer}.", read if last else None, point)
    logits = _linear(residual, parameters["unembed.W_U"])
    return logits[:, :, 0] if read is not None else logits


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply [seeds, ..., d_in] by [seeds, d_in, d_out] as one batched matrix product."""
    return torch.bmm(x.reshape(x.shape[0], -1, x.shape[-1]), weight).reshape(*x.shape[:-1], weight.shape[-1])


def _block(
    p: Parameters, residual: Tensor, config: ModelConfig, name: str, read: int | None, point: Callable
) -> Tensor:
    seeds, batch, positions, d = residual.shape
    residual = point(name + "hook_resid_pre", residual)
    source = residual if read is None else residual[:, :, read : read + 1]

    def heads(x: Tensor) -> Tensor:
        return x.reshape(seeds * batch, x.shape[2], config.n_heads, -1).transpose(1, 2)

    q = heads(_linear(source, p[name + "attn.W_Q"]))
    k, v = (heads(_linear(residual, p[name + f"attn.W_{part}"])) for part in "KV")
    mask = torch.ones(positions, positions, dtype=torch.bool).tril()
    mask = mask if read is None else mask[read : read + 1]
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~mask, -torch.inf)
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(seeds, batch, -1, d)
    attention = point(name + "hook_attn_out", _linear(mixed, p[name + "attn.W_O"]))
    middle = point(name + "hook_resid_mid", source + attention)
    hidden = torch.relu(_linear(middle, p[name + "mlp.W_in"]) + p[name + "mlp.b_in"][:, None, None])
    hidden = point(name + "mlp.hook_post", hidden)
    mlp = point(
        name + "hook_mlp_out", _linear(hidden, p[name + "mlp.W_out"]) + p[name + "mlp.b_out"][:, None, None]
    )
    return point(name + "hook_resid_post", middle + mlp)


class Models(NamedTuple):
    """Transformers of one shape that differ in their seed: parameters carry a leading seed dimension."""

    config: ModelConfig
    task: TaskConfig
    seeds: tuple[int, ...]
    parameters: Parameters
    steps: tuple[int, ...]
    """Optimiser step that each seed's parameters come from."""

    def select(self, index: int) -> "Models":
        """Return one seed as a batch of one."""
        one = {name: value[index : index + 1] for name, value in self.parameters.items()}
        return Models(
            self.config, self.task, self.seeds[index : index + 1], one, self.steps[index : index + 1]
        )

    @torch.no_grad()
    def logits(
        self, tokens: Int[Tensor, "batch positions"], hooks: Hooks | None = None
    ) -> Float[Tensor, "seeds batch vocabulary"]:
        """Return the logits of the same tokens for every seed, at the task's read-out position.

        With `hooks`, every position of every block is computed, so that hooks see them all.
        """
        position = sequences(self.task).position
        if hooks is not None:
            everywhere = tokens.expand(len(self.seeds), *tokens.shape)
            return forward(self.parameters, everywhere, self.config, hooks=hooks)[:, :, position]
        parts = [part.expand(len(self.seeds), *part.shape) for part in tokens.split(4096)]
        return torch.cat([forward(self.parameters, part, self.config, position) for part in parts], 1)

    def accuracy(self, mask: Bool[Tensor, "seeds pairs"]) -> list[float]:
        """Return each seed's share of right answers among the pairs of its mask."""
        data = sequences(self.task)
        right = self.logits(data.tokens).argmax(-1) == data.answers
        return [row[keep].float().mean().item() for row, keep in zip(right, mask, strict=True)]


class Acceptance(NamedTuple):
    """Whether a model seed learned the task the way grokked models do."""

    seed: int
    held_out: float
    """Accuracy on held-out pairs; at least .999 is wanted."""
    concentration: float
    """Share of the centred embedding's squared norm in its ten strongest frequencies; at least .9 is wanted."""
    ablated: float
    """Accuracy on all pairs without those frequencies; below .05 is wanted."""

    def failures(self) -> list[str]:
        """Return one sentence a failed criterion."""
        checks = [
            (self.held_out >= 0.999, f"held-out accuracy {self.held_out:.4f}, wanted at least 0.999"),
            (
                self.concentration >= 0.9,
                f"share of ten frequencies {self.concentration:.3f}, wanted at least 0.9",
            ),
            (self.ablated < 0.05, f"accuracy without them {self.ablated:.3f}, wanted below 0.05"),
        ]
        return [f"seed {self.seed}: {text}" for ok, text in checks if not ok]


def acceptance(models: Models, frequencies: int = 10) -> list[Acceptance]:
    """Return the three acceptance figures of every seed (squared norm by frequency: orthonormal half spectrum)."""
    p, rows = models.task.p, []
    held_out = torch.stack([~train_mask(models.task, seed) for seed in models.seeds])
    basis = fourier_basis(p).float()
    everything = torch.ones(1, p * p, dtype=torch.bool)
    for index, accuracy in enumerate(models.accuracy(held_out)):
        model = models.select(index)
        table = model.parameters["embed.W_E"][0, :p]
        top = frequency_power(table).topk(frequencies)
        waves = basis[torch.cat([2 * top.indices + 1, 2 * top.indices + 2])]
        ablated = model.parameters["embed.W_E"].clone()
        ablated[0, :p] -= waves.T @ (waves @ table)
        without = model._replace(parameters={**model.parameters, "embed.W_E": ablated})
        rows.append(
            Acceptance(
                models.seeds[index], accuracy, top.values.sum().item(), without.accuracy(everything)[0]
            )
        )
    return rows


def require_accepted(models: Models) -> list[Acceptance]:
    """Return the acceptance figures; ValueError says which seed failed what."""
    rows = acceptance(models)
    failures = [text for row in rows for text in row.failures()]
    if failures:
        raise ValueError("models did not learn the task: " + "; ".join(failures))
    return rows
