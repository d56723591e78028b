"""SAE folders with a known answer: how many features they share, in the files of every library."""

import json
from pathlib import Path

import torch

from husai import formats
from husai.artifacts import write_tensors
from husai.config import SAEConfig
from husai.saes import SAEBatch

D, SHARED = 24, 20


def one(seed: int, n: int = 40, d: int = D, shared: int = SHARED, k: int = 4) -> SAEBatch:
    """Return a TopK SAE of n unit rows, `shared` of which all seeds have, but for some noise; four others are dead."""
    core = torch.randn(shared, d, generator=torch.Generator().manual_seed(99))
    draw = torch.Generator().manual_seed(seed)
    rows = torch.cat([core + 0.05 * torch.randn(shared, d, generator=draw), torch.randn(n - shared, d, generator=draw)])
    order = torch.randperm(n, generator=draw)
    rows = torch.nn.functional.normalize(rows, dim=1)[order]
    b_enc = torch.where(order >= n - 4, -1e3, 0.0)[None]
    return SAEBatch(SAEConfig("topk", n, k), (seed,), rows.T[None].contiguous(), b_enc, rows[None], torch.zeros(1, d))


def folder(root: Path, seed: int, **sizes: int) -> Path:
    """Write `one` as a sae_lens folder."""
    formats.write_sae_lens(one(seed, **sizes), root / f"sae_{seed}")
    return root / f"sae_{seed}"


def as_sparsify(sae: SAEBatch, root: Path) -> Path:
    """Write an SAE as sparsify does."""
    tensors = {
        "encoder.weight": sae.W_enc[0].T,
        "encoder.bias": sae.b_enc[0],
        "W_dec": sae.W_dec[0],
        "b_dec": sae.b_dec[0],
    }
    write_tensors(root / "sae.safetensors", tensors)
    cfg = {"num_latents": sae.config.d_sae, "k": sae.config.active, "d_in": sae.W_enc.shape[1]}
    (root / "cfg.json").write_text(json.dumps(cfg))
    return root


def as_dictionary_learning(sae: SAEBatch, root: Path) -> Path:
    """Write an SAE as dictionary_learning does, its decoder transposed."""
    root.mkdir(parents=True, exist_ok=True)
    state = {
        "encoder.weight": sae.W_enc[0].T.contiguous(), "encoder.bias": sae.b_enc[0],
        "decoder.weight": sae.W_dec[0].T.contiguous(), "b_dec": sae.b_dec[0], "k": torch.tensor(sae.config.active),
    }  # fmt: skip
    torch.save(state, root / "ae.pt")
    sizes = {"activation_dim": sae.W_enc.shape[1], "dict_size": sae.config.d_sae, "k": sae.config.active}
    cfg = {"trainer": {"dict_class": "AutoEncoderTopK", "seed": sae.seeds[0], **sizes}}
    (root / "config.json").write_text(json.dumps(cfg))
    return root


def activations(root: Path, rows: int = 1500, d: int = D, name: str = "x") -> Path:
    """Write sparse sums of the shared features, with some noise."""
    core = torch.randn(SHARED, d, generator=torch.Generator().manual_seed(99))
    draw = torch.Generator().manual_seed(5)
    codes = torch.rand(rows, SHARED, generator=draw) * (torch.rand(rows, SHARED, generator=draw) < 0.15)
    x = codes @ core + 0.05 * torch.randn(rows, d, generator=draw)
    write_tensors(root / "acts.safetensors", {name: x})
    return root / "acts.safetensors"
