"""A report of `stability-v1` with numbers that are known and none that were measured."""

from typing import Any

import numpy as np

NEEDS = {"value": None, "reason": "needs activations"}
HOSTILE = "<script>alert('x')</script>|\"&$\\frac{1}$"
THRESHOLDS = [0.5, 0.7, 0.9]


def planted(saes: int = 3, latents: int = 40, activations: bool = True, name: str = "seed {}") -> dict[str, Any]:
    """Return a report that follows the schema; without activations what needs them says so."""
    draw = np.random.default_rng(0)
    return {
        "protocol": "stability-v1",
        "version": "1.0.0",
        "generator": {"name": "planted", "version": "0"},
        "settings": {
            "thresholds": THRESHOLDS,
            "match_threshold": 0.7,
            "dead_threshold": 1e-3,
            "candidates": 16,
            "exact_below": 2048,
            "null_seed": 0,
            "rho": 0.25,
        },
        "inputs": [
            {
                "index": i,
                "name": name.replace("{}", str(i)),
                "format": "sae_lens",
                "architecture": "topk",
                "d_sae": latents,
                "d_model": 24,
                "k": 4,
                "seed": None,
                "sha256": f"{i:064x}",
            }
            for i in range(saes)
        ],
        "duplicates": [],
        "warnings": ["the SAEs differ in <width>"],
        "activations": {"rows": 4000, "used": 1000, "d_model": 24, "sha256": "0" * 64} if activations else NEEDS,
        "scores": scores(saes, activations),
        "subspaces": [
            {
                "rank": rank,
                "latents": "all",
                "estimate": estimate(saes, 0.8),
                "matrix": matrix(saes, 0.8),
                "N0": against(saes, 0.8, 0.2, "closed form"),
                "N2": against(saes, 0.8, 0.5) if activations else NEEDS,
            }
            for rank in (1, 4, 16)
        ],
        "matched": [
            {
                "sae": i,
                "latents": latents,
                "per_other": [0 if i == j else latents // 2 for j in range(saes)],
                "in_all": latents // 4,
                "in_some": latents // 4,
                "in_none": latents - 2 * (latents // 4),
            }
            for i in range(saes)
        ],
        "features": features(draw, saes, latents, activations),
        "replication": {
            "source": "leave one SAE out",
            "caveat": "told of these SAEs only",
            "covariates": ["firing_rate", "alignment"],
            "weights": [[0.5, -0.25]] * saes,
            "share": estimate(saes, 0.4),
            "auroc": estimate(saes, 0.75),
            "calibration_error": {"value": None, "reason": "needs 3 SAEs"},
        }
        if activations
        else NEEDS,
        "seeds_needed": [
            {
                "purpose": "half width",
                "score": "mean_max_cosine",
                "latents": "alive" if activations else "all",
                "threshold": None,
                "target": 0.02,
                "seeds": saes + 4,
            },
            {
                "purpose": "score over N2",
                "score": "mean_max_cosine",
                "latents": "alive" if activations else "all",
                "threshold": None,
                "target": None,
                "seeds": 3 if activations else NEEDS,
            },
        ],
        "effective_rank": {"activations": ranks(20.0) if activations else NEEDS, "decoders": [ranks(18.0)] * saes},
        "recommendation": {
            "width": 32,
            "width_because": "it is no wider than the data need",
            "k": 4,
            "k_because": "it takes the fewest bits",
            "k_at_width": 16,
            "rows": 1000,
            "trained": 6,
            "steps": 64,
            "curve": [{"k": k, "description_length": float(bits)} for k, bits in ((2, -10), (4, -14), (8, -9))],
        }
        if activations
        else NEEDS,
        "quality": [{"sae": i, "fvu": 0.1, "l0": 4.0, "alive": 0.9} for i in range(saes)] if activations else NEEDS,
    }


def scores(saes: int, activations: bool) -> list[dict[str, Any]]:
    found = []
    for latents in ("all", "alive"):
        for name, threshold, value in (
            ("mean_max_cosine", None, 0.6),
            ("hungarian_mcc", None, 0.55),
            *(("shared", tau, 0.5) for tau in THRESHOLDS),
            *(("mutual", tau, 0.45) for tau in THRESHOLDS),
        ):
            found.append(score(name, latents, threshold, saes, value, activations or latents == "all", activations))
    for name in ("frequency_weighted_max_cosine", "frequency_weighted_hungarian"):
        found.append(score(name, "alive", None, saes, 0.7, activations, activations))
    return found


def score(
    name: str, latents: str, threshold: float | None, saes: int, value: float, known: bool, activations: bool
) -> dict[str, Any]:
    there = {
        "estimate": estimate(saes, value),
        "matrix": matrix(saes, value),
        "N0": against(saes, value, 0.3, "closed form"),
        "N2": against(saes, value, 0.4) if activations else NEEDS,
    }
    return {
        "name": name,
        "latents": latents,
        "threshold": threshold,
        **(there if known else dict.fromkeys(there, NEEDS)),
    }


def estimate(saes: int, value: float, half: float = 0.05) -> dict[str, Any]:
    if saes < 3:
        return {"value": value, "low": None, "high": None, "n": saes, "method": "no interval: fewer than 3 SAEs"}
    return {"value": value, "low": value - half, "high": value + half, "n": saes, "method": "jackknife over SAEs"}


def against(saes: int, value: float, null: float, how: str = "drawn") -> dict[str, Any]:
    kappa = (value - null) / (1 - null)
    return {
        "value": estimate(saes, null, 0.0),
        "gap": estimate(saes, value - null),
        "kappa": estimate(saes, kappa),
        "matrix": matrix(saes, null),
        "how": how,
    }


def matrix(saes: int, value: float) -> list[list[float | None]]:
    return [[None if i == j else value + 0.01 * ((i + j) % 3) for j in range(saes)] for i in range(saes)]


def ranks(value: float) -> dict[str, float]:
    return {"singular_entropy": value, "variance_entropy": value - 1, "participation_ratio": value - 2}


def features(draw: np.random.Generator, saes: int, latents: int, activations: bool) -> dict[str, Any]:
    size = saes * latents
    dead = draw.random(size) < 0.1
    probability = draw.random(size)
    return {
        "sae": np.repeat(np.arange(saes), latents).tolist(),
        "latent": np.tile(np.arange(latents), saes).tolist(),
        "counted": (~dead if activations else np.ones(size, bool)).tolist(),
        "best_cosine": draw.uniform(-0.1, 1, size).tolist(),
        "matched": draw.integers(0, saes, size).tolist(),
        "neighbour_cosine": draw.random(size).tolist(),
        "norm": draw.uniform(0.5, 2, size).tolist(),
        "firing_rate": (draw.random(size) ** 6).tolist() if activations else NEEDS,
        "dead": dead.tolist() if activations else NEEDS,
        "alignment": draw.uniform(-1, 1, size).tolist(),
        "replication_probability": [None if d else p for p, d in zip(probability.tolist(), dead.tolist(), strict=True)]
        if activations
        else NEEDS,
    }
