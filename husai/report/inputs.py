"""SAEs as they lie in their folders: what they say of themselves, and decoder rows read some at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from husai import formats
from husai.artifacts import digest
from husai.config import require
from husai.formats.checks import count, json_object
from husai.formats.dictionary_learning import KINDS as DICTIONARY_LEARNING
from husai.formats.hub import PREFIX
from husai.formats.sae_lens import DTYPES
from husai.formats.sae_lens import KINDS as SAE_LENS
from husai.formats.sparsify import PLAIN
from husai.saes import SAEBatch

Reader = Callable[[int, int], Tensor]


class Declared(NamedTuple):
    """What a folder's configuration says, and how to read the rows of one of its decoders."""

    format: str
    architecture: str
    d_sae: int
    d_model: int
    k: int | None
    seeds: list[int | None]
    """One an SAE: folders of ours hold several."""
    weights: Path
    reader: Callable[[int], Reader]


@dataclass(frozen=True)
class Input:
    """One SAE of the report; nothing of its weights is in memory."""

    name: str
    folder: Path
    position: int
    """Which SAE of its folder."""
    declared: Declared
    sha256: str
    reader: Reader

    @property
    def d_sae(self) -> int:
        return self.declared.d_sae

    def rows(self, start: int, stop: int) -> Float[Tensor, "rows d_model"]:
        """Return decoder rows start..stop as stored, in float32; ValueError where they are not finite."""
        rows = self.reader(start, stop).float()
        fits = rows.shape == (min(stop, self.d_sae) - start, self.declared.d_model) and bool(rows.isfinite().all())
        require(fits, f"decoder of {self.name}", f"{tuple(rows.shape)} or not finite", "finite rows as declared")
        return rows

    def sae(self) -> SAEBatch:
        """Return the whole SAE, encoder and all, as `formats.read` does."""
        try:
            return formats.read(self.folder)[self.position]
        except ValueError as error:
            raise ValueError(f"folder {self.name}: {error}") from None

    def entry(self, index: int) -> dict[str, Any]:
        """Return its entry in the report."""
        said = self.declared
        own = {"index": index, "name": self.name, "sha256": self.sha256, "seed": said.seeds[self.position]}
        shape = {"format": said.format, "architecture": said.architecture, "k": said.k}
        return own | shape | {"d_sae": said.d_sae, "d_model": said.d_model}


def open_inputs(folders: Sequence[Path | str]) -> list[Input]:
    """Return the SAEs of folders, in their order; a folder of ours counts as one SAE a seed.

    ValueError, naming the folder: nothing readable in it, a transcoder, no decoder, one SAE in all, another d_model.
    """
    found: list[Input] = []
    for name, folder in zip(_names(folders), folders, strict=True):
        try:
            path = formats.where(folder)
            said = _declared(path)
            several = len(said.seeds) > 1
            for i in range(len(said.seeds)):
                own = f"{name}[{i}]" if several else name
                found.append(Input(own, path, i, said, digest(said.weights), said.reader(i)))
        except (ValueError, OSError, SafetensorError) as error:
            raise ValueError(f"folder {name}: {error}") from None
    require(len(found) >= 2, "folders", [one.name for one in found], "at least two SAEs")
    first = found[0]
    for one in found:
        came, wanted = one.declared.d_model, first.declared.d_model
        require(came == wanted, f"d_model of folder {one.name}", came, f"{wanted}, as {first.name} has it")
    return found


def duplicates(inputs: Sequence[Input]) -> list[list[int]]:
    """Return the pairs of positions whose weights are the same bytes."""
    keys = [(one.sha256, one.position) for one in inputs]
    return [[i, j] for j in range(len(keys)) for i in range(j) if keys[i] == keys[j]]


def _names(folders: Sequence[Path | str]) -> list[str]:
    """Return the shortest ends of the paths that tell the folders apart; hub addresses whole."""
    parts = [(str(f),) if str(f).startswith(PREFIX) else Path(f).absolute().parts for f in folders]
    names = ["/".join(p[-1:]) for p in parts]
    for length in range(2, max(map(len, parts), default=0) + 1):
        if len(set(names)) == len(set(parts)):
            break
        names = ["/".join(p[-length:]) for p in parts]
    return names


def _declared(path: Path) -> Declared:
    if (path / "sae_weights.safetensors").exists():
        cfg = json_object(path / "cfg.json")
        return _husai(path, cfg) if "seeds" in cfg else _sae_lens(path, cfg)
    if (path / "sae.safetensors").exists():
        return _sparsify(path, json_object(path / "cfg.json"))
    known = "sae_weights.safetensors (sae_lens, husai), sae.safetensors (sparsify) or ae.pt (dictionary_learning)"
    require((path / "ae.pt").exists(), "folder", path.name, f"a folder with {known}")
    return _dictionary_learning(path, json_object(path / "config.json").get("trainer"))


def _husai(path: Path, cfg: dict[str, Any]) -> Declared:
    require(not cfg.get("transcoder"), "transcoder of cfg.json", True, "an autoencoder")
    listed = isinstance(cfg["seeds"], list) and all(type(seed) is int for seed in cfg["seeds"]) and cfg["seeds"] != []
    require(listed, "seeds of cfg.json", cfg["seeds"], "a list of integers")
    weights = path / "sae_weights.safetensors"
    stack = _Stored(weights, "W_dec")
    shape = stack.shape
    fits = len(shape) == 3 and shape[:2] == [len(cfg["seeds"]), count(cfg, "d_sae")]
    require(fits, "W_dec of sae_weights.safetensors", shape, "[seeds, d_sae, d_model] as cfg.json declares")
    k = cfg.get("k") if isinstance(cfg.get("k"), int) else None

    def reader(index: int) -> Reader:
        return lambda start, stop: stack.slice[index : index + 1, start:stop][0]

    return Declared("husai", str(cfg.get("architecture")), shape[1], shape[2], k, list(cfg["seeds"]), weights, reader)


def _sae_lens(path: Path, cfg: dict[str, Any]) -> Declared:
    cfg = {**(cfg.get("activation_fn_kwargs") or {}), **cfg}  # where k lay before version 6
    topk = "topk" in (cfg.get("activation_fn_str"), cfg.get("activation_fn"))
    name = "topk" if topk else cfg.get("architecture", "standard")
    require(name in SAE_LENS, "architecture of cfg.json", name, f"an autoencoder: one of {', '.join(SAE_LENS)}")
    dtype = str(cfg.get("dtype", "float32")).removeprefix("torch.")
    require(dtype in DTYPES, "dtype of cfg.json", dtype, f"one of {', '.join(DTYPES)}")
    weights = path / "sae_weights.safetensors"
    stored, seed = _Stored(weights, "W_dec"), formats.metadata(path).get("seed")
    stored.expect([count(cfg, "d_sae"), count(cfg, "d_in")])
    return Declared(
        "sae_lens", SAE_LENS[name].architecture, stored.shape[0], stored.shape[1],
        cfg["k"] if isinstance(cfg.get("k"), int) else None,
        [seed if isinstance(seed, int) else None], weights,
        lambda _: lambda start, stop: stored.slice[start:stop].to(DTYPES[dtype]),
    )  # fmt: skip


def _sparsify(path: Path, cfg: dict[str, Any]) -> Declared:
    for entry, wanted in PLAIN.items():
        came = cfg.get(entry, wanted)
        require(came == wanted, f"{entry} of cfg.json", came, f"{wanted!r}: an autoencoder with plain TopK")
    d_in = count(cfg, "d_in")
    d_sae = count(cfg, "num_latents") if cfg.get("num_latents") else d_in * count(cfg, "expansion_factor")
    stored = _Stored(path / "sae.safetensors", "W_dec")
    stored.expect([d_sae, d_in])
    return Declared(
        "sparsify", "topk", d_sae, d_in, count(cfg, "k"), [None], stored.path,
        lambda _: lambda start, stop: stored.slice[start:stop],
    )  # fmt: skip


def _dictionary_learning(path: Path, cfg: Any) -> Declared:
    if not isinstance(cfg, dict):
        raise ValueError(f"trainer of config.json is {cfg!r}; wanted the configuration of the SAE's trainer")
    name = cfg.get("dict_class")
    require(name in DICTIONARY_LEARNING, "dict_class of config.json", name, f"one of {', '.join(DICTIONARY_LEARNING)}")
    kind, weights = DICTIONARY_LEARNING[str(name)], path / "ae.pt"
    key, axes = next((key, axes) for key, (ours, axes) in kind.layout.items() if ours == "W_dec")
    try:
        tensors = torch.load(weights, map_location="cpu", weights_only=True, mmap=True)  # pages come when rows are read
    except Exception as error:  # a broken or malicious pickle may raise anything
        raise ValueError(f"path is 'ae.pt'; wanted a PyTorch file of tensors ({type(error).__name__})") from None
    held = isinstance(tensors, dict) and isinstance(tensors.get(key), Tensor)
    require(held, "ae.pt", f"without {key}", "a decoder")
    sizes = {"d_sae": count(cfg, "dict_size"), "d_model": count(cfg, "activation_dim")}
    decoder = tensors[key].T if axes == "d_model d_sae" else tensors[key]
    require(tuple(decoder.shape) == tuple(sizes.values()), f"{key} of ae.pt", tuple(decoder.shape), f"{sizes}")
    k, seed = (cfg[entry] if isinstance(cfg.get(entry), int) else None for entry in ("k", "seed"))
    return Declared(
        "dictionary_learning", kind.architecture, sizes["d_sae"], sizes["d_model"], k, [seed], weights,
        lambda _: lambda start, stop: decoder[start:stop],
    )  # fmt: skip


class _Stored:
    """A tensor of a safetensors file that stays on disk until rows of it are asked for."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        try:
            self._file = safe_open(path, framework="pt")
            held = name in self._file.keys()  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ValueError(f"path is {path.name!r}; wanted a complete safetensors file ({error})") from None
        require(held, path.name, f"without {name}", "a decoder")
        self.slice = self._file.get_slice(name)
        self.shape = list(self.slice.get_shape())

    def expect(self, shape: list[int]) -> None:
        """Refuse another shape than the configuration declares."""
        require(self.shape == shape, f"W_dec of {self.path.name}", self.shape, f"{shape}, as cfg.json declares")
