"""The report itself: which scores, beside which nulls, on which latents."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from husai.replication import Predictor


def evaluate(
    folders: Sequence[Path | str],
    activations: Path | str | None = None,
    *,
    rows: int = 16_384,
    recommend: bool = False,
    width: int = 256,
    steps: int = 1024,
    predictor: Predictor | None = None,
) -> dict[str, Any]:
    """Return the stability report of two or more SAEs, the JSON that `stability-v1.schema.json` describes.

    `folders` are sae_lens, sparsify, dictionary_learning or husai folders (one of ours counts as one SAE a seed), local
    or hf://; any d_sae, one d_model. `activations` is a safetensors file that holds one matrix [inputs, d_model]; of
    more than `rows` of them a fixed random share is used. Without it only decoders are read, and what needs activations
    is `{"value": None, "reason": "needs activations"}`. `recommend` trains small SAEs of `width` latents for up to
    `steps` steps to choose a k (`study.calibrate_l0`). `predictor` is used for the replication probability instead of
    one that is fitted to these SAEs, leaving one out. Write it with `evidence.write_json`. ValueError: fewer than two
    SAEs, another d_model, no decoder, a transcoder, activations that do not fit; it names the folder.
    """
    raise NotImplementedError
