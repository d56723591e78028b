"""Trained things on disk, addressed by what made them: never stale, never half-written, never trained twice."""

import ast
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from husai.config import canonical, fingerprint, require
from husai.evidence import ROOT, write_json

_opened: dict[str, str] = {}


def root() -> Path:
    """Return the store: $HUSAI_ARTIFACTS, else `artifacts/` in the repository."""
    return Path(os.environ.get("HUSAI_ARTIFACTS") or ROOT / "artifacts")


def opened() -> dict[str, str]:
    """Return `{kind/hash: digest of its files}` of every artifact that this process has built or read."""
    return dict(_opened)


def source_hash(modules: Sequence[str]) -> str:
    """Return a hash over the code of the named `husai` modules: layout, comments and docstrings do not count."""
    return fingerprint([_code(module) for module in modules])


@cache
def _code(module: str) -> str:
    """Return a module's code without its docstrings; read once a process, as it is imported once."""
    origin = getattr(find_spec(f"husai.{module}"), "origin", None)
    if origin is None:
        raise ValueError(f"modules names {module!r}; wanted a module of husai")
    return ast.unparse(_without_docstrings(ast.parse(Path(origin).read_text())))


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            texts = [s for s in body if isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)]
            node.body = [s for s in body if s not in texts] or [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def stored(
    kind: str,
    config: Any,
    build: Callable[[Path], None],
    *,
    modules: Sequence[str],
    inputs: Sequence[str] = (),
) -> Path:
    """Return the folder of an artifact, building it first when the store does not have it.

    The address hashes the configuration, the source of the modules that compute it, its inputs' hashes, the thread
    count and the versions of torch and numba. `build(folder)` works in `<hash>.partial`, which survives a kill so that
    a builder may resume; it is renamed when complete, with the seconds that the last attempt took. A file lock keeps
    two processes from building the same thing.
    What is stored is checked first: where a file is missing, truncated or altered, the artifact is set aside as
    `<hash>.damaged` with a warning and built anew. Raises ValueError instead, and when there is no such artifact,
    while $HUSAI_STORE is "read-only", as in an audit.
    """
    key = {
        "config": json.loads(canonical(config)),
        "modules": source_hash(modules),
        "inputs": list(inputs),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numba": version("numba"),
    }
    address = fingerprint([kind, key])
    folder, partial = root() / kind / address, root() / kind / f"{address}.partial"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{address}.lock"):
        found = _sound(folder)
        if found is None:
            closed = os.environ.get("HUSAI_STORE") == "read-only"
            require(not closed, "artifact", f"{kind}/{address}", "a stored one: read-only, nothing is made")
            started = time.perf_counter()
            _built(partial, build)
            made = {"files": _digests(partial), "seconds": round(time.perf_counter() - started, 1)}
            write_json(partial / "manifest.json", {"kind": kind, **key, **made})
            os.replace(partial, folder)
            found = verify(folder)
        _opened[f"{kind}/{address}"] = found
    return folder


def _sound(folder: Path) -> str | None:
    """Return the digest of a stored artifact; None where there is none, or a damaged one that is now set aside."""
    if not folder.exists():
        return None
    try:
        return verify(folder)
    except ValueError as error:
        if os.environ.get("HUSAI_STORE") == "read-only":
            raise
        warnings.warn(f"{error}: it is set aside and built anew", stacklevel=3)
    aside = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(folder, aside)
    return None


def _built(partial: Path, build: Callable[[Path], None]) -> None:
    """Build in a folder, from what an interrupted build left there, or from nothing where that cannot be read."""
    partial.mkdir(exist_ok=True)
    for path in filter(Path.is_file, partial.rglob(".*")):  # temporary names of writers that were killed
        path.unlink()
    resumes = any(partial.iterdir())
    try:
        build(partial)
    except ValueError as error:
        if not resumes:
            raise
        warnings.warn(f"artifact {partial.name} is begun anew: what was left of it fails with {error}", stacklevel=3)
        clear(partial)
        build(partial)


def verify(folder: Path) -> str:
    """Check every file of an artifact against its manifest, that against its address; return the digest of them all."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        wanted: Mapping[str, str] = dict(manifest.pop("files"))
        manifest.pop("seconds", None)
        whole = fingerprint([manifest.pop("kind"), manifest]) == folder.name
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise ValueError(f"artifact {folder.name} has no readable manifest.json of its own")
    check_files(folder, wanted)
    return fingerprint(wanted)


def check_files(folder: Path, digests: Mapping[str, str]) -> None:
    """Compare files with their digests; ValueError names the first that is missing, truncated or altered."""
    for name, wanted in digests.items():
        path = folder / name
        if not path.is_file() or digest(path) != wanted:
            state = "is corrupt or truncated (its checksum differs)" if path.is_file() else "is missing"
            raise ValueError(f"artifact {folder.name}: {name} {state}")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digests(folder: Path) -> dict[str, str]:
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "manifest.json"]
    return {p.relative_to(folder).as_posix(): digest(p) for p in files}


def clear(folder: Path) -> None:
    """Remove what an earlier, killed build left in a partial folder."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write tensors (safetensors) with JSON metadata, under a temporary name that is then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    text = {"husai": json.dumps(metadata or {}, sort_keys=True)}
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, temporary, text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # what a full disk leaves


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the JSON metadata of a file; ValueError names a missing, truncated or foreign file."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("husai", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"path is {path.name!r}; wanted a complete safetensors file ({error})") from None
    require(isinstance(metadata, dict), f"metadata of {path.name}", metadata, "a JSON object")
    return tensors, metadata


@runtime_checkable
class Rows(Protocol):
    """What a tensor and the shards of `husai.shards` have in common."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def shape(self) -> torch.Size: ...

    def split(self, size: int, /) -> Iterable[Tensor]:
        """Cut into blocks along the first dimension."""


def content_hash(*arrays: Rows) -> str:
    """Return a hash of arrays' shapes, types and bytes, the address of an input: a tensor's and its shards' agree."""
    content = hashlib.sha256()
    for array in arrays:
        content.update(f"{array.dtype}{tuple(array.shape)}".encode())
        for block in array.split(4096):
            content.update(block.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return content.hexdigest()[:12]
