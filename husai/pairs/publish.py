"""The SAEs of the cells as sae_lens folders with a model card each, and whether the real sae_lens computes the same."""

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from husai import formats
from husai.artifacts import digest
from husai.config import require
from husai.pairs import cards, cells
from husai.pairs.cells import Cell
from husai.provenance import ROOT
from husai.study import Study

PYTHON = ROOT / ".venv-interop" / "bin" / "python"
"""Interpreter of the environment that holds the real sae_lens (`make interop`)."""
SCRIPT = """
import sys
import torch
from safetensors.torch import load_file, save_file
from sae_lens import SAE
out = {}
with torch.no_grad():
    for folder, x in load_file(sys.argv[1]).items():
        sae = SAE.load_from_disk(folder)
        z = sae.encode(x)
        out["z " + folder], out["y " + folder] = z.contiguous(), sae.decode(z).contiguous()
save_file(out, sys.argv[2])
"""
USE = """from husai import formats
sae = formats.read("{name}")   # or sae_lens.SAE.load_from_disk("{name}")
latents = sae.encode(residuals)   # [1, rows, d_sae]; residuals [rows, d_model] at {hook}"""
LIMITS = (
    "A small model of synthetic text, trained to study whether findings come back; its features mean nothing beyond "
    "it. Another seed of the SAE, or of the model, gives other features: see the book before naming one."
)


def write(
    root: Path, cell: Cell, studies: Sequence[Study], model_seeds: Sequence[int],
    measured: Mapping[str, np.ndarray], profile: str,
) -> dict[Path, Tensor]:  # fmt: skip
    """Write every SAE of a cell as `root/model_<m>/seed_<s>/<published name>/`: weights, cfg.json and README.md.

    Returns {folder: held-out rows to try it on}. One (model, seed) folder has the layout of the published repository.
    """
    found, states = {}, cells.passed(measured)
    for m, (one, model_seed) in enumerate(zip(studies, model_seeds, strict=True)):
        for s, seed in enumerate(one.seeds):
            folder = root / f"model_{model_seed}" / f"seed_{seed}" / cells.name(cell)
            at = cells.hook(cell[1])
            about = {"model_name": f"husai-matched-{cell[0]}", "hook_name": at, "model_seed": model_seed}
            formats.write_sae_lens(one.saes[s], folder, {**about, "hook_layer": cell[1], "profile": profile})
            shape: dict[str, Any] = {"seed": seed, "d_sae": one.config.sae.d_sae, "k": one.config.sae.active}
            shape |= {"steps": one.config.steps, "profile": profile}
            shape["weights (sha256)"] = digest(folder / "sae_weights.safetensors")
            numbers = {key: float(table[m, s]) for key, table in measured.items()}
            numbers["held_out_tokens"] = len(one.activations.held_out)
            gates = {key: bool(table[m, s]) for key, table in states.items()}
            use = USE.format(name=cells.name(cell), hook=at)
            cards.write(folder, cards.card(cells.name(cell), about | shape, numbers, gates, use=use, limits=LIMITS))
            found[folder] = one.activations.held_out[:256].contiguous()
    return found


class RoundTrip(NamedTuple):
    """What the real sae_lens makes of our folders."""

    state: str
    """"run", or "not run" and why."""
    folders: int = 0
    """Folders that it read."""
    equal: int = 0
    """Folders with the same latents and the same output, to the bit."""
    latents: float = 0.0
    """Largest difference of a latent."""
    outputs: float = 0.0
    """Largest difference of an output."""


def round_trip(inputs: Mapping[Path, Tensor], wanted: bool = True, python: Path = PYTHON) -> RoundTrip:
    """Load folders with `sae_lens.SAE.load_from_disk`, in its own environment, and compare what they compute with ours.

    `inputs` is {folder: rows}. Without that environment, or if it is not `wanted`, the state says so. Raises ValueError
    with the last line of what sae_lens said when it refuses a folder.
    """
    require(len(inputs) > 0, "inputs", inputs, "at least one folder")
    if not wanted:
        return RoundTrip("not run: this profile leaves it out")
    if not python.exists():
        return RoundTrip("not run: the environment with sae_lens is not installed (make interop)")
    with tempfile.TemporaryDirectory() as place:
        given, back = Path(place) / "in.safetensors", Path(place) / "out.safetensors"
        save_file({str(folder): x for folder, x in inputs.items()}, given)
        alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        alone |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
        command: list[Any] = [python, "-c", SCRIPT, given, back]
        done = subprocess.run(command, env=alone, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise ValueError(f"inputs are {len(inputs)} folders; wanted ones that sae_lens reads: {said}")
        theirs = load_file(back)
    same, worst = 0, [0.0, 0.0]
    for folder, x in inputs.items():
        ours = formats.read(folder)
        z = ours.encode(x)
        sides = [(z[0], theirs[f"z {folder}"]), (ours.decode(z)[0], theirs[f"y {folder}"])]
        same += all(torch.equal(a, b) for a, b in sides)
        worst = [max(top, float((a - b).abs().max())) for top, (a, b) in zip(worst, sides, strict=True)]
    return RoundTrip("run", len(inputs), same, *worst)
