"""The store never serves what is stale, half-written or altered, and never builds twice."""

import json
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from husai import artifacts
from husai.evidence import write_json


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("HUSAI_ARTIFACTS", str(tmp_path))
    return tmp_path


def make(config, log, **options):
    def build(folder):
        log.append(1)
        artifacts.write_tensors(folder / "x.safetensors", {"x": torch.arange(config)}, {"n": config})
        write_json(folder / "step_2" / "cfg.json", {"d_sae": config})

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


def flip(path):
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def swap(path):
    """Let a manifest be that of another artifact, itself sound."""
    path.write_bytes((make(8, []) / "manifest.json").read_bytes())


FAULTS = [
    (cut, "x.safetensors", "x.safetensors is corrupt or truncated"),
    (flip, "x.safetensors", "x.safetensors is corrupt or truncated"),
    (Path.unlink, "x.safetensors", "x.safetensors is missing"),
    (flip, "step_2/cfg.json", "step_2/cfg.json is corrupt or truncated"),
    (Path.unlink, "step_2/cfg.json", "step_2/cfg.json is missing"),
    (cut, "manifest.json", "manifest.json"),
    (flip, "manifest.json", "artifact"),
    (Path.unlink, "manifest.json", "manifest.json"),
    (swap, "manifest.json", "manifest.json of its own"),
]


def damaged(fault, name):
    folder = make(3, [])
    whole = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    fault(folder / name)
    return folder, whole


@pytest.mark.parametrize(("fault", "name", "words"), FAULTS)
def test_a_damaged_artifact_is_noticed_set_aside_and_made_anew(fault, name, words):
    (folder, whole), log = damaged(fault, name), []
    with pytest.warns(UserWarning, match=f"(?=artifact {folder.name}).*{words}.*set aside and built anew"):
        assert make(3, log) == folder
    assert log == [1]
    assert {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == whole
    assert folder.with_name(f"{folder.name}.damaged").is_dir()
    assert make(3, log) == folder and log == [1]


@pytest.mark.parametrize(("fault", "name", "words"), FAULTS)
def test_an_audit_refuses_a_damaged_artifact_by_name(monkeypatch, fault, name, words):
    folder, _ = damaged(fault, name)
    monkeypatch.setenv("HUSAI_STORE", "read-only")
    with pytest.raises(ValueError, match=words):
        make(3, [])
    assert folder.exists() and not folder.with_name(f"{folder.name}.damaged").exists()


def test_every_bit_of_an_artifact_counts():
    folder, draw = make(3, []), random.Random(0)
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        whole = path.read_bytes()
        for _ in range(60):
            place = draw.randrange(len(whole))
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :])
            with pytest.raises(ValueError, match=f"artifact {folder.name}"):
                artifacts.verify(folder)
        path.write_bytes(whole)
    artifacts.verify(folder)


def test_what_an_interrupted_build_left_is_continued_or_begun_anew(store):
    def build(folder):
        steps = folder / "steps.jsonl"
        begun = [json.loads(line) for line in steps.read_text().splitlines()] if steps.exists() else []
        for step in range(len(begun), 4):
            with steps.open("a") as file:
                file.write(f"{step}\n")
            if step == stop:
                artifacts.write_tensors(folder / "x.safetensors", {"x": torch.zeros(2)})
                (folder / ".x.safetensors.17").write_bytes(b"what a killed writer leaves")
                raise KeyboardInterrupt
        trials.append(len(begun))

    def run():
        return artifacts.stored("toy", 5, build, modules=["config"])

    trials, stop = [], 1
    with pytest.raises(KeyboardInterrupt):
        run()
    stop = None
    (partial,) = (store / "toy").glob("*.partial")
    steps = partial / "steps.jsonl"
    folder = run()
    assert trials == [2] and sorted(p.name for p in folder.iterdir()) == [
        "manifest.json", "steps.jsonl", "x.safetensors",
    ]  # fmt: skip

    os.replace(folder, partial)
    (partial / "manifest.json").unlink()
    steps.write_text('0\n"1')  # a disk that was full in the middle of a line
    with pytest.warns(UserWarning, match="begun anew"):
        run()
    assert trials == [2, 0] and (folder / "steps.jsonl").read_text() == "0\n1\n2\n3\n"


BUILDER = """
import os, sys, time
from pathlib import Path
import torch
from husai import artifacts

def build(folder):
    with open(os.environ["LOG"], "a") as log:
        log.write("built\\n")
    time.sleep(1)
    artifacts.write_tensors(folder / "x.safetensors", {"x": torch.arange(3)})

print(artifacts.stored("toy", 3, build, modules=["config"]))
"""


def test_two_processes_that_want_the_same_artifact_build_it_once(store):
    env = os.environ | {"LOG": str(store / "log"), "PYTHONPATH": os.pathsep.join(sys.path)}
    both = [subprocess.Popen([sys.executable, "-c", BUILDER], env=env, stdout=subprocess.PIPE) for _ in range(2)]
    said = [one.communicate(timeout=300)[0] for one in both]
    assert said[0] == said[1] != b"" and (store / "log").read_text() == "built\n"


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


@pytest.mark.parametrize("metadata", ["{", "[]", "[" * 100_000, "1" * 5_000])
def test_metadata_that_we_did_not_write_are_refused(tmp_path, metadata):
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors", {"husai": metadata})
    with pytest.raises(ValueError, match="x.safetensors"):
        artifacts.read_tensors(tmp_path / "x.safetensors")


def test_a_writer_that_meets_a_full_disk_leaves_nothing_behind(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(Exception, match="File too large"):
            artifacts.write_tensors(tmp_path / "x.safetensors", {"x": torch.zeros(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
