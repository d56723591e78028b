"""How the seeds of one training advance by some steps: the fused CPU step where it applies, plain torch elsewhere."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  (loads the BLAS that the fused step calls, so that its threads can be limited)
import torch
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits
from torch import Tensor

from husai import kernels, objectives
from husai.architectures import ARCHITECTURES
from husai.architectures.base import Encoding, Weights, encoding, residual
from husai.config import SAEConfig, TrainConfig, require


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


Engine = Callable[[State, Data, Tensor, np.ndarray, np.ndarray, int], np.ndarray]
"""advance(state, data, order [seeds, steps, batch], rates [steps], ks [steps], start) -> losses [seeds, steps, 2].

It changes `state` in place. Fewer steps come back when the last of them has a loss that is not finite.
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


def start(name: str, config: TrainConfig, state: State) -> Engine:
    """Return the engine that advances this state: "fused", "autograd", or the faster that applies ("auto")."""
    require(name in ("auto", "fused", "autograd"), "engine", name, "'auto', 'fused' or 'autograd'")
    plain = config.sae.architecture == "topk" and not (config.sae.aligned or config.sae.transcoder)
    fits = plain and state.encoder.device.type == "cpu"
    require(fits or name != "fused", "engine", name, "'autograd': the fused step is for plain TopK on the CPU")
    return (_Fused if fits and name != "autograd" else _Autograd)(config, state)


class _Fused:
    """Hands whole stretches of steps to the fused step, which works on the state's own memory."""

    def __init__(self, config: TrainConfig, state: State) -> None:
        self.config = config
        self.weights = tuple(t.numpy() for t in (state.encoder, state.decoder, state.bias, state.centre))
        self.moments = tuple(np.zeros_like(weight) for weight in self.weights for _ in range(2))

    def __call__(
        self, state: State, data: Data, order: Tensor, rates: np.ndarray, ks: np.ndarray, start: int
    ) -> np.ndarray:
        losses = np.zeros((*order.shape[:2], 2))
        borders = [0, *(np.flatnonzero(np.diff(ks)) + 1).tolist(), len(ks)]
        for first, last in zip(borders, borders[1:], strict=False):  # stretches of one k
            stretch = slice(first, last)
            losses[:, stretch] = self._run(
                state, data, order[:, stretch], rates[stretch], int(ks[first]), start + first
            )
        return losses

    def _run(
        self, state: State, data: Data, order: Tensor, rates: np.ndarray, k: int, start: int
    ) -> np.ndarray:
        c = self.config
        recipe = (
            k, c.sae.signed, c.sae.decoder_bias, c.project_gradient,
            c.clip_norm, c.auxk, c.dead_after, k_aux(c, data.x.shape[1]),
        )  # fmt: skip
        losses = np.zeros((*order.shape[:2], 2))
        with threadpool_limits(1, user_api="blas"):
            kernels.topk_steps(  # type: ignore[call-arg]
                data.x.numpy(),
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
    """The reference: plain torch, for every architecture and device."""

    def __init__(self, config: TrainConfig, state: State) -> None:
        self.config = config
        centre = [state.centre] if config.sae.decoder_bias else []
        self.weights = [state.encoder, state.decoder, state.bias, *centre, *state.extra.values()]
        self.adam = torch.optim.Adam(self.weights, betas=(kernels.BETA1, kernels.BETA2), eps=kernels.EPSILON)

    def __call__(
        self, state: State, data: Data, order: Tensor, rates: np.ndarray, ks: np.ndarray, start: int
    ) -> np.ndarray:
        losses = []
        order = order.to(data.x.device)
        for index, (rate, k) in enumerate(zip(rates, ks, strict=True)):
            for weight in self.weights:
                weight.requires_grad_()
            terms, fired = loss(state, data.rows(order[:, index]), self.config, int(k))
            (terms @ terms.new_tensor([1.0, self.config.auxk])).sum().backward()
            for weight in self.weights:
                weight.requires_grad_(False)
            losses.append(terms.detach())
            if not bool(losses[-1].isfinite().all()):
                break
            self._shape_gradients(state)
            self.adam.param_groups[0]["lr"] = rate
            self.adam.step()
            self.adam.zero_grad()
            state.decoder.copy_(torch.nn.functional.normalize(state.decoder, dim=-1))
            state.silent.copy_(torch.where(fired, 0, state.silent + 1))
        return torch.stack(losses, 1).double().cpu().numpy()

    def _shape_gradients(self, state: State) -> None:
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        if self.config.project_gradient:
            gradients[1] -= (gradients[1] * state.decoder).sum(-1, keepdim=True) * state.decoder
        if self.config.clip_norm:
            norm = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0).sqrt()
            factor = (self.config.clip_norm / (norm + 1e-6)).clamp(max=1)
            for gradient in gradients:
                gradient *= factor.reshape(-1, *[1] * (gradient.ndim - 1))
