"""The store never serves what is stale, half-written or altered, and never builds twice."""

import pytest
import torch

from husai import artifacts


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("HUSAI_ARTIFACTS", str(tmp_path))
    return tmp_path


def make(config, log, **options):
    def build(folder):
        log.append(1)
        artifacts.write_tensors(folder / "x.safetensors", {"x": torch.arange(config)}, {"n": config})

    return artifacts.stored("toy", config, build, modules=["config"], **options)


def test_built_once_and_found_again():
    log = []
    first, again, other = make(3, log), make(3, log), make(4, log)
    assert first == again != other and len(log) == 2
    tensors, metadata = artifacts.read_tensors(first / "x.safetensors")
    assert tensors["x"].tolist() == [0, 1, 2] and metadata == {"n": 3}


def test_a_store_that_is_read_only_serves_and_makes_nothing(monkeypatch, store):
    log = []
    first = make(3, log)
    monkeypatch.setenv("HUSAI_STORE", "read-only")
    assert make(3, log) == first
    with pytest.raises(ValueError, match="toy/[0-9a-f]{12}.*nothing is made"):
        make(4, log)
    assert len(log) == 1 and not list(store.rglob("*.partial"))


def test_the_address_covers_inputs_sources_and_threads(monkeypatch):
    log = []
    plain, fed = make(3, log), make(3, log, inputs=["abc"])
    monkeypatch.setattr(artifacts, "source_hash", lambda modules: "edited")
    edited = make(3, log)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert len({plain, fed, edited, make(3, log)}) == 4


@pytest.mark.parametrize(
    "fault, words",
    [
        ("truncate", "x.safetensors is corrupt or truncated"),
        ("remove", "x.safetensors is missing"),
        ("manifest", "manifest.json"),
    ],
)
def test_a_damaged_artifact_is_refused_by_name(fault, words):
    folder = make(3, [])
    target = folder / ("manifest.json" if fault == "manifest" else "x.safetensors")
    if fault == "remove":
        target.unlink()
    else:
        target.write_bytes(target.read_bytes()[:-3])
    with pytest.raises(ValueError, match=words):
        make(3, [])


def test_a_build_that_fails_leaves_nothing_that_is_read_later(store):
    def explode(folder):
        (folder / "half").write_text("half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        artifacts.stored("toy", 9, explode, modules=["config"])
    assert not [p for p in (store / "toy").iterdir() if p.suffix != ".partial" and p.is_dir()]


def test_a_foreign_or_truncated_tensor_file_is_refused(tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"not a tensor")
    with pytest.raises(ValueError, match="complete safetensors file"):
        artifacts.read_tensors(path)


def test_an_unknown_module_is_refused():
    with pytest.raises(ValueError, match="modules names 'nowhere'"):
        artifacts.source_hash(["nowhere"])
