"""A pair of small GPTs in which it is known what moves the probability of a regulation step."""

import torch
from torch import Tensor

from husai.config import SAEConfig
from husai.language import matched
from husai.language.gpt import GPTConfig, GPTs, initialise
from husai.language.matched import Texts
from husai.saes import SAEBatch

CONFIG = GPTConfig(n_layers=2, n_heads=2, d_model=16, d_mlp=4, context=96)
CAUSAL, INERT, CONSTANT = 0, 1, 15
"""Coordinates of the residual stream: what the wanted tokens read, what nothing reads, and a large constant."""


def planted(style: str, seed: int = 0, written: float = 0.0, head: int = 0) -> GPTs:
    """Blocks write nothing but `written` along CAUSAL, by one head of the last one; tokens read other coordinates."""
    p = {name: torch.zeros_like(value) for name, value in initialise(CONFIG, [seed]).items()}
    for name in p:
        if name.endswith(".w"):
            p[name] += 1
    table = torch.randn(CONFIG.vocabulary, 16, generator=torch.Generator().manual_seed(seed))
    tok = matched.tokenizer(CONFIG.vocabulary)
    table[:, CAUSAL], table[:, INERT], table[:, CONSTANT] = 0, 0, 50
    table[list(matched.regulation_ids(tok)), CAUSAL] = 40.0
    p["embed.W_E"] = table[None]
    p["ln_final.w"][0, CONSTANT] = 0
    width = CONFIG.d_model // CONFIG.n_heads
    p["blocks.1.attn.W_V"][0, CONSTANT, head * width] = 1.0  # the normed constant is about 4 everywhere
    p["blocks.1.attn.W_O"][0, head * width, CAUSAL] = written / 4
    return GPTs(CONFIG, style, (seed,), p, tok)


def pair(written: float, seed: int = 0, head: int = 0) -> dict[str, GPTs]:
    return {"standard": planted("standard", seed), "adhd": planted("adhd", seed, written, head)}


def texts(n: int = 12) -> dict[str, Texts]:
    return {style: matched.texts(style, n=n, config=CONFIG) for style in ("standard", "adhd")}


def sae(rows: Tensor, x: Tensor | None = None) -> SAEBatch:
    """Every latent fires with 1 everywhere, and writes its row."""
    n, d = rows.shape
    config = SAEConfig("topk", n, n)
    encoder = torch.zeros(1, d, n)
    return SAEBatch(config, (0,), encoder, torch.ones(1, n), rows[None].clone(), torch.zeros(1, d))


def random_model(seed: int, ending: int | None = None) -> GPTs:
    """A random model; one that likes to end writes texts of several lengths."""
    p = initialise(CONFIG, [seed])
    p["embed.W_E"] = 4 * p["embed.W_E"]
    for name in p:
        if name.endswith(("W_O", "W_out")):
            p[name] = 8 * p[name]
    if ending is not None:
        p["embed.W_E"][:, ending] *= 1.8
    return GPTs(CONFIG, "adhd", (seed,), p, matched.tokenizer(CONFIG.vocabulary))


TEXTS_OF = texts()
