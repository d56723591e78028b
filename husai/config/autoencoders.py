"""SAEs and the recipes that train them."""

from dataclasses import dataclass
from typing import Literal

from husai.config.base import require, require_types
from husai.config.objective import Objective

NAMES = (
    "topk", "relu", "batch_topk", "jump_relu", "gated", "matryoshka", "hierarchical_topk", "route", "switch",
)  # fmt: skip
"""The architectures; `husai.architectures` has an object for each."""


@dataclass(frozen=True)
class SAEConfig:
    """The shape of a sparse autoencoder, or of a transcoder."""

    architecture: str = "topk"
    """Which published architecture: a file in `husai/architectures`."""
    d_sae: int = 1024
    """Number of latents."""
    k: int | Literal["auto"] = 32
    """Active latents an input, exactly or on average; for relu, jump_relu and gated the L0 that the gate expects.

    "auto" has `training` choose it by a criterion that is not stability (topk, batch_topk, matryoshka)."""
    signed: bool = False
    """TopK without the ReLU: selected latents may be negative, as in the sources."""
    decoder_bias: bool = True
    """Whether b_dec exists; the sources had none."""
    l1: float = 1e-3
    """Weight of the sparsity penalty (relu, gated: L1; jump_relu: L0)."""
    bandwidth: float = 0.5
    """Width of the kernel that gives JumpReLU's threshold its gradient, in units of standardised activations."""
    groups: tuple[int, ...] = ()
    """Prefix widths (matryoshka; empty: d_sae/16, /8, /4, /2, 1) or budgets (hierarchical_topk; empty: 1..k)."""
    layers: int = 1
    """Layers that the router of `route` chooses from."""
    experts: int = 1
    """Blocks of d_sae / experts latents that the router of `switch` chooses from."""
    balance: float = 3.0
    """Weight of the load-balancing loss of `switch`; 3 is the paper's."""
    aligned: bool = False
    """Encoder rows e_j = d_j + (u_j - <u_j, d_j> d_j) with u_j free, so that <e_j, d_j> = 1."""
    transcoder: bool = False
    """Whether the output is not the input but `targets` (Dunefsky et al. 2024, arXiv 2406.11944)."""

    @property
    def active(self) -> int:
        """k as a number; ValueError while it is "auto"."""
        require(self.k != "auto", "k", self.k, "a number: `training` has not chosen it yet")
        return int(self.k)

    def __post_init__(self) -> None:
        require_types(self, "k")
        require(type(self.k) is int or self.k == "auto", "k", self.k, "an integer, or 'auto'")
        require(self.architecture in NAMES, "architecture", self.architecture, f"one of {', '.join(NAMES)}")
        require(self.d_sae >= 1, "d_sae", self.d_sae, "at least one latent")
        if isinstance(self.k, str):
            tried = self.architecture in ("topk", "batch_topk", "matryoshka") and not self.transcoder
            require(tried, "k", self.k, f"a number: it cannot be chosen for {self.architecture} or a transcoder")
        else:
            require(1 <= self.k <= self.d_sae, "k", self.k, f"1 <= k <= d_sae = {self.d_sae}, or 'auto'")
        name, none = self.architecture, f"the default: {self.architecture} has none"
        require(name == "topk" or not self.signed, "signed", self.signed, "False: only topk can be signed")
        require(self.l1 >= 0, "l1", self.l1, "a weight of at least 0")
        require(self.bandwidth > 0, "bandwidth", self.bandwidth, "a width above 0")
        require(self.balance >= 0, "balance", self.balance, "a weight of at least 0")
        rising = all(a < b for a, b in zip((0, *self.groups), self.groups, strict=False))
        require(rising, "groups", self.groups, "rising integers of at least 1")
        if name == "matryoshka":
            ends = self.groups[-1:] in ((), (self.d_sae,))
            require(ends, "groups", self.groups, f"widths of which the last is d_sae = {self.d_sae}")
        elif name == "hierarchical_topk":
            require(max(self.groups, default=1) <= self.active, "groups", self.groups, f"budgets up to k = {self.k}")
        else:
            require(self.groups == (), "groups", self.groups, none)
        if name == "route":
            require(self.layers >= 2, "layers", self.layers, "at least two layers to choose from")
        else:
            require(self.layers == 1, "layers", self.layers, none)
        if name == "switch":
            fits = self.experts >= 2 and self.d_sae % self.experts == 0 and self.active <= self.d_sae // self.experts
            wanted = f"two or more blocks of d_sae = {self.d_sae}, each of at least k = {self.k} latents"
            require(fits, "experts", self.experts, wanted)
        else:
            require(self.experts == 1, "experts", self.experts, none)
        single = name != "route" and not self.aligned
        require(single or not self.transcoder, "transcoder", True, "one input layer and a free encoder")


@dataclass(frozen=True)
class TrainConfig:
    """An SAE and the recipe that trains it."""

    sae: SAEConfig
    """The architecture and its sizes."""
    recipe: str = "converged"
    """Name under which the recipe is reported."""
    steps: int = 4096
    """Optimiser steps."""
    batch_size: int = 256
    """Activations a step."""
    lr: float = 1e-3
    """Peak learning rate of Adam."""
    decay_share: float = 0.2
    """Share of the steps, at the end, over which the learning rate falls linearly to zero."""
    standardise: bool = True
    """Centre the activations and scale them to a mean norm of sqrt(d_model)."""
    tied_init: bool = True
    """Start the encoder as the decoder's transpose; otherwise both are Kaiming-uniform."""
    project_gradient: bool = True
    """Remove the part of the decoder's gradient that is parallel to its unit rows."""
    clip_norm: float = 1.0
    """Largest gradient norm of one SAE; 0 switches clipping off."""
    auxk: float = 1 / 32
    """Weight of the auxiliary loss by which dead latents explain the residual (Gao et al. 2024, eq. 7)."""
    dead_after: int = 256
    """Steps without firing after which a latent counts as dead in training."""
    k_start: float = 1.0
    """Multiple of k at the first step, falling linearly to k over the first half of the steps."""
    frozen: str = ""
    """Which half stays at its initialisation, "decoder", "encoder" or none (Korznikov et al. 2026, arXiv 2602.14111).

    With the encoder stay b_enc and what the architecture adds (thresholds, gates, routers); b_dec learns always."""
    unit_decoder: bool = True
    """Renormalise the decoder rows after every step; False leaves their norms free.

    Latents then have units of their own, so that an L1 penalty (relu, gated) can be evaded by growing decoder rows."""
    shared: str = ""
    """The random streams that all seeds draw as seed 0 does: "", "init", "order" or "init order".

    What varies between seeds is then due to the other stream; "order" is every draw of data, thresholds included."""
    objective: Objective = Objective()
    """What is asked beyond reconstruction: nothing, or a term or fixed rows that make dictionaries alike."""

    def drawn_as(self, seed: int, stream: Literal["init", "order"]) -> int:
        """Return the seed whose stream a seed draws from: its own, or 0 where the stream is shared."""
        return 0 if stream in self.shared.split() else seed

    def __post_init__(self) -> None:
        require_types(self, "sae", "objective")
        require(isinstance(self.sae, SAEConfig), "sae", self.sae, "a SAEConfig")
        require(isinstance(self.objective, Objective), "objective", self.objective, "an Objective")
        require(self.steps >= 1, "steps", self.steps, "at least one optimiser step")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least one activation a step")
        require(self.lr > 0, "lr", self.lr, "a rate above 0")
        require(0 <= self.decay_share <= 1, "decay_share", self.decay_share, "a share between 0 and 1")
        require(self.clip_norm >= 0, "clip_norm", self.clip_norm, "a norm, 0 for no clipping")
        require(self.auxk >= 0, "auxk", self.auxk, "a weight of at least 0")
        require(self.dead_after >= 1, "dead_after", self.dead_after, "at least one step")
        require(self.k_start >= 1, "k_start", self.k_start, "a multiple of k, at least 1")
        require(self.frozen in ("", "decoder", "encoder"), "frozen", self.frozen, "'', 'decoder' or 'encoder'")
        shares = ("", "init", "order", "init order")
        require(self.shared in shares, "shared", self.shared, f"one of {shares}")
        apart = not self.sae.aligned
        require(apart or not self.frozen, "frozen", self.frozen, "'': aligned encoder rows are made of both halves")
        unit = self.unit_decoder
        require(apart or unit, "unit_decoder", unit, "True: aligned encoder rows are made for unit decoder rows")
        wanted = "False with unit_decoder = False: a free norm learns by the part along its row"
        require(unit or not self.project_gradient, "project_gradient", True, wanted)
        rows, wanted = self.objective.rows, f"at most d_sae = {self.sae.d_sae}"
        require(rows <= self.sae.d_sae, "rows", rows, wanted)
        plain = not self.sae.transcoder and self.sae.layers == 1
        require(plain or not self.objective.refers, "objective", self.objective.name, "'': a reference is a plain SAE")
        free = self.objective.name != "l2" or (not unit and apart)
        require(free, "unit_decoder", unit, "False with the objective l2, which acts on the rows' norms")
