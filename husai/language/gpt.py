"""Small GPTs (the Llama architecture): several training seeds as one stacked batch, with TransformerLens hook names."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from husai.config import require
from husai.tasks import generator
from husai.text.bpe import Tokenizer

Parameters = dict[str, Tensor]
Hooks = Callable[[str, Tensor], Tensor | None]
EPSILON = 1e-6
"""Of RMSNorm."""
BASE = 10_000.0
"""Of the rotary frequencies."""


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT: RMSNorm, rotary positions (half-half), SwiGLU, tied embeddings, no biases."""

    vocabulary: int = 512
    """Token ids; the published models have 8192."""
    n_layers: int = 4
    """Blocks; published 6."""
    n_heads: int = 8
    """Attention heads a block; published 8."""
    d_model: int = 96
    """Width of the residual stream; published 512."""
    d_mlp: int = 256
    """Hidden width of the gated MLP; published 1408."""
    context: int = 96
    """Most tokens of a text; published 512."""

    def __post_init__(self) -> None:
        for name in ("vocabulary", "n_layers", "n_heads", "d_model", "d_mlp", "context"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        divides = self.d_model % (2 * self.n_heads) == 0
        require(divides, "n_heads", self.n_heads, f"heads of an even width in d_model = {self.d_model}")

    @property
    def hooks(self) -> tuple[str, ...]:
        """Every hook name, in the order of computation."""
        names = ("hook_resid_pre", "attn.hook_pattern", "attn.hook_z", "hook_attn_out", "hook_resid_mid",
                 "mlp.hook_post", "hook_mlp_out", "hook_resid_post")  # fmt: skip
        return "hook_embed", *(f"blocks.{layer}.{name}" for layer in range(self.n_layers) for name in names)


SMALL = GPTConfig()
"""The shape of the book's pair."""


def initialise(config: GPTConfig, seeds: Sequence[int]) -> Parameters:
    """Return fresh parameters, one leading seed dimension: normal with standard deviation 1/sqrt(fan-in).

    What a block adds to the residual stream starts sqrt(2 n_layers) times smaller; norms start at 1.
    """
    d, m = config.d_model, config.d_mlp
    shapes: dict[str, tuple[int, ...]] = {"embed.W_E": (config.vocabulary, d)}
    for layer in range(config.n_layers):
        block = f"blocks.{layer}."
        shapes |= {block + "ln1.w": (d,)} | {block + f"attn.W_{name}": (d, d) for name in "QKVO"}
        shapes |= {block + "ln2.w": (d,), block + "mlp.W_gate": (d, m), block + "mlp.W_in": (d, m)}
        shapes |= {block + "mlp.W_out": (m, d)}
    shapes["ln_final.w"] = (d,)
    draws = [generator(seed, "gpt/init") for seed in seeds]

    def fresh(name: str, shape: tuple[int, ...]) -> Tensor:
        if len(shape) == 1:
            return torch.ones(len(seeds), *shape)
        spread = 1 / math.sqrt(d if name == "embed.W_E" else shape[0])
        if name.endswith(("W_O", "W_out")):
            spread /= math.sqrt(2 * config.n_layers)
        return torch.stack([spread * torch.randn(shape, generator=draw) for draw in draws])

    return {name: fresh(name, shape) for name, shape in shapes.items()}


def forward(
    parameters: Parameters,
    tokens: Int[Tensor, "seeds batch positions"],
    config: GPTConfig,
    hooks: Hooks | None = None,
    cache: dict[str, Tensor] | None = None,
) -> Float[Tensor, "seeds batch positions vocabulary"]:
    """Return the logits of the token after each position, for parameters stacked over seeds.

    `hooks(name, value)` sees every activation of `config.hooks` and may return a replacement: [seeds, batch, positions,
    width], but hook_pattern [seeds, batch, heads, query, key] and hook_z [seeds, batch, positions, heads, d_head].
    With a `cache`, the tokens continue those of earlier calls, whose keys and values it holds. The architecture is
    `LlamaForCausalLM`'s (Touvron et al. 2023). ValueError: too many positions, an unknown token.
    """
    start = next(iter(cache.values())).shape[3] if cache else 0
    positions = start + tokens.shape[2]
    require(positions <= config.context, "tokens", f"{positions} positions long", f"at most {config.context} positions")
    low, high = (int(bound) for bound in tokens.aminmax())
    require(0 <= low and high < config.vocabulary, "tokens", (low, high), f"ids in 0..{config.vocabulary - 1}")

    def point(name: str, value: Tensor) -> Tensor:
        replaced = hooks(name, value) if hooks else None
        return value if replaced is None else replaced

    residual = point("hook_embed", embed(parameters, tokens))
    for layer in range(config.n_layers):
        residual = _block(parameters, residual, config, f"blocks.{layer}.", point, hooks is not None, start, cache)
    return unembed(parameters, residual)


def embed(
    parameters: Parameters, tokens: Int[Tensor, "seeds batch positions"]
) -> Float[Tensor, "seeds batch positions d_model"]:
    """Return each seed's embeddings of its tokens."""
    table = parameters["embed.W_E"]
    start = table.shape[1] * torch.arange(len(table), device=table.device)[:, None, None]
    return torch.nn.functional.embedding(tokens + start, table.flatten(0, 1))


def unembed(
    parameters: Parameters, residual: Float[Tensor, "seeds *rest d_model"]
) -> Float[Tensor, "seeds *rest vocabulary"]:
    """Return the logits of a residual stream: the final norm, then the embeddings; at any layer, the logit lens."""
    return _linear(normed(residual, parameters["ln_final.w"]), parameters["embed.W_E"].transpose(1, 2))


def normed(x: Float[Tensor, "seeds *rest d_model"], weight: Float[Tensor, "seeds d_model"]) -> Tensor:
    """Return RMSNorm: x / sqrt(mean(x^2) + 1e-6) * weight (Zhang and Sennrich 2019)."""
    scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON)
    return x * scale * weight.reshape(len(weight), *[1] * (x.ndim - 2), -1)


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply [seeds, ..., d_in] by [seeds, d_in, d_out] as one batched matrix product."""
    return torch.bmm(x.flatten(1, -2), weight).reshape(*x.shape[:-1], weight.shape[-1])


@cache
def _angles(d_head: int, positions: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines [positions, d_head] of the rotary angles, position * 10000^(-2i/d_head)."""
    rates = BASE ** (-torch.arange(0, d_head, 2, dtype=torch.float32) / d_head)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), rates).repeat(1, 2)
    return angles.cos().to(device), angles.sin().to(device)


def _rotated(x: Float[Tensor, "seeds batch heads positions d_head"], start: int) -> Tensor:
    """Turn coordinate pairs (i, i + d_head/2) by their position's angles (Su et al. 2021, half-half layout)."""
    cosines, sines = (a[start:] for a in _angles(x.shape[-1], start + x.shape[3], x.device))
    first, second = x.chunk(2, -1)
    return x * cosines + torch.cat([-second, first], -1) * sines


def _block(
    p: Parameters, residual: Tensor, config: GPTConfig, name: str, point: Callable, watched: bool, start: int,
    cache: dict[str, Tensor] | None,
) -> Tensor:  # fmt: skip
    residual = point(name + "hook_resid_pre", residual)
    z = _attend(p, normed(residual, p[name + "ln1.w"]), config, name, point, watched, start, cache)
    attention = point(name + "hook_attn_out", _linear(z.flatten(3), p[name + "attn.W_O"]))
    middle = point(name + "hook_resid_mid", residual + attention)
    x = normed(middle, p[name + "ln2.w"])
    gate = torch.nn.functional.silu(_linear(x, p[name + "mlp.W_gate"]))
    hidden = point(name + "mlp.hook_post", gate * _linear(x, p[name + "mlp.W_in"]))
    mlp = point(name + "hook_mlp_out", _linear(hidden, p[name + "mlp.W_out"]))
    return point(name + "hook_resid_post", middle + mlp)


def _attend(
    p: Parameters, x: Tensor, config: GPTConfig, name: str, point: Callable, watched: bool, start: int,
    cache: dict[str, Tensor] | None,
) -> Tensor:  # fmt: skip
    """Return every head's mix of values, hook_z [seeds, batch, positions, heads, d_head]."""
    q, k, v = (
        _linear(x, p[name + f"attn.W_{part}"]).unflatten(-1, (config.n_heads, -1)).transpose(2, 3) for part in "QKV"
    )
    q, k = _rotated(q, start), _rotated(k, start)
    if cache is not None:
        for key, value in (("k", k), ("v", v)):
            earlier = cache.get(name + key)
            cache[name + key] = value if earlier is None else torch.cat([earlier, value], 3)
        k, v = cache[name + "k"], cache[name + "v"]
    if not watched and start == 0:
        mixed = torch.nn.functional.scaled_dot_product_attention(
            q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), is_causal=True
        ).unflatten(0, q.shape[:2])
        return mixed.transpose(2, 3)
    future = torch.ones(q.shape[3], k.shape[3], dtype=torch.bool, device=q.device).triu(1 + start)
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(future, -torch.inf)
    pattern = point(name + "attn.hook_pattern", scores.softmax(-1))
    return point(name + "attn.hook_z", (pattern @ v).transpose(2, 3))


class GPTs(NamedTuple):
    """GPTs of one shape and style that differ in their seed: parameters carry a leading seed dimension."""

    config: GPTConfig
    style: str
    """Of the texts that they were trained on."""
    seeds: tuple[int, ...]
    parameters: Parameters
    tokenizer: Tokenizer

    def select(self, index: int) -> "GPTs":
        """Return one seed as a batch of one."""
        one = {name: value[index : index + 1] for name, value in self.parameters.items()}
        return self._replace(seeds=self.seeds[index : index + 1], parameters=one)

    @torch.no_grad()
    def logits(
        self, tokens: Int[Tensor, "batch positions"], hooks: Hooks | None = None
    ) -> Float[Tensor, "seeds batch positions vocabulary"]:
        """Return every seed's logits of the same tokens, without gradients."""
        return forward(self.parameters, tokens.expand(len(self.seeds), *tokens.shape), self.config, hooks)

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[str], seed: int = 0, temperature: float = 1.0, hooks: Hooks | None = None
    ) -> list[list[str]]:
        """Return every model seed's continuation of every prompt, prompt included, up to <|end|> or the full context.

        Every token is drawn at `temperature` (0: the likeliest), from a stream of each model seed's own; hooks see one
        position a call after the prompt.
        ValueError: prompts longer than the context.
        """
        ids = [self.tokenizer.encode(text) for text in prompts]
        found: list[list[str]] = [[""] * len(prompts) for _ in self.seeds]
        for length in sorted({len(row) for row in ids}):
            where = [i for i, row in enumerate(ids) if len(row) == length]
            rows = self._continued(torch.tensor([ids[i] for i in where]), seed, temperature, hooks)
            for texts, of_seed in zip(found, rows, strict=True):
                for i, row in zip(where, of_seed.tolist(), strict=True):
                    texts[i] = self.tokenizer.decode([token for token in row if token])
        return found

    def _continued(
        self, prompts: Int[Tensor, "batch positions"], seed: int, temperature: float, hooks: Hooks | None
    ) -> Int[Tensor, "seeds batch more"]:
        end = self.tokenizer.id("<|end|>")
        draws = [generator(seed, f"gpt/generate/{of}/{prompts.shape[1]}") for of in self.seeds]
        tokens = prompts.expand(len(self.seeds), *prompts.shape)
        rows, ended = [tokens], torch.zeros(tokens.shape[:2], dtype=torch.bool)
        keys: dict[str, Tensor] = {}
        for _ in range(self.config.context - prompts.shape[1]):
            logits = forward(self.parameters, rows[-1], self.config, hooks, keys)[:, :, -1].cpu()
            noise = torch.stack([torch.rand(logits.shape[1:], generator=draw) for draw in draws]).clamp_min(1e-20)
            gumbel = -(-noise.log()).log() if temperature else torch.zeros_like(noise)
            chosen = (logits / (temperature or 1.0) + gumbel).argmax(-1).masked_fill(ended, 0)
            ended = ended | (chosen == end)
            rows.append(chosen[..., None].to(prompts.device))
            if bool(ended.all()):
                break
        return torch.cat(rows, 2).cpu()
