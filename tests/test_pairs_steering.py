"""Steering finds the direction that was planted, and nothing where nothing was."""

from functools import cache

import pytest
import torch
from pairs_planted import CAUSAL, CONFIG, INERT, pair, planted, sae, texts

from husai.language import matched
from husai.pairs import bench, edits, returns, schemas, steering, swaps
from husai.pairs.bench import Bench
from husai.pairs.probes import OfSAE
from husai.saes import stack

EYE = torch.eye(16)
TEXTS = texts(4)
DOSES = [0.5, 1.0, 2.0]
PAIR = [0.5, 1.0]
"""The fewest doses, for whole grids."""


@cache
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


def test_the_first_step_of_a_text_is_not_read() -> None:
    """No text opens with a regulation action: its first onset tells nothing of one."""
    of = TEXTS["adhd"]
    left_out = of.before_onset & ~edits.reads(of)
    assert (left_out.sum(1) == 1).all() and (edits.reads(of).sum(1) == of.n_steps - 1).all()
    steps = matched.tokenizer(CONFIG.vocabulary).id("<|steps|>")
    assert (of.tokens[left_out] == steps).all()


def test_a_control_that_does_no_more_than_random_pushes_lets_no_panel_be_judged() -> None:
    steered = grid(INERT)[2]
    same = [[one._replace(panels={n: p._replace(null=p.control - 0.01) for n, p in one.panels.items()}) for one in row]
            for row in steered]  # fmt: skip
    assert not any(steering.summary(same)[f"control_{name}"] for name in steering.PANELS)


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
    assert steering.choices(one, TEXTS, [batch], 0) == [[2]]


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


@cache
def grid(direction: int):
    """Three pairs of models, three SAEs of each that agree; every latent but the steered one is another coordinate."""
    models = [pair(0.0, seed) for seed in range(3)]
    pairs = [bench.benches(one, TEXTS, 0)[0] for one in models]
    one = sae(EYE[[direction, 3, 4, 5, 6, 7]])
    steered = [row * 3 for row in steering.every(pairs, [one] * 3, [[0]] * 3, PAIR, 2)]
    return pairs, [stack([one] * 3) for _ in models], steered


def test_the_summary_calls_a_null_a_finding_only_where_the_control_moves(tmp_path) -> None:
    pairs, saes, steered = grid(INERT)
    short = steering.summary(steered)
    assert short["control_add_in_adhd"] and short["control_dose_sweep"] and short["control_effect"].low > 0.025
    assert abs(short["beyond_add_in_adhd"].value) < 0.005 and short["tost_add_in_adhd"] < 0.025
    for one in (one for row in steered for one in row):
        assert one.panels["add_in_adhd"].control > 0.05
    content = {"profile": "smoke", "summary": {}} | steering.artifact(steered, [0, 1, 2], "blocks.0.hook_resid_post")
    schemas.write("deepdive_steering", content, tmp_path)
    causal = steering.summary(grid(CAUSAL)[2])
    assert causal["beyond_add_in_adhd"].low > 0.025 and causal["inert"] == 0.0


def test_conclusions_come_back_where_all_draws_are_alike() -> None:
    pairs, saes, steered = grid(CAUSAL)
    one = pair(3.0, head=1)
    swapped = 3 * [swaps.per_seed(one["standard"], one["adhd"], TEXTS, EYE[3:5], layer=1, draws=1, written=6)]
    probed = [[OfSAE(0.9, 0.5, 0)] * 3] * 3
    found = returns.conclusions(pairs, saes, swapped, steered, probed)
    assert found["inert"].holds.value == 0 and found["inert"].model.value == found["inert"].sae.value == 1
    assert found["feature"].sae.value == found["top"].sae.value == 1
    assert found["swap"].sae is None and found["head_number"].holds is None
    assert {"returns_feature_sae", "returns_head_moves_holds"} <= returns.values(found).keys()
    short = swaps.summary(swapped)
    assert short["regulation_adhd_attention_from_standard"].high < 0 < short["clean_regulation_adhd"].low
    assert {"head_drop", "swap_beyond_directions", "layout_gain_beyond_others"} <= short.keys()
