"""SAE folders on the Hugging Face Hub: `hf://owner/repo/folder`, `hf://owner/repo@revision/folder`.

Only a folder's configuration and its safetensors are asked for, never a pickle. What the local cache holds is taken as
it is, without a question to the hub: name a commit as the revision to say which weights are meant.
"""

import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

from husai.config import require
from husai.formats.checks import json_object

PREFIX = "hf://"
WEIGHTS = ("sae_weights.safetensors", "sae.safetensors")
SCALER = "activation_scaler.json"


class Address(NamedTuple):
    """A folder of a repository at a revision."""

    repository: str
    """owner/name."""
    revision: str
    """A branch, a tag or a commit; "main" where none was given."""
    folder: str
    """The path inside; empty for the top."""

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}@{self.revision}/{self.folder}".rstrip("/")


def address(text: str) -> Address:
    """Return the parts of `hf://owner/repo[@revision][/folder]`; a slash in a revision is written %2F.

    ValueError: another form, or a folder that leads out of the repository.
    """
    wanted = "hf://owner/repo/folder, or hf://owner/repo@revision/folder"
    found = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([^/@]+))?(?:/(.*))?", text)
    if found is None:
        raise ValueError(f"folder is {text!r}; wanted {wanted}")
    folder, revision = (found[3] or "").rstrip("/"), unquote(found[2] or "main")
    for path in (found[1], revision, folder or "main"):
        plain = all(part not in ("", ".", "..") for part in path.split("/")) and "\\" not in path
        require(plain and path.isprintable(), "folder", text, wanted)
    return Address(found[1], revision, folder)


def fetch(text: str) -> Path:
    """Return the local folder of a hub address, downloading the files that the cache lacks.

    All files are of one commit, that of the configuration. Raises ValueError that says what is wrong: no such
    repository, revision, folder or file, or, without a network, what to download and where to put it.
    """
    from huggingface_hub import errors, utils

    place = address(text)
    try:
        utils.validate_repo_id(place.repository)
    except errors.HFValidationError as error:
        raise ValueError(f"folder is {text!r}; wanted a name that the hub allows ({error})") from None
    cfg = _file(place, "cfg.json")
    if cfg is None:
        raise ValueError(f"folder is {text!r}; wanted a folder with cfg.json, and it has none")
    place = place._replace(revision=_commit(cfg, place))
    cached = [name for name in WEIGHTS if _cached(place, name) is not None]
    if not any(_file(place, name) for name in cached or WEIGHTS):
        raise ValueError(f"folder is {text!r}; wanted a folder with {' or '.join(WEIGHTS)}: a pickle is never read")
    if json_object(cfg).get("normalize_activations") in (True, "expected_average_only_in"):
        _file(place, SCALER)
    return cfg.parent


def _path(place: Address, name: str) -> str:
    return str(PurePosixPath(place.folder) / name)


def _commit(cfg: Path, place: Address) -> str:
    """Return the commit whose snapshot a file of the cache lies in, or the revision if it lies elsewhere."""
    parts = cfg.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else place.revision


def _cached(place: Address, name: str) -> Path | None:
    """Return a file of the local cache."""
    from huggingface_hub import constants, try_to_load_from_cache

    found = try_to_load_from_cache(place.repository, _path(place, name), constants.HF_HUB_CACHE, place.revision)
    return Path(found) if isinstance(found, str) else None


def _file(place: Address, name: str) -> Path | None:
    """Return a file, from the cache or downloaded into it; None if the repository has no such file."""
    from huggingface_hub import constants, errors, hf_hub_download

    if (found := _cached(place, name)) is not None:
        return found
    try:
        path = hf_hub_download(
            place.repository, _path(place, name), revision=place.revision, cache_dir=constants.HF_HUB_CACHE
        )
    except errors.RevisionNotFoundError:
        wanted = f"a branch, a tag or a commit of {place.repository}"
        raise ValueError(f"revision is {place.revision!r}; wanted {wanted}") from None
    except errors.RepositoryNotFoundError:  # also where it is gated
        wanted = "a public repository, or one that this machine's token may read"
        raise ValueError(f"repository is {place.repository!r}; wanted {wanted}") from None
    except errors.LocalEntryNotFoundError:
        raise ValueError(_missing(place, name)) from None
    except errors.EntryNotFoundError:
        return None
    except OSError as error:  # the hub answers, but not with the file
        raise ValueError(f"{_missing(place, name)} ({type(error).__name__})") from None
    return Path(path)


def _missing(place: Address, name: str) -> str:
    """Return what a reader has to do who has no network."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE) / f"models--{place.repository.replace('/', '--')}"
    here = sorted({p.name for kind in ("refs", "snapshots") for p in (cache / kind).glob("*")})
    url = f"https://huggingface.co/{place.repository}/tree/{place.revision}/{place.folder}".rstrip("/")
    pattern = f"{place.folder}/*" if place.folder else "*"
    known = f"; revisions of it that lie here: {', '.join(here)}" if here else ""
    return (
        f"{name} of {place} is not on this machine, and the hub cannot be reached{known}. Either download cfg.json and "
        f"{WEIGHTS[0]} from {url} into a folder and pass that folder's path; or, on a machine with a network, run "
        f"`hf download {place.repository} --revision {place.revision} --include '{pattern}'` and copy its cache folder "
        f"{cache.name} into {cache.parent}"
    )
