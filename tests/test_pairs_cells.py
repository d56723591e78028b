"""The seven cells: activations in the order of the texts, gates that fail closed, quality with known values."""

import numpy as np
import pytest
import torch

from husai.config import SAEConfig
from husai.evidence import Estimate
from husai.language import matched
from husai.language.gpt import GPTConfig, GPTs, initialise
from husai.pairs import cells
from husai.saes import SAEBatch, stack

CONFIG = GPTConfig(n_layers=4, n_heads=2, d_model=32, d_mlp=48)
D = CONFIG.d_model


@pytest.fixture(scope="module")
def models():
    """Untrained models of both styles."""
    tok = matched.tokenizer(CONFIG.vocabulary)
    return {style: GPTs(CONFIG, style, (0, 1, 2), initialise(CONFIG, [0, 1, 2]), tok) for style in ("standard", "adhd")}


def identity():
    """Return an SAE that reconstructs everything: x = relu(x) - relu(-x)."""
    rows = torch.cat([torch.eye(D), -torch.eye(D)])[None]
    return SAEBatch(
        SAEConfig("relu", 2 * D, D), (0,), rows.mT.contiguous(), torch.zeros(1, 2 * D), rows, torch.zeros(1, D)
    )


def constant(value):
    """Return an SAE that reconstructs one point, whatever it reads."""
    rows = torch.cat([torch.eye(D), -torch.eye(D)])[None]
    return SAEBatch(
        SAEConfig("relu", 2 * D, D), (1,), torch.zeros(1, D, 2 * D), torch.zeros(1, 2 * D), rows, value[None]
    )


def test_there_are_seven_cells_with_the_published_names():
    assert [cells.name(cell) for cell in cells.CELLS] == [
        *(f"standard_L{n}_hook_resid_post" for n in range(4)), *(f"adhd_L{n}_hook_resid_post" for n in range(1, 4))
    ]  # fmt: skip


@pytest.mark.parametrize("style", ["standard", "adhd"])
def test_a_corpus_has_just_as_many_texts_as_the_tokens_ask_for(style):
    found = cells.corpus(style, "held_out", 700, CONFIG)
    lengths = found.real.sum(1)
    assert int(lengths.sum()) >= 700 > int(lengths[:-1].sum())
    assert found.texts == matched.texts(style, "held_out", 300, CONFIG).texts[: len(found.texts)]
    with pytest.raises(ValueError, match="at least one token"):
        cells.corpus(style, "held_out", 0, CONFIG)


def test_rows_of_residuals_are_the_tokens_of_one_text_after_another(models):
    texts, one = cells.corpus("adhd", "held_out", 600, CONFIG), models["adhd"].select(1)
    found = cells.residuals(one, texts, [1, 3])
    start = 0
    for i, length in enumerate(texts.real.sum(1).tolist()):
        seen = {}
        one.logits(texts.tokens[i : i + 1, :length], lambda name, value, seen=seen: seen.update({name: value[0, 0]}))
        for layer in (1, 3):
            assert torch.allclose(found[layer][start : start + length], seen[cells.hook(layer)], atol=1e-5)
        start += length
    assert start == len(found[1])
    with pytest.raises(ValueError, match=r"select\(i\)"):
        cells.residuals(models["adhd"], texts, [1])


def test_training_rows_are_the_same_however_many_tokens_are_held_out_and_whatever_other_cells_are_asked_for(models):
    few = cells.collect(models, 400, 300, [("adhd", 2)])[("adhd", 2)]
    many = cells.collect(models, 400, 900)
    assert list(many) == list(cells.CELLS)
    assert all(torch.equal(a.fit, b.fit) for a, b in zip(few, many["adhd", 2], strict=True))
    assert len(few[0].held_out) == int(cells.corpus("adhd", "held_out", 300, CONFIG).real.sum())
    assert few[0].name == "adhd model, seed 0, blocks.2.hook_resid_post"


def test_cross_entropy_is_recovered_by_a_perfect_sae_and_not_by_the_mean(models):
    texts, one = cells.corpus("adhd", "held_out", 600, CONFIG), models["adhd"].select(0)
    mean = cells.residuals(one, texts, [2])[2].mean(0)
    found = cells.recovered(one, texts, 2, stack([identity(), constant(mean)]), mean)
    assert found[0] == pytest.approx(1, abs=1e-4) and found[1] == pytest.approx(0, abs=1e-4)
    narrow = SAEBatch(
        SAEConfig("relu", 4, 2), (0,), torch.ones(1, 8, 4), torch.zeros(1, 4), torch.ones(1, 4, 8), torch.zeros(1, 8)
    )
    with pytest.raises(ValueError, match="d_model of the SAEs is 8; wanted 32, the width of the adhd model"):
        cells.recovered(one, texts, 2, narrow, mean)


def measured(**changes):
    """Return what passes, in one cell, with changes to single SAEs: key = {(model, seed): value}."""
    good = {"explained variance": 0.9, "L0": 8.0, "dead share": 0.0, "rare share": 0.0, "CE recovered": 0.97}
    found = {key: np.full((3, 4), value) for key, value in good.items()}
    for key, places in changes.items():
        for place, value in places.items():
            found[key.replace("_", " ")][place] = value
    return found


def test_every_sae_that_fails_a_gate_is_named_and_stops_a_release():
    good = {("adhd", 1): measured()}
    cells.require_passed(good)
    bad = good | {("adhd", 2): measured(explained_variance={(1, 2): 0.84}, dead_share={(0, 0): 0.02})}
    assert cells.failing(bad) == [
        "adhd_L2_hook_resid_post, model 1, SAE seed 2: explained variance 0.840",
        "adhd_L2_hook_resid_post, model 0, SAE seed 0: dead share 0.020",
    ]
    with pytest.raises(ValueError, match="explained variance 0.840.*wanted explained variance >= 0.85"):
        cells.require_passed(bad)
    rows = cells.table(bad)
    assert rows["adhd_L1"]["gates"] == "pass" and rows["adhd_L1"]["SAEs that pass"] == "12 of 12"
    assert rows["adhd_L2"]["gates"] == "FAIL: explained variance, dead share"
    assert rows["adhd_L2"]["SAEs that pass"] == "10 of 12"


def test_what_is_not_a_number_passes_no_gate():
    for key in cells.GATES:
        states = cells.passed(measured(**{key.replace(" ", "_"): {(0, 0): float("nan")}}))
        assert not states[key][0, 0] and states[key].sum() == 11


def test_the_worst_of_all_cells_has_the_worst_of_each_end():
    """One cell is a little better on average and far less sure: its lower end counts, not that of the worst mean."""
    sure, unsure = Estimate(0.86, 0.855, 0.865, 3), Estimate(0.87, 0.80, 0.94, 3)
    least, most = cells.worst([sure, unsure], min), cells.worst([sure, unsure], max)
    assert (least.value, least.low, least.high) == (0.86, 0.80, 0.865)
    assert (most.value, most.low, most.high) == (0.87, 0.855, 0.94)


def test_one_model_gives_an_interval_over_its_seeds():
    one = {key: table[:1] for key, table in measured(explained_variance={(0, 1): 0.8}).items()}
    found = cells.summary({("adhd", 2): one})
    assert found["fve_least"].value == pytest.approx(0.875) and found["fve_least"].n == 4
    assert found["fve_least"].low < 0.85 < found["fve_least"].high and (found["saes"], found["passing"]) == (4, 3)


def test_trained_nulls_read_shuffled_activations_and_untrained_models(models):
    cell, adhd = ("adhd", 1), models["adhd"]
    data = cells.collect(models, 300, 300, [cell])[cell]
    found = cells.null_arms(1, data, adhd, 300, 300)
    for real, shuffled, fresh in zip(data, found["N4"], found["N5"], strict=True):
        torch.testing.assert_close(real.values.mean(0), shuffled.values.mean(0), atol=1e-3, rtol=0.0)
        assert float(shuffled.values.var(0).sum()) == pytest.approx(float(real.values.var(0).sum()), rel=1e-3)
        assert not torch.equal(real.fit, shuffled.fit)
        assert fresh.fit.shape == real.fit.shape and not torch.allclose(fresh.fit, real.fit, atol=0.1)


def test_the_summary_is_about_the_weakest_cell():
    worse = {(m, s): 0.86 + 0.001 * m for m in range(3) for s in range(4)}
    dead = {(m, s): 0.01 for m in range(3) for s in range(4)}
    found = cells.summary({
        ("standard", 0): measured(dead_share=dead), ("adhd", 3): measured(explained_variance=worse)
    })  # fmt: skip
    assert found["fve_least"].value == pytest.approx(0.861) and found["fve_least_cell"] == "adhd_L3"
    assert found["dead_most"].value == pytest.approx(0.01) and found["dead_most_cell"] == "standard_L0"
    assert (found["saes"], found["passing"], found["passing_cells"]) == (24, 24, 2)
    assert found["standard_L0_fve"].value == pytest.approx(0.9)
