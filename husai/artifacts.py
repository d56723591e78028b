"""Trained things on disk, addressed by what made them: never stale, never half-written, never trained twice."""

import ast
import hashlib
import json
import os
import shutil
import time
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
    Raises ValueError when a stored file is missing, truncated or altered, and when the artifact itself is while
    $HUSAI_STORE is "read-only", as in an audit.
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
        if not folder.exists():
            closed = os.environ.get("HUSAI_STORE") == "read-only"
            require(not closed, "artifact", f"{kind}/{address}", "a stored one: read-only, nothing is made")
            partial.mkdir(exist_ok=True)
            started = time.perf_counter()
            build(partial)
            made = {"files": _digests(partial), "seconds": round(time.perf_counter() - started, 1)}
            write_json(partial / "manifest.json", {"kind": kind, **key, **made})
            os.replace(partial, folder)
        _opened[f"{kind}/{address}"] = verify(folder)
    return folder


def verify(folder: Path) -> str:
    """Check every file of an artifact against its manifest and return the digest of them all."""
    try:
        wanted: Mapping[str, str] = json.loads((folder / "manifest.json").read_text())["files"]
    except (OSError, ValueError, KeyError):
        raise ValueError(
            f"artifact {folder.name} has no readable manifest.json; delete its folder to build it anew"
        ) from None
    check_files(folder, wanted)
    return fingerprint(wanted)


def check_files(folder: Path, digests: Mapping[str, str]) -> None:
    """Compare files with their digests; ValueError names the first that is missing, truncated or altered."""
    for name, wanted in digests.items():
        path = folder / name
        if not path.is_file() or digest(path) != wanted:
            state = "is corrupt or truncated (its checksum differs)" if path.is_file() else "is missing"
            raise ValueError(f"artifact {folder.name}: {name} {state}; delete its folder to build it anew")


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


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write tensors (safetensors) with JSON metadata, under a temporary name that is then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    text = {"husai": json.dumps(metadata or {}, sort_keys=True)}
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, temporary, text)
    os.replace(temporary, path)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the JSON metadata of a file; ValueError names a missing, truncated or foreign file."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("husai", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"path is {path.name!r}; wanted a complete safetensors file ({error})") from None


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
