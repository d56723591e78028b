"""dictionary_learning: `config.json` and `ae.pt`, whose tensors depend on the `dict_class` that the former names."""

import zipfile
from pathlib import Path

import torch
from torch import Tensor

from husai.config import require
from husai.formats.checks import (
    FLOATS,
    LINEAR,
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
from husai.saes import SAEBatch

COUNTS = (torch.int64, torch.int32)
_DECODER = {"decoder.weight": ("W_dec", "d_model d_sae")}
_THRESHOLD = {"threshold": ("threshold", "")}
_GATED = {
    "encoder.weight": LINEAR["encoder.weight"], **_DECODER, **same("r_mag"), "gate_bias": ("b_enc", "d_sae"),
    "mag_bias": ("b_mag", "d_sae"), "decoder_bias": ("b_dec", "d_model"),
}  # fmt: skip

KINDS = {
    "AutoEncoder": Kind("relu", {**LINEAR, **_DECODER, "bias": ("b_dec", "d_model")}),
    "AutoEncoderNew": Kind("relu", {**LINEAR, **_DECODER, "decoder.bias": ("b_dec", "d_model")}, centred=False),
    "AutoEncoderTopK": Kind("topk", {**LINEAR, **_DECODER, **same("b_dec")}),
    "BatchTopKSAE": Kind("batch_topk", {**LINEAR, **_DECODER, **same("b_dec"), **_THRESHOLD}),
    "MatryoshkaBatchTopKSAE": Kind("matryoshka", {**OWN, **_THRESHOLD}),
    "JumpReluAutoEncoder": Kind("jump_relu", {**OWN, **same("threshold")}, centred=False),
    "GatedAutoEncoder": Kind("gated", _GATED),
}


def read_dictionary_learning(folder: Path, position: int = 0) -> SAEBatch:
    """Return the SAE of a dictionary_learning folder; its seed is `position` where the trainer recorded none.

    TopK is read as TopK, without the threshold that may stand in for it, BatchTopK and Matryoshka with theirs. `ae.pt`
    is a pickle: one that holds more than tensors is refused, and nothing of it runs. Raises ValueError naming what is
    missing or contradictory.
    """
    cfg = json_object(folder / "config.json").get("trainer")
    if not isinstance(cfg, dict):
        raise ValueError(f"trainer of config.json is {cfg!r}; wanted the configuration of the SAE's trainer")
    kind = KINDS[named(cfg.get("dict_class"), KINDS, "dict_class of config.json")]
    sizes = {"d_model": count(cfg, "activation_dim"), "d_sae": count(cfg, "dict_size")}
    tensors = _unpickled(folder / "ae.pt")
    k, widths = sizes["d_sae"], tensors.pop("group_sizes", torch.tensor([])).cumsum(0)
    if kind.architecture in ("topk", "batch_topk", "matryoshka"):
        k = count(cfg, "k")
        stored = tensors.pop("k").tolist() if "k" in tensors else k
        require(stored == k, "k of ae.pt", stored, f"{k}, as config.json has it")
    if kind.architecture == "topk":
        tensors.pop("threshold", None)
    weights = turned(tensors, kind.layout, sizes, "ae.pt")
    if not kind.centred:
        centre(weights)
    return batch(weights, seed_of(cfg, position), kind.architecture, k, widths.tolist())


def _unpickled(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a PyTorch file; by `weights_only` nothing but tensors and containers is ever built."""
    inside(path.parent, path.name)
    try:
        packed = _packed(path)
        content: dict[str, Tensor] = {} if packed else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken or malicious pickle may raise anything
        raise ValueError(
            f"path is {path.name!r}; wanted a complete PyTorch file of tensors only, and nothing in this one was run "
            f"({type(error).__name__})"
        ) from None
    require(not packed, path.name, "compressed", "tensors as PyTorch stores them: these may grow without bound")
    require(isinstance(content, dict), path.name, type(content).__name__, "a dict of tensors")
    for name, value in content.items():
        require(isinstance(name, str) and isinstance(value, Tensor), path.name, name, "a dict of tensors by name")
        require(_stored(value), f"{name} of {path.name}", "not stored number by number", "an ordinary tensor")
    return dict(content)


def _packed(path: Path) -> bool:
    """Return whether a part of a PyTorch file is compressed."""
    if not zipfile.is_zipfile(path):
        return False  # the format of old, or nothing that PyTorch reads
    with zipfile.ZipFile(path) as parts:
        return any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist())


def _stored(value: Tensor) -> bool:
    """Return whether a file holds every number of a tensor: one repeated by its strides needs no memory until used."""
    if value.layout != torch.strided or value.device.type != "cpu" or value.dtype not in (*FLOATS, *COUNTS):
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()
