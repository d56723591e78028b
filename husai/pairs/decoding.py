"""Greedy decoding with any change inside a model, and the number of steps in what it writes."""

import torch
from jaxtyping import Int
from torch import Tensor

from husai.config import require
from husai.pairs.edits import Caches, Reader


@torch.no_grad()
def greedy(
    reader: Reader, prompts: Int[Tensor, "texts positions"], lengths: Int[Tensor, " texts"], end: int, longest: int
) -> Int[Tensor, "texts longest"]:
    """Return the likeliest continuation, token by token, of the first lengths[i] tokens of every row.

    All rows are read side by side: where a prompt is longer than another, its own tokens stand in for what the model
    says. From the first `end` on the row holds `end`. ValueError: a prompt that is empty or longer than `longest`.
    """
    fits = bool((lengths >= 1).all() and (lengths <= min(longest, prompts.shape[1])).all())
    require(fits, "lengths", lengths.tolist()[:8], f"in 1..{min(longest, prompts.shape[1])}")
    first = int(lengths.min())
    new = prompts[:, :first]
    rows, ended = [new], torch.zeros(len(prompts), dtype=torch.bool)
    caches: Caches = {}
    for place in range(first, longest):
        chosen = reader(new, caches)[:, -1].argmax(-1)
        if place < prompts.shape[1]:
            chosen = torch.where(place < lengths, prompts[:, place], chosen)
        chosen = chosen.masked_fill(ended, end)
        ended |= (chosen == end) & (place >= lengths)
        new = chosen[:, None]
        rows.append(new)
        if bool(ended.all()):
            break
    found = torch.cat(rows, 1)
    return torch.nn.functional.pad(found, (0, longest - found.shape[1]), value=end)


def steps(
    tokens: Int[Tensor, "texts positions"], lengths: Int[Tensor, " texts"], separator: int, end: int
) -> Int[Tensor, " texts"]:
    """Return how many steps stand behind each prompt and before the first `end`: runs of tokens between separators."""
    place = torch.arange(tokens.shape[1])
    free = place >= lengths[:, None]
    stop = torch.where((tokens == end) & free, place, len(place)).amin(1)
    inside = free & (place < stop[:, None]) & (tokens != separator)
    before = torch.nn.functional.pad(inside, (1, 0))[:, :-1]
    return (inside & ~before).sum(1)
