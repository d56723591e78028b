"""The benchmarks run at their smallest scale, and their page shows what they found."""

import itertools
import json

import pytest
import torch

from benchmarks import contestants, metrics, speed, timing
from benchmarks.contestants import (
    WARM_UP,
    Clock,
    Setting,
    encoder_product,
    encoder_products,
    loop,
    ours,
    plain_torch,
)
from husai import plots, training


def small() -> Setting:
    return Setting(speed.activations(300, 16), d_sae=32, k=4, batch=64)


def test_a_clock_hands_out_every_row_once_an_epoch_and_counts_only_what_follows_the_warm_up(monkeypatch):
    setting = small()
    epoch = torch.cat(list(itertools.islice(setting.batches(), 4)))
    assert len(epoch.unique(dim=0)) == 256
    seen, now = [], [0.0]
    monkeypatch.setattr(contestants, "perf_counter", lambda: now[0])

    def slow(x):
        seen.append(len(x))
        now[0] += 200 if len(seen) <= WARM_UP else 3

    assert Clock(setting, 10).time(loop(slow)) == 3 and seen == [64] * (10 + WARM_UP)


def test_our_rows_of_the_table_are_measured(monkeypatch):
    for run in (ours, plain_torch, encoder_product, encoder_products):
        assert run(small(), 3) > 0
    seen = []
    monkeypatch.setattr(training, "train", lambda x, config, seeds, **options: seen.append((config, list(seeds))))
    ours(small(), 3, seeds=2)
    [(config, seeds)] = seen
    assert (config.batch_size, config.sae.d_sae, config.sae.k, config.steps, seeds) == (64, 32, 4, 3, [0, 1])


def test_spread_is_median_and_range():
    estimate = timing.spread([3.0, 1.0, 10.0], "ms")
    assert (estimate.value, estimate.low, estimate.high, estimate.n) == (3.0, 1.0, 10.0, 3)


def test_peak_memory_sees_what_a_call_allocates_and_frees():
    megabytes = timing.peak_memory("import numpy as np", "np.ones(8_000_000)")
    assert 55 < megabytes < 80


def test_the_matching_rows_are_what_they_are_named_after():
    table = metrics.rows("smoke", repeats=2)
    assert all(row["low"] <= row["median"] <= row["high"] for row in table)
    gaps = [row["median"] for row in table if row["what"].startswith("exact - sparse")]
    assert len(gaps) == 2 and all(-1e-6 <= gap < 0.01 for gap in gaps)
    shares = [row for row in table if "share of the GEMM rate" in row["what"]]
    assert len(shares) == 1 and all(row["low"] > 0 for row in shares)
    assert all(row["median"] > 0 for row in table if row["unit"] == "s")


def test_growth_is_drawn_beside_the_bound():
    point = {"value": 1.0, "low": 0.5, "high": 2.0}
    figure = plots.cost_growth({"seeds": {"size": [1, 2], "ours": [point, point], "bound": [point, point]}})
    assert len(figure.axes[0].lines) == 2 and figure.axes[0].get_xlabel() == "seeds trained at once"


def test_committed_measurements_are_of_the_full_scale_and_complete():
    found = json.loads((timing.ROOT / "book" / "reference" / "speed.json").read_text())
    assert found["profile"] == "full" and set(found["peers"]) == set(speed.CONTESTANTS)
    assert {what: tuple(rows["size"]) for what, rows in found["growth"].items()} == speed.GROWTH
    assert found["provenance"]["dirty"] is False


@pytest.mark.parametrize("name", ["sparsify", "dictionary_learning", "sae_lens"])
def test_the_library_never_imports_its_peers(name):
    assert not [path for path in (timing.ROOT / "husai").rglob("*.py") if f"import {name}" in path.read_text()]
