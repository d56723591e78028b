"""Sparse autoencoders, S seeds as one batch: a single SAE is a batch of one."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from husai import metrics
from husai.architectures import ARCHITECTURES
from husai.architectures.base import Weights, encoding
from husai.architectures.route import choose
from husai.artifacts import read_tensors, write_tensors
from husai.config import SAEConfig, require
from husai.evidence import write_json

WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")
ROWS = 4096
"""Inputs that are encoded at a time where only sums over them are wanted."""


@dataclass(frozen=True)
class SAEBatch:
    """S SAEs of one shape, in the units of the raw activations; decoder rows are features.

    z = encode((x - b_dec) W_enc + b_enc), x_hat = z W_dec + b_dec; a transcoder takes extra["b_in"] off, not b_dec.
    Raises ValueError when a tensor is missing, is not of the architecture, has a shape that contradicts `config`, is
    not finite, or has another floating-point type than the rest.
    """

    config: SAEConfig
    """The shape that all seeds share."""
    seeds: tuple[int, ...]
    """One integer an SAE."""
    W_enc: Float[Tensor, "seeds d_in d_sae"]
    """Encoder."""
    b_enc: Float[Tensor, "seeds d_sae"]
    """Encoder bias."""
    W_dec: Float[Tensor, "seeds d_sae d_model"]
    """Decoder: row j is feature j, of unit length if `training` made it with `unit_decoder`; read files keep theirs."""
    b_dec: Float[Tensor, "seeds d_model"]
    """Decoder bias, subtracted from the input of an autoencoder."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """What the architecture has beyond these, [seeds, ...] each; its file says what."""

    def __post_init__(self) -> None:
        n, d_sae, d_in = len(self.seeds), self.config.d_sae, self.W_enc.shape[1]
        d_model = self.W_dec.shape[-1] if self.config.transcoder else d_in
        more = extra_shapes(self.config, d_in)
        wanted = f"{sorted(more)} for this configuration"
        require(self.extra.keys() == more.keys(), "extra", sorted(self.extra), wanted)
        shapes: dict[str, tuple[int, ...]] = {"W_dec": (d_sae, d_model), "W_enc": (d_in, d_sae)}
        shapes |= {"b_enc": (d_sae,), "b_dec": (d_model,), **more}
        for name, shape in shapes.items():
            tensor = self.extra[name] if name in more else getattr(self, name)
            require(tuple(tensor.shape) == (n, *shape), name, tuple(tensor.shape), f"{(n, *shape)}")
            require(tensor.is_floating_point(), name, tensor.dtype, "a floating-point type")
            require(tensor.dtype == self.W_dec.dtype, name, tensor.dtype, f"{self.W_dec.dtype}, as W_dec")
            require(bool(tensor.isfinite().all()), name, "NaN or infinity", "finite numbers")

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, index: int) -> "SAEBatch":
        """Return one seed as a batch of one."""
        require(-len(self) <= index < len(self), "index", index, f"a seed's position below {len(self)}")
        index %= len(self)
        here = slice(index, index + 1)
        extra = {name: tensor[here] for name, tensor in self.extra.items()}
        weights = {name: getattr(self, name)[here] for name in WEIGHTS}
        return SAEBatch(self.config, self.seeds[here], **weights, extra=extra)

    def encode(self, x: Num[Tensor, "*batch d_in"]) -> Float[Tensor, "seeds n d_sae"]:
        """Return the latents of x [n, d_in], the same x for every seed, or one a seed [seeds, n, d_in].

        Of `route`, x is [n, layers, d_in] or [seeds, n, layers, d_in]. Raises ValueError naming what is wrong with x.
        """
        x = self._inputs(x)
        weights = Weights(self.W_enc.transpose(1, 2), self.b_enc, self.W_dec, self.b_dec, self.extra)
        step = encoding(x, weights, self.config)
        return ARCHITECTURES[self.config.architecture].infer(step, self.config)

    def route(
        self, x: Num[Tensor, "*batch layers d_in"]
    ) -> tuple[Float[Tensor, "seeds n d_in"], Int[Tensor, "seeds n"]]:
        """Return what SAEs over a stack of layers encode and reconstruct, and the layer that each row took it from."""
        name = self.config.architecture
        require(name == "route", "architecture", name, "'route', the only one that chooses a layer")
        return choose(self._centred(x), self.extra)

    def _inputs(self, x: Tensor) -> Float[Tensor, "seeds n d_in"]:
        """Return what the encoders read of x."""
        return ARCHITECTURES[self.config.architecture].inputs(self._centred(x), self.extra)

    def _centred(self, x: Tensor) -> Tensor:
        """Return x with a seed dimension and less b_in, if the SAEs have one; refuse an x that does not fit."""
        shape = (self.config.layers, self.W_enc.shape[1])[self.config.layers == 1 :]
        wanted = f"a last dimension of d_model = {shape[-1]}" + f" after layers = {shape[0]}" * (len(shape) == 2)
        require(x.shape[-len(shape) :] == shape, "x", tuple(x.shape), wanted)
        one = x.ndim == len(shape) + 1
        require(one or x.shape[: -len(shape) - 1] == (len(self),), "x", tuple(x.shape), "one matrix, or one a seed")
        require(x.dtype == self.W_enc.dtype, "x", x.dtype, f"the SAEs' own type, {self.W_enc.dtype}")
        require(bool(x.isfinite().all()), "x", "activations with NaN or infinity", "finite activations")
        x = x.expand(len(self), *x.shape) if one else x
        return x - self.extra["b_in"][:, None] if "b_in" in self.extra else x

    def decode(self, z: Float[Tensor, "seeds n d_sae"]) -> Float[Tensor, "seeds n d_model"]:
        """Return the reconstruction."""
        return torch.matmul(z, self.W_dec) + self.b_dec[:, None]

    def decoders(self, keep: Bool[Tensor, "seeds d_sae"] | None = None) -> list[Tensor]:
        """Return each seed's decoder [d_sae, d_model], restricted to the latents of its mask in `keep`."""
        return [rows if keep is None else rows[keep[i]] for i, rows in enumerate(self.W_dec)]

    def quality(
        self,
        x: Float[Tensor, "n *layers d_in"],
        mean: Float[Tensor, "*layers d_model"],
        targets: Float[Tensor, "n d_model"] | None = None,
    ) -> list[dict[str, float]]:
        """Return per seed FVU, L0 and the alive share on held-out activations x; `mean` is the training mean.

        A transcoder is judged on `targets` and their mean; `route` on its routed inputs and their own mean here.
        """
        return self.measured(x, mean, targets)[0]

    def measured(
        self,
        x: Float[Tensor, "n *layers d_in"],
        mean: Float[Tensor, "*layers d_model"],
        targets: Float[Tensor, "n d_model"] | None = None,
    ) -> tuple[list[dict[str, float]], Float[Tensor, "seeds d_sae"]]:
        """Return `quality` and `firing` of one reading of x."""
        require((targets is not None) == self.config.transcoder, "targets", targets, "given for transcoders only")
        rows, rates = [], []
        for index in range(len(self)):
            sae, wanted, centre = self[index], x if targets is None else targets, mean
            if self.config.architecture == "route":
                wanted = sae.route(x)[0][0]
                centre = wanted.mean(0)
            x_hat, firing = sae._applied(x)
            fvu, alive = metrics.fvu(wanted, x_hat, centre), metrics.alive_fraction(firing)
            rows.append({"fvu": fvu, "l0": metrics.l0(firing), "alive": alive})
            rates.append(firing)
        return rows, torch.stack(rates)

    def firing(self, x: Float[Tensor, "n *layers d_in"]) -> Float[Tensor, "seeds d_sae"]:
        """Return each latent's firing rate on x."""
        return torch.stack([self[index]._fired(x) for index in range(len(self))])

    def reconstruct(self, x: Float[Tensor, "n *layers d_in"]) -> Float[Tensor, "seeds n d_model"]:
        """Return decode(encode(x)), some rows at a time: all latents need not fit."""
        return torch.stack([self[index]._applied(x)[0] for index in range(len(self))])

    def _applied(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reconstruction and the firing rates of one SAE, some rows at a time: all latents need not fit."""
        parts, active = [], torch.zeros(self.config.d_sae, dtype=torch.float64, device=x.device)
        for rows in x.split(ROWS):
            z = self.encode(rows)
            parts.append(self.decode(z)[0])
            active += (z[0] != 0).sum(0)
        return torch.cat(parts), active / len(x)

    def _fired(self, x: Tensor) -> Tensor:
        """Return the firing rates of one SAE, some rows at a time; nothing is decoded."""
        return torch.stack([(self.encode(rows)[0] != 0).sum(0) for rows in x.split(ROWS)]).sum(0).double() / len(x)


def extra_shapes(config: SAEConfig, d_in: int) -> dict[str, tuple[int, ...]]:
    """Return the shape, for one seed, of each tensor beyond the four weights."""
    shapes = ARCHITECTURES[config.architecture].shapes(config, d_in)
    return {**shapes, "b_in": (d_in,)} if config.transcoder else shapes


def stack(parts: Sequence[SAEBatch]) -> SAEBatch:
    """Return the seeds of several batches of one shape as one batch."""
    config = parts[0].config
    require(all(part.config == config for part in parts), "parts", "SAEs of several shapes", "one shape")
    weights = {name: torch.cat([getattr(part, name) for part in parts]) for name in WEIGHTS}
    extra = {name: torch.cat([part.extra[name] for part in parts]) for name in parts[0].extra}
    return SAEBatch(config, tuple(seed for part in parts for seed in part.seeds), **weights, extra=extra)


def by_activity(saes: SAEBatch, x: Float[Tensor, "n d_in"]) -> SAEBatch:
    """Return the same SAEs with each seed's latents in falling order of how often they fire on x.

    ValueError: an architecture whose latents have an order, or parameters, of their own (all but topk and relu).
    """
    name = saes.config.architecture
    require(name in ("topk", "relu"), "architecture", name, "topk or relu, whose latents can change places")
    order = saes.firing(x).argsort(dim=1, descending=True, stable=True)
    return replace(
        saes,
        W_enc=saes.W_enc.take_along_dim(order[:, None], 2),
        b_enc=saes.b_enc.take_along_dim(order, 1),
        W_dec=saes.W_dec.take_along_dim(order[..., None], 1),
    )


def save(saes: SAEBatch, folder: Path) -> None:
    """Write `cfg.json` and `sae_weights.safetensors` (a leading seed dimension on every tensor)."""
    weights = {name: getattr(saes, name) for name in WEIGHTS}
    write_tensors(folder / "sae_weights.safetensors", weights | saes.extra)
    write_json(folder / "cfg.json", {**asdict(saes.config), "seeds": list(saes.seeds)})


def load(folder: Path) -> SAEBatch:
    """Read what `save` wrote; ValueError names a missing file, a truncated one, a wrong entry, tensor or shape."""
    try:
        entries = json.loads((folder / "cfg.json").read_text())
        seeds = tuple(entries.pop("seeds"))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(
            f"folder is {folder.name!r}; wanted an SAE folder with a readable cfg.json that lists its seeds"
        ) from None
    known, needed = {entry.name for entry in fields(SAEConfig)}, {"architecture", "d_sae", "k"}
    wanted = f"{sorted(needed)} and nothing unknown"
    require(needed <= entries.keys() <= known, "cfg.json", sorted(entries), wanted)
    groups = entries.get("groups", [])  # JSON has no tuples
    config = SAEConfig(**{**entries, "groups": tuple(groups) if isinstance(groups, list) else groups})
    tensors, _ = read_tensors(folder / "sae_weights.safetensors")
    missing = sorted(set(WEIGHTS) - tensors.keys())
    require(not missing, "sae_weights.safetensors", sorted(tensors), f"also {missing}")
    weights = {name: tensors.pop(name) for name in WEIGHTS}
    return SAEBatch(config, seeds, **weights, extra=tensors)
