"""Running one language model with something changed inside, and what is read of it.

A model with changes is again a function from tokens to logits, which may continue what it has read (`Caches`); so all
that is measured of a model (`regulation`, `decoding.greedy`) is measured of a changed one alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from husai.config import require
from husai.language.gpt import GPTs, forward
from husai.language.matched import Texts

Edit = Callable[[Tensor], Tensor]
"""From an activation of one model [batch, positions, ...] to what stands in its place."""
Mix = Callable[[Tensor, Tensor], Tensor]
"""From the receiver's and the donor's activation to what stands in the receiver's place."""
Caches = dict[str, dict[str, Tensor]]
"""What the models that take part have read so far; a fresh {} reads from the start."""


Reader = Callable[..., Tensor]
"""A model, changed or not: from tokens [batch, positions], and maybe `Caches`, to logits [..., vocabulary]."""


def only(model: GPTs) -> GPTs:
    """Return the model; ValueError unless it is one seed."""
    require(len(model.seeds) == 1, "model", f"{len(model.seeds)} models", "one: `models.select(index)`")
    return model


@torch.no_grad()
def _run(model: GPTs, tokens: Tensor, edits: Mapping[str, Edit], caches: Caches | None, name: str = "own") -> Tensor:
    cache = None if caches is None else caches.setdefault(name, {})

    def change(hook: str, value: Tensor) -> Tensor | None:
        return edits[hook](value[0])[None] if hook in edits else None

    return forward(model.parameters, tokens[None], model.config, change if edits else None, cache)[0]


def edited(model: GPTs, edits: Mapping[str, Edit] | None = None) -> Reader:
    """Return one model with edits at some hooks, or as it is.

    ValueError: not one model, a hook that it does not have.
    """
    edits = dict(edits or {})
    only(model)
    unknown = sorted(set(edits) - set(model.config.hooks))
    require(not unknown, "edits", unknown, "hooks of the model, `config.hooks`")
    return lambda tokens, caches=None: _run(model, tokens, edits, caches)


def swapped(receiver: GPTs, donor: GPTs, hook: str, mix: Mix | None = None, other: bool = False) -> Reader:
    """Return the receiver with the donor's activation at a hook, both reading the same tokens.

    `mix(own, donated)` says what is put in (default: what is donated). `other` lets the donor read the next row's
    tokens: a shuffled pair. ValueError: not one model each, a hook that one of them does not have.
    """
    only(receiver), only(donor)
    for model in (receiver, donor):
        require(hook in model.config.hooks, "hook", hook, "a hook of both models, `config.hooks`")

    def run(tokens: Tensor, caches: Caches | None = None) -> Tensor:
        given: list[Tensor] = []

        def keep(value: Tensor) -> Tensor:
            given.append(value)
            return value

        _run(donor, tokens.roll(1, 0) if other else tokens, {hook: keep}, caches, "donor")
        put = {hook: lambda own: given[0] if mix is None else mix(own, given[0])}
        return _run(receiver, tokens, put, caches)

    return run


def recorded(model: GPTs, tokens: Int[Tensor, "batch positions"], names: Sequence[str]) -> dict[str, Tensor]:
    """Return the activations of one model at some hooks, [batch, ...] each; ValueError as `edited`."""
    found: dict[str, Tensor] = {}

    def keeping(name: str) -> Edit:
        return lambda value: found.setdefault(name, value.clone())

    edited(model, {name: keeping(name) for name in names})(tokens)
    return found


def above(
    model: GPTs, layer: int, x: Float[Tensor, "batch positions d_model"]
) -> Float[Tensor, "batch positions vocabulary"]:
    """Return the logits that one model makes of activations x at `blocks.<layer>.hook_resid_post`, computed from there.

    ValueError: not one model, a layer without a block above it.
    """
    blocks = only(model).config.n_layers
    require(0 <= layer < blocks - 1, "layer", layer, f"a block below another one, 0..{blocks - 2}")
    parameters = {name: value for name, value in model.parameters.items() if not name.startswith("blocks.")}
    for name, value in model.parameters.items():
        _, _, rest = name.partition("blocks.")
        number, _, part = rest.partition(".")
        if rest and int(number) > layer:
            parameters[f"blocks.{int(number) - layer - 1}.{part}"] = value
    upper = model._replace(config=replace(model.config, n_layers=blocks - layer - 1), parameters=parameters)
    tokens = torch.zeros(x.shape[:2], dtype=torch.long)
    return _run(upper, tokens, {"hook_embed": lambda _: x}, None)


def without_head(head: int) -> Edit:
    """Return the edit of `attn.hook_z` [batch, positions, heads, d_head] that leaves one head nothing to write.

    ValueError, when it is applied: a head that the model does not have.
    """

    def edit(z: Tensor) -> Tensor:
        require(0 <= head < z.shape[2], "head", head, f"a head in 0..{z.shape[2] - 1}")
        return z.index_fill(2, torch.tensor([head]), 0.0)

    return edit


def reads(texts: Texts) -> Bool[Tensor, "batch positions"]:
    """Return where the first token of a step is predicted, the first step of a text left out.

    No text of either style opens with a regulation action: there its probability says nothing.
    """
    before = texts.before_onset
    return before & (before.cumsum(1) > 1)


def regulation(
    logits: Float[Tensor, "batch positions vocabulary"],
    reads: Bool[Tensor, "batch positions"],
    wanted: Bool[Tensor, " vocabulary"],
) -> Float[Tensor, " batch"]:
    """Return, per text, the mean probability of the `wanted` tokens at the positions `reads`.

    ValueError: a text without such a position.
    """
    counts = reads.sum(1)
    require(bool((counts > 0).all()), "reads", "a text without a position", "one or more positions a text")
    shares = logits[reads].softmax(-1)[:, wanted].sum(-1)
    return shares.new_zeros(len(reads)).index_add_(0, reads.nonzero()[:, 0], shares) / counts
