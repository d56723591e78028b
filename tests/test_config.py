"""Streams are independent and reproducible, fingerprints tell configurations apart, bad configurations are refused."""

from dataclasses import replace

import pytest

from husai.config import ModelConfig, SAEConfig, TaskConfig, TrainConfig, fingerprint, log_grid, stream_seed
from husai.recipes import converged, published, steps_for


def test_streams_differ_by_seed_and_name_and_never_change():
    seeds = {stream_seed(seed, stream) for seed in range(50) for stream in ("init", "order", "split")}
    assert len(seeds) == 150
    assert stream_seed(42, "sae/init") == 2641304815737142565


def test_fingerprint_sees_every_field_and_the_type():
    base = TrainConfig(SAEConfig())
    assert fingerprint(base) == fingerprint(TrainConfig(SAEConfig()))
    changed = [replace(base, lr=2e-3), replace(base, sae=replace(base.sae, k=31)), SAEConfig(), TaskConfig()]
    assert len({fingerprint(cfg) for cfg in [base, *changed]}) == 5


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: SAEConfig(d_sae=16, k=17), ["k is 17", "d_sae = 16"]),
        (lambda: SAEConfig(architecture="gru"), ["architecture is 'gru'", "topk"]),
        (lambda: SAEConfig("relu", signed=True), ["signed is True", "only topk"]),
        (lambda: SAEConfig("route", 64, 3), ["layers is 1", "two layers"]),
        (lambda: SAEConfig("topk", 64, 3, layers=2), ["layers is 2", "topk has none"]),
        (lambda: SAEConfig("switch", 64, 3), ["experts is 1", "two or more blocks"]),
        (lambda: SAEConfig("switch", 64, 3, experts=5), ["experts is 5", "d_sae = 64"]),
        (lambda: SAEConfig("switch", 64, 9, experts=8), ["experts is 8", "k = 9"]),
        (lambda: SAEConfig("topk", 64, 3, experts=2), ["experts is 2", "topk has none"]),
        (lambda: SAEConfig("topk", 64, 3, groups=(1, 2)), ["groups is (1, 2)", "topk has none"]),
        (lambda: SAEConfig("matryoshka", 64, 3, groups=(8, 32)), ["groups is (8, 32)", "d_sae = 64"]),
        (lambda: SAEConfig("matryoshka", 64, 3, groups=(8, 8, 64)), ["groups is (8, 8, 64)", "rising"]),
        (lambda: SAEConfig("hierarchical_topk", 64, 3, groups=(0, 2)), ["groups is (0, 2)", "rising"]),
        (lambda: SAEConfig("hierarchical_topk", 64, 3, groups=(1, 4)), ["groups is (1, 4)", "k = 3"]),
        (lambda: SAEConfig("jump_relu", 64, 3, bandwidth=0.0), ["bandwidth is 0.0", "above 0"]),
        (lambda: SAEConfig("relu", 64, 3, l1=-1.0), ["l1 is -1.0", "at least 0"]),
        (lambda: SAEConfig("switch", 64, 3, experts=2, balance=-1.0), ["balance is -1.0", "at least 0"]),
        (lambda: SAEConfig("route", 64, 3, layers=2, transcoder=True), ["transcoder is True", "one input layer"]),
        (lambda: SAEConfig("topk", 64, 3, aligned=True, transcoder=True), ["transcoder is True", "free encoder"]),
        (lambda: SAEConfig(k="32"), ["k is '32'; wanted an integer, or 'auto'"]),
        (lambda: SAEConfig(k=None), ["k is None; wanted an integer, or 'auto'"]),
        (lambda: SAEConfig(k=2.0), ["k is 2.0; wanted an integer, or 'auto'"]),
        (lambda: SAEConfig(k="Auto"), ["k is 'Auto'; wanted an integer, or 'auto'"]),
        (lambda: SAEConfig(k=True), ["k is True; wanted an integer, or 'auto'"]),
        (lambda: SAEConfig(d_sae="8"), ["d_sae is '8'; wanted an integer"]),
        (lambda: SAEConfig(d_sae=True, k=1), ["d_sae is True; wanted an integer"]),
        (lambda: SAEConfig(architecture=["topk"]), ["architecture is ['topk']; wanted a string"]),
        (lambda: SAEConfig("matryoshka", 64, 3, groups=3), ["groups is 3; wanted a tuple of integers"]),
        (lambda: SAEConfig("matryoshka", 64, 3, groups=(8.0, 64)), ["groups is (8.0, 64); wanted a tuple of integers"]),
        (lambda: SAEConfig("relu", 64, 3, l1="x"), ["l1 is 'x'; wanted a finite number"]),
        (lambda: SAEConfig("relu", 64, 3, l1=float("nan")), ["l1 is nan; wanted a finite number"]),
        (lambda: SAEConfig(signed=1), ["signed is 1; wanted True or False"]),
        (lambda: TrainConfig(SAEConfig(), lr=0.0), ["lr is 0.0", "above 0"]),
        (lambda: TrainConfig(SAEConfig(), lr=float("nan")), ["lr is nan; wanted a finite number"]),
        (lambda: TrainConfig(SAEConfig(), auxk=-0.1), ["auxk is -0.1", "at least 0"]),
        (lambda: TrainConfig(SAEConfig(), clip_norm=-1.0), ["clip_norm is -1.0"]),
        (lambda: TrainConfig(SAEConfig(), dead_after=0), ["dead_after is 0", "at least one step"]),
        (lambda: TrainConfig(SAEConfig(), steps=10.0), ["steps is 10.0; wanted an integer"]),
        (lambda: TrainConfig(SAEConfig(), batch_size="64"), ["batch_size is '64'; wanted an integer"]),
        (lambda: TrainConfig(SAEConfig(), k_start=0.5), ["k_start is 0.5", "at least 1"]),
        (lambda: TrainConfig(SAEConfig(), frozen="both"), ["frozen is 'both'; wanted '', 'decoder' or 'encoder'"]),
        (lambda: TrainConfig(SAEConfig(), frozen=None), ["frozen is None; wanted a string"]),
        (lambda: TrainConfig(SAEConfig(aligned=True), frozen="decoder"), ["frozen is 'decoder'", "aligned"]),
        (lambda: TrainConfig(SAEConfig(), unit_decoder=False), ["project_gradient is True", "unit_decoder = False"]),
        (
            lambda: TrainConfig(SAEConfig(aligned=True), unit_decoder=False, project_gradient=False),
            ["unit_decoder is False", "aligned"],
        ),
        (lambda: TrainConfig(SAEConfig(), shared="order init"), ["shared is 'order init'", "'init order'"]),
        (lambda: TaskConfig(format="sneaky"), ["format is 'sneaky'", "leaked"]),
        (lambda: TaskConfig(train_fraction=1.0), ["train_fraction is 1.0"]),
        (lambda: steps_for(converged(), 0), ["updates is 0", "above 0"]),
        (lambda: steps_for(converged(k="auto"), 9), ["k is 'auto'"]),
        (lambda: ModelConfig(n_heads=3), ["n_heads is 3", "128"]),
        (lambda: TrainConfig(SAEConfig(), steps=0), ["steps is 0"]),
        (lambda: ModelConfig(warmup=0), ["warmup is 0"]),
        (lambda: ModelConfig(decay_share=0.0), ["decay_share is 0.0"]),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_values_are_refused_by_name(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert all(word in str(error.value) for word in words)


def test_recipes_are_the_ones_the_book_names():
    assert (published().steps, published().batch_size, published().sae.signed) == (140, 2048, True)
    assert not published().sae.decoder_bias and published().auxk == 0
    assert converged(512, 8).sae == SAEConfig(d_sae=512, k=8)
    assert converged(512, "auto").sae.k == "auto"


def test_steps_for_is_the_fewest_that_reach_the_wanted_updates():
    config = converged(1024, 32)
    steps = steps_for(config, 2e4)
    assert steps * 256 * 32 / 1024 >= 2e4 > (steps - 1) * 256 * 32 / 1024
    assert steps_for(converged(2048, 32), 2e4) == 2 * steps == steps_for(converged(1024, 16), 2e4)


def test_log_grid_has_both_ends_and_every_doubling():
    assert log_grid(100) == [0, 8, 16, 32, 64, 100]
    assert log_grid(4096)[-2:] == [2048, 4096]
