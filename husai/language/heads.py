"""Which attention heads of two GPTs do the same: attention profiles by position, and what chance makes of a best match.

The published pair of heads was found by its profile. Profiles are positive and mostly fall with distance, so that the
cosine of any two is high; and the best of 64 pairs is high for heads without a match too. Here the mean profile of all
heads is subtracted first, and the best pair stands beside as many pairs that have no reason to match.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from husai import stats
from husai.evidence import Estimate
from husai.language.gpt import GPTs
from husai.language.matched import Texts

Profiles = Float[Tensor, "seeds layers heads distances"]
KINDS = ("same_index", "assigned", "best")
"""Means over heads of equal index, over a one-to-one assignment, and the one best pair."""


def profiles(models: GPTs, of: Texts, distances: int = 16) -> Profiles:
    """Return every head's mean attention to the token 0, 1, 2, ... positions back, where a step's onset is predicted.

    Only positions with at least `distances` tokens up to them count. ValueError: no onset is that far from the start.
    """
    before = of.before_onset.clone()
    before[:, : distances - 1] = False
    if not bool(before.any()):
        raise ValueError(f"distances is {distances}; wanted onsets at least so far from the start")
    layers, heads = models.config.n_layers, models.config.n_heads
    total = torch.zeros(len(models.seeds), layers, heads, distances)
    back = torch.arange(distances)
    for tokens, here in zip(of.tokens.split(128), before.split(128), strict=True):
        text, query = here.nonzero(as_tuple=True)

        def read(name: str, value: Tensor, text: Tensor = text, query: Tensor = query) -> None:
            if name.endswith("hook_pattern"):
                rows = value[:, text[:, None], :, query[:, None], query[:, None] - back]  # [n, distances, seeds, heads]
                total[:, int(name.split(".")[1])] += rows.sum(0).permute(1, 2, 0)

        models.logits(tokens, read)
    return total / before.sum()


def cosines(
    a: Float[Tensor, "heads distances"], b: Float[Tensor, "others distances"]
) -> Float[Tensor, "heads others"]:  # fmt: skip
    """Return the cosine of every pair of profiles."""
    return torch.nn.functional.normalize(a, dim=-1) @ torch.nn.functional.normalize(b, dim=-1).T


def centred(*parts: Profiles) -> list[Profiles]:
    """Return profiles less the mean profile of all heads of all layers and models in all parts."""
    mean = torch.cat([part.flatten(0, 2) for part in parts]).mean(0)
    return [part - mean for part in parts]


def scores(
    a: Float[Tensor, "seeds heads distances"], b: Float[Tensor, "seeds heads distances"]
) -> dict[str, Float[np.ndarray, "seeds seeds"]]:  # fmt: skip
    """Return for every pair of models, a's first, the three `KINDS` of similarity of their heads."""
    found = np.zeros((len(KINDS), len(a), len(b)))
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            table = cosines(one, other).numpy()
            rows, columns = linear_sum_assignment(-table)
            found[:, i, j] = table.diagonal().mean(), table[rows, columns].mean(), table.max()
    return dict(zip(KINDS, found, strict=True))


def tables(
    by_style: Mapping[str, Profiles], random: Profiles, layer: int
) -> dict[str, dict[str, Float[np.ndarray, "seeds seeds"]]]:  # fmt: skip
    """Return `scores` of the heads of a layer, from 1 up, for every kind of pair of models; each of as many pairs.

    The two styles; two seeds of a style; and two nulls: a head of this layer in the first style with one of the layer
    before in the second, and heads of untrained models. Profiles are `centred`, those of both styles at one mean.
    """
    first, second = by_style
    (a, b), (random,) = centred(*by_style.values()), centred(random)
    return {
        "styles": scores(a[:, layer], b[:, layer]),
        first: scores(a[:, layer], a[:, layer]),
        second: scores(b[:, layer], b[:, layer]),
        "other layer": scores(a[:, layer], b[:, layer - 1]),
        "untrained": scores(random[:, layer], random[:, layer]),
    }


def compared(found: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, Estimate]]:
    """Return the means of `tables` with intervals over seeds, models of one seed (the same start) and of two apart.

    ValueError: fewer than 3 seeds.
    """
    rows = {name: {kind: stats.pairwise((t + t.T) / 2) for kind, t in kinds.items()} for name, kinds in found.items()}
    same = {kind: stats.mean(table.diagonal()) for kind, table in found["styles"].items()}
    return {"styles, same seed": same, "styles, other seeds": rows.pop("styles"), **rows}


def contrasts(found: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Estimate]:
    """Return four differences of `tables` over seeds.

    `apart`: one-to-one similarity between styles less that within a style, both between seeds. `start`: similarity of
    heads of equal index between the styles, same seed less other seeds. `beyond_layer`, `beyond_untrained`: the best
    pair of heads between styles less that of different layers and that of untrained models, between seeds. ValueError:
    fewer than 3 seeds.
    """
    styles, *within = list(found.values())[:3]
    cross, inside = styles["assigned"], np.mean([table["assigned"] for table in within], 0)
    same = styles["same_index"]
    n = len(same)
    others = ((same.sum(0) + same.sum(1)) / 2 - same.diagonal()) / (n - 1)
    best = {kind: (found[kind]["best"] + found[kind]["best"].T) / 2 for kind in ("styles", "other layer", "untrained")}
    return {
        "beyond_layer": stats.difference(best["styles"], best["other layer"]),
        "beyond_untrained": stats.difference(best["styles"], best["untrained"]),
        "apart": stats.difference((cross + cross.T) / 2, inside),
        "start": stats.difference(same.diagonal(), others),
    }
