"""SAEs in other libraries' files: sae_lens both ways, sparsify and dictionary_learning read, one short file each.

`hf://owner/repo@revision/folder` names a folder on the Hugging Face Hub (`hub`).

A foreign layout is turned once, here, as its format declares it and never by a tensor's shape. What is read computes
what the stored tensors compute in the library's class, on raw activations: the same latents and reconstruction. Decoder
rows therefore stay as stored: dividing them by their norms rescales the latents and, under TopK, changes which are
selected. dictionary_learning's own loader does so to its `AutoEncoder` (ReLU): its latents are ours times the norms of
their rows, its reconstruction is ours. Only our own training promises unit rows, and not with `unit_decoder` off
(metrics normalise them). Half precision is widened to float32.
"""

from pathlib import Path

from husai import saes
from husai.config import require
from husai.formats.checks import inside, json_object
from husai.formats.dictionary_learning import read_dictionary_learning
from husai.formats.hub import PREFIX, fetch
from husai.formats.sae_lens import metadata, read_sae_lens, write_sae_lens
from husai.formats.sparsify import read_sparsify
from husai.saes import SAEBatch

__all__ = [
    "metadata", "read", "read_dictionary_learning", "read_sae_lens", "read_sparsify", "require_width", "where",
    "write_sae_lens",
]  # fmt: skip


def read(*folders: Path | str) -> SAEBatch:
    """Return the SAEs of folders, one seed after another, each in the format that its files declare.

    A folder is a local path or `hf://owner/repo@revision/folder` (the revision is optional; `hub.fetch`). sae_lens,
    sparsify, dictionary_learning, or our own `saes.save`. A seed that a folder does not record is its position in
    `folders`. Raises ValueError naming what is missing, unknown or not alike.
    """
    require(len(folders) > 0, "folders", folders, "at least one folder")
    parts = [_read_one(folder, position) for position, folder in enumerate(folders)]
    first = parts[0]
    for folder, part in zip(folders, parts, strict=True):
        came, wanted = ((p.config, tuple(p.W_enc.shape[1:])) for p in (part, first))
        require(came == wanted, f"folder {Path(folder).name}", came, f"the shape of the first: {wanted}")
    return saes.stack(parts)


def where(folder: Path | str) -> Path:
    """Return the local folder of a path or of an hf:// address (`hub.fetch`); ValueError for any other URL."""
    text = str(folder)
    if text.startswith(PREFIX):
        return fetch(text)
    require("://" not in text, "folder", text, "a local folder, or hf://owner/repo/folder")
    return Path(folder)


def require_width(sae: SAEBatch, d_model: int, activations: str = "the activations") -> None:
    """Raise ValueError naming both widths when SAEs cannot read activations of d_model dimensions."""
    came = sae.W_enc.shape[1]
    require(came == d_model, "d_model of the SAEs", came, f"{d_model}, the width of {activations}")


def _read_one(folder: Path | str, position: int) -> SAEBatch:
    path = where(folder)
    if inside(path, "sae_weights.safetensors").exists():
        own = "seeds" in json_object(path / "cfg.json")
        return _read_own(path) if own else read_sae_lens(path, position)
    if inside(path, "sae.safetensors").exists():
        return read_sparsify(path, position)
    known = "sae_weights.safetensors (sae_lens, husai), sae.safetensors (sparsify) or ae.pt (dictionary_learning)"
    require((path / "ae.pt").exists(), "folder", path.name, f"a folder with {known}")
    return read_dictionary_learning(path, position)


def _read_own(folder: Path) -> SAEBatch:
    seeds = json_object(folder / "cfg.json")["seeds"]
    listed = isinstance(seeds, list) and len(seeds) > 0 and all(type(seed) is int for seed in seeds)
    require(listed, f"seeds of cfg.json in {folder.name}", seeds, "a list of integers")
    try:
        return saes.load(folder)
    except (ArithmeticError, LookupError, RuntimeError, TypeError) as error:  # what only a foreign hand writes
        wanted = f"what saes.save writes ({type(error).__name__}: {error})"
        raise ValueError(f"folder is {folder.name!r}; wanted {wanted}") from None
