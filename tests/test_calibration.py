"""k is chosen near the truth, on other seeds and other rows, and says why."""

from dataclasses import replace

import pytest
import torch

from husai import calibration, training
from husai.config import SAEConfig, TrainConfig
from husai.tasks import sparse_dictionary

AUTO = TrainConfig(SAEConfig(d_sae=64, k="auto"), steps=1024)


@pytest.mark.parametrize("active", [2, 4])
def test_the_chosen_k_is_near_the_true_number_of_active_atoms(active):
    truth = sparse_dictionary(32, 64, active, 8000, seed=0)
    _, found = training.resolve(truth.activations, AUTO, [1])
    assert found.criterion == "description_length"
    assert active / 1.5 <= found.k <= 1.5 * active  # values below the residual are not worth a name: rather fewer
    lengths = {entry["k"]: entry["description_length"] for entry in found.curve}
    assert lengths[found.k] == min(lengths.values()) and max(lengths) == 32


def test_training_uses_the_chosen_k_and_keeps_the_record(monkeypatch):
    monkeypatch.setattr(calibration, "CANDIDATES", (1, 2, 8))
    monkeypatch.setattr(calibration, "STEPS", 300)
    x = sparse_dictionary(16, 32, 2, 3000, seed=0).activations
    auto = training.train(x, replace(AUTO, steps=40), [1, 2], keep=[])
    k = auto.calibration.k
    assert auto.saes.config.k == k and [entry["k"] for entry in auto.calibration.curve] == [1, 2, 8]
    given = training.train(x, replace(AUTO, steps=40, sae=SAEConfig(d_sae=64, k=k)), [1, 2], keep=[])
    assert torch.equal(auto.saes.W_dec, given.saes.W_dec) and given.calibration is None


def test_the_choice_looks_neither_at_the_evaluated_seeds_nor_at_the_rows_it_is_judged_on():
    seen = []

    def fit(x, config, seeds):
        seen.append((x, list(seeds)))
        return training.train(x, config, seeds, keep=[]).saes

    x = sparse_dictionary(16, 32, 2, 3000, seed=0).activations
    config = replace(AUTO, steps=4, sae=SAEConfig(d_sae=4, k="auto"))
    calibration.calibrate(x, config, [1, 2], fit)
    assert {tuple(seeds) for _, seeds in seen} == {calibration.SEEDS}
    assert all(len(rows) == 2400 for rows, _ in seen)


def test_the_choice_depends_neither_on_shared_streams_nor_on_the_units_of_latents():
    """The same SAEs with decoder rows three times as long describe as much in as many bits."""

    def stretched(x, config, seeds):
        saes = training.train(x, config, seeds, keep=[]).saes
        return replace(saes, W_enc=saes.W_enc / 3, b_enc=saes.b_enc / 3, W_dec=3 * saes.W_dec)

    x = sparse_dictionary(16, 32, 2, 3000, seed=0).activations
    config = replace(AUTO, steps=40, sae=SAEConfig(d_sae=8, k="auto"))
    _, plain = training.resolve(x, config, [1])
    assert training.resolve(x, replace(config, shared="init order"), [1])[1] == plain
    long = calibration.calibrate(x, config, [1], stretched)
    for one, other in zip(plain.curve, long.curve, strict=True):
        assert other == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: training.resolve(torch.randn(600, 4), AUTO, [-1]), "seeds is .-1.; wanted seeds other than"),
        (lambda: SAEConfig("relu", 8, "auto"), "k is 'auto'; wanted a number"),
        (lambda: SAEConfig(d_sae=8, k="auto").active, "k is 'auto'; wanted a number"),
        (lambda: training.resolve(torch.randn(600, 4), TrainConfig(SAEConfig(d_sae=1, k="auto")), [1]), "d_sae is 1"),
    ],
)
def test_bad_input_is_refused_by_name(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_description_length_counts_names_values_and_residual():
    assert calibration.description_length(2.0, 0.25, 15.0, 16, 10) == pytest.approx(2 * (3 + 2) - 10)


def test_a_dense_code_gains_nothing():
    """Rotating all of d_model into latents at any precision costs what it saves, before any latent is named."""
    d, noise = 64, 1e-6
    bits = calibration.description_length(float(d), noise, 1 / noise - 1, d, d)
    assert bits == pytest.approx(0)


def test_decoder_cosine_of_known_rows():
    rows = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    assert calibration.decoder_cosine(rows) == pytest.approx(2 * 2**-0.5 / 3)
