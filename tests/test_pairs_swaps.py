"""The swap finds the head and the site that were planted, and pushes beside it do not."""

import pytest
import torch
from pairs_planted import CONFIG, TEXTS_OF, pair, random_model

from husai.pairs import schemas, swaps
from husai.pairs.swaps import boundary_share, correlation, profiles

EYE = torch.eye(16)


@pytest.fixture(scope="module")
def found() -> swaps.PerSeed:
    models = pair(written=3.0, head=1)
    return swaps.per_seed(models["standard"], models["adhd"], TEXTS_OF, EYE[3:6], layer=1, draws=2)


def test_what_one_head_writes_moves_with_the_swap_both_ways(found) -> None:
    here, there = found.clean["adhd"].regulation, found.clean["standard"].regulation
    assert here > 2 * there
    drop = found.delta("adhd_attention_from_standard", "regulation")
    assert found.delta("standard_attention_from_adhd", "regulation") > 0.02
    assert drop == pytest.approx(found.delta("adhd_without_head_1", "regulation"), abs=1e-6) and drop < -0.02
    assert found.delta("adhd_without_head_0", "regulation") == pytest.approx(0, abs=1e-6)


def test_pushes_as_long_along_other_directions_do_not_drop_it_so_far(found) -> None:
    drop = found.delta("adhd_attention_from_standard", "regulation")
    for prefix in ("random_direction", "random_feature"):
        deltas = found.deltas(prefix, "regulation")
        assert len(deltas) == 2 and min(deltas) > drop / 2
    # what is planted is the same on every text, so that another text's activation is as good
    assert found.deltas("shuffled_pair", "regulation") == pytest.approx([drop], abs=1e-5)


def test_a_model_swapped_with_itself_does_not_change() -> None:
    model = random_model(3, ending=5)
    same = swaps.per_seed(model, model, TEXTS_OF | {"standard": TEXTS_OF["adhd"]}, EYE[:2], layer=1, draws=1)
    for name in ("adhd_attention_from_standard", "standard_residual_from_adhd", "random_direction_0"):
        assert [same.delta(name, m) for m in ("spearman", "regulation", "steps")] == pytest.approx([0, 0, 0], abs=1e-6)
    assert same.layout.partner == same.layout.adhd == same.layout.standard
    assert same.layout.matched == pytest.approx(1) and same.layout.same_index == pytest.approx(1)


def test_the_artifact_is_what_its_schema_asks_for(found, tmp_path) -> None:
    row = found.as_dict()
    assert row["adhd_head"] == {"layer": 1, "head": found.layout.adhd}
    assert len(row["interventions"]) == 3 * (4 + CONFIG.n_heads) and len(row["nulls"]) == 3 * 5
    schemas.write("causal_nulls_per_seed", {"profile": "smoke", "summary": {}, "layer": 1, "seeds": [row]}, tmp_path)


def test_profiles_and_boundaries_are_read_where_steps_begin() -> None:
    """Head 0 attends to the token before, head 1 to the first boundary."""
    pattern = torch.zeros(1, 2, 6, 6)
    for query in range(6):
        pattern[0, 0, query, max(query - 1, 0)] = 1
        pattern[0, 1, query, min(query, 1)] = 1
    reads = torch.tensor([[False, True, False, True, False, True]])
    assert profiles(pattern, reads, 6).tolist() == [
        [0, 1, 0, 0, 0, 0],
        pytest.approx([1 / 3, 0, 1 / 3, 0, 1 / 3, 0]),
    ]
    torch.testing.assert_close(boundary_share(pattern, reads), torch.tensor([0, 2 / 3]))


def test_the_layout_head_is_found_again_where_it_moved_to() -> None:
    """The same model with its heads in another order: the partner moves, and its profile is the same."""
    adhd = random_model(4)
    standard = adhd._replace(style="standard", parameters={name: p.clone() for name, p in adhd.parameters.items()})
    for part in "QKV":
        weight = standard.parameters[f"blocks.1.attn.W_{part}"]
        standard.parameters[f"blocks.1.attn.W_{part}"] = weight.unflatten(2, (2, 8)).flip(2).flatten(2)
    weight = standard.parameters["blocks.1.attn.W_O"]
    standard.parameters["blocks.1.attn.W_O"] = weight.unflatten(1, (2, 8)).flip(1).flatten(1, 2)
    one = swaps.layout(standard, adhd, TEXTS_OF | {"standard": TEXTS_OF["adhd"]}, 1)
    assert one.partner == one.standard == 1 - one.adhd
    assert one.matched == pytest.approx(1, abs=1e-5) and one.same_index < one.matched
    assert (one.gains >= 0).all()


def test_a_count_that_does_not_vary_has_no_correlation() -> None:
    assert correlation(torch.arange(4), torch.ones(4, dtype=torch.long)) == 0.0
    assert correlation(torch.arange(4), torch.tensor([2, 3, 5, 9])) == pytest.approx(1)


def test_two_seeds_are_refused() -> None:
    models = pair(1.0)
    other = models["adhd"]._replace(seeds=(7,))
    with pytest.raises(ValueError, match="seeds"):
        swaps.per_seed(models["standard"], other, TEXTS_OF, EYE[:2], layer=1, draws=1)
    with pytest.raises(ValueError, match="features"):
        swaps.per_seed(models["standard"], models["adhd"], TEXTS_OF, EYE[:2], layer=1, draws=3)
