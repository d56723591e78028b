"""The fused step does what plain torch does, for every architecture and option that it takes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from husai import engines, saes, training
from husai.config import Objective, SAEConfig, TrainConfig
from husai.kernels import selection
from husai.recipes import published
from husai.tasks import sparse_dictionary

DATA = sparse_dictionary(16, 32, 3, 4000, seed=0).activations
OUTPUT = sparse_dictionary(10, 32, 3, 4000, seed=1).activations
TOPK = TrainConfig(SAEConfig("topk", 40, 3), steps=20, batch_size=64)
PUBLISHED = replace(published(40, 3), steps=20, batch_size=64, lr=3e-3)
AUXK = replace(TOPK, sae=SAEConfig("topk", 200, 3), dead_after=1, batch_size=16)
CONFIGS = {
    "topk": TOPK,
    "published": PUBLISHED,
    "auxk": AUXK,
    "k-annealing": replace(TOPK, k_start=4.0),
    "aligned": replace(TOPK, sae=SAEConfig("topk", 40, 3, aligned=True)),
    "transcoder": replace(TOPK, sae=SAEConfig("topk", 40, 3, transcoder=True)),
    "batch_topk": replace(TOPK, sae=SAEConfig("batch_topk", 40, 3)),
    "matryoshka": replace(TOPK, sae=SAEConfig("matryoshka", 40, 3, groups=(5, 17, 40))),
    "matryoshka with auxk": replace(AUXK, sae=SAEConfig("matryoshka", 200, 3)),
    "hierarchical_topk": replace(TOPK, sae=SAEConfig("hierarchical_topk", 40, 5)),
    "frozen decoder": replace(TOPK, frozen="decoder"),
    "frozen decoder with auxk": replace(AUXK, frozen="decoder", tied_init=False),
    "frozen encoder": replace(TOPK, frozen="encoder"),
    "frozen encoder with auxk": replace(AUXK, frozen="encoder"),
    "frozen encoder of a transcoder": replace(TOPK, sae=SAEConfig("topk", 40, 3, transcoder=True), frozen="encoder"),
    "frozen decoder, batch_topk": replace(TOPK, sae=SAEConfig("batch_topk", 40, 3), frozen="decoder"),
    "free norms": replace(TOPK, unit_decoder=False, project_gradient=False),
    "free norms with auxk": replace(AUXK, unit_decoder=False, project_gradient=False),
    "shared start": replace(TOPK, shared="init"),
    "shared order": replace(TOPK, sae=SAEConfig("batch_topk", 40, 3), shared="order"),
    "auxk of fewer than k_aux": replace(AUXK, sae=SAEConfig("topk", 12, 1)),
    "alignment": replace(TOPK, objective=Objective("alignment", 0.3)),
    "assignment, held": replace(TOPK, objective=Objective("assignment", 3.0, relative=True, every=4)),
    "assignment as published": replace(PUBLISHED, objective=Objective("assignment", 0.3)),
    "contrastive": replace(TOPK, objective=Objective("contrastive", 0.3, temperature=0.1)),
    "consensus, fading": replace(TOPK, objective=Objective("consensus", 0.3, fade=0.5, rows=7)),
    "pinned, free encoder": replace(TOPK, objective=Objective("pinning", rows=7)),
    "pinned with encoder": replace(AUXK, objective=Objective("pinning", rows=39, encoder="fixed")),
    "pinned, random encoder": replace(PUBLISHED, objective=Objective("pinning", rows=7, encoder="random")),
    "l2": replace(TOPK, unit_decoder=False, project_gradient=False, objective=Objective("l2", 1e-3)),
    "budgets with auxk": replace(AUXK, sae=SAEConfig("hierarchical_topk", 200, 5, groups=(1, 3))),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_fused_step_is_the_autograd_step(name):
    config = CONFIGS[name]
    targets = OUTPUT.double() if config.sae.transcoder else None
    reference = training.train(DATA.double(), TOPK, [8, 9]).saes if config.objective.refers else None
    fused, plain = (
        training.train(DATA.double(), config, [1, 2], targets=targets, reference=reference, engine=engine)
        for engine in ("fused", "autograd")
    )
    for weight in saes.WEIGHTS:
        assert torch.allclose(getattr(fused.saes, weight), getattr(plain.saes, weight), atol=1e-8, rtol=0)
    for term in ("loss", "auxk"):
        assert np.allclose(fused.log[-1][term], plain.log[-1][term])
    assert (max(plain.log[-1]["auxk"]) > 0) == (config.dead_after == 1)
    assert fused.log[-1]["silent_share"] == plain.log[-1]["silent_share"]


def test_in_float32_the_fused_step_selects_the_same_latents_and_ends_at_the_same_quality():
    """The same k-sets on 99.9 % of the rows at step 1, and a final FVU within 1 %."""
    data = sparse_dictionary(32, 64, 4, 6000, seed=0)
    config = TrainConfig(SAEConfig("topk", 128, 4), steps=1000, batch_size=128)
    fused, plain = (
        training.train(data.activations, config, [1], keep=[1], engine=engine) for engine in ("fused", "autograd")
    )
    sets = [run.checkpoints[1].encode(data.activations)[0] != 0 for run in (fused, plain)]
    assert (sets[0] == sets[1]).all(1).double().mean() >= 0.999
    fvu = [run.saes.quality(data.activations, data.activations.mean(0))[0]["fvu"] for run in (fused, plain)]
    assert fvu[0] == pytest.approx(fvu[1], rel=0.01)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("start", [(0.0, 0.0), (1.5, -2.0), (-50.0, -1.0), (0.3, 4.0)])
def test_selection_agrees_with_topk_whatever_it_starts_from(signed, start):
    draw = np.random.default_rng(0)
    rows = [
        draw.standard_normal(50),
        -np.abs(draw.standard_normal(50)),
        1 + np.abs(draw.standard_normal(50)),
        np.repeat(draw.standard_normal(10), 5),
        np.zeros(50),
        np.ones(50),
        np.r_[np.zeros(45), -1, 1, 2, 3, 4],
        1e-6 * draw.standard_normal(50) + 5,
    ]
    for row in rows:
        chosen = np.empty(51, np.int64)
        level, ties, _ = selection.threshold(row, 7, signed, start)
        count, _ = selection.collect(row, level, ties, chosen)
        wanted = torch.tensor(row).topk(7).values
        wanted = wanted if signed else wanted[wanted > 0]
        found = row[chosen[:count]]
        assert sorted(found if signed else found[found > 0]) == pytest.approx(sorted(wanted.tolist()))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("dead", [0, 1, 5, 17, 50], ids=lambda dead: f"{dead} of 50 dead")
def test_selection_among_dead_latents_is_topk_with_the_others_masked(dead, kind):
    """Against the masked top-k of the autograd path; the guess is carried from row to row, as in a step."""
    draw, guess = np.random.default_rng(dead), (kind(0), 0.0)
    indices = np.sort(draw.permutation(50)[:dead])
    mask = torch.zeros(50, dtype=torch.bool)
    mask[torch.from_numpy(indices)] = True
    packed, chosen = np.full(50, np.nan, kind), np.empty(51, np.int64)
    normal, levels = draw.standard_normal((40, 50)), draw.integers(-2, 4, (40, 50))
    rows = np.r_[normal, levels, 3 + normal, -np.abs(normal[:5]), np.zeros((2, 50)), np.ones((2, 50))].astype(kind)
    for row in rows:
        for k in (1, 3, 5, 16, 50, 80):
            count, guess = selection.select_among(row, indices, k, guess, packed, chosen)
            wanted = torch.where(mask, torch.from_numpy(row), -torch.inf).topk(min(k, dead)).values
            found = chosen[:count].tolist()
            assert found == sorted(set(found)) and set(found) <= set(indices.tolist())
            assert sorted(v for v in row[found] if v > 0) == sorted(wanted[wanted > 0].tolist())
            assert min(row[found], default=1) >= 0  # zeros decode to nothing


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_any_number_of_seeds_and_any_stretch_gives_the_same_bytes(seeds, monkeypatch):
    whole = training.train(DATA, TOPK, range(5)).saes.W_dec
    monkeypatch.setattr(engines, "STRETCH", 3)
    assert torch.equal(training.train(DATA, TOPK, range(seeds)).saes.W_dec, whole[:seeds])


@pytest.mark.parametrize("name", ["batch_topk", "matryoshka", "hierarchical_topk"])
def test_each_seed_of_a_fused_batch_equals_the_seed_alone(name):
    batch = training.train(DATA.double(), CONFIGS[name], [3, 1, 2], engine="fused").saes
    for index, seed in enumerate(batch.seeds):
        alone = training.train(DATA.double(), CONFIGS[name], [seed], engine="fused").saes
        for weight in saes.WEIGHTS:
            assert torch.allclose(getattr(alone, weight)[0], getattr(batch, weight)[index], atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["topk", "auxk", "batch_topk"])
def test_the_number_of_threads_changes_no_byte(name):
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(training.train(DATA, CONFIGS[name], [1, 2, 3], engine="fused").saes)
    finally:
        torch.set_num_threads(before)
    one, two = ({**{w: getattr(many, w) for w in saes.WEIGHTS}, **many.extra} for many in found)
    assert all(torch.equal(one[weight], two[weight]) for weight in one)
