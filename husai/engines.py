"""How the seeds of one training advance by some steps: the fused CPU step where it applies, plain torch elsewhere."""

import heapq
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Lock
from typing import NamedTuple

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  (loads the BLAS that the fused step calls, so that its threads can be limited)
import torch
from jaxtyping import Float, Int
from threadpoolctl import ThreadpoolController
from torch import Tensor

from husai import kernels, objectives
from husai.architectures import ARCHITECTURES
from husai.architectures.base import Encoding, Weights, encoding, residual
from husai.architectures.matryoshka import prefixes
from husai.config import SAEConfig, TrainConfig, require

FUSED = ("topk", "batch_topk", "matryoshka", "hierarchical_topk")
"""Architectures that the fused step computes."""
ALONE = Lock()
"""Held while the fused step works: its limit on the threads of BLAS is one of the process, and it uses all cores."""
STRETCH = 64
"""Steps of one seed between two looks at which seed is furthest behind."""


class Data(NamedTuple):
    """Standardised activations; y is x unless a transcoder is trained."""

    x: Float[Tensor, "n *layers d_in"]
    y: Float[Tensor, "n *layers d_model"]

    def rows(self, index: Int[Tensor, "seeds batch"]) -> "Data":
        """Return one batch a seed."""
        x = self.x[index]
        return Data(x, x if self.y is self.x else self.y[index])


class State(NamedTuple):
    """Everything that changes during training but the optimiser's moments; the encoder is stored by latents."""

    encoder: Float[Tensor, "seeds d_sae d_in"]
    bias: Float[Tensor, "seeds d_sae"]
    decoder: Float[Tensor, "seeds d_sae d_model"]
    centre: Float[Tensor, "seeds d_model"]
    silent: Int[Tensor, "seeds d_sae"]
    """Steps since each latent last fired."""
    extra: dict[str, Tensor]
    """The architecture's own parameters, [seeds, ...] each."""

    def weights(self, config: SAEConfig) -> Weights:
        """Return the weights that are multiplied with: aligned encoder rows are made of the free and decoder rows.

        e_j = d_j + (u_j - <u_j, d_j> d_j), so that <e_j, d_j> = 1.
        """
        encoder, decoder = self.encoder, self.decoder
        if config.aligned:
            encoder = encoder + (1 - (encoder * decoder).sum(-1, keepdim=True)) * decoder
        return Weights(encoder, self.bias, decoder, self.centre, self.extra)


Engine = Callable[[State, Data, Tensor, np.ndarray, np.ndarray, int, Tensor | None], np.ndarray]
"""advance(state, data, order [seeds, steps, batch], rates [steps], ks [steps], start, pull) -> losses.

Losses are [seeds, steps, 2]. It changes `state` in place; `pull` [seeds, d_sae, d_model], if any, is added to the
decoders' gradients at each step. Fewer steps come back when the last of them has a loss that is not finite.
"""


def forward(state: State, x: Float[Tensor, "seeds batch *layers d_in"], config: SAEConfig) -> Encoding:
    """Return the pre-activations of one standardised batch a seed."""
    x = ARCHITECTURES[config.architecture].inputs(x, state.extra)
    return encoding(x, state.weights(config), config)


def loss(
    state: State, batch: Data, config: TrainConfig, k: int | None = None
) -> tuple[Float[Tensor, "seeds terms"], Tensor]:
    """Return each seed's (architecture's loss, auxiliary) terms and which latents fired; k is this step's."""
    sae = config.sae if k in (None, config.sae.k) else replace(config.sae, k=k)
    architecture = ARCHITECTURES[sae.architecture]
    step = forward(state, batch.x, sae)
    target = batch.y - state.centre[:, None] if sae.transcoder else step.centred
    z = architecture.encode(step, sae)
    first = architecture.loss(step, z, target, sae)
    dead = state.silent >= config.dead_after
    second = torch.zeros_like(first)
    if config.auxk and bool(dead.any()):
        error = residual(step.weights, z, target)
        second = objectives.auxk(error, step.pre, state.decoder, dead, k_aux(config, target.shape[-1]))
    return torch.stack([first, second], 1), (z != 0).any(1)


def k_aux(config: TrainConfig, d_model: int) -> int:
    """Return how many dead latents explain the residual: d_model / 2, at most d_sae (Gao et al. 2024, section A.2)."""
    return min(d_model // 2, config.sae.d_sae)


def learns_from(config: TrainConfig) -> tuple[int, int]:
    """Return the first latent whose encoder row and bias learn, and the first whose decoder row does."""
    every = {"encoder": (config.sae.d_sae, 0), "decoder": (0, config.sae.d_sae), "": (0, 0)}[config.frozen]
    return max(every[0], config.objective.fixed[0]), max(every[1], config.objective.fixed[1])


def l2(config: TrainConfig) -> float:
    """Return the factor of `objectives.l2` in the loss."""
    return config.objective.weight if config.objective.name == "l2" else 0.0


def start(name: str, config: TrainConfig, state: State) -> Engine:
    """Return the engine that advances this state: "fused", "autograd", or the faster that applies ("auto")."""
    require(name in ("auto", "fused", "autograd"), "engine", name, "'auto', 'fused' or 'autograd'")
    fits = config.sae.architecture in FUSED and state.encoder.device.type == "cpu"
    require(fits or name != "fused", "engine", name, f"'autograd': the fused step is for {', '.join(FUSED)} on the CPU")
    return (_Fused if fits and name != "autograd" else _Autograd)(config, state)


class _Fused:
    """Hands stretches of steps of one seed to the fused step, which works on the state's own memory.

    A free thread takes the seed that is furthest behind, so that any number of seeds keeps all threads busy.
    """

    def __init__(self, config: TrainConfig, state: State) -> None:
        c, sae = config, config.sae
        weights = [t.numpy() for t in (state.encoder, state.decoder, state.bias, state.centre)]
        moments = [np.zeros_like(weight) for weight in weights for _ in range(2)]
        self.blas = ThreadpoolController().select(user_api="blas")  # found once: looking takes milliseconds
        self.seeds = [
            (tuple(w[s] for w in weights), tuple(m[s] for m in moments), state.silent[s].numpy())
            for s in range(len(state.bias))
        ]
        levels = {"matryoshka": prefixes(sae), "hierarchical_topk": sae.groups}.get(sae.architecture, [sae.d_sae])
        self.recipe = kernels.Recipe(
            by_batch=sae.architecture in ("batch_topk", "matryoshka"),
            signed=sae.signed,
            levels=np.array(levels, np.int64),
            by_rank=sae.architecture == "hierarchical_topk",
            transcoder=sae.transcoder,
            centred=sae.decoder_bias,
            aligned=sae.aligned,
            project=c.project_gradient,
            unit=c.unit_decoder,
            encodes_from=learns_from(c)[0],
            decodes_from=learns_from(c)[1],
            l2=l2(c),
            clip_norm=float(c.clip_norm),
            auxk=float(c.auxk),
            dead_after=c.dead_after,
            k_aux=k_aux(c, state.decoder.shape[-1]),
        )

    def __call__(
        self,
        state: State,
        data: Data,
        order: Tensor,
        rates: np.ndarray,
        ks: np.ndarray,
        start: int,
        pull: Tensor | None = None,
    ) -> np.ndarray:
        losses, x, y = np.zeros((*order.shape[:2], 2)), data.x.numpy(), data.y.numpy()
        pulls = (state.decoder[:, :0] if pull is None else pull).numpy()
        behind = [(0, seed) for seed in range(len(self.seeds))]

        def advance(_: int) -> None:
            while True:
                try:
                    first, seed = heapq.heappop(behind)
                except IndexError:  # every other seed is with another thread
                    return
                part = slice(first, first + STRETCH)
                weights, moments, silent = self.seeds[seed]
                kernels.topk_steps(
                    x, y, order[seed, part].numpy(), rates[part], ks[part], start + first,
                    weights, moments, silent, pulls[seed], self.recipe, losses[seed, part],
                )  # fmt: skip
                if part.stop < len(rates) and np.isfinite(losses[seed]).all():
                    heapq.heappush(behind, (part.stop, seed))

        workers = min(torch.get_num_threads(), len(self.seeds))
        with ALONE, self.blas.limit(limits=1), ThreadPoolExecutor(workers) as pool:
            list(pool.map(advance, range(workers)))
        bad = np.flatnonzero(~np.isfinite(losses).all((0, 2)))
        return losses[:, : bad[0] + 1] if len(bad) else losses


class _Autograd:
    """The reference: plain torch, for every architecture and device."""

    def __init__(self, config: TrainConfig, state: State) -> None:
        self.config = config
        centre = [state.centre] if config.sae.decoder_bias else []
        fixed = {"": [], "decoder": [state.decoder], "encoder": [state.encoder, state.bias, *state.extra.values()]}
        still = {id(weight) for weight in fixed[config.frozen]}
        every = [state.encoder, state.decoder, state.bias, *centre, *state.extra.values()]
        self.weights = [weight for weight in every if id(weight) not in still]
        self.adam = torch.optim.Adam(self.weights, betas=(kernels.BETA1, kernels.BETA2), eps=kernels.EPSILON)

    def __call__(
        self,
        state: State,
        data: Data,
        order: Tensor,
        rates: np.ndarray,
        ks: np.ndarray,
        start: int,
        pull: Tensor | None = None,
    ) -> np.ndarray:
        losses = []
        order = order.to(data.x.device)
        for index, (rate, k) in enumerate(zip(rates, ks, strict=True)):
            for weight in self.weights:
                weight.requires_grad_()
            with torch.enable_grad():
                terms, fired = loss(state, data.rows(order[:, index]), self.config, int(k))
                total = (terms @ terms.new_tensor([1.0, self.config.auxk])).sum()
                if l2(self.config):
                    total = total + l2(self.config) * objectives.l2(state.encoder, state.decoder).sum()
                total.backward()
            for weight in self.weights:
                weight.requires_grad_(False)
            losses.append(terms.detach())
            if not bool(losses[-1].isfinite().all()):
                break
            self._shape_gradients(state, pull)
            self.adam.param_groups[0]["lr"] = rate
            self.adam.step()
            self.adam.zero_grad()
            if self.config.unit_decoder:
                moved = state.decoder[:, learns_from(self.config)[1] :]
                moved.copy_(torch.nn.functional.normalize(moved, dim=-1))
            state.silent.copy_(torch.where(fired, 0, state.silent + 1))
        return torch.stack(losses, 1).double().cpu().numpy()

    def _shape_gradients(self, state: State, pull: Tensor | None) -> None:
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        if pull is not None and state.decoder.grad is not None:
            state.decoder.grad += pull
        encodes_from, decodes_from = learns_from(self.config)
        for weight, first in ((state.encoder, encodes_from), (state.bias, encodes_from), (state.decoder, decodes_from)):
            if weight.grad is not None:
                weight.grad[:, :first] = 0
        if self.config.project_gradient and state.decoder.grad is not None:
            state.decoder.grad -= (state.decoder.grad * state.decoder).sum(-1, keepdim=True) * state.decoder
        if self.config.clip_norm:
            norm = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0).sqrt()
            factor = (self.config.clip_norm / (norm + 1e-6)).clamp(max=1)
            for gradient in gradients:
                gradient *= factor.reshape(-1, *[1] * (gradient.ndim - 1))
