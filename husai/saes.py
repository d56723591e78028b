"""Sparse autoencoders, S seeds as one batch: a single SAE is a batch of one."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from husai import metrics
from husai.architectures import ARCHITECTURES
from husai.artifacts import read_tensors, write_tensors
from husai.config import SAEConfig, require
from husai.evidence import write_json

WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")


@dataclass(frozen=True)
class SAEBatch:
    """S SAEs of one shape, in the units of the raw activations; decoder rows are features and have unit length.

    z = encode((x - b_dec) W_enc + b_enc), x_hat = z W_dec + b_dec.
    """

    config: SAEConfig
    """The shape that all seeds share."""
    seeds: tuple[int, ...]
    """One integer an SAE."""
    W_enc: Float[Tensor, "seeds d_model d_sae"]
    """Encoder."""
    b_enc: Float[Tensor, "seeds d_sae"]
    """Encoder bias."""
    W_dec: Float[Tensor, "seeds d_sae d_model"]
    """Decoder: row j is feature j."""
    b_dec: Float[Tensor, "seeds d_model"]
    """Decoder bias, subtracted from the input."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """What an architecture has besides: [seeds, ...] each."""

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, index: int) -> "SAEBatch":
        """Return one seed as a batch of one."""
        require(-len(self) <= index < len(self), "index", index, f"a seed's position below {len(self)}")
        index %= len(self)
        weights = {name: getattr(self, name)[index : index + 1] for name in WEIGHTS}
        extra = {name: value[index : index + 1] for name, value in self.extra.items()}
        return SAEBatch(self.config, self.seeds[index : index + 1], **weights, extra=extra)

    def encode(self, x: Float[Tensor, "*seeds n d_model"]) -> Float[Tensor, "seeds n d_sae"]:
        """Return the latents of x, the same x for every seed or one a seed."""
        d_model = self.W_dec.shape[-1]
        require(x.shape[-1] == d_model, "x", tuple(x.shape), f"a last dimension of d_model = {d_model}")
        require(bool(x.isfinite().all()), "x", "activations with NaN or infinity", "finite activations")
        pre = torch.matmul(x - self.b_dec[:, None], self.W_enc) + self.b_enc[:, None]
        if self.extra:
            return ARCHITECTURES[self.config.architecture].encode(pre, self)
        return ARCHITECTURES[self.config.architecture].encode(pre, self.config)

    def decode(self, z: Float[Tensor, "seeds n d_sae"]) -> Float[Tensor, "seeds n d_model"]:
        """Return the reconstruction."""
        return torch.matmul(z, self.W_dec) + self.b_dec[:, None]

    def decoders(self, keep: Bool[Tensor, "seeds d_sae"] | None = None) -> list[Tensor]:
        """Return each seed's decoder [d_sae, d_model], restricted to the latents of its mask in `keep`."""
        return [rows if keep is None else rows[keep[i]] for i, rows in enumerate(self.W_dec)]

    def quality(
        self, x: Float[Tensor, "n d_model"], mean: Float[Tensor, " d_model"]
    ) -> list[dict[str, float]]:
        """Return per seed FVU, L0 and the alive share on held-out activations x; `mean` is the training mean."""
        rows = []
        for index in range(len(self)):
            sae = self[index]
            z = sae.encode(x)
            firing = (z[0] != 0).float().mean(0)
            rows.append({
                "fvu": metrics.fvu(x, sae.decode(z)[0], mean),
                "l0": metrics.l0(z[0]),
                "alive": metrics.alive_fraction(firing),
            })  # fmt: skip
        return rows

    def firing(self, x: Float[Tensor, "n d_model"]) -> Float[Tensor, "seeds d_sae"]:
        """Return each latent's firing rate on x."""
        return torch.stack([(self[i].encode(x)[0] != 0).float().mean(0) for i in range(len(self))])


def stack(parts: Sequence[SAEBatch]) -> SAEBatch:
    """Return the seeds of several batches of one shape as one batch."""
    weights = {name: torch.cat([getattr(part, name) for part in parts]) for name in WEIGHTS}
    extra = {name: torch.cat([part.extra[name] for part in parts]) for name in parts[0].extra}
    seeds = tuple(seed for part in parts for seed in part.seeds)
    return SAEBatch(parts[0].config, seeds, **weights, extra=extra)


def save(saes: SAEBatch, folder: Path) -> None:
    """Write `cfg.json` and `sae_weights.safetensors` (a leading seed dimension on every tensor)."""
    write_tensors(folder / "sae_weights.safetensors", {name: getattr(saes, name) for name in WEIGHTS})
    write_json(folder / "cfg.json", {**asdict(saes.config), "seeds": list(saes.seeds)})


def load(folder: Path) -> SAEBatch:
    """Read what `save` wrote; ValueError names a missing file, a truncated one, or a wrong shape."""
    try:
        entries = json.loads((folder / "cfg.json").read_text())
    except (OSError, ValueError):
        raise ValueError(
            f"folder is {folder.name!r}; wanted an SAE folder with a readable cfg.json"
        ) from None
    seeds = tuple(entries.pop("seeds"))
    config = SAEConfig(**{**entries, "groups": tuple(entries.get("groups", ()))})
    weights, _ = read_tensors(folder / "sae_weights.safetensors")
    require(
        set(weights) == set(WEIGHTS), "sae_weights.safetensors", sorted(weights), f"exactly {sorted(WEIGHTS)}"
    )
    shape = (len(seeds), config.d_sae)
    require(
        weights["W_dec"].shape[:2] == shape, "W_dec", tuple(weights["W_dec"].shape), f"{shape} and d_model"
    )
    return SAEBatch(config, seeds, **weights, extra={})
