"""Small transformers: several training seeds as one stacked batch, with TransformerLens hook names."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from husai.config import ModelConfig, TaskConfig, require
from husai.prefixes import Plan, plan
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

    `hooks(name, value)` sees every activation [seeds, batch, positions, width] under its TransformerLens name and may
    return a replacement. With `read` and no hooks nothing is computed twice, and nothing that `read` does not see
    (`prefixes.plan`). Raises ValueError for too long a sequence, an unknown token and a `read` outside the sequence.
    """
    vocabulary, positions = parameters["embed.W_E"].shape[1], tokens.shape[2]
    longest = parameters["pos_embed.W_pos"].shape[1]
    require(positions <= longest, "tokens", f"{positions} positions long", f"at most {longest} positions")
    low, high = (int(bound) for bound in tokens.aminmax())
    require(0 <= low and high < vocabulary, "tokens", (low, high), f"ids in 0..{vocabulary - 1}")
    require(read is None or 0 <= read < positions, "read", read, f"a position in 0..{positions - 1}")
    hook = hooks or (lambda name, value: None)

    def point(name: str, value: Tensor) -> Tensor:
        replaced = hook(name, value)
        return value if replaced is None else replaced

    plans: Sequence[Plan | None] = [None] * config.n_layers  # every position of every sequence
    if read is None or hooks is not None:
        residual = point("hook_embed", _take(parameters["embed.W_E"], tokens))
        residual = residual + parameters["pos_embed.W_pos"][:, None, :positions]
    else:
        inputs, plans = plan(tokens[:, :, : read + 1], vocabulary, config.n_layers)
        residual = _take(parameters["embed.W_E"], inputs % vocabulary)
        residual = residual + _take(parameters["pos_embed.W_pos"], inputs // vocabulary)
    for layer, rows in enumerate(plans):
        residual = _block(parameters, residual, config, f"blocks.{layer}.", rows, point)
    if read is not None and hooks is not None:
        residual = residual[:, :, read]
    return _linear(residual, parameters["unembed.W_U"])


def _take(table: Tensor, index: Tensor) -> Tensor:
    """Return rows of [seeds, n, d] by an index [seeds, ...], or by one index [m] for all seeds."""
    seeds, n, _ = table.shape
    start = n * torch.arange(seeds).reshape(-1, *[1] * max(index.ndim - 1, 1))
    return torch.nn.functional.embedding(index + start, table.flatten(0, 1))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply [seeds, ..., d_in] by [seeds, d_in, d_out] as one batched matrix product."""
    rows = x.flatten(1, -2)
    product = torch.bmm(rows, weight) if bias is None else torch.baddbmm(bias[:, None], rows, weight)
    return product.reshape(*x.shape[:-1], weight.shape[-1])


def _block(
    p: Parameters, residual: Tensor, config: ModelConfig, name: str, rows: Plan | None, point: Callable
) -> Tensor:
    """Compute one block: of all positions [seeds, batch, positions, d], or of the rows [seeds, rows, d] of a plan."""
    residual = point(name + "hook_resid_pre", residual)

    def project(x: Tensor, part: str) -> Tensor:
        # back from bfloat16 at once: in the gradient of a row that many share, many are summed
        return _linear(x, p[name + f"attn.W_{part}"]).to(x.dtype)

    if rows is None:
        mixed = _attend_causally(residual, project, config.n_heads)
    else:
        source, residual = residual, _take(residual, rows.own)
        mixed = _attend(residual, source, project, config.n_heads, rows)
    attention = point(name + "hook_attn_out", _linear(mixed, p[name + "attn.W_O"]))
    middle = point(name + "hook_resid_mid", residual + attention)
    hidden = torch.relu(_linear(middle, p[name + "mlp.W_in"], p[name + "mlp.b_in"]))
    hidden = point(name + "mlp.hook_post", hidden)
    mlp = point(name + "hook_mlp_out", _linear(hidden, p[name + "mlp.W_out"], p[name + "mlp.b_out"]))
    return point(name + "hook_resid_post", middle + mlp)


def _attend_causally(residual: Tensor, project: Callable, n_heads: int) -> Tensor:
    """Mix the values of [seeds, batch, positions, d] up to each position."""
    q, k, v = (project(residual, part).unflatten(-1, (n_heads, -1)).transpose(2, 3) for part in "QKV")
    future = torch.ones(q.shape[3], q.shape[3], dtype=torch.bool).triu(1)
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(future, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(2, 3).flatten(3)


def _attend(residual: Tensor, source: Tensor, project: Callable, n_heads: int, rows: Plan) -> Tensor:
    """Mix the values of the source rows that each row sees; queries are computed on the side with fewer rows."""
    fewer = source.shape[1] < residual.shape[1]
    q = _take(project(source, "Q"), rows.own) if fewer else project(residual, "Q")
    k, v = (_take(project(source, part), rows.sources) for part in "KV")
    q, k, v = (x.unflatten(-1, (n_heads, -1)) for x in (q, k, v))
    scores = (q[:, :, None] * k).sum(-1) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(~rows.visible[:, :, None], -torch.inf)
    return (scores.softmax(2)[..., None] * v).sum(2).flatten(2)


@torch.no_grad()
def predict(
    parameters: Parameters,
    tokens: Int[Tensor, "batch positions"],
    config: ModelConfig,
    read: int,
    hooks: Hooks | None = None,
) -> Float[Tensor, "seeds batch vocabulary"]:
    """Return every seed's logits of the same tokens at position `read`, without gradients."""
    seeds = len(parameters["embed.W_E"])
    parts = tokens.split(4096) if hooks is None else [tokens]
    return torch.cat([forward(parameters, part.expand(seeds, *part.shape), config, read, hooks) for part in parts], 1)


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
        return Models(self.config, self.task, self.seeds[index : index + 1], one, self.steps[index : index + 1])

    def logits(
        self, tokens: Int[Tensor, "batch positions"], hooks: Hooks | None = None
    ) -> Float[Tensor, "seeds batch vocabulary"]:
        """Return the logits of the same tokens for every seed, at the task's read-out position.

        With `hooks`, every position of every block is computed, so that hooks see them all.
        """
        return predict(self.parameters, tokens, self.config, sequences(self.task).position, hooks)

    def accuracy(self, mask: Bool[Tensor, "seeds rows"]) -> list[float]:
        """Return each seed's share of right answers among the sequences of its mask."""
        data = sequences(self.task)
        right = self.logits(data.tokens).argmax(-1) == data.answers
        return [row[keep].float().mean().item() for row, keep in zip(right, mask, strict=True)]

    def held_out(self) -> list[float]:
        """Return each seed's share of right answers among the sequences that it was not trained on."""
        return self.accuracy(torch.stack([~train_mask(self.task, seed) for seed in self.seeds]))


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
    """Return the three acceptance figures of every seed (squared norm by frequency: orthonormal half spectrum).

    ValueError for another task than addition, whose frequencies are none of a and b.
    """
    p, rows, operation = models.task.p, [], models.task.operation
    require(operation == "addition", "models", operation, "models of addition; `Models.held_out` is for any task")
    basis = fourier_basis(p).float()
    everything = torch.ones(1, p * p, dtype=torch.bool)
    for index, accuracy in enumerate(models.held_out()):
        model = models.select(index)
        table = model.parameters["embed.W_E"][0, :p]
        top = frequency_power(table).topk(frequencies)
        waves = basis[torch.cat([2 * top.indices + 1, 2 * top.indices + 2])]
        ablated = model.parameters["embed.W_E"].clone()
        ablated[0, :p] -= waves.T @ (waves @ table)
        without = model._replace(parameters={**model.parameters, "embed.W_E": ablated})
        rows.append(Acceptance(models.seeds[index], accuracy, top.values.sum().item(), without.accuracy(everything)[0]))
    return rows


def require_accepted(models: Models) -> list[Acceptance]:
    """Return the acceptance figures; ValueError says which seed failed what."""
    rows = acceptance(models)
    failures = [text for row in rows for text in row.failures()]
    if failures:
        raise ValueError("models did not learn the task: " + "; ".join(failures))
    return rows
