"""Activations of a language model on text: rows of real tokens, split by document, kept as an artifact."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from husai import artifacts, shards
from husai.activations import Activations
from husai.config import require
from husai.language.pretrained import LanguageModel, Tokens
from husai.tasks import generator
from husai.text.corpus import Corpus

ROWS = 2**14
"""Tokens, padding included, that the model sees at a time."""
HELD_OUT, MOST = 0.2, 2**13
"""Share of the documents that are held out, and the most rows of theirs."""
IN_MEMORY = 2**18
"""Rows up to which activations are handed out in memory; more stay in shards."""
STEP = 1e-3
"""Two rows are the same when their projections agree to this share of the projections' spread."""


class TextActivations(NamedTuple):
    """Activations of a text's tokens, and which token of which document each row is."""

    acts: Activations
    """One row a token; documents, not rows, are held out."""
    ids: Int[Tensor, " n"]
    """Token id of each row."""
    document: Int[Tensor, " n"]
    """Index in the corpus of each row's document."""
    position: Int[Tensor, " n"]
    """Where in its document each token stands, the first being 0."""
    duplicates: int
    """Rows that were left out because an earlier one of the same token has equal activations."""
    repeated: int
    """Documents that were left out because an earlier one begins with the same tokens."""


def collect(
    model: LanguageModel,
    corpus: Corpus,
    hook: str,
    tokens: int,
    context: int = 64,
    seed: int = 0,
    repeats: bool = False,
) -> TextActivations:
    """Return the activations of this many tokens at one hook, from documents in random order.

    Of each document the first `context` tokens are read; rows of special tokens and padding are left out, and so are
    documents that begin as an earlier one and, unless `repeats`, rows that repeat an earlier one of the same token
    (in a causal model all that follows from equal beginnings). Stored by content: the corpus, the model, the hook, the
    numbers. Memory holds a batch and a shard while it is written. ValueError: a hook that does not exist, fewer than 10
    tokens, a corpus that is too small.
    """
    model.require_hook(hook)
    require(tokens >= 10, "tokens", tokens, "at least 10")
    config = {"hook": hook, "tokens": tokens, "context": context, "seed": seed, "repeats": repeats}

    def build(folder: Path) -> None:
        artifacts.clear(folder)
        reader = _Reader(model, corpus, hook, tokens, context, seed, repeats)
        shards.write(folder / "rows", reader.blocks(), name=hook)
        artifacts.write_tensors(folder / "tokens.safetensors", reader.places(), reader.counted)

    folder = artifacts.stored(
        "text_activations",
        config,
        build,
        modules=("tasks", "shards", "language.pretrained", "language.collect"),
        inputs=[corpus.digest, model.digest],
    )
    places, counted = artifacts.read_tensors(folder / "tokens.safetensors")
    rows = shards.read(folder / "rows")
    values = rows.load() if len(rows) <= IN_MEMORY else rows
    name = f"{model.name}, {hook}, {corpus.name}"
    acts = Activations(values, _training(places["document"], seed), name)
    return TextActivations(acts, places["ids"], places["document"], places["position"], **counted)


@dataclass
class _Reader:
    """One pass over a corpus; `blocks` yields rows of activations and notes where they are from."""

    model: LanguageModel
    corpus: Corpus
    hook: str
    tokens: int
    context: int
    seed: int
    repeats: bool
    notes: list[Int[Tensor, "3 rows"]] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=lambda: {"duplicates": 0, "repeated": 0})

    def places(self) -> dict[str, Tensor]:
        """Return ids, document and position of all rows that were yielded."""
        return dict(zip(("ids", "document", "position"), torch.cat(self.notes, 1), strict=True))

    def blocks(self) -> Iterator[Float[Tensor, "rows d_model"]]:
        """Yield the rows of one batch of documents after another, until there are as many as wanted."""
        left, seen, compare = self.tokens, set(), _Compare(self.model.d_model)
        order = torch.randperm(len(self.corpus.documents), generator=generator(self.seed, "language/documents"))
        for chunk in order.split(max(1, ROWS // self.context)):
            batch = self.model.tokenize([self.corpus.documents[i] for i in chunk], self.context)
            fresh = torch.tensor([_new(tuple(row.tolist()), seen) for row in batch.ids])
            self.counted["repeated"] += int((~fresh).sum())
            if not fresh.any():
                continue
            batch = Tokens(*(part[fresh] for part in batch))
            rows, position = batch.kept.nonzero(as_tuple=True)
            values, ids = self.model.at(batch, self.hook)[rows, position], batch.ids[rows, position]
            first = compare.first(ids, values)
            self.counted["duplicates"] += int((~first).sum())
            keep = (first | self.repeats).nonzero()[:left, 0]
            left -= len(keep)
            self.notes.append(torch.stack([ids, chunk[batch.document[rows]], position])[:, keep])
            if len(keep):
                yield values[keep]
            if left == 0:
                return
        some = f"at most {self.tokens - left}, all that {self.corpus.name} has at context {self.context}"
        require(False, "tokens", self.tokens, some)


class _Compare:
    """Tells whether a row of activations has been seen with the same token, by three fixed random projections."""

    def __init__(self, d_model: int) -> None:
        self.axes = torch.randn(d_model, 3, generator=generator(0, "language/compare"))
        self.scale: Tensor | None = None
        self.seen: set[tuple[int, ...]] = set()

    def first(self, ids: Int[Tensor, " rows"], values: Float[Tensor, "rows d_model"]) -> Bool[Tensor, " rows"]:
        """Return which rows have not been seen before, those of this block included."""
        projected = values @ self.axes
        self.scale = STEP * projected.std(0).clamp(min=1e-12) if self.scale is None else self.scale
        keys = torch.cat([ids[:, None], (projected / self.scale).round().long()], 1)
        return torch.tensor([_new(tuple(key), self.seen) for key in keys.tolist()], dtype=torch.bool)


def _new(key: tuple[int, ...], seen: set[tuple[int, ...]]) -> bool:
    """Add a key to those that were seen, and return whether it was not among them."""
    before = len(seen)
    seen.add(key)
    return len(seen) > before


def _training(document: Int[Tensor, " n"], seed: int) -> Bool[Tensor, " n"]:
    """Return which rows are trained on: random documents are held out, at most `MOST` rows of theirs, at least one."""
    names, counts = document.unique(return_counts=True)
    require(len(names) >= 2, "tokens", f"{len(document)}, all of one document", "tokens of at least 2 documents")
    order = torch.randperm(len(names), generator=generator(seed, "language/split"))
    order = order[: max(1, round(HELD_OUT * len(names)))]
    fits = counts[order].cumsum(0) <= MOST
    fits[0] = True
    return ~torch.isin(document, names[order[fits]])
