"""EleutherAI's sparsify: `cfg.json` and `sae.safetensors`.

z = TopK(ReLU(encoder.weight (x - b_dec) + encoder.bias)), x_hat = z W_dec + b_dec.
"""

from pathlib import Path

from husai.artifacts import read_tensors
from husai.config import require
from husai.formats.checks import LINEAR, batch, count, inside, json_object, same, turned
from husai.saes import SAEBatch

PLAIN = {"activation": "topk", "skip_connection": False, "transcode": False, "signed": False}


def read_sparsify(folder: Path, position: int = 0) -> SAEBatch:
    """Return the SAE of a sparsify folder; it records no seed, so that is `position`.

    Raises ValueError naming what is missing or contradictory, and for GroupMax, skip connections and transcoders.
    """
    cfg = json_object(folder / "cfg.json")
    for name, wanted in PLAIN.items():
        came = cfg.get(name, wanted)
        require(came == wanted, f"{name} of cfg.json", came, f"{wanted!r}: only plain TopK has a form here")
    sizes = {"d_model": count(cfg, "d_in")}
    expanded = not cfg.get("num_latents")  # 0 stands for d_in * expansion_factor
    sizes["d_sae"] = sizes["d_model"] * count(cfg, "expansion_factor") if expanded else count(cfg, "num_latents")
    k = count(cfg, "k")
    tensors, _ = read_tensors(inside(folder, "sae.safetensors"))
    weights = turned(tensors, {**LINEAR, **same("W_dec", "b_dec")}, sizes, "sae.safetensors")
    return batch(weights, position, "topk", k)
