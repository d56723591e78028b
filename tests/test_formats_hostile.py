"""A folder that was made to do harm is refused, with the file and the reason, before it can."""

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from husai import formats, saes
from husai.config import SAEConfig
from husai.formats import hub
from husai.saes import SAEBatch

D, F, K = 6, 16, 3
KINDS = ("own", "sae_lens", "sparsify", "dictionary_learning")
CONFIGURATION = dict.fromkeys(KINDS, "cfg.json") | {"dictionary_learning": "config.json"}
WEIGHTS = dict.fromkeys(KINDS, "sae_weights.safetensors") | {"sparsify": "sae.safetensors"}


def valid(folder: Path, kind: str) -> Path:
    """Write a folder that is read; return it."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (1, D, F), "b_enc": (1, F), "W_dec": (1, F, D), "b_dec": (1, D)}
    one = SAEBatch(SAEConfig("topk", F, K), (5,), **{n: torch.randn(s, generator=draw) for n, s in shapes.items()})
    folder.mkdir(exist_ok=True)
    linear = {"encoder.weight": one.W_enc[0].T.contiguous(), "encoder.bias": one.b_enc[0]}
    if kind == "own":
        saes.save(one, folder)
    elif kind == "sae_lens":
        formats.write_sae_lens(one, folder)
    elif kind == "sparsify":
        save_file({**linear, "W_dec": one.W_dec[0], "b_dec": one.b_dec[0]}, folder / "sae.safetensors")
        cfg = {"activation": "topk", "expansion_factor": 32, "num_latents": F, "k": K, "d_in": D}
        (folder / "cfg.json").write_text(json.dumps(cfg))
    else:
        torch.save({**linear, "decoder.weight": one.W_dec[0].T, "b_dec": one.b_dec[0]}, folder / "ae.pt")
        cfg = {"dict_class": "AutoEncoderTopK", "activation_dim": D, "dict_size": F, "seed": 7, "k": K}
        (folder / "config.json").write_text(json.dumps({"trainer": cfg}))
    formats.read(folder)
    return folder


def entries(folder: Path, kind: str) -> dict:
    """Return the entries of a configuration, where its format keeps them."""
    cfg = json.loads((folder / CONFIGURATION[kind]).read_text())
    return cfg["trainer"] if kind == "dictionary_learning" else cfg


def rewrite(folder: Path, kind: str, changed: dict) -> None:
    """Write entries back."""
    whole = {"trainer": changed} if kind == "dictionary_learning" else changed
    (folder / CONFIGURATION[kind]).write_text(json.dumps(whole))


def refused(folder: Path | str, *words: str) -> None:
    """Assert that the folder is refused by a ValueError with these words."""
    with pytest.raises(ValueError) as error:
        formats.read(folder)
    assert all(word in str(error.value) for word in words), error.value


TEXTS = {
    "nested": (b'{"d_sae": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "nested too deeply"),
    "twice": (b'{"d_sae": 16, "d_sae": 8}', "a name twice"),
    "twice inside": (b'{"metadata": {"a": 1, "a": 2}}', "a name twice"),
    "not UTF-8": (b'{"architecture": "\xff"}', "can't decode"),
    "NaN": (b'{"d_sae": NaN}', "a number is 'NaN'"),
    "infinity": (b'{"metadata": [-Infinity]}', "a number is '-Infinity'"),
    "beyond floats": (b'{"d_sae": 1e999}', "a number is '1e999'"),
    "a number of 5,000 digits": (b'{"d_sae": ' + b"1" * 5_000 + b"}", "digits"),
    "a list": (b"[1]", "a JSON object"),
    "nothing": (b"", "readable"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEXTS)
def test_a_configuration_that_is_no_strict_json_object_is_refused(tmp_path, kind, name):
    folder, (text, reason) = valid(tmp_path / "sae", kind), TEXTS[name]
    (folder / CONFIGURATION[kind]).write_bytes(text)
    refused(folder, CONFIGURATION[kind], reason)


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_of_a_gigabyte_is_not_opened(tmp_path, kind, monkeypatch):
    folder = valid(tmp_path / "sae", kind)
    os.truncate(folder / CONFIGURATION[kind], 2**30)  # a hole: it takes no room
    monkeypatch.setattr(Path, "read_text", None)
    refused(folder, CONFIGURATION[kind], f"{2**30} bytes")


WRONG = [None, True, "16", 16.5, -1, [16], {"a": 1}, 10**12, 1e300, 10**400]
SIZES = {
    "own": ("d_sae", "k", "seeds", "groups", "l1", "architecture"),
    "sae_lens": ("d_in", "d_sae", "k", "architecture", "dtype", "normalize_activations", "metadata"),
    "sparsify": ("d_in", "num_latents", "k", "activation"),
    "dictionary_learning": ("activation_dim", "dict_size", "k", "dict_class"),
}
FINE = {
    ("sae_lens", "normalize_activations", "None"), ("sae_lens", "metadata", "{'a': 1}"), ("own", "seeds", "[16]"),
    ("own", "l1", "16.5"), ("own", "l1", str(10**12)), ("own", "l1", "1e+300"),
}  # fmt: skip
"""What of these a folder may hold."""


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("kind", "entry"), [(kind, entry) for kind in KINDS for entry in SIZES[kind]])
@pytest.mark.parametrize("value", WRONG, ids=lambda value: str(value)[:12])
def test_an_entry_of_a_wrong_type_or_size_is_refused(tmp_path, kind, entry, value):
    folder = valid(tmp_path / "sae", kind)
    rewrite(folder, kind, entries(folder, kind) | {entry: value})
    if (kind, entry, str(value)) in FINE:
        formats.read(folder)
    else:
        refused(folder)


def header(path: Path, content: dict | bytes, length: int | None = None, data: bytes = b"") -> None:
    """Write a safetensors file with a header of one's own."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def tensor(shape: list[int], begin: int, end: int) -> dict:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


HEADERS = {
    "of 8 GB": ({}, 2**33),
    "of 2^63 bytes": ({}, 2**63),
    "of 2^64 - 1 bytes": ({}, 2**64 - 1),
    "overlapping": ({"W_enc": tensor([2], 0, 8), "W_dec": tensor([2], 4, 12)}, None),
    "backwards": ({"W_enc": tensor([2], 8, 0)}, None),
    "negative": ({"W_enc": tensor([2], -8, 0)}, None),
    "beyond the file": ({"W_enc": tensor([2**20], 0, 2**22)}, None),
    "of a huge shape": ({"W_enc": tensor([2**40, 2**40], 0, 8)}, None),
    "of a huge shape of nothing": ({"W_enc": tensor([2**62, 2**62, 0], 0, 0)}, None),
    "of a negative shape": ({"W_enc": tensor([-2], 0, 8)}, None),
    "nested": (b'{"W_enc": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
    "twice the same name": (b'{"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
                            b'"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', None),
    "that is a list": (b"[]", None),
    "not UTF-8": (b'{"\xff": 1}', None),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("name", HEADERS)
def test_a_weights_file_with_a_false_header_is_refused(tmp_path, kind, name):
    folder, (content, length) = valid(tmp_path / "sae", kind), HEADERS[name]
    header(folder / WEIGHTS[kind], content, length, bytes(16))
    refused(folder, WEIGHTS[kind])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("dtype", ["F8_E4M3", "I64", "BOOL", "C64", "F4"])
def test_weights_that_are_no_ordinary_numbers_are_refused(tmp_path, kind, dtype):
    folder = valid(tmp_path / "sae", kind)
    raw = (folder / WEIGHTS[kind]).read_bytes()
    size = int.from_bytes(raw[:8], "little")
    content, width = json.loads(raw[8 : 8 + size]), {"I64": 2, "C64": 2, "F8_E4M3": 1 / 4, "BOOL": 1 / 4, "F4": 1 / 8}
    content.pop("__metadata__", None)
    for one in content.values():
        one["dtype"], one["data_offsets"] = dtype, [int(at * width[dtype]) for at in one["data_offsets"]]
    header(folder / WEIGHTS[kind], content, data=bytes(int((len(raw) - 8 - size) * width[dtype])))
    refused(folder)


class Payload:
    """A pickle of this creates a file when it is opened carelessly."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("name", ["ae.pt", "sae_weights.safetensors", "cfg.json", "sae.safetensors"])
def test_no_pickle_runs_under_any_name(tmp_path, name):
    folder = valid(tmp_path / "sae", {"ae.pt": KINDS[3], "sae.safetensors": "sparsify"}.get(name, "sae_lens"))
    target = tmp_path / "ran"
    (folder / name).write_bytes(pickle.dumps({"b_dec": Payload(target)}))
    refused(folder, name)
    assert not target.exists()
    pickle.loads((folder / name).read_bytes())
    assert target.exists()  # the payload works


def test_a_tensor_that_repeats_one_number_a_trillion_times_is_refused_before_it_is_used(tmp_path):
    folder = valid(tmp_path / "sae", "dictionary_learning")
    wide = torch.zeros(1).expand(10**6, 10**6)
    state = {"encoder.weight": wide, "encoder.bias": wide[0], "decoder.weight": wide, "b_dec": wide[0]}
    torch.save(state, folder / "ae.pt")
    rewrite(folder, "dictionary_learning", entries(folder, "dictionary_learning") | {"activation_dim": 10**6})
    refused(folder, "encoder.weight of ae.pt", "an ordinary tensor")


def test_weights_that_grow_when_unpacked_are_refused(tmp_path):
    folder = valid(tmp_path / "sae", "dictionary_learning")
    with zipfile.ZipFile(folder / "ae.pt") as stored:
        parts = {name: stored.read(name) for name in stored.namelist()}
    with zipfile.ZipFile(folder / "ae.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in parts.items():
            packed.writestr(name, content)
    refused(folder, "ae.pt", "compressed")


@pytest.mark.parametrize("odd", ["sparse", "meta", "a number as name", "no tensor"])
def test_a_state_of_other_than_ordinary_tensors_is_refused(tmp_path, odd):
    folder = valid(tmp_path / "sae", "dictionary_learning")
    state = torch.load(folder / "ae.pt", weights_only=True)
    if odd == "sparse":
        state["b_dec"] = torch.ones(D).to_sparse()
    elif odd == "meta":
        state["b_dec"] = torch.ones(D, device="meta")
    else:
        state |= {5: torch.ones(D)} if odd == "a number as name" else {"b_dec": [1.0] * D}
    torch.save(state, folder / "ae.pt")
    refused(folder, "ae.pt")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["configuration", "weights"])
def test_a_link_out_of_the_folder_is_not_followed(tmp_path, kind, which):
    folder = valid(tmp_path / "sae", kind)
    name = (CONFIGURATION if which == "configuration" else WEIGHTS | {KINDS[3]: "ae.pt"})[kind]
    elsewhere = tmp_path / "elsewhere"
    os.replace(folder / name, elsewhere)
    for target in (elsewhere, Path("..") / "elsewhere", "/dev/zero", "/etc/hostname", name):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)
        if target == name:
            refused(folder)  # a link to itself
        else:
            refused(folder, name, "a link out of the folder")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refused(folder, name, "regular file")
    (folder / name).unlink()
    os.replace(elsewhere, folder / f"stored_{name}")
    (folder / name).symlink_to(f"stored_{name}")
    formats.read(folder)  # a link inside it is


def test_names_in_a_configuration_are_never_paths(tmp_path):
    folder = valid(tmp_path / "sae", "sae_lens")
    names = {"hook_name": "../../../../etc/passwd", "model_name": "/etc/passwd", "release": "\x00", "sae_id": ".."}
    cfg = entries(folder, "sae_lens")
    rewrite(folder, "sae_lens", cfg | {"metadata": cfg["metadata"] | names})
    formats.read(folder)
    assert formats.metadata(folder) == {**formats.metadata(folder), **names}
    assert sorted(p.name for p in folder.iterdir()) == ["cfg.json", "sae_weights.safetensors"]


ADDRESSES = [
    "hf://../..", "hf://a/..", "hf://./b/c", "hf://a/b@../c", "hf://a/b@..%2F..%2Frefs/c", "hf://a/b@%2Fetc/c",
    "hf://a/b@main%2F../c", "hf://a/b/../../c", "hf://a/b/c/..", "hf://a/b//etc/passwd", "hf://a/b/c\\..\\d",
    "hf://a/b@%00/c", "hf://a/b/c\x00d", "hf://a/b@a%0Ab/c", "hf://a--b/c", "hf://a/b..c/d", "hf://-a/b", "hf://a/b.git",
    f"hf://a/{'b' * 200}", "file:///etc/passwd", "https://huggingface.co/a/b",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_that_leads_out_of_a_repository_is_refused(tmp_path, monkeypatch, address):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_file", None)  # refused before any file is looked for
    refused(address, "folder is", "wanted")


def test_a_folder_of_the_hubs_cache_may_point_to_its_own_blobs_and_no_further(tmp_path, monkeypatch):
    repository = tmp_path / "cache" / "models--a--b"
    place = repository / "snapshots" / ("c" * 40) / "sae"
    place.parent.mkdir(parents=True)
    valid(place, "sae_lens")
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c" * 40)
    for path in list(place.iterdir()):
        os.replace(path, repository / "blobs" / path.name)
        path.symlink_to(Path("../../../blobs") / path.name)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert formats.read("hf://a/b/sae").seeds == (5,)
    (place / "cfg.json").unlink()
    (place / "cfg.json").symlink_to("/etc/hostname")
    refused("hf://a/b/sae", "cfg.json", "a link out of the folder")
