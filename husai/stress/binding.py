"""What binds a stress result to the SAEs that it is about, so that a gate can refuse evidence of others."""

from dataclasses import asdict
from typing import Any

from husai import artifacts, comparison
from husai.config import require
from husai.evidence import Estimate
from husai.study import Study


def candidate(study: Study) -> str:
    """Return the address of a study's SAEs, kind/hash: their configuration, data, seeds and source."""
    return f"{study.folder.parent.name}/{study.folder.name}"


def evidence(study: Study, endpoint: str, estimate: Estimate, **more: str | float | bool) -> dict[str, Any]:
    """Return a stress result as plain JSON: whose it is, what was measured and the value with its interval.

    `candidate` is the address of the SAEs, `digest` that of their files (which are verified), `data` that of the
    held-out activations, `settled` whether the SAEs reconstruct and have stopped moving; `more` is kept as it comes.
    ValueError: no name of an endpoint, an artifact whose files have changed, an entry that is there already.
    """
    require(bool(endpoint), "endpoint", endpoint, "the name of what was measured")
    found = {
        "candidate": candidate(study), "digest": artifacts.verify(study.folder), "endpoint": endpoint,
        "estimate": asdict(estimate), "data": artifacts.content_hash(study.activations.held_out),
        "settled": comparison.settled([study]),
    }  # fmt: skip
    require(not found.keys() & more.keys(), "more", sorted(more), f"other names than {sorted(found)}")
    return found | more
