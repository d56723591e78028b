"""What a transformer computes of a batch when nothing is computed twice: index arithmetic, no weights."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class Plan(NamedTuple):
    """Which rows a block computes, and which rows of its input each of them attends to."""

    sources: Int[Tensor, "seeds rows positions"]
    """Input row of every position; the entries after the row's own position mean nothing."""
    position: Int[Tensor, " rows"]
    """Each row's own position: it sees the positions up to there."""

    @property
    def own(self) -> Int[Tensor, "seeds rows"]:
        """Input row at each row's own position."""
        return self.sources.take_along_dim(self.position[None, :, None], 2)[:, :, 0]

    @property
    def visible(self) -> Bool[Tensor, "rows positions"]:
        """The causal mask."""
        return torch.arange(self.sources.shape[2]) <= self.position[:, None]


def plan(
    tokens: Int[Tensor, "seeds batch positions"], vocabulary: int, n_layers: int
) -> tuple[Int[Tensor, " inputs"], list[Plan]]:
    """Return the distinct inputs, position * vocabulary + token, and each block's plan for logits after the last token.

    The first block reads the inputs: they depend on position and token alone. Attention is causal, so the rows between
    blocks depend on the tokens up to their position alone, and sequences that begin alike share them (the prefix
    sharing of inference servers, here in training). The last block computes the last position of each sequence.
    """
    batch, positions = tokens.shape[1:]
    inputs, first = torch.unique(tokens + vocabulary * torch.arange(positions), return_inverse=True)
    last = torch.full((batch,), positions - 1)
    if n_layers == 1:
        return inputs, [Plan(first, last)]
    prefixes, example, position = _prefixes(tokens, vocabulary)
    entry, middle = (Plan(source.flatten(0, 1)[example], position) for source in (first, prefixes))
    return inputs, [entry, *[middle] * (n_layers - 2), Plan(prefixes, last)]


def _prefixes(tokens: Tensor, vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    """Number the prefixes: [seeds, batch, positions], and by number a sequence that begins with it, and its position.

    Where the seeds together have fewer distinct prefixes than a seed has sequences, each has one number, the same for
    all seeds; elsewhere every sequence has its own. The examples count through the seeds * batch sequences.
    """
    seeds, batch, positions = tokens.shape
    rows = torch.arange(seeds * batch).reshape(seeds, batch)
    prefix, distinct, count, numbers, examples = torch.zeros_like(rows), 0, 0, [], []
    for position in range(positions):
        if distinct < batch:
            codes, prefix = torch.unique(prefix * vocabulary + tokens[:, :, position], return_inverse=True)
            distinct = len(codes)
        if distinct < batch:
            first = rows.new_empty(distinct).scatter_reduce_(
                0, prefix.flatten(), rows.flatten(), "amin", include_self=False
            )
            number, example = prefix, first.expand(seeds, -1)
        else:
            number, example = rows[:1].expand(seeds, -1), rows
        numbers.append(count + number)
        examples.append(example)
        count += example.shape[1]
    position_of = torch.repeat_interleave(torch.tensor([example.shape[1] for example in examples]))
    return torch.stack(numbers, 2), torch.cat(examples, 1), position_of
