"""What every format needs: a declared layout, its check and its turn into ours, and refusals that name the thing."""

import json
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from husai.config import SAEConfig, require
from husai.saes import WEIGHTS, SAEBatch

AXES = {
    "W_enc": "d_model d_sae", "b_enc": "d_sae", "W_dec": "d_sae d_model", "b_dec": "d_model",
    "threshold": "d_sae", "r_mag": "d_sae", "b_mag": "d_sae",
}  # fmt: skip

Layout = Mapping[str, tuple[str, str]]
"""{tensor in the file: (its name here, its axes in the file)}; no axes for a single number."""


class Kind(NamedTuple):
    """One class of SAE in a foreign library."""

    architecture: str
    """Its name here."""
    layout: Layout
    """Its tensors."""
    centred: bool = True
    """Whether b_dec is subtracted from the input."""


def same(*names: str) -> dict[str, tuple[str, str]]:
    """Return the layout of tensors that are stored under our names with our axes."""
    return {name: (name, AXES[name]) for name in names}


OWN = same(*WEIGHTS)
LINEAR = {"encoder.weight": ("W_enc", "d_sae d_model"), "encoder.bias": ("b_enc", "d_sae")}  # stored [out, in]


LARGEST = 2**24
"""Bytes of the largest configuration that is opened; real ones have a few thousand."""
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""Types that weights may have."""


def inside(folder: Path, name: str) -> Path:
    """Return a regular file of a folder; ValueError for a link to elsewhere, a pipe or a device.

    A folder of the hub's cache may point to the blobs of its own repository: that is how the cache is laid out.
    """
    path, parts = folder / name, folder.absolute().parts
    blobs = [Path(*parts[:index], "blobs") for index, part in enumerate(parts) if part == "snapshots"]
    target, *homes = (Path(os.path.realpath(place)) for place in (path, folder, *blobs))
    here = any(target.is_relative_to(home) for home in homes)
    require(here, f"{name} of {folder.name}", "a link out of the folder", "a file that lies in it")
    require(path.is_file() or not path.exists(), f"{name} of {folder.name}", "no regular file", "a regular file")
    return path


def json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; ValueError when there is none, or none that is strict and of sensible size."""
    inside(path.parent, path.name)
    try:
        size = path.stat().st_size
        require(size <= LARGEST, path.name, f"{size} bytes long", f"at most {LARGEST}")
        content = json.loads(
            path.read_text("utf-8"),
            object_pairs_hook=_once,
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except (OSError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"folder is {path.parent.name!r}; wanted a readable {path.name} in it ({reason})") from None
    require(isinstance(content, dict), path.name, content, "a JSON object")
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object that names nothing twice: readers would differ on which entry counts."""
    content = dict(pairs)
    require(len(content) == len(pairs), "an object", "with a name twice", "each name once")
    return content


def _finite(text: str) -> float:
    require(math.isfinite(float(text)), "a number", text, "a finite one")
    return float(text)


def _whole(text: str) -> int:
    require(len(text) < 20, "a number", f"one of {len(text)} digits", "fewer than 20")
    return int(text)


def count(cfg: Mapping[str, Any], name: str) -> int:
    """Return an entry that must be a positive integer; ValueError names it."""
    value = cfg.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} of the configuration is {value!r}; wanted an integer of at least 1, declared")
    return value


def seed_of(about: Mapping[str, Any], position: int) -> int:
    """Return the seed that a folder records, or its position."""
    return about["seed"] if type(about.get("seed")) is int else position


def named(value: Any, known: Collection[str], argument: str) -> str:
    """Return a string that is one of the known ones; ValueError for anything else that a file may hold."""
    require(isinstance(value, str) and value in known, argument, value, f"one of {', '.join(known)}")
    return str(value)


def turned(
    tensors: Mapping[str, Tensor],
    layout: Layout,
    sizes: Mapping[str, int],
    file: str,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Return a file's tensors under our names, with our axes; ValueError names the first that is not as declared.

    They are rounded to `dtype`, the type that the format declares, and then widened to float32 where it is less.
    """
    missing, unknown = sorted(layout.keys() - tensors.keys()), sorted(tensors.keys() - layout.keys())
    require(not missing, file, f"without {', '.join(missing)}", f"the tensors {', '.join(layout)}")
    require(not unknown, file, f"with {', '.join(unknown)}", f"the tensors {', '.join(layout)} and no other")
    ours = {}
    for stored, (name, axes) in layout.items():
        tensor, shape = tensors[stored], tuple(sizes[axis] for axis in axes.split())
        wanted = f"{shape}, [{axes}] with the sizes that the configuration declares"
        require(tensor.dtype in FLOATS, f"{stored} of {file}", tensor.dtype, "a floating-point type")
        require(tensor.shape == shape, f"{stored} of {file}", tuple(tensor.shape), wanted)
        require(bool(tensor.isfinite().all()), f"{stored} of {file}", "NaN or infinity", "finite numbers")
        tensor = tensor.T if len(shape) == 2 and axes != AXES[name] else tensor
        ours[name] = tensor.to(dtype).to(torch.promote_types(dtype, torch.float32)).contiguous()
    return ours


def centre(weights: dict[str, Tensor]) -> None:
    """Let the biases undo that b_dec is subtracted from the input: x W = (x - b_dec) W + b_dec W."""
    shift = weights["b_dec"].double() @ weights["W_enc"].double()
    weights["b_enc"] = (weights["b_enc"] + shift).to(weights["b_enc"])
    if "b_mag" in weights:  # the magnitude path of a gated SAE reads exp(r_mag) x W
        shift = shift * weights["r_mag"].double().exp()
        weights["b_mag"] = (weights["b_mag"] + shift).to(weights["b_mag"])


def batch(
    weights: Mapping[str, Tensor],
    seed: int,
    architecture: str,
    k: int,
    groups: Any = (),
    recorded: Mapping[str, Any] | None = None,
) -> SAEBatch:
    """Return the batch of one with these weights; `recorded` are fields of its configuration that we once wrote."""
    tensors = {name: value[None] for name, value in weights.items()}
    if "threshold" in tensors:
        tensors["threshold"] = tensors["threshold"].clamp(min=0)  # below 0 the ReLU decides
    declared = {"architecture": architecture, "d_sae": tensors["b_enc"].shape[-1], "k": k}
    widths = tuple(groups) if isinstance(groups, list) else groups  # JSON has no tuples
    plain = {"groups": widths, "signed": False, "transcoder": False}
    shared = {name: tensors.pop(name) for name in WEIGHTS}
    return SAEBatch(SAEConfig(**{**(recorded or {}), **declared, **plain}), (seed,), **shared, extra=tensors)
