"""One optimiser loop: seeds do not touch each other, the fused step is the autograd step, recipes learn the truth."""

from dataclasses import replace

import pytest
import torch

from husai import metrics, training
from husai.config import SAEConfig, TrainConfig, converged, published
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


def test_same_parameters_same_bytes_whatever_is_kept_on_the_way():
    first = training.train(DATA, TOPK, [1, 2])
    second = training.train(DATA, TOPK, [1, 2], keep=[0, 25])
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))
    assert sorted(second.checkpoints) == [0, 25, 50] and sorted(first.checkpoints) == [0, 8, 16, 32, 50]


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


@pytest.mark.parametrize(
    "config",
    [converged(32, 3, steps=3000), converged(32, 3, steps=4096, architecture="relu", l1=0.03)],
    ids=["topk", "relu"],
)
def test_recovers_a_known_dictionary(config):
    """Far above the matched-size null (.45): each to its own stated level, .85 for TopK, .75 for ReLU."""
    truth = sparse_dictionary(16, 32, 3, 20_000, seed=0)
    saes = training.train(truth.activations, config, [1, 2], keep=[]).saes
    level = 0.85 if config.sae.architecture == "topk" else 0.75
    assert min(metrics.recovery(rows, truth.atoms) for rows in saes.W_dec) > level


def test_callbacks_and_log_see_every_checkpoint(tmp_path):
    seen = []
    training.train(
        DATA, TOPK, [1], log_path=tmp_path / "log.jsonl", on_step=lambda step, saes, entry: seen.append(step)
    )
    assert seen == [0, 8, 16, 32, 50] and len((tmp_path / "log.jsonl").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda: training.train(torch.full((100, 16), float("nan")), TOPK, [1]), "activations is 'NaN"),
        (lambda: training.train(DATA[:10], TOPK, [1]), "batch_size is 64"),
        (lambda: training.train(DATA, TOPK, [1, 1]), "seeds is"),
        (lambda: training.train(DATA, RELU, [1], engine="fused"), "engine is 'fused'"),
        (lambda: training.train(torch.ones(100, 16), TOPK, [1]), "identical rows"),
    ],
)
def test_bad_input_is_refused_by_name(change, words):
    with pytest.raises(ValueError, match=words):
        change()


@pytest.mark.parametrize("config", [TOPK, RELU], ids=["fused", "autograd"])
def test_a_diverging_run_stops_and_names_seed_step_and_rate(config):
    with pytest.raises(ValueError, match=r"loss of seed 5 .* step \d+ \(lr 1e\+30"):
        training.train(DATA, replace(config, lr=1e30, clip_norm=0.0), [5])


def test_tracking_goes_to_weights_and_biases_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACK", "wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    import wandb

    for _ in range(2):  # two trainings are two runs, each with its own steps and configuration
        training.train(DATA, TOPK, [1])
    wandb.finish()
    runs = [path.read_bytes() for path in tmp_path.rglob("run-*.wandb")]
    assert len(runs) == 2 and all(b"silent_share" in run and b"dead_after" in run for run in runs)
