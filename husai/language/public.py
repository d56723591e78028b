"""What others' SAEs of one language model agree on: anchors outside this book, for a reader who downloads them."""

from collections.abc import Sequence
from pathlib import Path

from husai import artifacts, formats, stats, study
from husai.config import require
from husai.evidence import Estimate

METRICS = ("shared_fraction", "hungarian_mcc", "mean_max_cosine")
"""Scores by which others report: Paulo & Belrose, Song et al., and the sources of this book."""


def agreement(names: Sequence[str]) -> dict[str, Estimate] | None:
    """Return the agreement of the SAEs in these folders by `METRICS`, all latents; None where no folder is named.

    Folders are those of sae_lens, sparsify or dictionary_learning (`formats.read`), given as they are or by their place
    under `anchors/` in the store. ValueError: fewer than 3 SAEs, a folder that is not there (with where to put it), or
    SAEs of unequal shape.
    """
    if not names:
        return None
    require(len(names) >= 3, "names", list(names), "at least 3 SAEs: no interval is honest with fewer")
    batch = formats.read(*(_folder(name) for name in names))
    decoders = list(batch.decoders())
    found = {}
    for metric in METRICS:
        stacks = [[one.T for one in batch.W_enc], decoders] if metric == "shared_fraction" else [decoders]
        found[metric] = stats.pairwise(study.score_matrix(metric, *stacks))
    return found


def _folder(name: str) -> Path:
    place = artifacts.root() / "anchors" / name
    for folder in (Path(name), place):
        if folder.is_dir():
            return folder
    raise ValueError(
        f"names holds {name!r}; wanted downloaded SAEs: put the files of huggingface.co/{name} into {place}"
    )
