"""A report whose answer is known: SAEs of a planted dictionary as anybody's folders, and what is true of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from husai import formats, stats
from husai.artifacts import write_tensors
from husai.evidence import Estimate
from husai.similarity import cosine_matrix
from husai.study import Study


def export(study: Study, root: Path) -> tuple[list[Path], Path]:
    """Write every SAE of a study as a sae_lens folder, and its held-out activations; return folders and file."""
    folders = [root / f"seed_{seed}" for seed in study.seeds]
    for index, folder in enumerate(folders):
        formats.write_sae_lens(study.saes[index], folder, {"model_name": study.activations.name})
    write_tensors(root / "acts.safetensors", {"activations": study.activations.held_out})
    return folders, root / "acts.safetensors"


def against_truth(
    report: Mapping[str, Any], study: Study, atoms: Float[Tensor, "atoms d_model"]
) -> dict[str, dict[str, Estimate]]:
    """Return the shares of counted latents that come back or not, and are true or not, over the SAEs of a report.

    {"come back", "do not": {"true", "not true": share}}; the four add up to 1. A latent comes back when it has a match
    in more than half of the other SAEs, and is true when its cosine with one of the planted atoms is above the same
    threshold as a match. ValueError: fewer than 3 SAEs.
    """
    sae, counted, found = (np.array(report["features"][key]) for key in ("sae", "counted", "matched"))
    back, tau = 2 * found > len(study.seeds) - 1, report["settings"]["match_threshold"]
    nearest = [cosine_matrix(rows, atoms).amax(1) for rows in study.saes.W_dec]
    true = np.concatenate([(cosines > tau).numpy() for cosines in nearest])

    def share(kept: np.ndarray) -> Estimate:
        return stats.mean([float(kept[counted & (sae == index)].mean()) for index in range(len(study.seeds))])

    return {
        name: {"true": share(rows & true), "not true": share(rows & ~true)}
        for name, rows in {"come back": back, "do not": ~back}.items()
    }
