"""Small causes: activations or weights in half precision, and what the same seed makes of them."""

from dataclasses import replace

import torch

from husai import metrics, stats
from husai.activations import Activations
from husai.config import require
from husai.evidence import Estimate
from husai.saes import WEIGHTS, SAEBatch
from husai.shards import in_memory
from husai.study import Study

TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def rounded(acts: Activations, kind: str) -> Activations:
    """Return activations that were stored in half precision and read back; ValueError: an unknown kind, an overflow."""
    require(kind in TYPES, "kind", kind, f"one of {sorted(TYPES)}")
    values = in_memory(acts.values)
    values = values.to(TYPES[kind]).to(values.dtype)
    require(bool(values.isfinite().all()), "acts", f"values beyond {kind}", "values that it can hold")
    return acts._replace(values=values, name=f"{acts.name}, {kind}")


def rounded_weights(saes: SAEBatch, kind: str) -> SAEBatch:
    """Return SAEs whose weights were stored in half precision and read back; ValueError: an unknown kind."""
    require(kind in TYPES, "kind", kind, f"one of {sorted(TYPES)}")
    weights = {name: getattr(saes, name).to(TYPES[kind]).to(getattr(saes, name).dtype) for name in WEIGHTS}
    return replace(saes, **weights)


def same_seed(study: Study, other: Study) -> Estimate:
    """Return the mean max cosine of the alive latents of one seed in two studies, over the seeds: 1 if nothing changed.

    ValueError: other seeds.
    """
    require(study.seeds == other.seeds, "other: seeds", other.seeds, f"{study.seeds}")
    pairs = zip(study.decoders, other.decoders, strict=True)
    return stats.mean([metrics.mean_max_cosine(a, b) for a, b in pairs])


def loss(study: Study, saes: SAEBatch) -> Estimate:
    """Return how much more of the held-out variance other SAEs leave unexplained than the study's, paired by seed."""
    x, mean = study.activations.held_out, study.activations.mean
    return stats.difference([row["fvu"] for row in saes.quality(x, mean)], study.by_seed["fvu"])
