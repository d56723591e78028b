"""Steering finds the direction that was planted, and nothing where nothing was."""

import pytest
import torch
from pairs_planted import CAUSAL, CONFIG, INERT, pair, planted, sae, texts

from husai.pairs import bench, steering
from husai.pairs.bench import Bench

EYE = torch.eye(16)
TEXTS = texts()
DOSES = [0.5, 1.0, 2.0]


def found(direction: int):
    rows = EYE[[direction, 3, 4, 5, 6, 7]]
    pairs = bench.benches(pair(0.0), TEXTS, 0)
    return steering.steer(pairs[0], sae(rows), 0, DOSES, draws=3)


def test_a_causal_direction_moves_the_probability_as_the_control_does() -> None:
    panels = found(CAUSAL).panels
    for name in ("add_in_adhd", "add_in_standard", "dose_sweep"):
        assert panels[name].difference > 0.05 and not panels[name].inert()
        assert panels[name].delta == pytest.approx(panels[name].control, abs=0.02)
    assert panels["dose_sweep"].delta > panels["add_in_adhd"].delta > found(CAUSAL).sweep[0.5].delta
    assert panels["ablate_in_adhd"].delta < 0


def test_a_direction_that_nothing_reads_moves_nothing_while_the_control_does() -> None:
    panels = found(INERT).panels
    for name in steering.PANELS:
        assert abs(panels[name].delta) < 1e-3
    assert panels["add_in_adhd"].control > 0.05
    assert set(panels) == set(steering.PANELS)


def test_the_control_is_the_direction_that_the_wanted_tokens_read() -> None:
    bench = Bench(planted("adhd"), 0, TEXTS["adhd"])
    assert float(bench.control[CAUSAL]) > 0.95
    assert int(bench.wanted.sum()) == 5


def test_without_a_change_the_benches_say_what_the_model_says() -> None:
    model = planted("adhd", written=3.0)
    bench = Bench(model, 0, TEXTS["adhd"])
    torch.testing.assert_close(bench.logits(bench.x), model.logits(TEXTS["adhd"].tokens)[0], rtol=1e-4, atol=1e-3)
    assert float(bench.base.mean()) > float(Bench(planted("adhd"), 0, TEXTS["adhd"]).base.mean()) + 0.01


def test_alike_takes_the_nearest_rates_and_no_silent_latent() -> None:
    rates = torch.tensor([0.1, 0.0, 0.11, 0.5, 0.09])
    assert steering.alike(rates, 0.1, 2, [0]).tolist() == [2, 4]
    with pytest.raises(ValueError, match="n is 4"):
        steering.alike(rates, 0.1, 4, [0])


def test_the_chosen_feature_fires_at_the_onsets_of_one_style_alone() -> None:
    """Latent 2 fires where the residual holds what only the adhd model has."""
    one = {"standard": planted("standard"), "adhd": planted("adhd")}
    one["adhd"].parameters["embed.W_E"][..., INERT] = 30.0
    batch = sae(EYE[:4])
    batch.W_enc[0, INERT, 2] = 1.0
    batch.b_enc[0] = torch.tensor([1.0, 1.0, -10.0, 1.0])
    assert steering.chosen(bench.benches(one, TEXTS, 0)[0], batch) == 2


def test_what_cannot_be_steered_is_refused() -> None:
    pairs = bench.benches(pair(0.0), TEXTS, 0)
    with pytest.raises(ValueError, match="doses"):
        steering.steer(pairs[0], sae(EYE[:4]), 0, [2.0, 1.0], draws=2)
    silent = sae(EYE[:4])
    silent.b_enc[0, 1] = -1.0
    with pytest.raises(ValueError, match="fires"):
        steering.steer(pairs[0], silent, 1, DOSES, draws=2)
    with pytest.raises(ValueError, match="layer"):
        Bench(planted("adhd"), CONFIG.n_layers - 1, TEXTS["adhd"]).base  # noqa: B018
