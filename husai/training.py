"""The only SAE optimiser loop: S seeds of one configuration on one activation matrix."""

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  (loads the BLAS that the fused step calls, so that its threads can be limited)
import torch
from jaxtyping import Float
from threadpoolctl import threadpool_limits
from torch import Tensor

from husai import kernels, objectives
from husai.architectures import ARCHITECTURES
from husai.config import TrainConfig, log_grid, require
from husai.saes import SAEBatch
from husai.shards import Shards, moments
from husai.tasks import generator

CHUNK = 512
"""Optimiser steps a call of the fused step: bounds the memory of the precomputed data order."""
STRETCH = 2**24
"""Bytes of activations that are gathered from shards at a time, if they fit one step."""


class Training(NamedTuple):
    """What a training leaves behind."""

    saes: SAEBatch
    """The SAEs after the last step, in raw activation units."""
    checkpoints: dict[int, SAEBatch]
    """The SAEs at step 0, on a logarithmic grid, and at the last step."""
    log: list[dict[str, Any]]
    """One entry a checkpoint: step, lr, and per seed the loss terms (mean since the last one) and the silent share."""


class State(NamedTuple):
    """Everything that changes during training, on standardised activations; the encoder is stored by latents."""

    encoder: Float[Tensor, "seeds d_sae d_model"]
    bias: Float[Tensor, "seeds d_sae"]
    decoder: Float[Tensor, "seeds d_sae d_model"]
    centre: Float[Tensor, "seeds d_model"]
    silent: Tensor


Engine = Callable[[State, Tensor, Tensor, np.ndarray, int], np.ndarray]


def train(
    activations: Float[Tensor, "n d_model"] | Shards,
    config: TrainConfig,
    seeds: Sequence[int],
    *,
    keep: Sequence[int] | None = None,
    on_step: Callable[[int, SAEBatch, dict[str, Any]], None] | None = None,
    log_path: Path | None = None,
    engine: str = "auto",
) -> Training:
    """Train one SAE a seed and return them with their checkpoints.

    Loss of a seed: mean_(b,d) (x - x_hat)^2 + penalty + auxk * mean (error - z_dead W_dec)^2, on activations centred
    and scaled to a mean squared norm of d_model when `config.standardise`. Each seed has its own initialisation and
    data order, and gives the same SAE alone or in a batch. Checkpoints are kept, and
    `on_step(step, saes, entry)` is called, at the steps `keep` (default: 0, powers of two from 8, the last).
    `engine` is "fused" (TopK on the CPU), "autograd", or "auto". Shards train the SAEs that their rows in memory do.
    Raises ValueError on non-finite activations, fewer than batch_size of them, or a loss that stops being finite.
    """
    require(len(activations.shape) == 2, "activations", tuple(activations.shape), "a matrix [n, d_model]")
    finite = isinstance(activations, Shards) or bool(activations.isfinite().all())
    require(finite, "activations", "NaN or infinity among them", "finite numbers")
    n, d_model = activations.shape
    require(
        n >= config.batch_size, "batch_size", config.batch_size, f"at most the number of activations, {n}"
    )
    require(len(set(seeds)) == len(seeds) > 0, "seeds", list(seeds), "one or more different integers")
    mean, scale = (
        standardiser(activations) if config.standardise else (torch.zeros(d_model, dtype=activations.dtype), 1.0)
    )
    data, stretch = activations, CHUNK
    if isinstance(data, Shards):
        row = data.d_model * data.dtype.itemsize
        stretch = min(CHUNK, max(1, STRETCH // (len(seeds) * config.batch_size * row)))
    else:
        data = ((data - mean) * scale).contiguous()
    state = initial_state(config, d_model, seeds, activations.dtype)
    advance = _engine(engine, config, state)
    orders = [_Order(n, config.batch_size, seed) for seed in seeds]
    checkpoints, log, since = {}, [], []
    track = tracker(config)
    stops = sorted({*(log_grid(config.steps) if keep is None else keep), config.steps})
    for start, stop in zip([0, *stops], stops, strict=False):
        for first in range(start, stop, stretch):
            steps = min(stretch, stop - first)
            order = torch.stack([o.take(steps) for o in orders])
            x, order = (data, order) if isinstance(data, Tensor) else data.gather(order)
            x = x if isinstance(data, Tensor) else x.sub_(mean).mul_(scale)
            rates = np.array([learning_rate(config, first + i) for i in range(steps)])
            since.append(advance(state, x, order, rates, first))
            _check_finite(since[-1], seeds, first, config.lr)
        checkpoints[stop] = fold(state, config, seeds, mean, scale)
        log.append(_entry(stop, config, state, since))
        since = []
        if log_path:
            with log_path.open("a") as file:
                file.write(json.dumps(log[-1], sort_keys=True) + "\n")
        if on_step:
            on_step(stop, checkpoints[stop], log[-1])
        track(stop, log[-1])
    return Training(checkpoints[config.steps], checkpoints, log)


def standardiser(
    activations: Float[Tensor, "n d_model"] | Shards,
) -> tuple[Float[Tensor, " d_model"], float]:
    """Return (mean, scale) such that scale * (x - mean) has a mean squared norm of d_model."""
    mean, spread = moments(activations)
    require(spread > 0, "activations", "identical rows", "rows that differ")
    return mean.to(activations.dtype), math.sqrt(activations.shape[1] / spread)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the rate of a step: constant, then linear to zero over the last `decay_share` of the steps."""
    decay = config.decay_share * config.steps
    return config.lr * min(1.0, (config.steps - step) / decay) if decay else config.lr


def initial_state(config: TrainConfig, d_model: int, seeds: Sequence[int], dtype: torch.dtype) -> State:
    """Return fresh SAEs: unit decoder rows; the encoder is their transpose (tied) or Kaiming-uniform of its own."""
    d_sae, encoders, decoders = config.sae.d_sae, [], []
    for seed in seeds:
        draw = generator(seed, "sae/init")
        if config.tied_init:
            decoder = torch.randn(d_sae, d_model, generator=draw)
            encoder = torch.nn.functional.normalize(decoder, dim=1)
        else:
            bound = 1 / math.sqrt(d_model)
            encoder = (2 * torch.rand(d_sae, d_model, generator=draw) - 1) * bound
            decoder = (2 * torch.rand(d_sae, d_model, generator=draw) - 1) / math.sqrt(d_sae)
        encoders.append(encoder)
        decoders.append(torch.nn.functional.normalize(decoder, dim=1))
    encoder, decoder = torch.stack(encoders).to(dtype), torch.stack(decoders).to(dtype)
    bias, centre = encoder.new_zeros(len(seeds), d_sae), encoder.new_zeros(len(seeds), d_model)
    return State(encoder, bias, decoder, centre, torch.zeros(len(seeds), d_sae, dtype=torch.int64))


def fold(state: State, config: TrainConfig, seeds: Sequence[int], mean: Tensor, scale: float) -> SAEBatch:
    """Return the SAEs in raw activation units: standardising is absorbed by the biases, unit decoder rows are kept."""
    return SAEBatch(
        config.sae,
        tuple(seeds),
        W_enc=state.encoder.transpose(1, 2).clone(),
        b_enc=state.bias / scale,
        W_dec=state.decoder.clone(),
        b_dec=mean + state.centre / scale,
    )


def loss(
    state: State, x: Float[Tensor, "seeds batch d_model"], config: TrainConfig
) -> tuple[Float[Tensor, "seeds terms"], Tensor]:
    """Return each seed's (reconstruction + penalty, auxiliary) terms and which latents fired."""
    centred = x - state.centre[:, None]
    pre = torch.bmm(centred, state.encoder.transpose(1, 2)) + state.bias[:, None]
    architecture = ARCHITECTURES[config.sae.architecture]
    z = architecture.encode(pre, config.sae)
    error = centred - torch.bmm(z, state.decoder)
    first = objectives.reconstruction(error, torch.zeros_like(error)) + architecture.penalty(z, config.sae)
    dead = state.silent >= config.dead_after
    second = torch.zeros_like(first)
    if config.auxk and bool(dead.any()):
        second = objectives.auxk(error, pre, state.decoder, dead, k_aux(config, x.shape[-1]))
    return torch.stack([first, second], 1), (z != 0).any(1)


def k_aux(config: TrainConfig, d_model: int) -> int:
    """Return how many dead latents explain the residual: d_model / 2, at most d_sae (Gao et al. 2024, section A.2)."""
    return min(d_model // 2, config.sae.d_sae)


def _engine(name: str, config: TrainConfig, state: State) -> Engine:
    require(name in ("auto", "fused", "autograd"), "engine", name, "'auto', 'fused' or 'autograd'")
    fits = config.sae.architecture == "topk" and state.encoder.device.type == "cpu"
    require(fits or name != "fused", "engine", name, "'autograd': the fused step is for TopK on the CPU")
    return (_Fused if fits and name != "autograd" else _Autograd)(config, state)


class _Fused:
    """Hands whole stretches of steps to the fused step, which works on the state's own memory."""

    def __init__(self, config: TrainConfig, state: State) -> None:
        self.config = config
        self.weights = tuple(t.numpy() for t in (state.encoder, state.decoder, state.bias, state.centre))
        self.moments = tuple(np.zeros_like(weight) for weight in self.weights for _ in range(2))

    def __call__(self, state: State, x: Tensor, order: Tensor, rates: np.ndarray, start: int) -> np.ndarray:
        c = self.config
        recipe = (
            c.sae.k, c.sae.signed, c.sae.decoder_bias, c.project_gradient,
            c.clip_norm, c.auxk, c.dead_after, k_aux(c, x.shape[1]),
        )  # fmt: skip
        losses = np.zeros((*order.shape[:2], 2))
        with threadpool_limits(1, user_api="blas"):
            kernels.topk_steps(  # type: ignore[call-arg]
                x.numpy(),
                order.numpy(),
                rates,
                start,
                *self.weights,
                self.moments,
                state.silent.numpy(),
                recipe,
                losses,
            )
        return losses


class _Autograd:
    """The reference: plain torch, for every architecture."""

    def __init__(self, config: TrainConfig, state: State) -> None:
        self.config = config
        self.weights = [state.encoder, state.decoder, state.bias, state.centre][
            : 4 if config.sae.decoder_bias else 3
        ]
        self.adam = torch.optim.Adam(self.weights, betas=(kernels.BETA1, kernels.BETA2), eps=kernels.EPSILON)

    def __call__(self, state: State, x: Tensor, order: Tensor, rates: np.ndarray, start: int) -> np.ndarray:
        losses = []
        for index, rate in enumerate(rates):
            for weight in self.weights:
                weight.requires_grad_()
            terms, fired = loss(state, x[order[:, index]], self.config)
            (terms @ terms.new_tensor([1.0, self.config.auxk])).sum().backward()
            for weight in self.weights:
                weight.requires_grad_(False)
            self._shape_gradients(state)
            self.adam.param_groups[0]["lr"] = rate
            self.adam.step()
            self.adam.zero_grad()
            state.decoder.copy_(torch.nn.functional.normalize(state.decoder, dim=-1))
            state.silent.copy_(torch.where(fired, 0, state.silent + 1))
            losses.append(terms.detach())
        return torch.stack(losses, 1).double().numpy()

    def _shape_gradients(self, state: State) -> None:
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        if self.config.project_gradient:
            gradients[1] -= (gradients[1] * state.decoder).sum(-1, keepdim=True) * state.decoder
        if self.config.clip_norm:
            norm = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0).sqrt()
            factor = (self.config.clip_norm / (norm + 1e-6)).clamp(max=1)
            for gradient in gradients:
                gradient *= factor.reshape(-1, *[1] * (gradient.ndim - 1))


class _Order:
    """One seed's endless stream of row indices: a fresh permutation an epoch, cut into batches."""

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        self.n, self.batch_size, self.draw = n, batch_size, generator(seed, "sae/order")
        self.left = torch.empty(0, dtype=torch.int64)

    def take(self, steps: int) -> Tensor:
        """Return the next [steps, batch_size] indices."""
        need = steps * self.batch_size
        parts = [self.left]
        while sum(map(len, parts)) < need:
            parts.append(torch.randperm(self.n, generator=self.draw))
        stream = torch.cat(parts)
        self.left = stream[need:]
        return stream[:need].reshape(steps, self.batch_size)


def _check_finite(losses: np.ndarray, seeds: Sequence[int], start: int, lr: float) -> None:
    bad = np.argwhere(~np.isfinite(losses).all(2))
    if len(bad):
        seed, step = bad[bad[:, 1].argmin()]
        raise ValueError(
            f"loss of seed {seeds[seed]} stopped being finite at step {start + step + 1} (lr {lr}); wanted a lower lr"
        )


def _entry(step: int, config: TrainConfig, state: State, since: list[np.ndarray]) -> dict[str, Any]:
    terms = np.concatenate(since, 1).mean(1) if since else np.full((len(state.bias), 2), None)
    return {
        "step": step,
        "lr": learning_rate(config, max(step - 1, 0)),
        "loss": terms[:, 0].tolist(),
        "auxk": terms[:, 1].tolist(),
        "silent_share": (state.silent >= config.dead_after).double().mean(1).tolist(),
    }


def tracker(config: TrainConfig) -> Callable[[int, dict[str, Any]], None]:
    """Return the sink of log entries: a run of Weights & Biases a training under `TRACK=wandb`, else nothing."""
    if os.environ.get("TRACK") != "wandb":
        return lambda step, entry: None
    import wandb

    settings = json.loads(json.dumps(config, default=vars))
    run = wandb.init(project="husai", config=settings, reinit="finish_previous")
    return lambda step, entry: run.log(
        {key: value for key, value in entry.items() if value is not None}, step=step
    )
