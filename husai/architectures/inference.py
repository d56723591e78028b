"""The inference forms of architectures whose training is not here yet."""

from typing import Any

from torch import Tensor


class Threshold:
    """z = ReLU(pre) where pre > threshold, one threshold a latent or one a seed."""

    @staticmethod
    def encode(pre: Tensor, sae: Any) -> Tensor:
        """Return the latents."""
        threshold = sae.extra["threshold"]
        return pre.relu() * (pre > threshold.reshape(len(threshold), 1, -1))


class Gated:
    """z = 1[pre > 0] ReLU(exp(r_mag) (pre - b_enc) + b_mag); b_enc is the gate's bias."""

    @staticmethod
    def encode(pre: Tensor, sae: Any) -> Tensor:
        """Return the latents."""
        r_mag, b_mag = sae.extra["r_mag"][:, None], sae.extra["b_mag"][:, None]
        return (pre > 0) * (r_mag.exp() * (pre - sae.b_enc[:, None]) + b_mag).relu()
