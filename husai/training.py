"""The only SAE optimiser loop: S seeds of one configuration on one activation matrix."""

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Num
from torch import Tensor

from husai import engines
from husai.architectures import ARCHITECTURES
from husai.calibration import Calibration, calibrate
from husai.config import Objective, SAEConfig, TrainConfig, log_grid, require
from husai.coupling import Coupling
from husai.engines import Data, State, forward
from husai.feed import Feed
from husai.saes import SAEBatch
from husai.shards import Shards
from husai.tasks import generator

MEASURED = 16
"""Batches on which what is not learned (BatchTopK's threshold) is measured at a checkpoint."""


class Training(NamedTuple):
    """What a training leaves behind."""

    saes: SAEBatch
    """The SAEs after the last step, in raw activation units."""
    checkpoints: dict[int, SAEBatch]
    """The SAEs at step 0, on a logarithmic grid, and at the last step."""
    log: list[dict[str, Any]]
    """One entry a checkpoint: step, lr, and per seed the loss terms (mean since the last one) and the silent share."""
    calibration: Calibration | None = None
    """How k was chosen, if it was "auto"."""


def train(
    activations: Num[Tensor, "n *layers d_in"] | Shards,
    config: TrainConfig,
    seeds: Sequence[int],
    *,
    targets: Num[Tensor, "rows d_model"] | Shards | None = None,
    reference: SAEBatch | None = None,
    keep: Sequence[int] | None = None,
    on_step: Callable[[int, SAEBatch, dict[str, Any]], None] | None = None,
    log_path: Path | None = None,
    engine: str = "auto",
) -> Training:
    """Train one SAE a seed and return them with their checkpoints.

    Loss of a seed: what its architecture says + auxk * mean (error - z_dead W_dec)^2, on activations centred and scaled
    to a mean squared norm of d_model when `config.standardise`, + the term of `config.objective`, which may compare it
    with the SAEs of a `reference` (one for all seeds, or one a seed) or with the other seeds of its group. But for such
    a group, each seed has its own initialisation and data order, less what `config.shared` names, and gives the same
    SAE alone or in a batch. With k = "auto", `calibration` chooses it first. Checkpoints are kept, and
    `on_step(step, saes, entry)` is called, at the steps `keep` (default: 0, powers of two from 8, the last). `targets`
    are what a transcoder reconstructs; `route` reads [n, layers, d_model].
    `engine` is "fused" (`engines.FUSED` on the CPU), "autograd", or "auto". All runs on the device of the activations.
    Raises ValueError on activations or targets that are not finite floats, do not fit the configuration or each other,
    or are fewer than batch_size, and on a loss that stops being finite (seed, step and learning rate are named).
    """
    require(len(set(seeds)) == len(seeds) > 0, "seeds", list(seeds), "one or more different integers")
    coupling = Coupling(config, reference, seeds)
    config, calibration = resolve(activations, config, seeds)
    feed = Feed(activations, targets, config, seeds)
    state = initial_state(config, feed.first, seeds)
    coupling.begin(state, feed)
    advance = engines.start(engine, config, state)
    stretch = min(feed.stretch, coupling.stretch or feed.stretch)
    checkpoints, log, since, losses = {}, [], [], None
    track = tracker(config)
    stops = sorted({*(log_grid(config.steps) if keep is None else keep), config.steps})
    require(stops[0] >= 0 and stops[-1] == config.steps, "keep", keep, f"steps from 0 to {config.steps}")
    for start, stop in zip([0, *stops], stops, strict=False):
        for first in range(start, stop, stretch):
            steps = min(stretch, stop - first)
            data, order = feed.take(steps)
            rates = np.array([learning_rate(config, first + i) for i in range(steps)])
            ks = np.array([active(config, first + i) for i in range(steps)])
            pull = coupling.pull(state, first, losses)
            since.append(advance(state, data, order, rates, ks, first, pull))
            losses = torch.from_numpy(since[-1][:, -1, 0])
            _check_finite(since[-1], seeds, first, rates)
        checkpoints[stop] = fold(state, config, feed)
        log.append(_entry(stop, config, state, since) | coupling.entry)
        since = []
        if log_path:
            with log_path.open("a") as file:
                file.write(json.dumps(log[-1], sort_keys=True) + "\n")
        if on_step:
            on_step(stop, checkpoints[stop], log[-1])
        track(stop, log[-1])
    return Training(checkpoints[config.steps], checkpoints, log, calibration)


def resolve(
    activations: Num[Tensor, "n *layers d_in"] | Shards, config: TrainConfig, seeds: Sequence[int]
) -> tuple[TrainConfig, Calibration | None]:
    """Return the configuration with its k, chosen by `calibration.calibrate` where it is "auto", and how."""
    if config.sae.k != "auto":
        return config, None
    plain = replace(config, objective=Objective())
    chosen = calibrate(activations, plain, seeds, lambda *arguments: train(*arguments, keep=[]).saes)
    return replace(config, sae=replace(config.sae, k=chosen.k)), chosen


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the rate of a step: constant, then linear to zero over the last `decay_share` of the steps."""
    decay = config.decay_share * config.steps
    return config.lr * min(1.0, (config.steps - step) / decay) if decay else config.lr


def active(config: TrainConfig, step: int) -> int:
    """Return a step's k: from k_start * k at the first linearly to k at half of the steps, at most what there is."""
    k, room = config.sae.active, config.sae.d_sae // config.sae.experts
    ahead = max(0.0, 1 - 2 * step / config.steps)
    return min(round(k + (config.k_start - 1) * k * ahead), room)


def initial_state(config: TrainConfig, data: Data, seeds: Sequence[int]) -> State:
    """Return fresh SAEs: unit decoder rows; the encoder is their transpose (tied) or Kaiming-uniform of its own.

    A transcoder has nothing to tie. All is drawn on the CPU, so that a seed starts alike on every device.
    """
    sae, d_in, d_model = config.sae, data.x.shape[-1], data.y.shape[-1]
    architecture, starts = ARCHITECTURES[sae.architecture], []
    for seed in seeds:
        draw = generator(config.drawn_as(seed, "init"), "sae/init")
        if config.tied_init and not sae.transcoder:
            decoder = torch.randn(sae.d_sae, d_model, generator=draw)
            encoder = torch.nn.functional.normalize(decoder, dim=1)
        else:
            encoder = (2 * torch.rand(sae.d_sae, d_in, generator=draw) - 1) * math.sqrt(6 / d_in)
            decoder = (2 * torch.rand(sae.d_sae, d_model, generator=draw) - 1) / math.sqrt(sae.d_sae)
        weights = {"encoder": encoder, "decoder": torch.nn.functional.normalize(decoder, dim=1)}
        starts.append(weights | architecture.parameters(sae, d_in, draw))
    weights = {name: torch.stack([start[name] for start in starts]).to(data.x) for name in starts[0]}
    encoder, decoder = weights.pop("encoder"), weights.pop("decoder")
    bias, centre = encoder.new_zeros(len(seeds), sae.d_sae), encoder.new_zeros(len(seeds), d_model)
    silent = torch.zeros_like(bias, dtype=torch.int64)
    return State(encoder, bias, decoder, centre, silent, weights)


def fold(state: State, config: TrainConfig, feed: Feed) -> SAEBatch:
    """Return the SAEs in raw activation units: standardising is absorbed by biases, thresholds and routers.

    Decoder rows stay as trained, so latents are those of the training divided by the target's scale. Where the input is
    not centred by b_dec (transcoders, routed layers), its mean is extra["b_in"]. ValueError: an encoder that is not
    finite, or a decoder row that is not, is zero, or (`unit_decoder`) has lost its length.
    """
    norms = state.decoder.square().sum(-1)
    whole = (norms > (0.5 if config.unit_decoder else 0)) & norms.isfinite()
    broken = ~(whole.all(1) & state.encoder.isfinite().all(-1).all(-1))
    if bool(broken.any()):
        seed = feed.seeds[int(broken.nonzero()[0])]
        raise ValueError(f"weights of seed {seed} stopped being finite (lr {config.lr:g}); wanted a lower lr")
    sae, seeds, (x_mean, x_scale), (y_mean, y_scale) = config.sae, feed.seeds, feed.units[0], feed.units[-1]
    weights, architecture = state.weights(sae), ARCHITECTURES[sae.architecture]
    extra = state.extra | architecture.buffers(_batches(state, sae, feed), sae)
    apart = sae.transcoder or sae.layers > 1
    extra = architecture.fold(extra, torch.zeros_like(x_mean) if apart else x_mean, x_scale, y_scale)
    if apart:
        extra["b_in"] = x_mean.expand(len(seeds), *x_mean.shape)
    return SAEBatch(
        sae,
        tuple(seeds),
        W_enc=weights.encoder.transpose(1, 2) * (x_scale / y_scale),
        b_enc=state.bias / y_scale,
        W_dec=state.decoder.clone(),
        b_dec=(0 if sae.layers > 1 else y_mean) + state.centre / y_scale,
        extra={name: tensor.clone() for name, tensor in extra.items()},
    )


def _batches(state: State, config: SAEConfig, feed: Feed) -> Iterator[Tensor]:
    """Yield the pre-activations of up to MEASURED batches a seed."""
    for batch in feed.shuffled(MEASURED):
        yield forward(state, batch.x, config).pre


def _check_finite(losses: np.ndarray, seeds: Sequence[int], start: int, rates: np.ndarray) -> None:
    bad = np.argwhere(~np.isfinite(losses).all(2))
    if len(bad):
        seed, step = bad[bad[:, 1].argmin()]
        raise ValueError(
            f"loss of seed {seeds[seed]} stopped being finite at step {start + step + 1} (lr {rates[step]:g}); "
            "wanted a lower lr"
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
    return lambda step, entry: run.log({key: value for key, value in entry.items() if value is not None}, step=step)
