"""How many directions activations and decoders fill, what subspaces they share, and which width and k to try."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from husai import calibration, nulls, study
from husai.recipes import converged
from husai.report.blocks import Drawn, Tiles
from husai.report.scores import NEEDS_ACTIVATIONS, Entry, against, estimate, listed
from husai.subspaces import overlaps

WIDTH_BECAUSE = (
    "the power of two nearest to the effective rank (singular_entropy) of the activations, as published; notebooks 31"
    " and 36 say how far that rule holds"
)
K_BECAUSE = "shortest description length on held-out activations; agreement between SAEs is not looked at"


def ranks(variances: Float[Tensor, " d"]) -> dict[str, float]:
    """Return the three effective ranks of `metrics.effective_rank` from the eigenvalues of a covariance; 0 of none."""
    v = variances.double().clamp(min=0)
    if not bool(v.sum() > 0):
        return dict.fromkeys(("singular_entropy", "variance_entropy", "participation_ratio"), 0.0)
    spread = {"singular_entropy": v.sqrt(), "variance_entropy": v}
    found = {name: float(torch.special.entr(w / w.sum()).sum().exp()) for name, w in spread.items()}
    return found | {"participation_ratio": float(v.sum() ** 2 / v.square().sum())}


def of_activations(x: Float[Tensor, "inputs d"]) -> tuple[Float[Tensor, "d d"], dict[str, float]]:
    """Return the root of their covariance (`nulls.covariance_root`), and their effective ranks."""
    root = nulls.covariance_root(x)
    return root, ranks(torch.linalg.eigvalsh(root).square())


class Spans:
    """What the (kept) decoder rows of one SAE span."""

    def __init__(self, side: Tiles) -> None:
        gram, total = side.gram()
        kept = side.sizes["kept"]
        self.axes = torch.linalg.eigh(gram).eigenvectors.flip(1)
        """Right singular vectors of the unit rows as columns, largest singular value first."""
        self.ranks = ranks(torch.linalg.eigvalsh(gram / kept - torch.outer(total, total) / kept**2))
        self.most = min(kept, len(gram))


def subspaces(
    spans: Sequence[Spans], sides: Sequence[Tiles], latents: str, root: Tensor | None, seeds: Sequence[int]
) -> list[Entry]:
    """Return the overlap of the SAEs' top subspaces at ranks d/16, d/8, d/4 and d/2, beside chance.

    tr(P_A P_B) / r, P the projector on the top r right singular vectors of the unit decoder rows. N0 is r / d_model; N2
    is drawn, once an SAE by its entry of `seeds`, with as many rows as it has.
    """
    d = len(spans[0].axes)
    sizes = sorted({max(1, d // part) for part in (16, 8, 4, 2)})
    wanted = [r for r in sizes if r <= min(span.most for span in spans)]
    found, drawn = _overlaps(spans), None
    if root is not None:
        draws = [Tiles(Drawn(side.sizes["kept"], d, seed, root)) for seed, side in zip(seeds, sides, strict=True)]
        drawn = _overlaps([Spans(one) for one in draws])
    rows = []
    for r in wanted:
        score = found[..., r - 1]
        row = {"rank": r, "latents": latents, "estimate": estimate(score), "matrix": listed(score)}
        row["N0"] = against(score, np.where(np.eye(len(score)), 1.0, r / d), True)
        row["N2"] = NEEDS_ACTIVATIONS if drawn is None else against(score, drawn[..., r - 1], False)
        rows.append(row)
    return rows


def _overlaps(spans: Sequence[Spans]) -> Float[np.ndarray, "saes saes d"]:
    scores = np.ones((len(spans), len(spans), len(spans[0].axes)))
    for i, a in enumerate(spans):
        for j, b in enumerate(spans[:i]):
            scores[i, j] = scores[j, i] = overlaps(a.axes, b.axes).numpy()
    return scores


def recommendation(
    x: Float[Tensor, "inputs d_model"], rank: dict[str, float], width: int, steps: int
) -> dict[str, Any]:
    """Return a width and a k to try; it trains two SAEs of at most `width` latents for each candidate k."""
    wanted = 2 ** max(1, round(math.log2(max(rank["singular_entropy"], 2.0))))
    at = max(2, min(wanted, width))
    found = study.calibrate_l0(x, converged(at, "auto", steps), (0,))
    trained = len(found.curve) * len(calibration.SEEDS)
    return {
        "width": wanted, "width_because": WIDTH_BECAUSE, "k": found.k, "k_because": K_BECAUSE, "k_at_width": at,
        "curve": found.curve, "rows": len(x), "trained": trained, "steps": min(steps, calibration.STEPS),
    }  # fmt: skip
