"""sae_lens 6: `cfg.json` and `sae_weights.safetensors`, written and read.

pre = (x - b_dec) W_enc + b_enc; `topk` keeps the k largest and then applies a ReLU, `standard` is ReLU(pre), `jumprelu`
ReLU(pre) 1[pre > threshold], `gated` 1[x W_enc + b_gate > 0] ReLU(exp(r_mag) x W_enc + b_mag), x less b_dec.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from husai.artifacts import read_tensors, write_tensors
from husai.config import SAEConfig, require
from husai.evidence import write_json
from husai.formats.checks import (
    FLOATS,
    OWN,
    Kind,
    batch,
    centre,
    count,
    inside,
    json_object,
    named,
    same,
    seed_of,
    turned,
)  # fmt: skip
from husai.saes import WEIGHTS, SAEBatch

VERSION = "6.0.0"  # without a version sae_lens takes a file for an older one and drops the metadata it does not know
_CHECKPOINT = {**OWN, "topk_threshold": ("threshold", "")}

KINDS = {
    "standard": Kind("relu", OWN),
    "topk": Kind("topk", OWN),
    "jumprelu": Kind("jump_relu", {**OWN, **same("threshold")}),
    "gated": Kind("gated", {**same("W_enc", "W_dec", "b_dec", "r_mag", "b_mag"), "b_gate": ("b_enc", "d_sae")}),
    # these two in training checkpoints only: for use sae_lens turns them into jumprelu
    "batchtopk": Kind("batch_topk", _CHECKPOINT),
    "matryoshka_batchtopk": Kind("matryoshka", _CHECKPOINT),
}
BATCH = ("batchtopk", "matryoshka_batchtopk")
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in FLOATS}
UNLIKE = {
    "signed": "sae_lens applies a ReLU to TopK, which would drop the negative latents",
    "transcoder": "sae_lens keeps transcoders in classes of their own, between two sites of a model",
    "hierarchical_topk": "its latents are trained to be read at every budget, and sae_lens keeps one k",
    "route": "sae_lens reads one layer and has no router",
    "switch": "sae_lens has no router over experts",
}


def write_sae_lens(sae: SAEBatch, folder: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write one SAE as the folder that `sae_lens.SAE.load_from_disk` reads.

    `metadata` (any JSON: `model_name`, `hook_name`, ...) survives, and so do seed and configuration, which a reader
    gets back. batch_topk and matryoshka become `jumprelu`, their one threshold repeated, as by sae_lens's own
    `save_inference_model`. Raises ValueError with the reason for what sae_lens cannot express, and for a batch of
    several seeds: a folder holds one.
    """
    config = sae.config
    require(len(sae) == 1, "sae", f"a batch of {len(sae)} seeds", "one seed a folder: sae[0], sae[1], ...")
    odd = [name for name in ("signed", "transcoder") if getattr(config, name)]
    odd += [config.architecture] if config.architecture in UNLIKE else []
    tag = "_".join(["husai", *dict.fromkeys([*odd, config.architecture])])
    require(not odd, "sae", tag, f"what sae_lens can express: {'; '.join(UNLIKE[name] for name in odd)}")
    trained = next(name for name, kind in KINDS.items() if kind.architecture == config.architecture)
    name = "jumprelu" if trained in BATCH else trained
    tensors = {n: value[0] for n, value in {**{w: getattr(sae, w) for w in WEIGHTS}, **sae.extra}.items()}
    d_in, d_sae = tensors["W_enc"].shape
    if name == "jumprelu":
        tensors["threshold"] = tensors["threshold"].expand(d_sae)
    details = {"k": config.k, **({"matryoshka_widths": list(config.groups)} if config.groups else {})}
    about = {"sae_lens_training_version": None, **(metadata or {}), "sae_lens_version": VERSION}
    about |= {"training_architecture": trained, "training_architecture_details": details}
    cfg = {
        "architecture": name, "d_in": d_in, "d_sae": d_sae, "dtype": str(sae.W_enc.dtype).removeprefix("torch."),
        "device": "cpu", "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
        **({"k": config.k, "rescale_acts_by_decoder_norm": False} if name == "topk" else {}),
        "metadata": {**about, "seed": sae.seeds[0], "husai": asdict(config)},
    }  # fmt: skip
    stored = {there: tensors[here] for there, (here, _) in KINDS[name].layout.items()}
    write_tensors(folder / "sae_weights.safetensors", stored)
    write_json(folder / "cfg.json", cfg)


def metadata(folder: Path) -> dict[str, Any]:
    """Return what a folder says of its SAE's origin: `model_name`, `hook_name`, whatever else its writer kept."""
    cfg = json_object(folder / "cfg.json")
    about = cfg.get("metadata", cfg)  # before version 6 the entries lay flat
    require(isinstance(about, dict), "metadata of cfg.json", about, "a JSON object")
    renamed = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index"}
    return {renamed.get(name, name): value for name, value in about.items()}


def read_sae_lens(folder: Path, position: int = 0) -> SAEBatch:
    """Return the SAE of a folder of version 6 or before, for use or a checkpoint; an unrecorded seed is `position`.

    Folded in exactly: `rescale_acts_by_decoder_norm` (selection by pre * ||W_dec||, output z / ||W_dec|| W_dec) into
    the encoder and unit rows, `apply_b_dec_to_input` False into b_enc, and the scale of `expected_average_only_in`,
    if `activation_scaler.json` has it, into the biases, so that latents are in raw units. What was trained as
    batch_topk or matryoshka is so again. Raises ValueError naming what is missing, contradictory or not expressible.
    """
    cfg, about = json_object(folder / "cfg.json"), metadata(folder)
    name = _architecture(cfg)
    weights = _weights(cfg, folder, name)
    details = about.get("training_architecture_details")
    details = details if isinstance(details, dict) and name not in BATCH else cfg
    trained, threshold = about.get("training_architecture"), weights.get("threshold")
    if name == "jumprelu" and trained in BATCH and threshold is not None and "k" in details:
        if bool((threshold == threshold[0]).all()):
            name, weights["threshold"] = trained, threshold[0]
    own = about["husai"] if isinstance(about.get("husai"), dict) else {}
    recorded = {field.name: own[field.name] for field in fields(SAEConfig) if field.name in own}
    k = recorded.get("k", len(weights["b_enc"]))  # standard, jumprelu and gated declare no limit
    if name == "topk":
        k = count(_options(cfg), "k")
    elif name in BATCH:
        mean = details.get("k")  # may be a fraction, of which ours knows none; the threshold decides
        k = count({"k": round(mean) if isinstance(mean, float) else mean}, "k")
    groups = details.get("matryoshka_widths") or () if name == "matryoshka_batchtopk" else ()
    return batch(weights, seed_of(about, position), KINDS[name].architecture, k, groups, recorded)


def _options(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries with those of the activation function, where they lay before version 6."""
    options = cfg.get("activation_fn_kwargs") or {}
    require(isinstance(options, dict), "activation_fn_kwargs of cfg.json", options, "a JSON object")
    return {**options, **cfg}


def _architecture(cfg: Mapping[str, Any]) -> str:
    """Return sae_lens's name of the architecture; before version 6 the activation function told TopK from ReLU."""
    function = cfg.get("activation_fn_str", cfg.get("activation_fn"))
    require(function in (None, "relu", "topk"), "activation_fn_str of cfg.json", function, "'relu' or 'topk'")
    name = "topk" if function == "topk" else cfg.get("architecture", "standard" if function else None)
    return named(name, KINDS, "architecture of cfg.json")


def _weights(cfg: Mapping[str, Any], folder: Path, name: str) -> dict[str, Tensor]:
    """Return the tensors, folded so that nothing but the architecture's own equation is left to apply."""
    sizes = {"d_model": count(cfg, "d_in"), "d_sae": count(cfg, "d_sae")}
    dtype = str(cfg.get("dtype")).removeprefix("torch.")
    require(dtype in DTYPES, "dtype of cfg.json", cfg.get("dtype"), f"one of {', '.join(DTYPES)}")
    scale = _activation_scale(cfg, folder)
    tensors, _ = read_tensors(inside(folder, "sae_weights.safetensors"))
    ones = tensors.get("scaling_factor")
    if ones is not None and ones.dtype in FLOATS and bool((ones == 1).all()):
        del tensors["scaling_factor"]  # sae_lens wrote ones for a while
    weights = turned(tensors, KINDS[name].layout, sizes, "sae_weights.safetensors", DTYPES[dtype])
    if "topk" in name and cfg.get("rescale_acts_by_decoder_norm", False):
        norms = weights["W_dec"].norm(dim=-1).clamp(min=1e-8)  # sae_lens's own bound; a zero row stays zero
        weights["W_dec"] = weights["W_dec"] / norms[:, None]
        weights["W_enc"], weights["b_enc"] = weights["W_enc"] * norms, weights["b_enc"] * norms
    if not cfg.get("apply_b_dec_to_input", True):
        centre(weights)
    for bias in {"b_enc", "b_dec", "b_mag", "threshold"} & weights.keys():
        weights[bias] = weights[bias] / scale
    return weights


def _activation_scale(cfg: Mapping[str, Any], folder: Path) -> float:
    """Return the number that activations were multiplied with before they came to the SAE."""
    came = cfg.get("normalize_activations")
    how = "none" if came in (None, False) else "expected_average_only_in" if came is True else came
    wanted = "'none' or 'expected_average_only_in': no weights on raw activations express the others"
    require(how in ("none", "expected_average_only_in"), "normalize_activations of cfg.json", came, wanted)
    if how == "none":
        return 1.0
    path = folder / "activation_scaler.json"
    scale = json_object(path).get("scaling_factor") if path.exists() else None
    if not isinstance(scale, int | float) or not 0 < scale < math.inf:
        wanted = f"in activation_scaler.json, the scale that {how!r} came to in training"
        raise ValueError(f"scaling_factor is {scale!r}; wanted a finite number above 0, {wanted}")
    return float(scale)
