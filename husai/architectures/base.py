"""What published SAE architectures differ in: one object each, whose methods work on all seeds at once."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from husai import objectives
from husai.config import SAEConfig


class Weights(NamedTuple):
    """The weights of S SAEs: on standardised activations while they train, on raw ones in an `SAEBatch`."""

    encoder: Float[Tensor, "seeds d_sae d_in"]
    """One row a latent."""
    bias: Float[Tensor, "seeds d_sae"]
    """Encoder bias."""
    decoder: Float[Tensor, "seeds d_sae d_model"]
    """Row j is feature j."""
    centre: Float[Tensor, "seeds d_model"]
    """Decoder bias."""
    extra: dict[str, Tensor]
    """What only this architecture has, [seeds, ...] each."""


class Encoding(NamedTuple):
    """A batch on its way through the encoders."""

    x: Float[Tensor, "seeds batch d_in"]
    """What is encoded."""
    centred: Float[Tensor, "seeds batch d_in"]
    """x less the decoder bias; a transcoder's x."""
    pre: Float[Tensor, "seeds batch d_sae"]
    """Pre-activations: what the encoder makes of it."""
    weights: Weights
    """The weights that made them."""


class Architecture:
    """The plain defaults: no weights beyond the four, encoded alike in training and in use, squared error only."""

    def shapes(self, config: SAEConfig, d_in: int) -> dict[str, tuple[int, ...]]:
        """Return the shape, for one seed, of each tensor in `SAEBatch.extra`."""
        return {}

    def parameters(self, config: SAEConfig, d_in: int, draw: torch.Generator) -> dict[str, Tensor]:
        """Return one seed's fresh extra parameters; `draw` has already given encoder and decoder."""
        return {}

    def inputs(
        self, x: Float[Tensor, "seeds batch *layers d_in"], extra: dict[str, Tensor]
    ) -> Float[Tensor, "seeds batch d_in"]:
        """Return what the encoder reads of x."""
        return x

    def encode(self, step: Encoding, config: SAEConfig) -> Float[Tensor, "seeds batch d_sae"]:
        """Return the latents of a training batch."""
        raise NotImplementedError

    def infer(self, step: Encoding, config: SAEConfig) -> Float[Tensor, "seeds batch d_sae"]:
        """Return the latents in use, where no row may depend on its neighbours in the batch."""
        return self.encode(step, config)

    def loss(
        self,
        step: Encoding,
        z: Float[Tensor, "seeds batch d_sae"],
        target: Float[Tensor, "seeds batch d_model"],
        config: SAEConfig,
    ) -> Float[Tensor, " seeds"]:
        """Return each seed's loss but for AuxK; `target` is what z W_dec shall be, the decoder bias taken off."""
        return objectives.reconstruction(residual(step.weights, z, target))

    def buffers(self, batches: Iterator[Float[Tensor, "seeds batch d_sae"]], config: SAEConfig) -> dict[str, Tensor]:
        """Return what is measured, not learned, on the pre-activations of shuffled training batches."""
        return {}

    def fold(self, extra: dict[str, Tensor], mean: Tensor, x_scale: float, y_scale: float) -> dict[str, Tensor]:
        """Return parameters and buffers for raw units, under the names of `shapes`.

        They were trained on (x - mean) * x_scale, with latents y_scale times as large.
        """
        return extra


def encoding(x: Float[Tensor, "seeds batch d_in"], weights: Weights, config: SAEConfig) -> Encoding:
    """Return pre = W_enc (x - b_dec) + b_enc; a transcoder's input is not centred by the bias of its output."""
    centred = x if config.transcoder else x - weights.centre[:, None]
    pre = torch.bmm(centred, weights.encoder.transpose(1, 2)) + weights.bias[:, None]
    return Encoding(x, centred, pre, weights)


def residual(
    weights: Weights, z: Float[Tensor, "seeds batch d_sae"], target: Float[Tensor, "seeds batch d_model"]
) -> Float[Tensor, "seeds batch d_model"]:
    """Return target - z W_dec."""
    return target - torch.bmm(z, weights.decoder)
