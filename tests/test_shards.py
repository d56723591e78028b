"""Shards give what the same rows in memory give, to the byte, whatever a file holds; half a folder gives nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from husai import artifacts, feed, shards, training
from husai.recipes import converged
from husai.saes import WEIGHTS

ROOT = Path(__file__).parents[1]
N, D = 1000, 6
X = torch.randn(N, D, generator=torch.Generator().manual_seed(0)) + 100


@pytest.fixture(scope="module", params=[1, 7, 64, 1000, 5000])
def stored(request, tmp_path_factory):
    """Return X as shards of several sizes, written in blocks whose borders are others."""
    folder = tmp_path_factory.mktemp("shards")
    written = shards.write(folder, iter(X.split(90)), request.param, name="toy")
    assert len(list(folder.glob("*.safetensors"))) == -(-N // request.param)
    opened = shards.read(folder)
    assert opened.name == written.name == "toy" and torch.equal(opened.load(), written.load())
    return opened


def test_rows_come_in_any_order_and_as_often_as_asked_for(stored):
    index = torch.randint(N, (300,), generator=torch.Generator().manual_seed(1))
    assert torch.equal(stored.rows(index), X[index])
    assert stored.rows(index[:0]).shape == (0, D)
    assert stored.shape == X.shape and len(stored) == N and stored.dtype == X.dtype


def test_blocks_have_the_size_asked_for_whatever_a_file_holds(stored):
    for size in (1, 33, 1000, 4000):
        for ours, wanted in zip(stored.split(size), X.split(size), strict=True):
            assert torch.equal(ours, wanted)


def test_hash_and_moments_are_those_of_the_tensor(stored, monkeypatch):
    monkeypatch.setattr(shards, "BLOCK", 90)
    assert artifacts.content_hash(stored) == artifacts.content_hash(X)
    ours, wanted = shards.moments(stored), shards.moments(X)
    assert torch.equal(ours.mean, wanted.mean) and ours.spread == wanted.spread


def test_a_mask_gives_a_view_that_reads_hashes_and_is_masked_like_the_tensor(stored):
    keep = torch.arange(N) % 3 != 1
    view, rows = stored[keep], X[keep]
    assert torch.equal(view.load(), rows) and view.shape == rows.shape
    assert artifacts.content_hash(view) == artifacts.content_hash(rows) != artifacts.content_hash(X)
    again = torch.arange(len(rows)) % 2 == 0
    assert torch.equal(torch.cat(list(view[again].split(10))), rows[again])
    assert len(view[again & False]) == 0 == len(list(view[again & False].split(10)))
    with pytest.raises(ValueError, match="mask is '1000 entries'; wanted one for each of 667 rows"):
        view[keep]


@pytest.mark.parametrize("span, gap", [(1, 0), (100, 0), (100, 50), (10_000, 10_000)])
def test_how_rows_are_read_together_changes_nothing(tmp_path, monkeypatch, span, gap):
    monkeypatch.setattr(shards, "SPAN", span)
    monkeypatch.setattr(shards, "GAP", gap)
    stored = shards.write(tmp_path, [X], 300)
    index = torch.randint(N, (400,), generator=torch.Generator().manual_seed(3))
    assert torch.equal(stored.rows(index), X[index]) and torch.equal(stored.load(), X)


@pytest.mark.parametrize("dtype", list(shards.DTYPES.values()), ids=str)
def test_every_floating_point_type_comes_back_bit_by_bit(tmp_path, dtype):
    x = X.to(dtype)
    stored = shards.write(tmp_path, x.split(128), 100)
    assert stored.dtype == dtype and torch.equal(shards.read(tmp_path).load(), x)
    assert artifacts.content_hash(stored) == artifacts.content_hash(x)


def test_rows_may_be_a_stack_of_layers(tmp_path):
    x = X.reshape(250, 4, D)
    stored = shards.write(tmp_path, x.split(33), 20)
    order = torch.randperm(250, generator=torch.Generator().manual_seed(5))
    assert torch.equal(shards.read(tmp_path).rows(order), x[order]) and stored.shape == x.shape
    ours, wanted = shards.moments(stored), shards.moments(x)
    assert torch.equal(ours.mean, wanted.mean) and ours.spread == wanted.spread
    assert ours.spread == pytest.approx(float((x - x.mean(0)).square().sum(-1).mean()), rel=1e-5)


def test_moments_are_mean_and_variance_even_far_from_zero():
    x = torch.randn(10_000, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    near, far = shards.moments(x), shards.moments(x + 1e6)
    assert torch.allclose(near.mean, x.mean(0), atol=1e-12)
    assert near.spread == pytest.approx(float((x - x.mean(0)).square().sum(1).mean()), rel=1e-12)
    assert far.spread == pytest.approx(near.spread, rel=1e-8)
    assert torch.equal(shards.moments(x.T.contiguous().T).mean, near.mean), "layout in memory"
    with pytest.raises(ValueError, match="x is 'without rows'"):
        shards.moments(x[:0])


def test_a_killed_writer_leaves_nothing_that_is_read_and_is_written_anew(tmp_path):
    def killed():
        yield X[:500]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shards.write(tmp_path, killed(), 100)
    (tmp_path / ".00005.safetensors.123").write_bytes(b"half a fi")
    assert (tmp_path / "00004.safetensors").exists()
    with pytest.raises(ValueError, match="wanted finished shards with a readable index.json"):
        shards.read(tmp_path)
    shards.write(tmp_path, [X[:250] + 1], 100)
    assert torch.equal(shards.read(tmp_path).load(), X[:250] + 1)
    with pytest.raises(ValueError, match="wanted one without finished shards"):
        shards.write(tmp_path, [X])


@pytest.mark.parametrize("fault, words", [("truncate", "corrupt"), ("alter", "corrupt"), ("remove", "missing")])
def test_a_damaged_shard_is_refused_by_name(tmp_path, fault, words):
    stored = shards.write(tmp_path, [X], 300)
    path = tmp_path / "00002.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content if fault == "alter" else content[:-3])
    if fault != "alter":
        with pytest.raises(ValueError, match="00002.safetensors is 'shorter than when it was opened'"):
            stored.load()
    if fault == "remove":
        path.unlink()
    with pytest.raises(ValueError, match=f"00002.safetensors is {words}"):
        shards.read(tmp_path)


@pytest.mark.parametrize("size", [0, -300, 300.0, "300", True])
@pytest.mark.usefixtures("unchecked")
def test_an_index_with_an_impossible_size_of_shards_is_refused(tmp_path, size):
    shards.write(tmp_path, [X], 300)
    index = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**index, "rows_per_shard": size}))
    with pytest.raises(ValueError, match=f"rows_per_shard of .*index.json is {size!r}; wanted an integer above 0"):
        shards.read(tmp_path)


@pytest.mark.parametrize(
    "change", [{"rows": 900}, {"rows_per_shard": 250}, {"row": [5]}, {"dtype": "int8"}, {"rows": "x"}]
)
def test_an_altered_index_is_refused(tmp_path, change):
    shards.write(tmp_path, [X], 300)
    index = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(index | change))
    with pytest.raises(ValueError, match="index.json"):
        shards.read(tmp_path)


@pytest.mark.parametrize(
    "blocks, words",
    [
        ([], "without rows"),
        ([X[:0]], "without rows"),
        ([X, X.log() * torch.nan], "NaN or infinity"),
        ([X, X / 0], "NaN or infinity"),
        ([X.long()], "torch.int64; wanted one of"),
        ([X, X[:, :4]], "wanted one shape and type"),
        ([X, X.double()], "wanted one shape and type"),
        ([X[0]], "wanted rows of at least one dimension"),
    ],
)
def test_blocks_that_are_no_activations_are_refused_and_leave_nothing(tmp_path, blocks, words):
    with pytest.raises(ValueError, match=f"blocks is .*{words}"):
        shards.write(tmp_path, iter(blocks), 100)
    assert not (tmp_path / "index.json").exists()


def test_positions_outside_the_rows_are_refused(tmp_path):
    stored = shards.write(tmp_path, [X])
    for outside in (-1, N):
        with pytest.raises(ValueError, match="wanted positions from 0 to 999"):
            stored.rows(torch.tensor([0, outside]))
    with pytest.raises(ValueError, match="rows_per_shard is 0"):
        shards.write(tmp_path / "other", [X], 0)


def test_what_needs_all_rows_at_once_refuses_shards_and_takes_tensors(tmp_path):
    assert shards.in_memory(X) is X
    with pytest.raises(ValueError, match="x is shards, 'here'"):
        shards.in_memory(shards.write(tmp_path / "here", [X]))


@pytest.mark.parametrize("engine, dtype", [("fused", torch.float32), ("autograd", torch.float64)])
@pytest.mark.parametrize("rows_per_shard, stretch", [(64, 2**24), (1000, 1)])
def test_training_on_shards_is_training_in_memory(tmp_path, monkeypatch, engine, dtype, rows_per_shard, stretch):
    config, x = converged(16, 3, steps=40), X.to(dtype)
    wanted = training.train(x, config, [0, 1], engine=engine)
    monkeypatch.setattr(feed, "GATHERED", stretch)
    ours = training.train(shards.write(tmp_path, [x], rows_per_shard), config, [0, 1], engine=engine)
    assert ours.log == wanted.log and ours.checkpoints.keys() == wanted.checkpoints.keys()
    for step, saes in ours.checkpoints.items():
        for name in WEIGHTS:
            assert torch.equal(getattr(saes, name), getattr(wanted.checkpoints[step], name))


MEMORY = r"""
import re, sys, torch
from dataclasses import replace
from pathlib import Path
from husai import feed, artifacts, shards, training
from husai.recipes import converged

def peak():  # MB; ru_maxrss would count the process that started this one
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 2**10

block, config = torch.randn(8192, 128), replace(converged(64, 4, steps=40), batch_size=2500)
training.train(block, config, [0, 1, 2, 3])  # compiles
start = peak()
shards.write(Path(sys.argv[1]), (block + i for i in range(75)), 2**14)
stored = shards.read(Path(sys.argv[1]))
view = stored[torch.arange(len(stored)) % 5 > 0]
artifacts.content_hash(view)
training.train(view, config, [0, 1, 2, 3])
print(peak() - start)
everything = stored.load()
print(peak() - start)
"""


def test_300_megabytes_are_written_and_trained_on_in_less_than_100(tmp_path):
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "big")]
    bounded, loaded = map(float, subprocess.check_output(command, text=True, cwd=ROOT).split())
    assert bounded < 100 and loaded > 300, "the second is the control: loading them all does show"
