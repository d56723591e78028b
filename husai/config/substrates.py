"""Tasks and the transformers that learn them."""

import math
from dataclasses import dataclass

from husai.config.base import require, require_types

OPERATIONS = ("addition", "multiplication", "combined", "combined_drawn", "copy")
"""What a model may be asked to compute; `husai.tasks` has the equations."""


@dataclass(frozen=True)
class TaskConfig:
    """Modular arithmetic, or a copy, as a sequence, with or without the answer in the input."""

    p: int = 113
    """The modulus: operands and answers lie in 0..p-1."""
    format: str = "clean"
    """`clean` is [BOS, a, +, b, =] read at =; `leaked` is [BOS, a, +, b, =, c, EOS] read at c, as the sources did."""
    train_fraction: float = 0.7
    """Share of the sequences that the model is trained on; the others are held out."""
    operation: str = "addition"
    """Which of `OPERATIONS` the answer is; `leaked` sequences exist for addition alone."""

    def __post_init__(self) -> None:
        require_types(self)
        require(self.p >= 3, "p", self.p, "a modulus of at least 3")
        require(self.format in ("clean", "leaked"), "format", self.format, "'clean' or 'leaked'")
        require(0 < self.train_fraction < 1, "train_fraction", self.train_fraction, "a share between 0 and 1")
        require(self.operation in OPERATIONS, "operation", self.operation, f"one of {', '.join(OPERATIONS)}")
        leak = self.format == "leaked" and self.operation != "addition"
        require(not leak, "operation", self.operation, "'addition': only that has a leaked format")
        prime = self.p > 3 and all(self.p % divisor for divisor in range(2, math.isqrt(self.p) + 1))
        plain = self.operation in ("addition", "copy")
        require(plain or prime, "p", self.p, f"a prime above 3, so that {self.operation} has inverses")


@dataclass(frozen=True)
class ModelConfig:
    """A small transformer without LayerNorm, and how it is trained."""

    n_layers: int = 1
    """Transformer blocks."""
    d_model: int = 128
    """Width of the residual stream."""
    n_heads: int = 4
    """Attention heads a block; each is d_model / n_heads wide."""
    d_mlp: int = 512
    """Hidden width of the MLP (ReLU)."""
    steps: int = 700
    """Optimiser steps."""
    batch_size: int = 2048
    """Pairs a step, drawn without replacement within an epoch."""
    lr: float = 5e-3
    """Peak learning rate of AdamW, after the warm-up."""
    warmup: int = 10
    """Steps of linear warm-up."""
    decay_share: float = 0.3
    """Share of the steps, at the end, over which the learning rate falls linearly to zero."""
    weight_decay: float = 1.0
    """Decoupled weight decay of AdamW."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Moment decay rates of AdamW."""
    bf16: bool = True
    """Whether training multiplies in bfloat16 (weights, optimiser and evaluation stay float32)."""

    def __post_init__(self) -> None:
        require_types(self, "betas")
        require(self.n_layers >= 1, "n_layers", self.n_layers, "at least one block")
        require(self.d_model >= 1, "d_model", self.d_model, "at least one dimension")
        divides = self.n_heads >= 1 and self.d_model % self.n_heads == 0
        require(divides, "n_heads", self.n_heads, f"a divisor of d_model = {self.d_model}")
        rates = isinstance(self.betas, tuple) and len(self.betas) == 2
        rates = rates and all(type(rate) is float and 0 <= rate < 1 for rate in self.betas)
        require(rates, "betas", self.betas, "two rates of at least 0, below 1")
        require(self.steps >= 0, "steps", self.steps, "a number of optimiser steps, 0 for an untrained model")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least one pair a step")
        require(self.warmup >= 1, "warmup", self.warmup, "at least one step")
        require(0 < self.decay_share <= 1, "decay_share", self.decay_share, "a share above 0, at most 1")
