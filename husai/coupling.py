"""How seeds are coupled to a reference or to each other: rows copied at the start, rows fixed, a pull on decoders."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from husai import objectives
from husai.config import TrainConfig, require
from husai.engines import State
from husai.feed import Feed
from husai.saes import SAEBatch


class Coupling:
    """The objective of one training: what it copies into fresh SAEs, and its gradient on their decoders.

    `reference` has one SAE for all seeds, or one a seed. ValueError: one is missing, superfluous, of another shape, or
    has fewer rows than the objective copies; seeds that do not fill their groups.
    """

    def __init__(self, config: TrainConfig, reference: SAEBatch | None, seeds: Sequence[int]) -> None:
        self.objective, self.steps = config.objective, config.steps
        self.reference = reference
        self.value: Tensor | None = None
        """Each seed's value of the term when it was last looked at."""
        name, group = self.objective.name, self.objective.group
        given = "none" if reference is None else f"{len(reference)} SAEs"
        wanted = f"given for {name!r} objectives alone: one SAE, or one a seed"
        require((reference is not None) == self.objective.refers, "reference", given, wanted)
        if reference is not None:
            require(len(reference) in (1, len(seeds)), "reference", given, wanted)
            rows = reference.config.d_sae
            require(self.objective.rows <= rows, "rows", self.objective.rows, f"at most the reference's {rows}")
        whole = name != "contrastive" or len(seeds) % group == 0
        require(whole, "seeds", list(seeds), f"groups of {group}, trained together")

    @property
    def stretch(self) -> int | None:
        """Steps over which the gradient is held, None where there is no term."""
        pulls = self.objective.name in ("alignment", "assignment", "contrastive", "consensus")
        return self.objective.every if pulls and self.objective.weight else None

    @property
    def entry(self) -> dict[str, list[float]]:
        """The term's value a seed, for the log; empty without a term."""
        return {} if self.value is None else {"objective": self.value.tolist()}

    def begin(self, state: State, feed: Feed) -> None:
        """Copy the reference's rows, and its decoder bias, into fresh SAEs: those pinned, or all for a consensus.

        Rows are in the units of the training; encoder rows stay as drawn where they are "random". ValueError: the
        reference reads another d_model.
        """
        if self.reference is None:
            return
        here, there = state.decoder.shape[-1], self.reference.W_dec.shape[-1]
        require(here == there, "reference", f"d_model = {there}", f"d_model = {here}")
        copied = {"pinning": self.objective.rows, "consensus": self.reference.config.d_sae}
        n = copied.get(self.objective.name, 0)
        require(n <= state.bias.shape[1], "reference", f"{n} rows to copy", f"at most d_sae = {state.bias.shape[1]}")
        if n:
            mean, scale = feed.units[0]
            if self.objective.encoder != "random":
                state.encoder[:, :n] = self.reference.W_enc.transpose(1, 2)[:, :n]
                state.bias[:, :n] = self.reference.b_enc[:, :n] * scale
            state.decoder[:, :n] = self.reference.W_dec[:, :n]
            state.centre.copy_(((self.reference.b_dec - mean) * scale).expand_as(state.centre))

    def pull(
        self, state: State, step: int, losses: Float[Tensor, " seeds"] | None
    ) -> Float[Tensor, "seeds d_sae d_model"] | None:
        """Return what the term adds to the decoders' gradients until the next look at it, None without a term.

        `losses` are the seeds' reconstruction losses of the last step, which a relative weight multiplies: before the
        first step there are none, and no relative term either.
        """
        o = self.objective
        if self.stretch is None or (o.relative and losses is None):
            return None
        weight = o.weight * (max(0.0, 1 - step / (o.fade * self.steps)) if o.fade else 1.0)
        with torch.enable_grad():
            decoder = state.decoder.detach().requires_grad_()
            value = self._term(decoder)
            (gradient,) = torch.autograd.grad(value.sum(), decoder)
        self.value = value.detach()
        if o.relative:
            gradient *= losses.to(gradient)[:, None, None]  # type: ignore[union-attr]
        return weight * gradient

    def _term(self, decoder: Tensor) -> Tensor:
        o = self.objective
        if self.reference is None:
            return objectives.contrastive(decoder, o.group, o.temperature)
        rows = self.reference.W_dec.to(decoder)
        return getattr(objectives, o.name)(decoder, rows[:, : o.rows] if o.rows else rows)
