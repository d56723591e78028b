"""One optimiser loop: seeds do not touch each other, every parameter counts, and bad input or a bad end is named."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from husai import engines, saes, training
from husai.config import SAEConfig, TrainConfig
from husai.engines import Data
from husai.feed import Feed
from husai.recipes import published
from husai.tasks import sparse_dictionary

WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")
DATA = sparse_dictionary(16, 32, 3, 4000, seed=0).activations
TOPK = TrainConfig(SAEConfig("topk", 40, 3), steps=50, batch_size=64)
RELU = TrainConfig(SAEConfig("relu", 40, 3, l1=1e-2), steps=50, batch_size=64)
BARE = replace(published(40, 3), steps=50, batch_size=64, lr=3e-3)


def weights(result):
    return [getattr(result.saes, name) for name in WEIGHTS]


@pytest.mark.parametrize("config", [TOPK, RELU, BARE], ids=["topk", "relu", "published"])
@pytest.mark.parametrize("engine", ["auto", "autograd"])
def test_each_seed_of_a_batch_equals_the_seed_alone(config, engine):
    x = DATA.double()
    batch = training.train(x, config, [3, 1, 2], engine=engine)
    for index, seed in enumerate([3, 1, 2]):
        alone = training.train(x, config, [seed], engine=engine)
        for one, many in zip(weights(alone), weights(batch), strict=True):
            assert torch.allclose(one[0], many[index], atol=1e-9, rtol=0)


def test_k_falls_linearly_over_the_first_half_and_never_exceeds_the_dictionary():
    config = replace(TOPK, steps=100, k_start=4.0)
    assert [training.active(config, step) for step in (0, 25, 49, 50, 99)] == [12, 8, 3, 3, 3]
    assert {training.active(TOPK, step) for step in range(50)} == {3}
    assert training.active(replace(config, k_start=1000.0), 0) == 40
    switch = replace(config, sae=SAEConfig("switch", 40, 3, experts=8), k_start=1000.0)
    assert training.active(switch, 0) == 5


def test_same_parameters_same_bytes_whatever_is_kept_on_the_way():
    first = training.train(DATA, TOPK, [1, 2])
    second = training.train(DATA, TOPK, [1, 2], keep=[0, 25])
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))
    assert sorted(second.checkpoints) == [0, 25, 50] and sorted(first.checkpoints) == [0, 8, 16, 32, 50]


def test_an_untied_encoder_starts_as_kaiming_uniform_does():
    start = training.initial_state(BARE, Data(DATA, DATA), [1, 2]).encoder
    wanted = torch.nn.init.kaiming_uniform_(torch.empty(4000, 16))
    assert start.abs().max() <= 1.01 * wanted.abs().max()
    assert start.std().item() == pytest.approx(wanted.std().item(), rel=0.05)


def test_standardising_folds_away():
    """In raw units the SAE reconstructs data that were shifted and scaled before training just as well."""
    plain, moved = (training.train(data, TOPK, [1]).saes for data in (DATA, 7 * DATA + 3))
    a, b = plain.decode(plain.encode(DATA)), moved.decode(moved.encode(7 * DATA + 3))
    assert torch.allclose(7 * a + 3, b, atol=2e-3)


def test_decoder_rows_stay_unit_and_the_published_recipe_has_no_decoder_bias():
    for config in (TOPK, RELU, BARE):
        saes = training.train(DATA, config, [1]).saes
        assert torch.allclose(saes.W_dec.norm(dim=-1), torch.ones(1, 40), atol=1e-5)
    assert not training.train(DATA, BARE, [1]).saes.b_dec.any()


NAMED = {
    "topk": TOPK,
    "batch_topk": replace(TOPK, sae=SAEConfig("batch_topk", 40, 3)),
    "relu": RELU,
    "jump_relu": replace(TOPK, sae=SAEConfig("jump_relu", 40, 3)),
    "gated": replace(TOPK, sae=SAEConfig("gated", 40, 3)),
    "switch": replace(TOPK, sae=SAEConfig("switch", 40, 3, experts=2)),
}
ENCODES = ("W_enc", "b_enc", "r_mag", "b_mag", "W_router")


@pytest.mark.parametrize("config", NAMED.values(), ids=NAMED)
@pytest.mark.parametrize("frozen", ["decoder", "encoder", ""])
def test_a_frozen_half_keeps_every_byte_of_its_start_and_the_other_learns(config, frozen):
    result = training.train(DATA, replace(config, frozen=frozen), [1, 2])
    first, last = (
        {**{name: getattr(batch, name) for name in WEIGHTS}, **batch.extra}
        for batch in (result.checkpoints[0], result.saes)
    )
    learned = {name for name in first if name != "threshold" and not torch.equal(first[name], last[name])}
    half = {name for name in ENCODES if name in first}
    assert learned >= {"b_dec"} and ("W_dec" in learned) == (frozen != "decoder")
    assert learned & half == (set() if frozen == "encoder" else half)
    if config.sae.architecture == "jump_relu":  # learned here, measured in batch_topk
        assert torch.equal(first["threshold"], last["threshold"]) == (frozen == "encoder")


@pytest.mark.parametrize("frozen", ["decoder", "encoder"])
def test_gradients_of_a_frozen_half_do_not_count_in_the_clipped_norm(frozen):
    """Plain torch never has them; by the second step Adam's moments mix two clipping factors, which tells."""
    data = Data(DATA.double(), DATA.double())
    config = replace(TOPK, frozen=frozen, clip_norm=1e-3, lr=1e-3)
    found = []
    for engine in ("fused", "autograd"):
        state = training.initial_state(config, data, [1])
        order = torch.arange(128).reshape(1, 2, 64)
        engines.start(engine, config, state)(state, data, order, np.full(2, 1e-3), np.full(2, 3), 0)
        found.append(state)
    for name in ("encoder", "bias", "decoder", "centre"):
        assert torch.allclose(getattr(found[0], name), getattr(found[1], name), atol=1e-12, rtol=0)
    assert torch.equal(getattr(found[0], frozen), getattr(training.initial_state(config, data, [1]), frozen))


@pytest.mark.parametrize("config", [TOPK, RELU, BARE], ids=["topk", "relu", "published"])
def test_free_decoder_norms_move_and_reconstruct(config):
    free = training.train(DATA, replace(config, unit_decoder=False, project_gradient=False), [1])
    norms = free.saes.W_dec.norm(dim=-1)
    assert torch.allclose(free.checkpoints[0].W_dec.norm(dim=-1), torch.ones(1, 40), atol=1e-5)
    assert norms.min() > 0 and (norms - 1).abs().max() > 0.01
    fvu = [batch.quality(DATA, DATA.mean(0))[0]["fvu"] for batch in (free.checkpoints[0], free.saes)]
    assert fvu[1] < fvu[0]


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_free_decoder_row_that_is_zero_or_not_finite_is_refused(value):
    config = replace(TOPK, unit_decoder=False, project_gradient=False)
    feed = Feed(DATA, None, config, [3, 7])
    state = training.initial_state(config, feed.first, [3, 7])
    state.decoder[1] *= 1e-3
    assert training.fold(state, config, feed).W_dec.shape == (2, 40, 16)
    with pytest.raises(ValueError, match="weights of seed 7 stopped being finite"):
        training.fold(state, replace(config, unit_decoder=True), feed)
    state.decoder[1, 5] = value
    with pytest.raises(ValueError, match="weights of seed 7 stopped being finite"):
        training.fold(state, config, feed)


@pytest.mark.parametrize("config", [TOPK, NAMED["batch_topk"], NAMED["switch"]], ids=["topk", "batch_topk", "switch"])
def test_shared_streams_are_those_of_seed_0(config):
    """Each of the two streams alone makes seeds differ; without both they are one SAE, seed 0's."""
    zero, own = (training.train(DATA, config, [seed], keep=[0]) for seed in (0, 5))
    init, order, both = (
        training.train(DATA, replace(config, shared=name), [0, 5], keep=[0]) for name in ("init", "order", "init order")
    )
    for weight in ("W_enc", "W_dec"):
        first = {key: getattr(run.checkpoints[0], weight) for key, run in {"i": init, "o": order, "b": both}.items()}
        start, fresh = (getattr(run.checkpoints[0], weight)[0] for run in (zero, own))
        assert torch.equal(first["i"][1], start) and torch.equal(first["b"][1], start)
        assert torch.equal(first["o"][1], fresh) and not torch.equal(start, fresh)
    for run in (init, order):
        assert torch.allclose(run.saes.W_dec[0], zero.saes.W_dec[0], atol=1e-5)
        assert not torch.allclose(run.saes.W_dec[1], zero.saes.W_dec[0], atol=1e-3)
        assert not torch.allclose(run.saes.W_dec[1], own.saes.W_dec[0], atol=1e-3)
    for name, tensor in {**{name: getattr(both.saes, name) for name in WEIGHTS}, **both.saes.extra}.items():
        assert torch.allclose(tensor[0], tensor[1], atol=1e-5), name


def test_shared_order_is_seed_0s_permutation():
    feed = Feed(DATA, None, replace(TOPK, shared="order"), [4, 9])
    wanted = Feed(DATA, None, TOPK, [0]).take(70)[1][0]
    assert all(torch.equal(rows, wanted) for rows in feed.take(70)[1])


def test_callbacks_and_log_see_every_checkpoint(tmp_path):
    seen = []
    training.train(
        DATA, TOPK, [1], log_path=tmp_path / "log.jsonl", on_step=lambda step, saes, entry: seen.append(step)
    )
    assert seen == [0, 8, 16, 32, 50] and len((tmp_path / "log.jsonl").read_text().splitlines()) == 5


TRANSCODER = replace(TOPK, sae=SAEConfig("topk", 40, 3, transcoder=True))
ROUTE = replace(TOPK, sae=SAEConfig("route", 40, 3, layers=2))


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda: training.train(torch.full((100, 16), float("nan")), TOPK, [1]), "activations is 'NaN"),
        (lambda: training.train(DATA[:10], TOPK, [1]), "batch_size is 64"),
        (lambda: training.train(DATA, TOPK, [1, 1]), "seeds is"),
        (lambda: training.train(DATA, RELU, [1], engine="fused"), "engine is 'fused'"),
        (lambda: training.train(torch.ones(100, 16), TOPK, [1]), "identical rows"),
        (lambda: training.train(torch.ones(100, 16, dtype=torch.int64), TOPK, [1]), "activations is torch.int64"),
        (lambda: training.train(DATA.half(), TOPK, [1]), "activations is torch.float16; wanted float32"),
        (lambda: training.train(DATA.reshape(1000, 4, 16), TOPK, [1]), r"\(1000, 4, 16\); wanted a matrix"),
        (lambda: training.train(DATA, ROUTE, [1]), r"\(4000, 16\); wanted a stack .* layers = 2"),
        (lambda: training.train(DATA.reshape(1000, 4, 16), ROUTE, [1]), "layers = 2"),
        (lambda: training.train(DATA, TRANSCODER, [1]), "targets is None; wanted a matrix of 4000 rows"),
        (lambda: training.train(DATA, TOPK, [1], targets=DATA), "targets is 'given'; wanted none"),
        (lambda: training.train(DATA, TRANSCODER, [1], targets=DATA[1:]), r"targets is \(3999, 16\)"),
        (lambda: training.train(DATA, TRANSCODER, [1], targets=DATA.double()), "targets is torch.float64"),
    ],
)
def test_bad_input_is_refused_by_name(change, words):
    with pytest.raises(ValueError, match=words):
        change()


@pytest.mark.parametrize("engine", ["fused", "autograd"])
def test_a_diverging_run_stops_at_the_very_step_and_names_seed_step_and_rate(engine, monkeypatch):
    """The update of step 20 is far too large, so the loss of step 21 is the first that is not finite."""
    config = replace(TOPK, clip_norm=0.0)
    data, order, rates = Data(DATA, DATA), torch.arange(64).repeat(2, 40, 1), np.full(40, 1e-3)
    rates[19] = 1e30
    state = training.initial_state(config, data, [5, 6])
    losses = engines.start(engine, config, state)(state, data, order, rates, np.full(40, 3), 0)
    assert losses.shape == (2, 21, 2)
    assert np.isfinite(losses[:, :-1]).all() and not np.isfinite(losses[:, -1]).all()
    monkeypatch.setattr(training, "learning_rate", lambda config, step: rates[step])
    with pytest.raises(ValueError, match=r"loss of seed 5 .* step 21 \(lr 0.001"):
        training.train(DATA, config, [5], engine=engine)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_training_follows_its_activations_to_the_gpu():
    here = training.train(DATA.double(), RELU, [1, 2]).saes
    there = training.train(DATA.double().cuda(), RELU, [1, 2]).saes
    assert all(getattr(there, name).device.type == "cuda" for name in saes.WEIGHTS)
    for name in saes.WEIGHTS:
        assert torch.allclose(getattr(here, name), getattr(there, name).cpu(), atol=1e-8)


def test_tracking_goes_to_weights_and_biases_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACK", "wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    import wandb

    for _ in range(2):  # two trainings are two runs, each with its own steps and configuration
        training.train(DATA, TOPK, [1])
    wandb.finish()
    deadline = time.monotonic() + 60  # its own process writes the files, on a busy machine a little later
    while time.monotonic() < deadline:
        runs = [path.read_bytes() for path in tmp_path.rglob("run-*.wandb")]
        if len(runs) == 2 and all(b"silent_share" in run and b"dead_after" in run for run in runs):
            break
        time.sleep(0.2)
    else:
        pytest.fail(f"{len(runs)} runs, of {[len(run) for run in runs]} bytes, without the entries of the log")


def test_a_last_step_that_breaks_the_weights_is_refused():
    with pytest.raises(ValueError, match="weights of seed 7 stopped being finite"):
        training.train(DATA, replace(TOPK, steps=1, lr=1e30, clip_norm=0.0), [7])


@pytest.mark.parametrize("keep", [[-5], [51]])
def test_checkpoints_outside_the_training_are_refused(keep):
    with pytest.raises(ValueError, match="keep is"):
        training.train(DATA, TOPK, [1], keep=keep)


def test_gradients_of_the_caller_do_not_matter():
    wanted = training.train(DATA, RELU, [1]).saes.W_dec
    with torch.no_grad():
        assert torch.equal(training.train(DATA.clone().requires_grad_(), RELU, [1]).saes.W_dec, wanted)
    assert not training.train(DATA.clone().requires_grad_(), TOPK, [1]).saes.W_dec.requires_grad
