"""Small causes: activations or weights in half precision, and what the same seed makes of them."""

from dataclasses import replace

import torch

from husai import metrics, stats, study
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


def same_seed(one: Study, other: Study) -> Estimate:
    """Return the mean max cosine of the alive latents of one seed in two studies, over the seeds: 1 if nothing changed.

    ValueError: other seeds.
    """
    require(one.seeds == other.seeds, "other: seeds", other.seeds, f"{one.seeds}")
    pairs = zip(one.decoders, other.decoders, strict=True)
    return stats.mean([metrics.mean_max_cosine(a, b) for a, b in pairs])


def loss(one: Study, kind: str) -> Estimate:
    """Return how much more held-out variance is left unexplained by weights in half precision, paired by seed."""
    x, mean = one.activations.held_out, one.activations.mean
    return stats.difference(
        [row["fvu"] for row in rounded_weights(one.saes, kind).quality(x, mean)], one.by_seed["fvu"]
    )


def causes(base: Study) -> dict[str, Estimate]:
    """Return how much SAEs agree that differ in one small thing, by the recipe and on the activations of a study.

    "other_seed": the study's own seeds; "other_start", "other_order": seeds that share the order of the data, or the
    start; "bfloat16", "float16": one seed on activations in full and in half precision. Mean max cosine, alive latents.
    ValueError: a recipe that shares a stream already.
    """
    config, acts = base.config, base.activations
    require(not config.shared, "base", f"shared {config.shared!r}", "seeds that share no stream")
    arms = {
        "other_start": (acts, replace(config, shared="order")),
        "other_order": (acts, replace(config, shared="init")),
    }
    made = study.run(arms | {kind: (rounded(acts, kind), config) for kind in TYPES}, base.seeds)
    apart = {"other_seed": base, **{name: made[name] for name in arms}}
    found = {name: stats.pairwise(one.scores("mean_max_cosine")) for name, one in apart.items()}
    return found | {kind: same_seed(base, made[kind]) for kind in TYPES}
