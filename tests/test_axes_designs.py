"""Designs: all architectures under one budget, and slopes that recover planted ones."""

import numpy as np
import pytest
import torch

from husai import axes, training
from husai.activations import split
from husai.axes import designs
from husai.config import NAMES
from husai.tasks import generator

PENALTIES = {"relu": 0.01, "gated": 0.02, "jump_relu": 0.3}


def test_every_single_layer_architecture_stands_beside_the_others_under_one_budget() -> None:
    found = designs.architectures(64, 8, 100, PENALTIES)
    assert found.keys() == set(NAMES) - {"route"}
    assert {(c.steps, c.batch_size, c.lr, c.sae.d_sae, c.sae.k) for c in found.values()} == {(100, 256, 1e-3, 64, 8)}
    assert found["relu"].sae.l1 == 0.01 and found["gated"].sae.l1 == 0.02 and found["jump_relu"].sae.bandwidth == 0.3
    assert found["topk"] == designs.ladder(64, [4, 8], 100)[8], "the ladder passes through the matched TopK"
    with pytest.raises(ValueError, match="penalties"):
        designs.architectures(64, 8, 100, {"relu": 0.01})


def test_topk_of_all_latents_is_a_relu_without_a_penalty() -> None:
    """The published JumpReLU is the ladder's last rung, and the unmatched ReLU stands just below it."""
    x = torch.randn(512, 6, generator=generator(0, "test/ladder"))
    recipes = [designs.ladder(16, [16], 20)[16], designs.unmatched(16, 2, 20, 0.0)]
    topk, relu = (training.train(x, recipe, [0], engine="autograd").saes for recipe in recipes)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        assert torch.allclose(getattr(topk, name), getattr(relu, name), atol=1e-6)
    assert torch.allclose(topk.encode(x), relu.encode(x), atol=1e-5)


def test_a_grid_takes_its_tokens_from_one_site_and_keeps_the_held_out_rows() -> None:
    acts = split(torch.randn(500, 6, generator=generator(0, "test/grid")), 0)
    cells = designs.grid({0: acts, 2: acts}, [100, 400], [8, 16], 2, 10)
    assert list(cells)[:2] == [(100, 0, 8), (100, 0, 16)] and len(cells) == 8
    for (tokens, _, width), (part, config) in cells.items():
        assert int(part.training.sum()) == tokens and torch.equal(part.held_out, acts.held_out)
        assert config.sae.d_sae == width
        assert config.steps * config.batch_size * 2 / width == 10 * 256 * 2 / 8, "as many updates a latent"
    with pytest.raises(ValueError, match="at most the 400 training rows"):
        designs.grid({0: acts}, [500], [8], 2, 10)


def planted(noise: float = 0.0, seed: int = 0) -> dict[designs.Cell, axes.Candidate]:
    """Return a grid whose axis rises by 0.02 a doubling of tokens, falls by 0.03 a block, 0.01 a doubling of width."""
    draw, cells = np.random.default_rng(seed), {}
    for tokens in (1000, 4000):
        for depth in (0, 1, 3):
            for width in (64, 128):
                value = 0.02 * np.log2(tokens) - 0.03 * depth - 0.01 * np.log2(width)
                row = value + noise * draw.normal(size=4)
                cells[tokens, depth, width] = axes.Candidate("cell", (0, 1, 2, 3), {"auc": row})
    return cells


def test_slopes_find_what_was_planted() -> None:
    exact = designs.slopes(planted(), "auc")
    assert {name: round(e.value, 9) for name, e in exact.items()} == {"tokens": 0.02, "depth": -0.03, "width": -0.01}
    draws = [designs.slopes(planted(0.005, seed), "auc") for seed in range(200)]
    for factor in designs.FACTORS:
        inside = [found[factor].low < exact[factor].value < found[factor].high for found in draws]
        assert 0.9 <= np.mean(inside) <= 0.99, "an interval of 95 % covers 95 %"
    assert all(e.n == 4 for e in draws[0].values()), "n counts seeds, not cells"


def test_a_slope_of_probing_is_over_classes_and_seeds() -> None:
    """Tokens help the pairs of class a alone: the mean slope is theirs in part, and uncertain for other classes."""
    pairs, cells = ("a | b", "a | c", "b | c"), {}
    for cell in planted():
        auc = np.array([0.03, 0.03, 0.0])[:, None] * np.log2(cell[0]) + np.zeros((3, 4))
        cells[cell] = axes.Candidate("cell", (0, 1, 2, 3), {"auc": auc}, pairs)
    found = designs.slopes(cells, "auc")["tokens"]
    assert found.value == pytest.approx(0.02) and found.low < 0 and found.n == 3


def test_cells_are_named_by_their_levels() -> None:
    found = designs.named(planted(), "auc")
    assert len(found) == 24 and found["sound_few_L3_wide"] is True
    assert found["cell_many_L0_narrow_auc"] == planted()[4000, 0, 64].estimate("auc")
    with pytest.raises(ValueError, match="two widths"):
        designs.named({cell: one for cell, one in planted().items() if cell[2] == 64}, "auc")


def test_a_factor_with_one_level_has_no_slope() -> None:
    flat = {cell: one for cell, one in planted().items() if cell[1] == 0}
    with pytest.raises(ValueError, match="depth"):
        designs.slopes(flat, "auc")


def test_the_mean_at_a_level_is_over_all_others() -> None:
    found = designs.marginal(planted(), "auc", "depth")
    assert list(found) == [0, 1, 3] and found[0].value - found[3].value == pytest.approx(0.09)
    label, rows = designs.panel(planted(), "depth", {"probing": "auc"})
    assert label == "blocks before the hook" and rows["probing"] == ([0, 1, 3], list(found.values()))
    with pytest.raises(ValueError, match="factor"):
        designs.marginal(planted(), "auc", "layers")
