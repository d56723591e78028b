"""The matched pair: GPTs of one architecture trained on the same tasks in two styles, several seeds of each."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from husai import artifacts
from husai.config import require
from husai.evidence import write_json
from husai.language.gpt import BASE, EPSILON, SMALL, GPTConfig, GPTs, Parameters, forward, initialise
from husai.tasks import generator
from husai.text import bpe, grammar

TASKS = 4000
"""Tasks that both styles' models are trained on; as many texts a style."""
STEPS = 750
"""Optimiser steps."""
BATCH = 16
"""Texts a step."""
RATE = 3e-3
"""Peak learning rate."""
MODULES = ("config.base", "tasks", "text.grammar", "text.bpe", "language.gpt", "language.matched")


class Texts(NamedTuple):
    """Texts of one style as tokens, padded with id 0 behind their end."""

    style: str
    tasks: tuple[grammar.Task, ...]
    texts: tuple[str, ...]
    tokens: Int[Tensor, "n positions"]
    real: Bool[Tensor, "n positions"]
    """Tokens that are no padding."""
    body: Bool[Tensor, "n positions"]
    """Real tokens after <|steps|>: what held-out loss counts (each is predicted at the position before it)."""
    onset: Bool[Tensor, "n positions"]
    """First token of a step; the position BEFORE it is where it is predicted."""
    regulation: Bool[Tensor, "n positions"]
    """All tokens of regulation steps: `onset & regulation` are their first ones."""
    complexity: Int[Tensor, " n"]
    """Complexity of the task."""
    n_steps: Int[Tensor, " n"]
    """Steps of the text."""
    floor: Float[Tensor, " n"]
    """-ln P(body) under the grammar, in nats: its sum over the body's tokens is the least expected loss."""

    @property
    def before_onset(self) -> Bool[Tensor, "n positions"]:
        """The positions at which first tokens of steps are predicted."""
        return torch.nn.functional.pad(self.onset[:, 1:], (0, 1))

    @property
    def entropy_floor(self) -> float:
        """Nats a body token that no model can beat in expectation."""
        return float(self.floor.sum() / self.body.sum())


@lru_cache
def tokenizer(vocabulary: int = 512) -> bpe.Tokenizer:
    """Return the one tokenizer of both styles, trained on 1000 tasks of their own, written in both."""
    tasks = grammar.tasks(1000, 10_000)
    return bpe.train([grammar.render(task, s, i) for s in grammar.STYLES for i, task in enumerate(tasks)], vocabulary)


def texts(
    style: str, which: str = "held_out", n: int = 512, config: GPTConfig = SMALL, seed: int | None = None
) -> Texts:  # fmt: skip
    """Return n texts of a style with masks; task i is the same for both styles. Held-out tasks have unseen names.

    `which` is "training" (the models' own corpus when n is theirs and no seed is given) or "held_out". ValueError: a
    context too short for a task, another `which` or style.
    """
    require(which in ("training", "held_out"), "which", which, "'training' or 'held_out'")
    seed = {"training": 0, "held_out": 1}[which] if seed is None else seed
    tasks, tok = grammar.tasks(n, seed, which), tokenizer(config.vocabulary)
    written = [_fitting(task, style, 1_000_000 * seed + i, tok, config.context) for i, task in enumerate(tasks)]
    ids = [tok.encode(text.text) for text in written]
    longest = max(map(len, ids))
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    body, onset, regulation = _masks(tokens, tok)
    return Texts(
        style, tuple(tasks), tuple(text.text for text in written), tokens, tokens > 0, body, onset, regulation,
        torch.tensor([task.complexity for task in tasks]), onset.sum(1), torch.tensor([text.nats for text in written]),
    )  # fmt: skip


def _fitting(task: grammar.Task, style: str, seed: int, tok: bpe.Tokenizer, context: int) -> grammar.Text:
    """Return a task's text; one that is longer than the context (about one in ten thousand) is drawn again."""
    for turn in range(20):
        found = grammar.write(task, style, seed + 1_000_000_000 * turn)
        if len(tok.encode(found.text)) <= context:
            return found
    raise ValueError(f"config.context is {context}; wanted room for the steps of {task.name!r} in style {style}")


def regulation_ids(tok: bpe.Tokenizer) -> tuple[int, ...]:
    """Return the first tokens of the regulation actions, which open no other step."""
    return tuple(tok.encode(action)[0] for action in grammar.REGULATION)


def _masks(tokens: Tensor, tok: bpe.Tokenizer) -> tuple[Tensor, Tensor, Tensor]:
    steps, sep, end = (tok.id(name) for name in ("<|steps|>", "<|sep|>", "<|end|>"))
    opens = (tokens == steps) | (tokens == sep)
    body = ((tokens == steps).cumsum(1) > 0) & (tokens != steps) & (tokens > 0)
    onset = torch.nn.functional.pad(opens[:, :-1], (1, 0)) & body & (tokens != end)
    first = onset & torch.isin(tokens, torch.tensor(regulation_ids(tok)))
    number = onset.cumsum(1)  # of the step that a token belongs to
    owner = torch.zeros(len(tokens), int(number.max()) + 1, dtype=torch.bool)
    owner[first.nonzero()[:, 0], number[first]] = True
    return body, onset, owner.gather(1, number) & body & (tokens != sep) & (tokens != end)


def matched(
    style: str, seeds: Sequence[int], config: GPTConfig = SMALL, tasks: int = TASKS, steps: int = STEPS,
    batch: int = BATCH, rate: float = RATE,
) -> GPTs:  # fmt: skip
    """Return GPTs trained on a style, one a seed, or loaded from the artifacts: both styles see the same tasks.

    The artifact is a Hugging Face folder a seed and the training curve. ValueError: an unknown style, no step.
    """
    return load(folder(style, seeds, config, tasks, steps, batch, rate))


def untrained(style: str, seeds: Sequence[int], config: GPTConfig = SMALL) -> GPTs:
    """Return GPTs at initialisation, other draws than the trained ones of these seeds started from: null N5.

    ValueError: an unknown style.
    """
    require(style in grammar.STYLES, "style", style, f"one of {grammar.STYLES}")
    parameters = initialise(config, [seed + 10_000 for seed in seeds])
    return GPTs(config, style, tuple(seeds), parameters, tokenizer(config.vocabulary))


def folder(
    style: str, seeds: Sequence[int], config: GPTConfig = SMALL, tasks: int = TASKS, steps: int = STEPS,
    batch: int = BATCH, rate: float = RATE,
) -> Path:  # fmt: skip
    """Return the artifact of `matched`, trained when the store does not have it."""
    require(style in grammar.STYLES, "style", style, f"one of {grammar.STYLES}")
    require(steps >= 1, "steps", steps, "at least one optimiser step")

    def build(place: Path) -> None:
        artifacts.clear(place)
        found, curve = train(style, seeds, config, tasks, steps, batch, rate)
        save(found, place)
        write_json(place / "curve.json", curve)

    key = {"style": style, "seeds": list(seeds), "config": config, "tasks": tasks, "steps": steps, "batch": batch}
    key |= {"rate": rate, "tokenizers": version("tokenizers")}
    return artifacts.stored("gpts", key, build, modules=MODULES)


def train(
    style: str, seeds: Sequence[int], config: GPTConfig, tasks: int, steps: int, batch: int, rate: float
) -> tuple[GPTs, list[dict[str, Any]]]:
    """Train one GPT a seed with AdamW and a cosine schedule; return them and the training loss every 25 steps.

    Every real token is a target. Each seed has its own initialisation and order of texts; batches hold texts of like
    length, so that little padding is computed.
    """
    corpus = texts(style, "training", tasks, config)
    parameters = initialise(config, seeds)
    optimiser = torch.optim.AdamW(parameters.values(), rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    orders = [_batches(corpus.real.sum(1), batch, steps, seed) for seed in seeds]
    curve, recent = [], torch.zeros(len(seeds))
    for step in range(steps):
        rows = torch.stack([order[step] for order in orders])
        tokens = corpus.tokens[rows][:, :, : int(corpus.real[rows].sum(-1).max())]
        for value in parameters.values():
            value.requires_grad_()
        logits = forward(parameters, tokens[:, :, :-1], config)
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 2), tokens[:, :, 1:].flatten(), ignore_index=0, reduction="none"
        ).reshape(len(seeds), -1)
        losses = losses.sum(1) / (tokens[:, :, 1:] > 0).sum((1, 2))
        optimiser.zero_grad()
        losses.sum().backward()
        optimiser.param_groups[0]["lr"] = learning_rate(rate, step, steps)
        optimiser.step()
        recent += losses.detach()
        if (step + 1) % 25 == 0 or step + 1 == steps:
            curve.append({"step": step + 1, "loss": (recent / (step % 25 + 1)).tolist()})
            recent.zero_()
    for value in parameters.values():
        value.requires_grad_(False)
    return GPTs(config, style, tuple(seeds), parameters, tokenizer(config.vocabulary)), curve


def learning_rate(rate: float, step: int, steps: int) -> float:
    """Return the rate of a step: linear warm-up over the first 5 %, then a half cosine to a hundredth of `rate`."""
    warm = max(1, steps // 20)
    falling = 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / max(1, steps - warm)))
    return rate * min((step + 1) / warm, 0.01 + 0.99 * falling)


def _batches(lengths: Tensor, batch: int, steps: int, seed: int) -> list[Tensor]:
    """Return the texts of every step: epochs in random order, cut into batches of like length, these shuffled."""
    batch = min(batch, len(lengths))
    whole = len(lengths) // batch
    found: list[Tensor] = []
    while len(found) < steps:
        draw = generator(seed, f"gpt/order/{len(found)}")
        order = torch.randperm(len(lengths), generator=draw)[: whole * batch]
        sorted_rows = order[lengths[order].argsort(stable=True)].reshape(whole, batch)
        # one shuffle for all seeds: stacked batches then have like lengths
        mixed = torch.randperm(whole, generator=generator(0, f"gpt/batches/{len(found)}"))
        found += list(sorted_rows[mixed])
    return found[:steps]


@torch.no_grad()
def losses(models: GPTs, of: Texts) -> Float[Tensor, "seeds n"]:
    """Return every seed's summed cross-entropy of the bodies of texts, in nats; compare with `of.floor`."""
    found = []
    for tokens, body in zip(of.tokens.split(128), of.body.split(128), strict=True):
        nats = -models.logits(tokens[:, :-1]).log_softmax(-1)
        wanted = nats.gather(-1, tokens[:, 1:, None].expand(len(nats), -1, -1, 1))[..., 0]
        found.append((wanted * body[:, 1:]).sum(-1))
    return torch.cat(found, 1)


NAMES = {"ln1.w": "input_layernorm", "attn.W_Q": "self_attn.q_proj", "attn.W_K": "self_attn.k_proj",
         "attn.W_V": "self_attn.v_proj", "attn.W_O": "self_attn.o_proj", "ln2.w": "post_attention_layernorm",
         "mlp.W_gate": "mlp.gate_proj", "mlp.W_in": "mlp.up_proj", "mlp.W_out": "mlp.down_proj"}  # fmt: skip


def hugging_face_name(name: str) -> str:
    """Return the name that `LlamaForCausalLM` has for a parameter; matrices of blocks are transposed there."""
    if name in ("embed.W_E", "ln_final.w"):
        return {"embed.W_E": "model.embed_tokens.weight", "ln_final.w": "model.norm.weight"}[name]
    _, layer, rest = name.split(".", 2)
    return f"model.layers.{layer}.{NAMES[rest]}.weight"


def _turned(name: str, value: Tensor) -> Tensor:
    return value.T.contiguous() if ".W_" in name and name != "embed.W_E" else value.contiguous()


def save(models: GPTs, place: Path) -> None:
    """Write a Hugging Face folder `seed_<seed>` a seed, which `LlamaForCausalLM` reads, and `gpts.json`."""
    c = models.config
    card = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": c.vocabulary,
            "hidden_size": c.d_model, "intermediate_size": c.d_mlp, "num_hidden_layers": c.n_layers,
            "num_attention_heads": c.n_heads, "num_key_value_heads": c.n_heads, "head_dim": c.d_model // c.n_heads,
            "max_position_embeddings": c.context, "rms_norm_eps": EPSILON, "rope_theta": BASE,
            "rope_parameters": {"rope_type": "default", "rope_theta": BASE}, "hidden_act": "silu",
            "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True, "dtype": "float32",
            "pad_token_id": 0, "bos_token_id": None, "eos_token_id": models.tokenizer.id("<|end|>")}  # fmt: skip
    for index, seed in enumerate(models.seeds):
        one = place / f"seed_{seed}"
        one.mkdir(parents=True)
        tensors = {hugging_face_name(n): _turned(n, value[index]) for n, value in models.parameters.items()}
        save_file(tensors, one / "model.safetensors", {"format": "pt"})
        write_json(one / "config.json", card)
        models.tokenizer.save(one / "tokenizer.json")
    write_json(place / "gpts.json", {"style": models.style, "seeds": list(models.seeds), "config": asdict(c)})


def load(place: Path) -> GPTs:
    """Return what `save` wrote. ValueError: a folder without `gpts.json`."""
    require((place / "gpts.json").is_file(), "place", place.name, "a folder that `save` wrote, with gpts.json")
    card = json.loads((place / "gpts.json").read_text())
    config, folders = GPTConfig(**card["config"]), [place / f"seed_{seed}" for seed in card["seeds"]]
    each = [load_file(one / "model.safetensors") for one in folders]
    names = initialise(config, [0])
    parameters: Parameters = {
        name: torch.stack([_turned(name, tensors[hugging_face_name(name)]) for tensors in each]) for name in names
    }
    tok = bpe.load(folders[0] / "tokenizer.json")
    return GPTs(config, card["style"], tuple(card["seeds"]), parameters, tok)
